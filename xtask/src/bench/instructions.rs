//! `cargo xtask bench --instructions`: how many instructions the small parts take, beside what was accepted last.

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::machine;
use crate::process;
use crate::repo::Repo;
use crate::scratch::Scratch;

/// What counts, and the package that has it.
const VALGRIND: &str = "valgrind";
/// Accepted figures.
const ACCEPTED: &str = "bench/results/instructions.json";

/// Builds what is counted, counts, and sets the figures against the accepted ones.
pub(super) fn run(repo: &Repo, target: &Path, is_accepted: bool) -> Result<ExitCode> {
    if machine::find(VALGRIND).is_none() {
        machine::install(&[VALGRIND])?;
    }
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .current_dir(repo.root())
        .args(["build", "--profile", "count", "-p", "proxy-bench", "--bin", "count", "--target-dir"])
        .arg(target);
    process::run(&mut build)?;
    let scratch = Scratch::new("instructions")?;
    let mut count = Command::new(target.join("count/count"));
    count
        .current_dir(repo.root())
        .args(["compare", "--accepted", ACCEPTED, "--scratch"])
        .arg(scratch.path())
        .stdin(Stdio::null());
    if is_accepted {
        count.arg("--accept");
    }
    let status = count.status().context("cannot start what counts")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
