//! `cargo xtask fuzz`: a short run of every fuzz target.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::process;
use crate::repo::Repo;

/// Version of cargo-fuzz that is installed if there is none.
const CARGO_FUZZ: &str = "0.13.2";
/// Targets in `tests/fuzz/fuzz_targets`.
const TARGETS: [&str; 3] = ["config", "btf", "cidr"];

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds for each target.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Only this target.
    target: Option<String>,
}

pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    install()?;
    for target in TARGETS.iter().filter(|target| args.target.as_deref().is_none_or(|only| only == **target)) {
        println!("== fuzz {target}, {} s", args.seconds);
        let mut fuzz = Command::new("cargo");
        // libFuzzer's coverage needs -Z flags, which stable accepts this way. No sanitizer: the code is safe Rust, and a
        // panic is what is looked for.
        fuzz.current_dir(repo.path("tests"))
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", "run", "--fuzz-dir", "fuzz", "--sanitizer", "none", target, "--"])
            .arg(format!("-max_total_time={}", args.seconds))
            .args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]);
        process::run(&mut fuzz).with_context(|| format!("fuzz target {target} failed"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn install() -> Result<()> {
    let is_there =
        Command::new("cargo").args(["fuzz", "--version"]).output().is_ok_and(|o| o.status.success());
    if is_there {
        return Ok(());
    }
    let mut install = Command::new("cargo");
    install.args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked"]);
    process::run(&mut install).context("cannot install cargo-fuzz")
}
