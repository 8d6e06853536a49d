//! `cargo xtask test`: runs the test rings and adds them up.
//!
//! unit: one crate at a time, needs nothing. process: the real parts on loopback, needs nothing. node: network
//! namespaces and real programs, needs root and a recent kernel. vm: some tests of the node ring on other kernels, under qemu; it is
//! slow, and no part of `all`. Where it could not be run, the exit code is 3. What was skipped is said loudly; where a skip must
//! not pass (`CI=true` or `WEIR_REQUIRE_NODE=1`), a node ring that did not run fails the command. The last lines name
//! every test that failed, `FAILED: PROGRAM::TEST (DRIVER)`, and give the sum.
//!
//! What the tests are told, by environment:
//! - `WEIR_BIN`: the `weir` binary to run (process and node);
//! - `WEIR_TEST_IO`: `ring` or `epoll`, the driver to run it with; each ring runs once per driver;
//! - `WEIR_TEST_PODS`: how many pods the tests of many pods make, 1,000 or 500 for a large node;
//! - `WEIR_SKIP_FILE`: a file to which a test appends one line, `NAME: REASON`, when it cannot run here.

mod cargo;
mod node;
mod report;
mod tally;
mod vm;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::machine;
use crate::process;
use crate::repo::Repo;
use crate::scratch::Scratch;
use crate::test::cargo::CargoTest;
use crate::test::tally::Tally;

/// Exit code if nothing failed, but the vm ring could not be run, or not to its end: its packages cannot be had, or this machine is
/// too slow for it.
const NOT_RUN: u8 = 3;

/// Crates whose tests need nothing but themselves.
const UNIT_CRATES: [&str; 6] =
    ["proxy-ebpf-common", "proxy-core", "proxy-io", "proxy-bpf", "proxy-user", "xtask"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum, default_value_t = Ring::All)]
    ring: Ring,
    /// Driver to run the process and node rings with
    #[arg(long, value_enum, default_value_t = Io::Both)]
    io: Io,
    /// Only kernels whose version begins like this (vm)
    #[arg(long, value_name = "VERSION", default_value = "")]
    kernel: String,
    /// Only the oldest kernel, and few tests (vm)
    #[arg(long)]
    smoke: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ring {
    All,
    Unit,
    Process,
    Node,
    /// Some tests of the node ring on the kernels that Debian offers, under qemu
    Vm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Io {
    Ring,
    Epoll,
    Both,
}

impl Io {
    /// Values of `WEIR_TEST_IO`, one run each.
    fn drivers(self) -> &'static [&'static str] {
        match self {
            Self::Ring => &["ring"],
            Self::Epoll => &["epoll"],
            Self::Both => &["epoll", "ring"],
        }
    }
}

impl Ring {
    fn includes(self, one: Self) -> bool {
        self == one || (self == Self::All && one != Self::Vm)
    }
}

pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    let scratch = Scratch::new("test")?;
    let mut total = Tally::default();
    let (mut node_ran, mut vm_ran) = (true, true);
    // Tests of TLS in all rings want another implementation to talk to; without it they are skipped.
    if machine::find("openssl").is_none() {
        let _ = machine::install(&["openssl"]);
    }
    if args.ring.includes(Ring::Unit) {
        heading("unit ring");
        let packages = UNIT_CRATES.iter().flat_map(|name| ["-p", name]);
        total += CargoTest::new(repo).args(packages).run()?;
    }
    if [Ring::Process, Ring::Node, Ring::Vm].iter().any(|ring| args.ring.includes(*ring)) {
        match build_weir(repo) {
            Err(error) => {
                eprintln!("error: {error:#}");
                total += Tally::failure("build weir");
                node_ran = false;
            }
            Ok(weir) => {
                if args.ring.includes(Ring::Process) {
                    for driver in args.io.drivers() {
                        heading(&format!("process ring, {driver} driver"));
                        total += outside(repo, &weir, scratch.path(), "process", driver)?;
                    }
                }
                if args.ring.includes(Ring::Node) {
                    let (tally, ran) = node_ring(repo, &weir, scratch.path(), args.io)?;
                    total += tally;
                    node_ran = ran;
                }
                if args.ring.includes(Ring::Vm) {
                    let (tally, ran) = vm_ring(repo, &weir, scratch.path(), args)?;
                    total += tally;
                    vm_ran = ran;
                }
            }
        }
    }
    let must_run = is_set("WEIR_REQUIRE_NODE", "1") || is_set("CI", "true");
    let ok = total.failed.is_empty() && (node_ran || !must_run);
    if !node_ran && must_run {
        loud(&["The node ring did not run, and here it has to (CI=true or WEIR_REQUIRE_NODE=1)."]);
    }
    println!("{total}");
    Ok(match (ok, vm_ran) {
        (false, _) => ExitCode::FAILURE,
        (true, false) => ExitCode::from(NOT_RUN),
        (true, true) => ExitCode::SUCCESS,
    })
}

