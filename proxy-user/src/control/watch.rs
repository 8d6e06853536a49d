//! Noticing that the config file changed.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Time between two looks at the file. A stat costs a microsecond, works on every file system (ConfigMap mounts switch
/// a symlink two levels up, which inotify on the file would miss), and nobody waits for a reload more closely.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Remembers how the file looked.
pub(crate) struct FileWatch {
    path: PathBuf,
    seen: Option<Look>,
    /// A change that was seen once: it is reported when the file looks the same twice, so that a file that is being
    /// written is not read half-way.
    pending: Option<Look>,
}

/// What tells two versions of a file apart, through symlinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Look {
    fn at(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { inode: metadata.ino(), bytes: metadata.len(), modified: metadata.modified().ok() })
    }
}

impl FileWatch {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: Look::at(path), pending: None }
    }

    /// Looks at the file; true if it changed since it was last reported and has come to rest.
    ///
    /// A file that is gone has not changed: a rename-over is two steps on some systems.
    pub(crate) fn poll_changed(&mut self) -> bool {
        let Some(look) = Look::at(&self.path) else { return false };
        if self.seen == Some(look) {
            self.pending = None;
            return false;
        }
        if self.pending != Some(look) {
            self.pending = Some(look);
            return false;
        }
        self.pending = None;
        self.seen = Some(look);
        true
    }

    /// Takes note that the file is being read for another reason.
    pub(crate) fn handle_read(&mut self) {
        self.seen = Look::at(&self.path);
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_reported_once_when_it_has_come_to_rest() {
        let dir = std::env::temp_dir().join(format!("weir-watch-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("weir.yaml");
        std::fs::write(&path, "a").unwrap();
        let mut watch = FileWatch::new(&path);
        assert!(!watch.poll_changed());
        std::fs::write(&path, "ab").unwrap();
        assert!(!watch.poll_changed() && watch.poll_changed() && !watch.poll_changed());
        // Rename-over, with the same length.
        std::fs::write(dir.join("new"), "cd").unwrap();
        std::fs::rename(dir.join("new"), &path).unwrap();
        assert!(!watch.poll_changed() && watch.poll_changed() && !watch.poll_changed());
        std::fs::remove_file(&path).unwrap();
        assert!(!watch.poll_changed() && !watch.poll_changed());
        std::fs::remove_dir_all(dir).unwrap();
    }

    /// A kubelet writes a new folder and swaps one symlink, through which everything else is reached.
    #[test]
    fn the_swap_of_a_config_maps_symlink_is_a_change() {
        use std::os::unix::fs::symlink;

        let dir = std::env::temp_dir().join(format!("weir-watch-map-{}", std::process::id()));
        let version = |name: &str, text: &str| {
            std::fs::create_dir_all(dir.join(name)).unwrap();
            std::fs::write(dir.join(name).join("weir.yaml"), text).unwrap();
            symlink(name, dir.join("..data_tmp")).unwrap();
            std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        };
        version("..1", "a");
        symlink("..data/weir.yaml", dir.join("weir.yaml")).unwrap();
        let mut watch = FileWatch::new(&dir.join("weir.yaml"));
        assert!(!watch.poll_changed());
        for (name, old) in [("..2", "..1"), ("..3", "..2")] {
            version(name, "b");
            std::fs::remove_dir_all(dir.join(old)).unwrap();
            assert!(!watch.poll_changed() && watch.poll_changed() && !watch.poll_changed(), "{name}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
