//! Builds the kernel object so that the same source gives the same bytes on every machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::ebpf::toolchain::{Toolchain, cargo_home};
use crate::process;
use crate::repo::Repo;

/// Flags that shape the object and stand in no file of proxy-ebpf; part of the source hash.
///
/// `bpf_target_arch`: aya-ebpf would otherwise guess it from the host. `debuginfo=2` and `--btf`: BTF is made from
/// DWARF, and without BTF neither map types nor function names survive.
pub(super) const RECIPE: &str =
    "--cfg=bpf_target_arch=\"x86_64\"\n-Cdebuginfo=2\n-Clink-arg=--btf\n-Zbuild-std=core\n--strip-debug";

const TARGET: &str = "bpfel-unknown-none";

/// Whether cargo may bring the lock file up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    MayChange,
    MustHold,
}

impl Lock {
    fn args(self) -> &'static [&'static str] {
        match self {
            Self::MayChange => &[],
            Self::MustHold => &["--locked"],
        }
    }
}

/// Downloads the crates of proxy-ebpf, so that without a network the build does not even begin.
pub(super) fn fetch(repo: &Repo, toolchain: &Toolchain, lock: Lock) -> Result<()> {
    process::run(toolchain.cargo(&repo.path("proxy-ebpf")).arg("fetch").args(lock.args()))
}

/// Builds proxy-ebpf below `target_dir` and returns the stripped object; its crates must be [`fetch`]ed already,
/// since their folders are among those to remap.
pub(super) fn object(repo: &Repo, toolchain: &Toolchain, target_dir: &Path, lock: Lock) -> Result<Vec<u8>> {
    let flags = [
        vec!["--cfg=bpf_target_arch=\"x86_64\"".into(), "-Cdebuginfo=2".into(), "-Clink-arg=--btf".into()],
        remaps(repo, toolchain)?,
    ];
    process::run(
        toolchain
            .cargo(&repo.path("proxy-ebpf"))
            .args(["build", "--release", "--bin", "proxy-ebpf", "--target", TARGET, "-Zbuild-std=core"])
            .args(lock.args())
            .arg("--target-dir")
            .arg(target_dir)
            // replaces RUSTFLAGS and the flags of every config file
            .env("CARGO_ENCODED_RUSTFLAGS", flags.concat().join("\u{1f}"))
            // -Z flags and unstable features on a stable compiler, for this build and nothing else
            .env("RUSTC_BOOTSTRAP", "1"),
    )?;
    strip(toolchain, &target_dir.join(TARGET).join("release/proxy-ebpf"))
}

/// Drops DWARF and keeps BTF: an eighth of the size, and without the only part that still knows the build folder.
fn strip(toolchain: &Toolchain, linked: &Path) -> Result<Vec<u8>> {
    let stripped = linked.with_extension("stripped");
    process::run(toolchain.objcopy().arg("--strip-debug").arg(linked).arg(&stripped))?;
    fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
}

/// Replaces every folder of this machine by a fixed name; of several that match, rustc takes the last.
fn remaps(repo: &Repo, toolchain: &Toolchain) -> Result<Vec<String>> {
    let registry = cargo_home()?.join("registry/src");
    let mut folders: Vec<(PathBuf, &str)> = vec![
        (resolved(repo.root()), "/src"),
        (toolchain.sysroot.join("lib/rustlib/src/rust"), "/rust"),
        (registry.clone(), "/cargo"),
    ];
    // the folder below is named after the index that the crates came from: a mirror must give the same bytes
    let entries = fs::read_dir(&registry).with_context(|| format!("cannot read {}", registry.display()))?;
    for entry in entries {
        folders.push((entry?.path(), "/cargo"));
    }
    Ok(folders.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect())
}

fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| env::current_dir().unwrap_or_default().join(path))
}
