//! One Weir per node: a lock that dies with its process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;

/// Where Weir keeps what lives as long as the machine is up.
pub const RUN_DIR: &str = "/run/weir";
/// The lock, below it.
const FILE: &str = "weir.pid";

/// Another Weir runs on this node.
#[derive(Debug, thiserror::Error)]
#[error(
    "weir already runs on this node as process {pid}; one process serves the whole node (`run --takeover` takes over)"
)]
pub struct AlreadyRunning {
    /// Its process id, as far as it can be read.
    pub pid: String,
}

/// Held by the one Weir that runs on this node.
#[derive(Debug)]
pub struct RunLock {
    file: File,
}

impl RunLock {
    /// Takes the lock and writes our process id.
    ///
    /// # Errors
    /// [`AlreadyRunning`], or that the folder or the file cannot be made.
    pub fn take() -> anyhow::Result<Self> {
        Self::take_in(Path::new(RUN_DIR))
    }

    fn take_in(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(FILE);
        loop {
            let mut options = OpenOptions::new();
            let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = opened.with_context(|| format!("cannot open {}", path.display()))?;
            match file.try_lock() {
                // Whoever had it may have removed the file since it was opened.
                Ok(()) if !is_at(&file, &path) => {}
                Ok(()) => {
                    write_pid(&mut file)?;
                    return Ok(Self { file });
                }
                Err(TryLockError::WouldBlock) => {
                    let mut pid = String::new();
                    file.read_to_string(&mut pid)?;
                    return Err(AlreadyRunning { pid: pid.trim().to_owned() }.into());
                }
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
    }

    /// Gives the lock back for good: its file goes, and the folder if nothing else is in it.
    pub fn remove(self) {
        self.remove_in(Path::new(RUN_DIR));
    }

    fn remove_in(self, dir: &Path) {
        // As long as we have it nobody else has a file there.
        let _ = std::fs::remove_file(dir.join(FILE));
        let _ = std::fs::remove_dir(dir);
    }

    /// The lock of another process that hands it over, held by both from now on.
    #[must_use]
    pub fn shared(lock: OwnedFd) -> Self {
        Self { file: lock.into() }
    }

    /// A copy for another process; the lock is free when the last copy is closed.
    ///
    /// # Errors
    /// If this process may have no more descriptors.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }

    /// Writes our process id, if it was another's until now.
    ///
    /// # Errors
    /// The error of writing.
    pub fn announce(&mut self) -> io::Result<()> {
        write_pid(&mut self.file)
    }

    /// Says whether nobody has the lock: no Weir runs.
    #[must_use]
    pub fn is_free() -> bool {
        // A shared lock, so that looking keeps nobody from starting for longer than a moment.
        match File::open(Path::new(RUN_DIR).join(FILE)) {
            Ok(file) => file.try_lock_shared().is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// Whether a path still leads to an open file.
fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (open, there) = (file.metadata().map(place), std::fs::metadata(path).map(place));
    matches!((open, there), (Ok(open), Ok(there)) if open == there)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_told_who_the_first_is() {
        let dir = std::env::temp_dir().join(format!("weir-lock-{}", std::process::id()));
        let first = RunLock::take_in(&dir).unwrap();
        let error = RunLock::take_in(&dir).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        let second = RunLock::shared(first.copy().unwrap());
        drop(first);
        assert!(RunLock::take_in(&dir).is_err(), "whoever took over has it still");
        drop(second);
        // One that was open before its file went is no lock.
        let old = File::open(dir.join(FILE)).unwrap();
        RunLock::take_in(&dir).unwrap().remove_in(&dir);
        assert!(!dir.exists(), "nothing stays");
        old.try_lock().unwrap();
        let third = RunLock::take_in(&dir).unwrap();
        assert!(RunLock::take_in(&dir).is_err());
        third.remove_in(&dir);
    }
}
