//! `cargo xtask ebpf`: keeps the committed kernel object and its source the same thing.
//!
//! The object is committed so that plain stable `cargo build` works anywhere; this command is the only one that
//! writes it. Two builds give the same bytes on any machine, because tool versions are pinned and every path that
//! could reach the object is remapped.

mod build;
mod source;
mod toolchain;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::ebpf::source::Record;
use crate::repo::Repo;
use crate::scratch::Scratch;

/// The committed object and what it was built from, relative to the root.
const OBJECT: &str = "proxy-user/bpf/object/weir.bpf.o";
const RECORD: &str = "proxy-user/bpf/object/SOURCE.sha256";

/// Says "not rebuilt here" to CI, as distinct from 1, "rebuilt and different".
const EXIT_NO_TOOLCHAIN: u8 = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rebuild in a temporary folder and compare with what is committed: exit 0 equal, 1 different, 3 the
    /// toolchain could not be set up (then only the hashes are compared)
    #[arg(long, conflicts_with = "setup")]
    check: bool,
    /// Only set up and try the toolchain
    #[arg(long)]
    setup: bool,
}

pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    if args.setup {
        let toolchain = toolchain::set_up()?;
        eprintln!("ready: {}", toolchain.describe());
        return Ok(ExitCode::SUCCESS);
    }
    if args.check { check(repo) } else { write(repo) }
}

/// Builds in place and replaces the committed files.
fn write(repo: &Repo) -> Result<ExitCode> {
    let toolchain = toolchain::set_up()?;
    let target_dir = repo.path("proxy-ebpf/target");
    // the lock file may change here: this is how a new dependency gets in
    build::fetch(repo, &toolchain, build::Lock::MayChange)?;
    let object = build::object(repo, &toolchain, &target_dir, build::Lock::MayChange)?;
    let record = Record::of(repo, &object)?;
    let path = repo.path(OBJECT);
    let folder = path.parent().context("the object's path has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", repo.relative(folder)))?;
    replace(repo, OBJECT, &object)?;
    replace(repo, RECORD, record.to_string().as_bytes())?;
    eprintln!("{OBJECT}: {} bytes, sha256 {}", object.len(), record.object);
    Ok(ExitCode::SUCCESS)
}

/// Writes beside the target and renames over it, so that a build that runs meanwhile never reads half an object.
fn replace(repo: &Repo, relative: &str, content: &[u8]) -> Result<()> {
    let path = repo.path(relative);
    let new = repo.path(&format!("{relative}.new"));
    fs::write(&new, content).with_context(|| format!("cannot write {relative}"))?;
    fs::rename(&new, &path).with_context(|| format!("cannot replace {relative}"))
}

/// Compares what is committed with its source, by rebuilding where that is possible.
fn check(repo: &Repo) -> Result<ExitCode> {
    let committed = fs::read(repo.path(OBJECT)).with_context(|| missing(OBJECT))?;
    let text = fs::read_to_string(repo.path(RECORD)).with_context(|| missing(RECORD))?;
    let recorded = Record::parse(&text).with_context(|| missing(RECORD))?;
    let now = Record::of(repo, &committed)?;
    if let Some(difference) = recorded.difference(&now) {
        return Ok(different(difference));
    }
    let ready = toolchain::set_up().and_then(|toolchain| {
        build::fetch(repo, &toolchain, build::Lock::MustHold)?;
        Ok(toolchain)
    });
    let toolchain = match ready {
        Ok(toolchain) => toolchain,
        Err(error) => return Ok(not_rebuilt(&error)),
    };
    let scratch = Scratch::new("ebpf")?;
    let rebuilt = build::object(repo, &toolchain, scratch.path(), build::Lock::MustHold)?;
    if rebuilt != committed {
        return Ok(different(&format!(
            "rebuilding gives another object ({} bytes, sha256 {}) than the committed one ({} bytes, sha256 {})",
            rebuilt.len(),
            source::hex(&rebuilt),
            committed.len(),
            recorded.object,
        )));
    }
    eprintln!("{OBJECT}: rebuilt, identical ({})", toolchain.describe());
    Ok(ExitCode::SUCCESS)
}

fn missing(file: &str) -> String {
    format!("{file} is not usable; run `cargo xtask ebpf` and commit what it writes")
}

fn different(what: &str) -> ExitCode {
    eprintln!("DIFFERENT: {what}.");
    eprintln!(
        "Run `cargo xtask ebpf` and commit {OBJECT} and {RECORD} together with the change in proxy-ebpf."
    );
    ExitCode::FAILURE
}

fn not_rebuilt(error: &anyhow::Error) -> ExitCode {
    let bar = "*".repeat(100);
    eprintln!("{bar}");
    eprintln!("NOT REBUILT: the toolchain for the kernel object could not be set up here:");
    eprintln!("  {error:#}");
    eprintln!("Only the hashes of the source and of the object were compared; they match the record.");
    eprintln!("{bar}");
    ExitCode::from(EXIT_NO_TOOLCHAIN)
}
