//! `cargo xtask fuzz`: a short run of every fuzz target.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::process;
use crate::repo::Repo;

/// Version of cargo-fuzz that is installed if there is none.
const CARGO_FUZZ: &str = "0.13.2";
/// Targets in `tests/fuzz/fuzz_targets`, with the inputs of a short run: 10 to 20 seconds each.
const TARGETS: [(&str, u32); 14] = [
    ("config", 300_000),
    ("btf", 4_000_000),
    ("cidr", 8_000_000),
    ("client_hello", 8_000_000),
    ("route", 100_000),
    ("http1_request", 1_000_000),
    ("http1_response", 1_000_000),
    ("chunked", 2_000_000),
    ("http2_request", 2_000_000),
    ("http2_frames", 4_000_000),
    ("hpack", 1_000_000),
    ("proxy_protocol", 500_000),
    ("grpc_health", 8_000_000),
    ("grpc_web", 4_000_000),
];
/// Seed of a short run: it meets the same inputs every time, so that a change is judged by itself and not by luck.
const SEED: u32 = 1;

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Explores with a random seed for this long per target, instead of a short run that is always the same
    #[arg(long)]
    seconds: Option<u32>,
    /// Only this target.
    target: Option<String>,
}

pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    install()?;
    for (target, runs) in
        TARGETS.iter().filter(|(name, _)| args.target.as_deref().is_none_or(|only| only == *name))
    {
        println!("== fuzz {target}");
        let mut fuzz = Command::new("cargo");
        // libFuzzer's coverage needs -Z flags, which stable accepts this way. No sanitizer: the code is safe Rust, and a
        // panic is what is looked for.
        fuzz.current_dir(repo.path("tests"))
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", "run", "--fuzz-dir", "fuzz", "--sanitizer", "none", target, "--"])
            .args(match args.seconds {
                Some(seconds) => vec![format!("-max_total_time={seconds}")],
                None => vec![format!("-runs={runs}"), format!("-seed={SEED}")],
            })
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
