//! A folder that goes away with its owner.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io, process};

/// A new empty folder below the system's temporary folder, removed with all its content on drop.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// # Errors
    /// Whatever creating the folder gives, including a name that is already taken.
    pub(crate) fn new(purpose: &str) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("weir-xtask-{purpose}-{}-{number}", process::id()));
        fs::create_dir_all(env::temp_dir())?;
        // create_dir, not create_dir_all: a folder that somebody else prepared under this name is refused
        fs::create_dir(&path)?;
        // compilers report resolved paths, and the paths to remap must match theirs
        Ok(Self { path: path.canonicalize()? })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // nothing to do about a failure: the folder lies where the system cleans up
        let _ = fs::remove_dir_all(&self.path);
    }
}
