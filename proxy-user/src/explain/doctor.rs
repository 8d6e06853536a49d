//! `weir doctor`: everything that Weir needs from a machine, looked at one by one.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_bpf::attach::{PIN_DIR, Pins};
use proxy_bpf::cgroup::Hierarchy;
use proxy_core::snapshot::Scope;

use super::finding::{Finding, Report};
use super::pods::Pods;
use super::{certificates, hooks, machine, ports, rights, sockets};
use crate::config::{self, Config};

/// Where a running Weir answers unless its configuration says otherwise.
const ADMIN_SOCKET: &str = "/run/weir/admin.sock";

/// What became of a question to a running Weir.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Nobody listens.
    Nobody,
    /// Somebody listens and does not answer.
    Silent,
    /// It answers.
    Running {
        /// How long its control task has been silent, if that is too long.
        control_hung: Option<Duration>,
        /// How often its workers have failed and begun again.
        worker_restarts: u64,
        /// A network namespace that does not reach the node listener, and why.
        node_listener_missed_by: Option<String>,
    },
}

/// Looks at this machine, and at what a configuration wants from it if one is named. `ask` asks the Weir that listens on a
/// socket. Changes nothing; needs root to see everything, and says so.
#[must_use]
pub fn doctor(config_path: Option<&Path>, ask: impl Fn(&Path) -> Reached) -> Report {
    let missing = rights::missing_rights();
    let may_ask = missing.is_none();
    let mut findings = vec![machine::rights(missing.as_deref()), machine::kernel()];
    findings.extend(machine::features(may_ask));
    let hierarchy = Hierarchy::find();
    findings.push(machine::cgroups(&hierarchy));
    findings.extend([machine::bpffs(), machine::io_uring(), machine::descriptors()]);
    let config = config_path.map(|path| (path, config::load(path)));
    let socket = match &config {
        Some((_, Ok(config))) => config.admin.socket.clone(),
        _ => PathBuf::from(ADMIN_SOCKET),
    };
    let reached = ask(&socket);
    let is_running = reached != Reached::Nobody;
    let pods = match (&config, &hierarchy) {
        (Some((_, Ok(config))), Ok(hierarchy)) => Some(Pods::look(config, hierarchy)),
        _ => None,
    };
    findings.extend(ports::ports(&scope_dirs(&config, &hierarchy, pods.as_ref())));
    if let Ok(hierarchy) = &hierarchy {
        findings.extend(hooks::hooks(hierarchy, may_ask));
    }
    findings.push(process(&reached, &socket));
    if let Reached::Running { node_listener_missed_by: Some(missed_by), .. } = &reached {
        findings.push(node_listener(missed_by));
    }
    findings.push(machine::congestion());
    match (&config, &hierarchy, &pods) {
        (Some((path, Ok(config))), Ok(hierarchy), Some(pods)) => {
            findings.extend(scopes((path, config), (hierarchy, pods), is_running));
            findings.extend(certificates::findings(config));
        }
        (Some((path, Err(errors))), ..) => findings.push(Finding::problem(
            "configuration",
            format!("{} has mistakes", path.display()),
            format!(
                "weir check {} lists them; the first: {}",
                path.display(),
                first_line(&errors.to_string())
            ),
        )),
        (None, ..) => {
            findings.push(Finding::ok("configuration", "none was named (-c FILE looks at its scopes, too)"))
        }
        (Some(_), ..) => {}
    }
    findings.push(Finding::ok(
        "never caught",
        "UDP, sockets bound to a device (SO_BINDTODEVICE), connections that are older than Weir",
    ));
    findings.push(machine::maps());
    Report { findings }
}

/// Folders of the cgroups that a right configuration has as scopes.
fn scope_dirs<E>(
    config: &Option<(&Path, Result<Config, E>)>,
    hierarchy: &io::Result<Hierarchy>,
    pods: Option<&Pods>,
) -> Vec<PathBuf> {
    let (Some((_, Ok(config))), Ok(hierarchy)) = (config, hierarchy) else { return Vec::new() };
    let dirs = |scope: &Scope| match scope {
        Scope::Cgroup(path) => vec![hierarchy.mount.join(path.trim_start_matches('/'))],
        Scope::Netns(_) => Vec::new(),
        Scope::Pods(_) => pods.map(|pods| pods.dirs(scope)).unwrap_or_default(),
    };
    config.intercept.scopes.iter().flat_map(dirs).collect()
}

