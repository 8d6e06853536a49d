//! `cargo xtask bench`: measures Weir beside a direct connection and its rivals.
//!
//! Builds what is measured, and hands over to `compare` of `bench/` as the first process of new network, mount and pid
//! namespaces: when it ends, the kernel ends everything that it started, and the network goes with it. When we end, by
//! whatever signal, the kernel tells `compare`, which tidies up and ends.

mod instructions;
mod setup;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self as std_process, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::machine;
use crate::process;
use crate::repo::Repo;
use crate::scratch::Scratch;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A look at everything in five minutes: fewer and shorter repetitions, nothing is kept
    #[arg(long)]
    quick: bool,
    /// Only this case, which takes the place of its older figures; repeatable
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// A look at this contestant only; repeatable
    #[arg(long = "proxy", value_name = "NAME")]
    proxies: Vec<String>,
    /// Installs the rivals (Debian packages; Envoy and Pingora below target/) and ends
    #[arg(long)]
    setup: bool,
    /// Counts the instructions of small parts instead, and fails if they are more than was accepted
    #[arg(long, conflicts_with_all = ["quick", "cases", "proxies", "setup", "weir"])]
    instructions: bool,
    /// Accepts what is counted
    #[arg(long, requires = "instructions")]
    accept: bool,
    /// Measures this binary instead of building one
    #[arg(long, value_name = "FILE")]
    weir: Option<PathBuf>,
}

pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    let target = target_folder()?;
    let rivals = target.join("bench-tools");
    if args.setup {
        return setup::run(repo, &rivals);
    }
    if args.instructions {
        return instructions::run(repo, &target, args.accept);
    }
    let weir = args.weir.as_deref().map(|file| file.canonicalize().context("--weir")).transpose()?;
    let built = build(repo, &target, weir.is_none())?;
    let weir = weir.unwrap_or_else(|| built.join("weir"));
    let scratch = Scratch::new("bench")?;
    let cgroup = format!("weir-bench-{}", std_process::id());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork"]);
    command.args(["--kill-child=SIGTERM", "--mount-proc", "--"]);
    command.arg(built.join("compare")).args(["--cgroup", &cgroup]);
    command
        .arg("--folder")
        .arg(repo.path("bench"))
        .arg("--scratch")
        .arg(scratch.path())
        .arg("--weir")
        .arg(&weir);
    if let Some(envoy) = setup::find_envoy(&rivals) {
        command.arg("--envoy").arg(envoy);
    }
    if let Some(pingora) = setup::find_pingora(&rivals) {
        command.arg("--pingora").arg(pingora);
    }
    if args.quick {
        command.arg("--quick");
    }
    let named = |flag: &'static str, names: &[String]| {
        names.iter().flat_map(move |name| [flag.to_owned(), name.clone()]).collect::<Vec<_>>()
    };
    command.args(named("--case", &args.cases)).args(named("--proxy", &args.proxies));
    let status =
        command.stdin(Stdio::null()).status().context("cannot start setpriv (package util-linux)")?;
    remove_cgroup(&cgroup);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder that cargo builds into: this program lies in one of its profiles.
fn target_folder() -> Result<PathBuf> {
    let own = env::current_exe().context("this program has no path")?;
    Ok(own.ancestors().nth(2).context("this program lies in no target folder")?.to_owned())
}

/// Builds with optimizations, whatever profile we are in, and returns where the programs are.
fn build(repo: &Repo, target: &Path, with_weir: bool) -> Result<PathBuf> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(repo.root())
        .args(["build", "--release", "-p", "proxy-bench", "--bins", "--target-dir"])
        .arg(target);
    if with_weir {
        command.args(["-p", "proxy-user"]);
    }
    process::run(&mut command)?;
    let built = target.join("release");
    ensure!(built.join("compare").is_file(), "cargo built somewhere else than beside xtask");
    Ok(built)
}

/// The client's cgroup, if `compare` could not remove it itself; its processes are gone by now.
fn remove_cgroup(name: &str) {
    if let Some(path) = machine::cgroup_mount().map(|mount| mount.join(name)).filter(|path| path.is_dir())
        && let Err(error) = fs::remove_dir(&path)
    {
        eprintln!("the cgroup {} stays behind: {error}", path.display());
    }
}
