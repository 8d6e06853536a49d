//! One Weir per node: a lock that dies with its process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Where Weir keeps what lives as long as the machine is up.
pub const RUN_DIR: &str = "/run/weir";

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
        std::fs::create_dir_all(dir)?;
        let path = dir.join("weir.pid");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid)?;
                return Err(AlreadyRunning { pid: pid.trim().to_owned() }.into());
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        write_pid(&mut file)?;
        Ok(Self { file })
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
        File::open(Path::new(RUN_DIR).join("weir.pid")).is_ok_and(|file| file.try_lock_shared().is_ok())
    }
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
        assert!(RunLock::take_in(&dir).is_ok());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
