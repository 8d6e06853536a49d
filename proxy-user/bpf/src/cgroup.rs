//! Finding the cgroup v2 hierarchy, wherever it is mounted, and the ids of cgroups in it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The cgroup v2 mount, as `/proc/self/mountinfo` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Mount point: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host.
    pub mount: PathBuf,
    /// True if cgroup v1 controllers are mounted beside it: then applications may all sit in the v2 root.
    pub is_hybrid: bool,
}

/// A cgroup as the kernel programs know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its id: the inode number of its directory (bpf_get_current_ancestor_cgroup_id).
    pub id: u64,
    /// Number of directories below the root; 0 is the root itself.
    pub depth: u32,
}

impl Hierarchy {
    /// Finds the mount.
    ///
    /// # Errors
    /// `NotFound` if no cgroup v2 hierarchy is mounted; the error of reading mountinfo.
    pub fn find() -> io::Result<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?).ok_or_else(|| {
            let text = "no cgroup v2 hierarchy is mounted (mount -t cgroup2 none /sys/fs/cgroup)";
            io::Error::new(io::ErrorKind::NotFound, text)
        })
    }

    /// Format: proc_pid_mountinfo(5).
    fn parse(mountinfo: &str) -> Option<Self> {
        let kind = |line: &str| {
            line.split_once(" - ").and_then(|(_, tail)| tail.split(' ').next().map(str::to_owned))
        };
        let line = mountinfo.lines().find(|line| kind(line).as_deref() == Some("cgroup2"))?;
        let mount = PathBuf::from(unescape(line.split(' ').nth(4)?));
        let is_hybrid = mountinfo.lines().any(|line| kind(line).as_deref() == Some("cgroup"));
        Some(Self { mount, is_hybrid })
    }

    /// Looks up a cgroup by its path below the mount.
    ///
    /// # Errors
    /// `NotFound` if there is no such cgroup (yet).
    pub fn cgroup(&self, path: &str) -> io::Result<Cgroup> {
        let relative = Path::new(path.trim_start_matches('/'));
        let depth = u32::try_from(relative.components().count()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let metadata = std::fs::metadata(self.mount.join(relative))?;
        Ok(Cgroup { id: metadata.ino(), depth })
    }

    /// Names the cgroup of a process as a path below the mount.
    ///
    /// # Errors
    /// The error of reading `/proc/PID/cgroup`.
    pub fn of_process(pid: u32) -> io::Result<String> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        text.lines()
            .find_map(|line| line.strip_prefix("0::"))
            .map(str::to_owned)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Lists every cgroup: id and path below the mount. One pass over the directories.
    #[must_use]
    pub fn all(&self) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        let mut todo = vec![self.mount.clone()];
        while let Some(dir) = todo.pop() {
            if let Ok(metadata) = dir.metadata() {
                let below = dir.strip_prefix(&self.mount).unwrap_or(&dir);
                found.push((metadata.ino(), format!("/{}", below.display())));
            }
            // A cgroup may vanish while it is read.
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    todo.push(entry.path());
                }
            }
        }
        found
    }
}

/// Undoes mountinfo's octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_mount_is_found_on_unified_and_hybrid_hosts() {
        let unified = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchy::parse(unified).unwrap();
        assert_eq!(found, Hierarchy { mount: "/sys/fs/cgroup".into(), is_hybrid: false });
        let hybrid = "31 24 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                      32 24 0:28 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n";
        let found = Hierarchy::parse(hybrid).unwrap();
        assert_eq!(found, Hierarchy { mount: "/sys/fs/cgroup/uni fied".into(), is_hybrid: true });
        assert_eq!(Hierarchy::parse("24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"), None);
    }

    #[test]
    fn depth_counts_directories_below_the_root() {
        let here = Hierarchy { mount: std::env::temp_dir(), is_hybrid: false };
        let dir = tempdir();
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        let name = dir.file_name().unwrap().to_str().unwrap();
        assert_eq!(here.cgroup("/").unwrap().depth, 0);
        assert_eq!(here.cgroup(&format!("/{name}/a/b")).unwrap().depth, 3);
        assert!(here.cgroup(&format!("/{name}/c")).is_err());
        assert!(here.all().iter().any(|(_, path)| *path == format!("/{name}/a/b")));
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn tempdir() -> PathBuf {
        let dir = std::env::temp_dir().join(format!("weir-cgroup-test-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}
