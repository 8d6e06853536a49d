//! The pinned tools that build the kernel object, without root and without any package of the distribution.
//!
//! Leaves the default toolchain and `PATH` alone: a compiler of the pinned version with its own libLLVM, and a
//! bpf-linker linked against that same libLLVM, so that the two never disagree about bitcode.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, iter};

use anyhow::{Context, Result, bail, ensure};

use crate::process;
use crate::scratch::Scratch;

const RUST: &str = "1.95.0";
const BPF_LINKER: &str = "0.13.0";
const LLVM: &str = "22";

/// The versions that shape the object: part of the source hash, and the content of the stamp beside bpf-linker.
pub(super) const PINS: &str = "bpf-linker 0.13.0 rust 1.95.0 llvm 22";

/// Machine type of eBPF in an ELF header (`EM_BPF`, 247), as it stands in a little-endian file.
const EM_BPF_LE: [u8; 2] = [247, 0];
/// Offset of `e_machine` in an ELF header, in bytes.
const E_MACHINE_OFFSET: usize = 18;

/// Tools that were found working together.
#[derive(Debug)]
pub(super) struct Toolchain {
    pub(super) sysroot: PathBuf,
    host: String,
    linker_dir: PathBuf,
}

impl Toolchain {
    pub(super) fn describe(&self) -> &'static str {
        PINS
    }

    /// A cargo that runs in `folder` and sees none of the settings that the caller's environment holds.
    pub(super) fn cargo(&self, folder: &Path) -> Command {
        let mut command = clean_cargo(&self.sysroot);
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = iter::once(self.linker_dir.clone()).chain(env::split_paths(&path));
        // join_paths fails only on a folder that contains a colon, and such a linker_dir could never be found
        command.env("PATH", env::join_paths(folders).unwrap_or(path)).current_dir(folder);
        command
    }

    pub(super) fn objcopy(&self) -> Command {
        let tool = self.sysroot.join("lib/rustlib").join(&self.host).join("bin/rust-objcopy");
        let mut command = Command::new(tool);
        command.env("LD_LIBRARY_PATH", self.sysroot.join("lib"));
        command
    }
}

/// Finds the tools, installs what is missing, and tries them once. Takes about a minute the first time.
///
/// # Errors
/// Without rustup or the network, as a rule; the message names the step.
pub(super) fn set_up() -> Result<Toolchain> {
    let (sysroot, host) = compiler().with_context(|| format!("no Rust {RUST} to build with"))?;
    rust_src(&sysroot).context("no source of Rust's core library (component rust-src)")?;
    let linker_dir = linker(&sysroot).with_context(|| format!("no bpf-linker {BPF_LINKER}"))?;
    let toolchain = Toolchain { sysroot, host, linker_dir };
    smoke_test(&toolchain).context("the tools do not build a trivial program")?;
    Ok(toolchain)
}

/// Where cargo keeps downloaded crates.
pub(super) fn cargo_home() -> Result<PathBuf> {
    let folder = match env::var_os("CARGO_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => home()?.join(".cargo"),
    };
    Ok(folder.canonicalize().unwrap_or(folder))
}

fn home() -> Result<PathBuf> {
    env::var_os("HOME").map(PathBuf::from).context("HOME is not set")
}

/// Where our own tools go.
fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => home()?.join(".cache"),
    };
    Ok(base.join("weir/bpf-toolchain"))
}

/// Returns sysroot and host triple of a compiler of the pinned version: rustup's, or whichever is in `PATH`.
fn compiler() -> Result<(PathBuf, String)> {
    let by_rustup = || inspect(&["rustup", "run", RUST, "rustc"]);
    if let Ok(found) = by_rustup() {
        return Ok(found);
    }
    if let Ok(found) = inspect(&["rustc"]) {
        return Ok(found);
    }
    let install = ["toolchain", "install", RUST, "--profile", "minimal", "--no-self-update"];
    process::run(Command::new("rustup").args(install))?;
    by_rustup()
}

/// Asks a compiler, given as the words of its command, who it is.
fn inspect(rustc: &[&str]) -> Result<(PathBuf, String)> {
    let ask = |args: &[&str]| process::output(Command::new(rustc[0]).args(&rustc[1..]).args(args));
    let text = ask(&["-vV"])?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
    let (release, llvm, host) = (value("release:"), value("LLVM version:"), value("host:"));
    ensure!(release == RUST, "rustc is {release}, not {RUST}");
    ensure!(llvm.split('.').next() == Some(LLVM), "this Rust {RUST} has LLVM {llvm}, not {LLVM}");
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?);
    let sysroot = sysroot.canonicalize().context("rustc's sysroot does not exist")?;
    ensure!(sysroot.join("bin/cargo").is_file(), "this Rust {RUST} has no cargo beside rustc");
    Ok((sysroot, host.to_owned()))
}

/// Installs the component rust-src unless it is there.
fn rust_src(sysroot: &Path) -> Result<()> {
    let library = sysroot.join("lib/rustlib/src/rust/library");
    if !library.join("core/src/lib.rs").is_file() {
        // rustup names a toolchain as its folder
        let name = sysroot.file_name().context("the sysroot has no name")?;
        process::run(Command::new("rustup").args(["component", "add", "rust-src", "--toolchain"]).arg(name))?;
    }
    ensure!(library.join("Cargo.lock").is_file(), "rust-src came without library/Cargo.lock");
    Ok(())
}