fn is_set(name: &str, value: &str) -> bool {
    env::var_os(name).is_some_and(|found| found == value)
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// A notice that is hard to overlook.
fn loud(lines: &[&str]) {
    let bar = "*".repeat(100);
    eprintln!("\n{bar}");
    for line in lines {
        eprintln!("* {line}");
    }
    eprintln!("{bar}\n");
}

/// Builds the binary under test in the profile that this program was built in, and returns where it is.
fn build_weir(repo: &Repo) -> Result<PathBuf> {
    heading("build weir");
    let own = env::current_exe().context("this program has no path")?;
    let folder = own.parent().context("this program lies in no folder")?;
    let mut command = Command::new(cargo::program());
    command.current_dir(repo.root()).args(["build", "-p", "proxy-user", "--bin", "weir"]);
    if folder.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    process::run(&mut command)?;
    let weir = folder.join("weir");
    ensure!(weir.is_file(), "cargo built weir somewhere else than beside xtask");
    Ok(weir)
}

/// Runs the node ring if this machine can; tells whether any of its tests really ran.
fn node_ring(repo: &Repo, weir: &Path, scratch: &Path, io: Io) -> Result<(Tally, bool)> {
    heading("node ring: what it needs");
    if let Some(reason) = node::obstacle() {
        // listed by the test programs themselves, so that they are at least built and the number is right
        let count = CargoTest::outside(repo, "node").count()? * io.drivers().len();
        loud(&[&format!("SKIPPED: the whole node ring ({count} tests): {reason}.")]);
        return Ok((Tally { skipped: count, ..Tally::default() }, false));
    }
    for missing in node::install_programs() {
        loud(&[&format!("{missing}; the tests that need it will be skipped.")]);
    }
    let mut total = Tally::default();
    for driver in io.drivers() {
        heading(&format!("node ring, {driver} driver"));
        total += outside(repo, weir, scratch, "node", driver)?;
    }
    let ran = total.passed + total.failed.len() > 0;
    Ok((total, ran))
}

/// Runs tests on other kernels; tells whether that could be done here.
fn vm_ring(repo: &Repo, weir: &Path, scratch: &Path, args: &Args) -> Result<(Tally, bool)> {
    heading("vm ring: what it needs");
    if let Some(reason) = node::obstacle().or_else(vm::obstacle) {
        loud(&[&format!("SKIPPED: the whole vm ring: {reason}.")]);
        return Ok((Tally::default(), false));
    }
    for missing in node::install_programs() {
        loud(&[&format!("{missing}; the tests that need it will be skipped.")]);
    }
    let plan = vm::Plan { drivers: args.io.drivers(), version: &args.kernel, is_smoke: args.smoke };
    vm::run(repo, weir, scratch, &plan)
}

/// Runs the tests of one ring in proxy-tests with one driver.
fn outside(repo: &Repo, weir: &Path, scratch: &Path, ring: &str, driver: &str) -> Result<Tally> {
    let skip_file = scratch.join(format!("skips-{ring}-{driver}"));
    fs::write(&skip_file, "").context("cannot create the file for skipped tests")?;
    let mut test = CargoTest::outside(repo, ring);
    if ring == "node" {
        // namespaces and cgroups of the machine are shared, and timing is part of what is tested
        test = test.test_args(["--test-threads=1"]);
    }
    let tally =
        test.env("WEIR_BIN", weir).env("WEIR_TEST_IO", driver).env("WEIR_SKIP_FILE", &skip_file).run()?;
    let text = fs::read_to_string(&skip_file).context("cannot read the file of skipped tests")?;
    let skips: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if !skips.is_empty() {
        let lines: Vec<String> = skips.iter().map(|skip| format!("SKIPPED: {skip}")).collect();
        loud(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    }
    Ok(tally.with_skips(skips.len()).with_driver(driver))
}
