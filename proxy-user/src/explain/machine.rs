//! What the machine offers: the kernel, its file systems, limits and settings.

use std::path::Path;

use proxy_bpf::abi::map;
use proxy_bpf::bpffs::BPFFS;
use proxy_bpf::cgroup::Hierarchy;
use proxy_bpf::probe::{Feature, kernel_features};
use proxy_io::driver::probe;
use proxy_io::mount;

use super::finding::Finding;

/// Oldest kernel that is promised. An older one may have everything by way of its distribution; its features tell.
const OLDEST: (u32, u32) = (6, 1);
/// Descriptors that a node should have: two for each of 32,000 proxied connections.
const GOOD_NOFILE: u64 = 65_536;

pub(super) fn rights(missing: Option<&str>) -> Finding {
    match missing {
        None => Finding::ok("rights", "all that Weir needs"),
        Some(missing) => Finding::problem("rights", missing, "run Weir and this command as root (sudo)"),
    }
}

pub(super) fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let what = "kernel";
    match version(&release) {
        Some(version) if version >= OLDEST => Finding::ok(what, release),
        _ => Finding::warning(what, release, "Linux 6.1 or later has everything that Weir needs"),
    }
}

/// Asks for every feature; one line if all are there, else one for each that is not.
pub(super) fn features(may_ask: bool) -> Vec<Finding> {
    if !may_ask {
        let advice = "run this command as root";
        return vec![Finding::warning("kernel features", "cannot be asked without rights", advice)];
    }
    let features = kernel_features();
    let mut findings: Vec<Finding> = features.iter().filter_map(feature).collect();
    if findings.is_empty() {
        findings.push(Finding::ok("kernel features", format!("all {} that Weir uses", features.len())));
    }
    findings
}

fn feature(feature: &Feature) -> Option<Finding> {
    let Feature { name, since, purpose, state } = feature;
    match state {
        Ok(true) => None,
        Ok(false) => {
            let advice = format!("Linux {since} or later has it, if it is not configured away");
            Some(Finding::problem(name, format!("missing (for {purpose})"), advice))
        }
        Err(error) => {
            Some(Finding::warning(name, format!("cannot be asked: {error}"), "see whether `weir run` works"))
        }
    }
}

pub(super) fn cgroups(found: &std::io::Result<Hierarchy>) -> Finding {
    let what = "cgroup v2";
    match found {
        Ok(Hierarchy { mount, is_hybrid: false }) => Finding::ok(what, format!("at {}", mount.display())),
        Ok(Hierarchy { mount, is_hybrid: true }) => Finding::warning(
            what,
            format!("at {}, beside cgroup v1 (hybrid)", mount.display()),
            "a scope by cgroup sees v2 cgroups only; applications that are in v1 cgroups sit in the v2 root: use \
             scopes by network namespace (netns) for them",
        ),
        Err(error) => Finding::problem(
            what,
            error.to_string(),
            "mount it, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

pub(super) fn bpffs() -> Finding {
    if mount::is_bpffs(Path::new(BPFFS)) {
        Finding::ok("bpffs", format!("at {BPFFS}"))
    } else {
        Finding::warning("bpffs", format!("not mounted at {BPFFS}"), "nothing: `weir run` mounts it")
    }
}

pub(super) fn io_uring() -> Finding {
    match probe::ring() {
        Ok(features) => {
            let note = if features.recv_cap { "" } else { ", and at its best from kernel 6.17 on" };
            Finding::ok("io_uring", format!("works{note}"))
        }
        Err(error) => Finding::warning(
            "io_uring",
            error.to_string(),
            "nothing, if that is wanted: workers use epoll and need about a tenth more CPU time",
        ),
    }
}

pub(super) fn descriptors() -> Finding {
    let limits = read("/proc/self/limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    let hard = line.split_ascii_whitespace().nth(1).unwrap_or_default();
    let most = if hard == "unlimited" { u64::MAX } else { hard.parse().unwrap_or_default() };
    let what = "open files (RLIMIT_NOFILE)";
    if most >= GOOD_NOFILE {
        return Finding::ok(what, format!("at most {hard}"));
    }
    let connections = crate::stats::conn::DescriptorBudget::new(most).most();
    let found = format!("at most {hard}: room for {connections} proxied connections");
    Finding::warning(what, found, "raise LimitNOFILE of the service (or ulimit -Hn) if more are expected")
}

pub(super) fn congestion() -> Finding {
    let what = "congestion control";
    let default = read("/proc/sys/net/ipv4/tcp_congestion_control");
    let available = read("/proc/sys/net/ipv4/tcp_available_congestion_control");
    if available.split_ascii_whitespace().any(|name| name == "cubic") {
        return Finding::ok(what, format!("{default} by default; Weir's local hops use cubic"));
    }
    let advice = "load the module tcp_cubic: bbr, for one, holds local hops to a fifth of their speed";
    Finding::warning(what, format!("{default} by default, and no cubic for Weir's local hops"), advice)
}

pub(super) fn maps() -> Finding {
    let names: Vec<&str> = map::ALL.to_vec();
    Finding::ok("maps (weir run --map-size)", names.join(" "))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().ok());
    Some((numbers.next()??, numbers.next()??))
}

pub(super) fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn kernel_versions_are_compared_as_numbers() {
        assert_eq!(version("6.18.0-1-amd64"), Some((6, 18)));
        assert_eq!(version("5.15.167.4-microsoft"), Some((5, 15)));
        assert!(version("6.18").unwrap() > OLDEST && version("5.15.1").unwrap() < OLDEST);
        assert_eq!(version("linux"), None);
    }

    #[test]
    fn missing_features_are_problems_as_the_start_is_refused_without_them() {
        let named =
            |name: &str, state| Feature { name: name.to_owned(), since: "5.18", purpose: "tests", state };
        let level = |name: &str, state| feature(&named(name, state)).map(|finding| finding.level);
        assert_eq!(level("map type hash", Ok(true)), None);
        assert_eq!(level("map type hash", Ok(false)), Some(Level::Problem));
        assert_eq!(level("map type hash", Err("EPERM".to_owned())), Some(Level::Warning));
        let missing = feature(&named("map type hash", Ok(false))).unwrap();
        assert!(missing.advice.unwrap().contains("5.18"), "the version is named");
    }
}
