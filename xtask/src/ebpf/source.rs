//! The record beside the object: what it was built from.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::ebpf::build;
use crate::ebpf::toolchain;
use crate::repo::Repo;

/// The two hashes in `SOURCE.sha256`, lower-case hexadecimal.
///
/// The text is two lines as of `sha256sum`: `HEX  proxy-ebpf` and `HEX  weir.bpf.o`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) source: String,
    pub(super) object: String,
}

const SOURCE_NAME: &str = "proxy-ebpf";
const OBJECT_NAME: &str = "weir.bpf.o";

impl Record {
    /// Hashes the source as it lies in the work tree, and an object.
    pub(super) fn of(repo: &Repo, object: &[u8]) -> Result<Self> {
        Ok(Self { source: source_hash(repo)?, object: hex(object) })
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let hash_of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix("  "));
            line.filter(|hash| hash.len() == 64).map(ToOwned::to_owned)
        };
        match (hash_of(SOURCE_NAME), hash_of(OBJECT_NAME)) {
            (Some(source), Some(object)) => Ok(Self { source, object }),
            _ => bail!("expected the lines `HEX  {SOURCE_NAME}` and `HEX  {OBJECT_NAME}`"),
        }
    }

    /// What changed since `self` was recorded, in words.
    pub(super) fn difference(&self, now: &Self) -> Option<&'static str> {
        if self.source != now.source {
            Some(
                "the source in proxy-ebpf, its lock file or a pinned tool changed after the object was built",
            )
        } else if self.object != now.object {
            Some("the object is not the one that was built from the recorded source")
        } else {
            None
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  {SOURCE_NAME}", self.source)?;
        writeln!(f, "{}  {OBJECT_NAME}", self.object)
    }
}

/// SHA-256 as lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    render(Sha256::digest(bytes).as_slice())
}

fn render(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

/// One hash over the tools and over every file that the object is built from, in the order of their paths.
///
/// Each part is preceded by its length, so that no two different sets of files give the same input.
fn source_hash(repo: &Repo) -> Result<String> {
    let mut files = Vec::new();
    collect(&repo.path("proxy-ebpf"), &mut files)?;
    let mut named: Vec<(String, PathBuf)> =
        files.into_iter().map(|path| (repo.relative(&path), path)).collect();
    named.sort();
    if !named.iter().any(|(name, _)| name == "proxy-ebpf/Cargo.lock") {
        bail!("proxy-ebpf/Cargo.lock is missing");
    }
    let mut hash = Sha256::new();
    let mut feed = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    feed(toolchain::PINS.as_bytes());
    feed(build::RECIPE.as_bytes());
    for (name, path) in &named {
        feed(name.as_bytes());
        feed(&fs::read(path).with_context(|| format!("cannot read {name}"))?);
    }
    Ok(render(hash.finalize().as_slice()))
}

/// Collects what the compiler and cargo may read: Rust, manifests, lock file and cargo settings.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|ext| ext == "rs" || ext == "toml" || ext == "lock") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn tree() -> (Scratch, Repo) {
        let scratch = Scratch::new("source-test").expect("a writable temporary folder");
        let repo = Repo::at(scratch.path());
        write(&repo, "proxy-ebpf/Cargo.toml", "[package]");
        write(&repo, "proxy-ebpf/Cargo.lock", "version = 4");
        write(&repo, "proxy-ebpf/src/main.rs", "fn main() {}");
        write(&repo, "proxy-ebpf/common/src/key.rs", "struct Key;");
        (scratch, repo)
    }

    fn write(repo: &Repo, name: &str, text: &str) {
        let path = repo.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn record_survives_being_written_and_read() {
        let record = Record { source: hex(b"a"), object: hex(b"b") };
        assert_eq!(Record::parse(&record.to_string()).unwrap(), record);
        assert_eq!(record.source, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb");
    }

    #[test]
    fn truncated_record_is_refused() {
        let text = Record { source: hex(b"a"), object: hex(b"b") }.to_string();
        assert!(Record::parse(&text[..text.len() - 12]).is_err());
        assert!(Record::parse(&text[10..]).is_err());
    }

    #[test]
    fn hash_follows_source_abi_and_lock_file() {
        let (_scratch, repo) = tree();
        let before = source_hash(&repo).unwrap();
        for name in ["proxy-ebpf/src/main.rs", "proxy-ebpf/common/src/key.rs", "proxy-ebpf/Cargo.lock"] {
            let text = fs::read_to_string(repo.path(name)).unwrap();
            write(&repo, name, &format!("{text}\n"));
            assert_ne!(source_hash(&repo).unwrap(), before, "{name} does not count");
            write(&repo, name, &text);
            assert_eq!(source_hash(&repo).unwrap(), before);
        }
    }

    #[test]
    fn hash_ignores_build_output_and_prose() {
        let (_scratch, repo) = tree();
        let before = source_hash(&repo).unwrap();
        write(&repo, "proxy-ebpf/target/debug/build.rs", "fn generated() {}");
        write(&repo, "proxy-ebpf/README.md", "# words");
        assert_eq!(source_hash(&repo).unwrap(), before);
    }

    #[test]
    fn moving_bytes_from_one_file_to_the_next_changes_the_hash() {
        let (_scratch, repo) = tree();
        write(&repo, "proxy-ebpf/src/a.rs", "onetwo");
        write(&repo, "proxy-ebpf/src/b.rs", "three");
        let before = source_hash(&repo).unwrap();
        write(&repo, "proxy-ebpf/src/a.rs", "one");
        write(&repo, "proxy-ebpf/src/b.rs", "twothree");
        assert_ne!(source_hash(&repo).unwrap(), before);
    }

    #[test]
    fn missing_lock_file_is_an_error() {
        let (_scratch, repo) = tree();
        fs::remove_file(repo.path("proxy-ebpf/Cargo.lock")).unwrap();
        assert!(source_hash(&repo).is_err());
    }
}
