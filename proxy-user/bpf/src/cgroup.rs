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

    /// Where controllers of cgroup v1 are mounted: there are cgroups that no kernel program sees.
    #[must_use]
    pub fn v1_mounts() -> Vec<PathBuf> {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        mounts(&mountinfo, "cgroup").collect()
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let mount = mounts(mountinfo, "cgroup2").next()?;
        let is_hybrid = mounts(mountinfo, "cgroup").next().is_some();
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

/// How this process sees the cgroups of others: from the root of its own cgroup namespace, which a container runtime may
/// have put far below the mount's (cgroup_namespaces(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Path of that root below the mount.
    root: String,
}

impl View {
    /// Finds out where this process looks from. Walks the hierarchy if that is not its root.
    #[must_use]
    pub fn of(hierarchy: &Hierarchy) -> Self {
        let own = std::process::id();
        let root = shown(own).ok().and_then(|shown| root_of(hierarchy, own, &shown));
        Self { root: root.unwrap_or_default() }
    }

    /// Names the cgroup of a process as a path below the mount.
    ///
    /// # Errors
    /// The error of reading `/proc/PID/cgroup`.
    pub fn of_process(&self, pid: u32) -> io::Result<String> {
        shown(pid).map(|shown| self.resolve(&shown))
    }

    /// Turns a path as it is shown into one below the mount: what lies above the view's root begins with `/..`.
    fn resolve(&self, shown: &str) -> String {
        let mut parts: Vec<&str> = Vec::new();
        for part in self.root.split('/').chain(shown.split('/')).filter(|part| !part.is_empty()) {
            if part == ".." {
                parts.pop();
            } else {
                parts.push(part);
            }
        }
        format!("/{}", parts.join("/"))
    }
}

/// The cgroup of a process as `/proc/PID/cgroup` shows it.
fn shown(pid: u32) -> io::Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// What stands before the path that is shown of a process, by the cgroup that it really is in; `None` if it is in none.
fn root_of(hierarchy: &Hierarchy, pid: u32, shown: &str) -> Option<String> {
    let is_in = |path: &str| {
        let file = hierarchy.mount.join(path.trim_start_matches('/')).join("cgroup.procs");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| line.parse() == Ok(pid))
    };
    if is_in(shown) {
        return Some(String::new());
    }
    let (_, path) = hierarchy.all().into_iter().find(|(_, path)| is_in(path))?;
    path.strip_suffix(shown.trim_end_matches('/')).map(str::to_owned)
}

/// Mount points of a type of file system. Format: proc_pid_mountinfo(5).
fn mounts<'a>(mountinfo: &'a str, kind: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    mountinfo.lines().filter_map(move |line| {
        let (mount, tail) = line.split_once(" - ")?;
        (tail.split(' ').next()? == kind).then(|| mount.split(' ').nth(4))?.map(unescape).map(PathBuf::from)
    })
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

    #[test]
    fn paths_are_resolved_from_wherever_the_own_namespace_begins() {
        let host = View { root: String::new() };
        assert_eq!((host.resolve("/"), host.resolve("/a/b")), ("/".to_owned(), "/a/b".to_owned()));
        let container = View { root: "/pods/burst/weir".to_owned() };
        for (shown, path) in [
            ("/", "/pods/burst/weir"),
            ("/sub", "/pods/burst/weir/sub"),
            ("/../other", "/pods/burst/other"),
            ("/../../best/x", "/pods/best/x"),
            ("/../../../system", "/system"),
            ("/../../..", "/"),
            ("/../../../../../x", "/x"),
        ] {
            assert_eq!(container.resolve(shown), path, "{shown}");
        }
    }

    #[test]
    fn the_root_of_the_own_namespace_is_where_the_own_process_is_found() {
        let dir = tempdir();
        std::fs::create_dir_all(dir.join("pods/weir/sub")).unwrap();
        std::fs::write(dir.join("cgroup.procs"), "1\n2\n").unwrap();
        std::fs::write(dir.join("pods/weir/sub/cgroup.procs"), "70\n7\n").unwrap();
        let hierarchy = Hierarchy { mount: dir.clone(), is_hybrid: false };
        let root = |pid, shown| root_of(&hierarchy, pid, shown);
        assert_eq!(root(2, "/").as_deref(), Some(""));
        assert_eq!(root(7, "/pods/weir/sub").as_deref(), Some(""));
        assert_eq!(root(7, "/").as_deref(), Some("/pods/weir/sub"));
        assert_eq!(root(7, "/sub").as_deref(), Some("/pods/weir"));
        assert_eq!(root(8, "/"), None, "an unknown process");
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn tempdir() -> PathBuf {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("weir-cgroup-test-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}