/// Whether a Weir is running, or one has left something behind.
fn process(reached: &Reached, socket: &Path) -> Finding {
    let what = "Weir";
    match reached {
        Reached::Silent => {
            return Finding::problem(
                what,
                format!("listens on {} and does not answer", socket.display()),
                "it hangs as a whole (stopped? no CPU time?): services fail open or closed meanwhile; end it and start it",
            );
        }
        Reached::Running { control_hung: Some(silence), .. } => {
            return Finding::problem(
                what,
                format!("its control task has given no sign of life for {} s", silence.as_secs()),
                "workers go on by what is in force; see the log, and `weir run --takeover` does not work like this: \
                 end it with SIGKILL, and the next start takes over what is attached",
            );
        }
        Reached::Running { worker_restarts, .. } if *worker_restarts > 0 => {
            return Finding::warning(
                what,
                format!("is running; its workers have failed and begun again {worker_restarts} times"),
                "the log has the place of each (panic): a bug, to be reported",
            );
        }
        Reached::Nobody | Reached::Running { .. } => {}
    }
    let is_running = *reached != Reached::Nobody;
    let attached = Pins::existing().map(|pins| pins.attached()).unwrap_or_default();
    match (is_running, attached.len()) {
        (true, 0) => Finding::warning(
            what,
            format!("answers at {}, but nothing is attached", socket.display()),
            "it is starting or draining; ask again, or see `weir status`",
        ),
        (true, count) => Finding::ok(what, format!("is running, {count} programs attached")),
        (false, 0) => Finding::ok(what, "is not running, and nothing is left of an earlier one"),
        (false, _) => Finding::warning(
            what,
            format!("is not running, but {} are attached (pinned in {PIN_DIR})", attached.join(", ")),
            "`weir run` takes them over, `weir detach` removes them; until then services with `fail: open` go directly",
        ),
    }
}

fn node_listener(missed_by: &str) -> Finding {
    Finding::warning(
        "node listener",
        format!("is not reached by {missed_by}"),
        "connections of new network namespaces get what `fail` of their service says, until Weir listens inside: let pods reach \
         the node's address (network policies, firewall), or set intercept.node_listener",
    )
}

/// What the configuration's scopes are like here.
fn scopes(
    (path, config): (&Path, &Config),
    (hierarchy, pods): (&Hierarchy, &Pods),
    is_running: bool,
) -> Vec<Finding> {
    let services: HashSet<SocketAddr> =
        config.services.iter().flat_map(|service| service.addresses.iter().copied()).collect();
    let found = format!("{}: {} services", path.display(), config.services.len());
    let mut findings = vec![Finding::ok("configuration", found)];
    findings.extend(pods.kubelet());
    if config.intercept.scopes.is_empty() {
        let advice = "name the applications' cgroups, network namespaces or pods in intercept.scopes";
        findings.push(Finding::warning("scopes", "none: no application is caught", advice));
    }
    let mut scopes: Vec<&Scope> = config.intercept.scopes.iter().collect();
    scopes.sort();
    for scope in scopes {
        findings.push(match scope {
            Scope::Cgroup(cgroup) => cgroup_scope(cgroup, hierarchy, &services, is_running),
            Scope::Netns(netns) => netns_scope(netns),
            Scope::Pods(_) => pods_scope(scope, &pods.dirs(scope), &services, is_running),
        });
    }
    findings
}

fn cgroup_scope(
    cgroup: &str,
    hierarchy: &Hierarchy,
    services: &HashSet<SocketAddr>,
    is_running: bool,
) -> Finding {
    let what = format!("scope {cgroup}");
    let dir = hierarchy.mount.join(cgroup.trim_start_matches('/'));
    if !dir.is_dir() {
        let mut v1 =
            Hierarchy::v1_mounts().into_iter().map(|mount| mount.join(cgroup.trim_start_matches('/')));
        if let Some(dir) = v1.find(|dir| dir.is_dir()) {
            let advice = "name the applications' network namespaces instead (netns), or boot with cgroup v2 only \
                          (systemd.unified_cgroup_hierarchy=1)";
            let found =
                format!("is a cgroup of v1 only ({}): its processes sit in the v2 root", dir.display());
            return Finding::problem(what, found, advice);
        }
        let advice = "nothing, if it comes later: Weir takes it up when it is made; else see systemd-cgls";
        return Finding::warning(what, "no such cgroup yet", advice);
    }
    older(what, &sockets::established(&dir), services, is_running)
}

fn pods_scope(scope: &Scope, dirs: &[PathBuf], services: &HashSet<SocketAddr>, is_running: bool) -> Finding {
    if dirs.is_empty() {
        let advice = "nothing, if they come later; `kubectl get pods --show-labels -A` tells what there is on the cluster";
        return Finding::warning(format!("scope {scope}"), "means no pod that is on this node now", advice);
    }
    let open: Vec<SocketAddr> = dirs.iter().flat_map(|dir| sockets::established(dir)).collect();
    older(format!("scope {scope} ({} here)", dirs.len()), &open, services, is_running)
}