/// Returns a folder with the pinned bpf-linker: ours, one that is already there, or a new one in our cache.
fn linker(sysroot: &Path) -> Result<PathBuf> {
    let ours = cache()?;
    let candidates = [Some(ours.clone()), home().ok().map(|home| home.join(".local/share/bpf-toolchain"))];
    if let Some(prefix) = candidates.into_iter().flatten().find(|prefix| is_usable(prefix)) {
        return Ok(prefix.join("bin"));
    }
    eprintln!("building bpf-linker {BPF_LINKER} into {}, once; takes about a minute", ours.display());
    let llvm = llvm_prefix(&ours, sysroot)?;
    let features = format!("llvm-{LLVM}");
    process::run(
        clean_cargo(sysroot)
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"])
            .args(["--no-default-features", "--features", &features, "--root"])
            .arg(&ours)
            .env("LLVM_PREFIX", llvm)
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
    )?;
    fs::write(ours.join(".stamp"), PINS).context("cannot write the stamp")?;
    ensure!(is_usable(&ours), "the new bpf-linker does not run");
    Ok(ours.join("bin"))
}

/// The stamp tells which libLLVM it was linked with; running it tells whether that library is still there.
fn is_usable(prefix: &Path) -> bool {
    let stamp = fs::read_to_string(prefix.join(".stamp")).unwrap_or_default();
    let version = || process::output(Command::new(prefix.join("bin/bpf-linker")).arg("--version"));
    stamp.trim() == PINS && version().is_ok_and(|text| text.contains(BPF_LINKER))
}

/// Makes a folder that looks like an LLVM installation, of the toolchain's own libLLVM.
fn llvm_prefix(prefix: &Path, sysroot: &Path) -> Result<PathBuf> {
    let from = sysroot.join("lib");
    let names =
        fs::read_dir(&from).context("the sysroot has no lib")?.flatten().map(|entry| entry.file_name());
    let library: OsString = names
        .filter(|name| name.to_string_lossy().starts_with("libLLVM.so."))
        .min()
        .context("the toolchain has no shared libLLVM")?;
    let llvm = prefix.join(format!("llvm-{RUST}"));
    let lib = llvm.join("lib");
    fs::create_dir_all(&lib).context("cannot create the cache folder")?;
    // the first name is for run time (bpf-linker's rpath is this folder), the second for -lLLVM
    for (name, target) in [(library.clone(), from.join(&library)), ("libLLVM.so".into(), library.into())] {
        let link = lib.join(name);
        let _ = fs::remove_file(&link); // an old one may point to a toolchain that is gone
        symlink(target, &link).with_context(|| format!("cannot create {}", link.display()))?;
    }
    Ok(llvm)
}

/// The toolchain's own cargo, deaf to settings of the environment that would change what it builds.
fn clean_cargo(sysroot: &Path) -> Command {
    const BUILD_SETTINGS: [&str; 5] =
        ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_PKG_", "RUSTC"];
    const FLAGS: [&str; 5] =
        ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO", "CARGO_MANIFEST_DIR", "LD_LIBRARY_PATH"];
    let mut command = Command::new(sysroot.join("bin/cargo"));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if FLAGS.contains(&&*text) || BUILD_SETTINGS.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.env("RUSTC", sysroot.join("bin/rustc"));
    command
}

/// Builds a program of four lines, so that a broken tool is told apart from a broken proxy-ebpf.
///
/// Costs a build of `core`, so a stamp remembers the linker that passed.
fn smoke_test(toolchain: &Toolchain) -> Result<()> {
    let stamp = cache()?.join(".smoke");
    let passed = format!("{PINS} {} {}", toolchain.sysroot.display(), toolchain.linker_dir.display());
    if fs::read_to_string(&stamp).is_ok_and(|text| text == passed) {
        return Ok(());
    }
    let scratch = Scratch::new("bpf-smoke")?;
    fs::write(scratch.path().join("Cargo.toml"), SMOKE_MANIFEST)?;
    fs::write(scratch.path().join("main.rs"), SMOKE_PROGRAM)?;
    process::run(
        toolchain
            .cargo(scratch.path())
            .args(["build", "-q", "--release", "--target", "bpfel-unknown-none", "-Zbuild-std=core"])
            .env("CARGO_ENCODED_RUSTFLAGS", "")
            .env("RUSTC_BOOTSTRAP", "1"),
    )?;
    let object = fs::read(scratch.path().join("target/bpfel-unknown-none/release/smoke"))?;
    let machine = object.get(E_MACHINE_OFFSET..E_MACHINE_OFFSET + 2);
    if machine != Some(&EM_BPF_LE) {
        bail!("the result is not an eBPF object");
    }
    fs::create_dir_all(cache()?)?;
    fs::write(stamp, passed).context("cannot write the stamp")
}

const SMOKE_MANIFEST: &str = r#"
[package]
name = "smoke"
version = "0.0.0"
edition = "2024"
[[bin]]
name = "smoke"
path = "main.rs"
[workspace]
[profile.release]
panic = "abort"
"#;

const SMOKE_PROGRAM: &str = r#"
#![no_std]
#![no_main]
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
pub fn smoke(_ctx: *mut u8) -> i32 { 0 }
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
"#;
