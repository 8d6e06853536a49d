//! Cgroups of a test's own, below the cgroup v2 mount wherever that is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::wait;

/// Time for killed processes to leave their cgroup.
const EMPTY_LIMIT: Duration = Duration::from_secs(10);

/// Finds the cgroup v2 mount: on hybrid hosts it is not `/sys/fs/cgroup`.
#[must_use]
pub fn mount() -> Option<PathBuf> {
    mount_in(&fs::read_to_string(MOUNTS).ok()?, |kind, _| kind == "cgroup2")
}

/// Finds the mount of the memory controller of cgroup v1, which hybrid hosts have instead of that of v2.
fn memory_mount() -> Option<PathBuf> {
    let is_memory = |kind: &str, options: &str| kind == "cgroup" && options.split(',').any(|o| o == "memory");
    mount_in(&fs::read_to_string(MOUNTS).ok()?, is_memory)
}

const MOUNTS: &str = "/proc/self/mountinfo";

/// Fields of a line: proc_pid_mountinfo(5). Behind a lone dash come the type of the file system, its source and its options.
fn mount_in(mountinfo: &str, is_wanted: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut fields = system.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        is_wanted(kind, options).then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// A cgroup; its processes are killed and it is removed when this is dropped.
pub struct Cgroup {
    path: PathBuf,
    name: String,
}

impl Cgroup {
    /// Makes one with a name of its own.
    ///
    /// # Errors
    /// Without a cgroup v2 mount, or if it cannot be made.
    pub fn new(label: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-test-{label}-{}-{count}", std::process::id());
        let path = mount().context("there is no cgroup v2 mount")?.join(&name);
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(Self { path, name })
    }

    /// Makes one below this one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn child(&self, label: &str) -> Result<Self> {
        let (path, name) = (self.path.join(label), format!("{}/{label}", self.name));
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(Self { path, name })
    }

    /// Path below the mount, as Weir's config wants it.
    #[must_use]
    pub fn scope(&self) -> String {
        format!("/{}", self.name)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that joins the cgroup before it becomes `program`; `wrap` makes the command that runs the one that joins.
    #[must_use]
    pub fn command(&self, wrap: impl FnOnce(&Path) -> Command, program: &Path) -> Command {
        let mut command = wrap(Path::new("sh"));
        let script = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
        command.args(["-c", script]).arg(&self.path).arg(program);
        command
    }

    fn pids(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let pids = self.pids();
        if !pids.is_empty() {
            let _ = Command::new("kill").arg("-KILL").args(&pids).output();
        }
        if !std::thread::panicking() {
            wait::until_true("an empty cgroup", EMPTY_LIMIT, || self.pids().is_empty());
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// A cgroup that bounds the memory of its processes, of whichever version has the controller; removed when this is dropped.
pub struct MemoryBound {
    path: PathBuf,
    limit: &'static str,
    /// Where kills for lack of memory are counted, as `oom_kill`.
    kills: &'static str,
}

impl MemoryBound {
    /// Makes one without a bound yet; `None` where there is no memory controller.
    #[must_use]
    pub fn new(label: &str) -> Option<Self> {
        let (mount, limit, kills) = match memory_mount() {
            Some(mount) => (mount, "memory.limit_in_bytes", "memory.oom_control"),
            None => {
                let mount = mount()?;
                fs::write(mount.join("cgroup.subtree_control"), "+memory").ok()?;
                (mount, "memory.max", "memory.events")
            }
        };
        let path = mount.join(format!("weir-test-{label}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Self { path, limit, kills })
    }

    /// Takes a process in; what it holds already does not count.
    ///
    /// # Panics
    /// If it has ended.
    pub fn admit(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("a process that runs");
    }

    /// Sets the bound.
    ///
    /// # Panics
    /// If more is held already.
    pub fn set_limit(&self, bytes: u64) {
        fs::write(self.path.join(self.limit), bytes.to_string()).expect("nothing is held yet");
    }

    /// Processes that the kernel has killed because of the bound.
    ///
    /// # Panics
    /// If the kernel does not count them.
    #[must_use]
    pub fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.path.join(self.kills)).expect("a file of the controller");
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        kills.expect("counted since Linux 4.13")
    }
}

impl Drop for MemoryBound {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_on_hybrid_and_unified_hosts() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      37 31 0:34 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw shared:4 master:1 - cgroup2 cgroup2 rw\n";
        let v2 = |text| mount_in(text, |kind, _| kind == "cgroup2");
        assert_eq!(v2(hybrid).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        let unified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(v2(unified).unwrap(), Path::new("/sys/fs/cgroup"));
        assert_eq!(v2("22 1 8:1 / / rw - ext4 /dev/root rw"), None);
    }
}