/// Tells of connections that were there before Weir.
///
/// A connection that Weir caught no longer goes to a service's own address, so one that does is older (or bound to a
/// device); while Weir is not running, that is every one.
fn older(what: String, remotes: &[SocketAddr], services: &HashSet<SocketAddr>, is_running: bool) -> Finding {
    let missed = remotes.iter().filter(|remote| services.contains(remote)).count();
    let open = remotes.len();
    if missed == 0 {
        return Finding::ok(what, format!("{open} open connections, none past Weir to a service's address"));
    }
    let (since, advice) = if is_running {
        (
            "older than Weir",
            "they stay as they are until they close: restart the application to have them caught",
        )
    } else {
        (
            "opened without Weir",
            "they will stay as they are when Weir starts: restart the application afterwards",
        )
    };
    Finding::warning(
        what,
        format!("{missed} of {open} open connections go to services and are {since}"),
        advice,
    )
}

fn netns_scope(netns: &str) -> Finding {
    let what = format!("scope {netns}");
    match proxy_io::netns::Netns::open(Path::new(netns)) {
        Ok(_) => Finding::ok(what, "is a network namespace"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Finding::warning(what, "cannot be entered without rights", "run this command as root")
        }
        Err(error) => Finding::problem(what, error.to_string(), "ip netns list shows those that have a name"),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::explain::Output;

    #[test]
    fn everything_is_looked_at_and_nothing_lacks_advice() {
        let report = doctor(None, |_| Reached::Nobody);
        let whats: Vec<&str> = report.findings.iter().map(|finding| finding.what.as_str()).collect();
        for what in [
            "rights",
            "kernel",
            "cgroup v2",
            "bpffs",
            "io_uring",
            "Weir",
            "congestion control",
            "configuration",
        ] {
            assert!(whats.contains(&what), "{what} in {whats:?}");
        }
        for finding in &report.findings {
            assert_eq!(finding.advice.is_none(), finding.level == Level::Ok, "{finding:?}");
            assert!(!finding.found.is_empty(), "{finding:?}");
        }
        assert!(report.render(Output::Table).contains("never caught"));
    }

    #[test]
    fn a_config_with_mistakes_is_a_problem_that_names_the_first() {
        let path = std::env::temp_dir().join(format!("weir-doctor-{}.yaml", std::process::id()));
        std::fs::write(&path, "services: [{nam: x}]\n").unwrap();
        let report = doctor(Some(&path), |_| Reached::Nobody);
        let finding = report.findings.iter().find(|finding| finding.what == "configuration").unwrap();
        assert_eq!(finding.level, Level::Problem);
        assert!(finding.advice.as_ref().unwrap().contains("weir check"), "{finding:?}");
        assert!(report.has_problem());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn connections_to_service_addresses_are_older_than_weir() {
        let services: HashSet<SocketAddr> = ["10.96.0.10:80".parse().unwrap()].into();
        let remotes: Vec<SocketAddr> =
            ["10.96.0.10:80", "10.96.0.10:81", "10.96.0.10:80"].map(|text| text.parse().unwrap()).to_vec();
        let finding = older("scope /a".to_owned(), &remotes, &services, true);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.found.starts_with("2 of 3 open connections"), "{finding:?}");
        assert_eq!(older("scope /a".to_owned(), &remotes[1..2], &services, true).level, Level::Ok);
    }

    #[test]
    fn a_weir_that_hangs_is_a_problem_and_one_that_fell_is_said() {
        let socket = Path::new("/run/weir/admin.sock");
        let running = |control_hung, worker_restarts| Reached::Running {
            control_hung,
            worker_restarts,
            node_listener_missed_by: None,
        };
        assert_eq!(process(&Reached::Silent, socket).level, Level::Problem);
        let hung = process(&running(Some(Duration::from_secs(12)), 0), socket);
        assert!(hung.level == Level::Problem && hung.found.contains("12 s"), "{hung:?}");
        let fell = process(&running(None, 2), socket);
        assert!(fell.level == Level::Warning && fell.found.contains("2 times"), "{fell:?}");
    }

    #[test]
    fn a_scope_that_is_missing_may_come_later() {
        let hierarchy = Hierarchy { mount: std::env::temp_dir(), is_hybrid: false };
        let finding = cgroup_scope("/weir-no-such-cgroup", &hierarchy, &HashSet::new(), false);
        assert_eq!(finding.level, Level::Warning);
    }
}
