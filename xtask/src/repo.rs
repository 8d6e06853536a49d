//! Where the repository's parts are.

use std::env;
use std::path::{Path, PathBuf};

/// The repository that a command works on; tests of the commands point it at a small fake tree.
#[derive(Debug, Clone)]
pub(crate) struct Repo {
    root: PathBuf,
}

impl Repo {
    /// The repository that `cargo xtask` runs in; without cargo, the one that this program was built in.
    pub(crate) fn here() -> Self {
        let told = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let manifest_dir = told.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        Self::at(manifest_dir.parent().unwrap_or(&manifest_dir))
    }

    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Resolves a path that is relative to the root, written with `/`.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Path relative to the root with `/` between its parts, for messages and hashes; unchanged if outside.
    pub(crate) fn relative(&self, path: &Path) -> String {
        let inside = path.strip_prefix(&self.root).unwrap_or(path);
        inside.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
    }
}
