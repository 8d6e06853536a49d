//! What this machine is and has, and getting what it lacks.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Below this Weir does not run at all (README, Limits); single tests skip what a kernel lacks.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Asked by packages before they start a service; 101 means "no".
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Why Weir cannot run on this machine, if it cannot.
pub(crate) fn obstacle() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !is_root(&status) {
        return Some("it makes network namespaces and loads kernel programs, which needs root".to_owned());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let (major, minor) = OLDEST_KERNEL;
    match version_of(release) {
        Some(version) if version >= OLDEST_KERNEL => None,
        _ => Some(format!("it needs kernel {major}.{minor} or newer and this is {release:?}")),
    }
}

/// Reads the effective user from `/proc/PID/status`.
fn is_root(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// The first two numbers of a kernel's release.
pub(crate) fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Looks in `PATH` and in the folders for administrators, which not every `PATH` has.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|candidate| is_executable(candidate))
}

pub(crate) fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Installs Debian packages one by one, since one that cannot be had must not keep the others out.
///
/// # Errors
/// The first package that failed; or that this machine has no apt-get.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if find("apt-get").is_none() {
        bail!("there is no apt-get to install it with");
    }
    let _guard = NoServices::set()?;
    process::run(apt().arg("update"))?;
    let mut failure = Ok(());
    for package in packages {
        let result = process::run(apt().args(["install", "-y", "--no-install-recommends", package]));
        failure = failure.and(result);
    }
    failure
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-q", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1");
    command
}

/// While it lives, no package starts a service.
struct NoServices {
    is_ours: bool,
}

impl NoServices {
    fn set() -> Result<Self> {
        // a policy that is already there is the administrator's
        let is_ours = !Path::new(POLICY).exists();
        if is_ours {
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o755).open(POLICY);
            file.and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n"))
                .context("cannot keep packages from starting services")?;
        }
        Ok(Self { is_ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Finds the cgroup v2 mount: on hybrid hosts it is not `/sys/fs/cgroup`.
pub(crate) fn cgroup_mount() -> Option<PathBuf> {
    cgroup_mount_in(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// Fields of a line: proc_pid_mountinfo(5). The file system's type is the first after a lone dash.
fn cgroup_mount_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        (kind.split(' ').next()? == "cgroup2").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_user_decides() {
        assert!(is_root("Name:\tx\nUid:\t1000\t0\t0\t0\n"));
        assert!(!is_root("Uid:\t0\t1000\t0\t0\n"));
        assert!(!is_root(""));
    }

    #[test]
    fn kernel_versions_compare_as_numbers() {
        assert_eq!(version_of("6.18.0-rc1-amd64"), Some((6, 18)));
        assert_eq!(version_of("5.4.0"), Some((5, 4)));
        assert!(version_of("5.4.0") < Some(OLDEST_KERNEL));
        assert!(version_of("10.0.1") > Some(OLDEST_KERNEL));
        assert_eq!(version_of(""), None);
    }

    #[test]
    fn the_cgroup_mount_is_found_on_hybrid_and_unified_hosts() {
        let hybrid = "37 31 0:34 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw shared:4 master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup_mount_in(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup_mount_in(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup_mount_in("22 1 8:1 / / rw - ext4 /dev/root rw"), None);
    }
}
