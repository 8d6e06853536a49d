//! The vm ring: other kernels boot in an emulated machine and run the tests that show the most.
//!
//! ```text
//!   Debian's kernel packages ──> kernel, and a first file system with the modules that it needs
//!                                          │
//!   this machine's own files, read-only ──┴──> qemu ──> the tests, on its console
//! ```
//!
//! The machine is emulated in software, so that nothing but qemu is needed; it has no network but its own. What it writes goes
//! to its memory. A smoke run boots the oldest kernel only and runs a few tests, with instructions for a clock: load on this
//! machine makes it take longer, but makes no test fail.

mod boot;
mod console;
mod kernel;
mod old;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use self::boot::{Clock, Machine, STOPPED};
use self::console::{BEGIN, END, SKIPPED};
use self::kernel::Kernel;
use super::cargo;
use super::tally::Tally;
use crate::machine;
use crate::process;
use crate::repo::Repo;

/// Programs that this ring needs beside what the node ring needs, and the Debian packages that hold them.
const PROGRAMS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
];

/// The tests: every way to connect and both lanes, streams to their last byte, servers that see their clients, pods, known or not, and links that are taken
/// over after a kill.
const TESTS: [(&str, &[&str]); 6] = [
    ("node_connect", &["every_kind_of_connect_is_caught", "applications_see_the_addresses_that_they_expect"]),
    ("node_stream", &["either_side_may_end_first"]),
    ("node_inbound", &["applications_see_their_clients"]),
    ("node_pods", &["both_lanes_serve_pods_and_keep_their_addresses"]),
    ("node_newcomers", &["a_namespace_in_which_nobody_can_listen_is_served_through_the_node_for_good"]),
    ("node_takeover", &["with_nobody_to_take_over_from_it_starts_as_usual_also_after_a_kill"]),
];

/// The tests of a smoke run: both lanes in every address family, and all programs of the kernel object, those of pods too.
const SMOKE_TESTS: [(&str, &[&str]); 2] = [
    ("node_connect", &["applications_see_the_addresses_that_they_expect"]),
    ("node_inbound", &["applications_see_their_clients"]),
];

type Tests = &'static [(&'static str, &'static [&'static str])];

/// How much is run, and how.
#[derive(Debug)]
struct Form {
    tests: Tests,
    clock: Clock,
    /// Time after which a machine is stopped. A software emulation is some twenty times slower than the machine itself.
    limit: Duration,
    /// Time of the guest's own clock after which a test program hangs; all tests have shorter limits for what they wait for.
    hang_limit: Duration,
}

const FULL: Form = Form {
    tests: &TESTS,
    clock: Clock::Real,
    limit: Duration::from_secs(1800),
    hang_limit: Duration::from_secs(900),
};
/// The limit is several times what it takes beside other work. A program that hangs is found long before it, since the guest's
/// clock stands for no longer than this machine's.
const SMOKE: Form = Form {
    tests: &SMOKE_TESTS,
    clock: Clock::Instructions,
    limit: Duration::from_secs(900),
    hang_limit: Duration::from_secs(240),
};

/// What is asked for.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// The drivers to test with.
    pub(super) drivers: &'a [&'static str],
    /// Only kernels whose version begins like this.
    pub(super) version: &'a str,
    /// Only the oldest kernel, and few tests.
    pub(super) is_smoke: bool,
}

impl Plan<'_> {
    const fn form(&self) -> Form {
        if self.is_smoke { SMOKE } else { FULL }
    }
}

/// Why this ring cannot run here, if it cannot.
pub(super) fn obstacle() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("its kernels are for x86_64".to_owned());
    }
    let missing = || PROGRAMS.into_iter().filter(|(program, _)| machine::find(program).is_none());
    let packages: Vec<&str> = missing().map(|(_, package)| package).collect();
    // Also if there is nothing to install: what is known of kernels may be too old to be had.
    let result = machine::install(&packages);
    let lacking: Vec<&str> = missing().map(|(program, _)| program).collect();
    let reason = result.err().map_or_else(String::new, |error| format!(" ({error:#})"));
    (!lacking.is_empty()).then(|| format!("it needs {}{reason}", lacking.join(", ")))
}

/// Runs the tests on every kernel that can be had; tells whether there was one, and every machine came as far as its tests.
pub(super) fn run(repo: &Repo, weir: &Path, scratch: &Path, plan: &Plan<'_>) -> Result<(Tally, bool)> {
    let cache = repo.root().join("target/vm");
    let begin = format!(
        "export WEIR_BIN='{}' WEIR_SKIP_FILE=/run/skips\ncd '{}'\necho '{BEGIN}'\n",
        weir.display(),
        repo.root().display()
    );
    let end = format!("sed 's/^/{SKIPPED}/' /run/skips\necho '{END}'\n");
    let kernels = kernels(&cache, plan);
    let has_tests = kernels.iter().any(|(_, script)| matches!(script, Script::Tests));
    let tests = if has_tests { build(repo, plan)?.script(plan) } else { String::new() };
    let (mut total, mut ran, mut is_whole) = (Tally::default(), 0, true);
    for (kernel, script) in kernels {
        super::heading(&format!("vm ring, {kernel}"));
        let unpacked = match kernel.fetch(&cache) {
            Ok(unpacked) => unpacked,
            Err(error) => {
                super::loud(&[&format!("SKIPPED: {kernel}: it cannot be had: {error:#}")]);
                continue;
            }
        };
        let script = match script {
            Script::Tests => &*tests,
            Script::Refusal => old::SCRIPT,
        };
        let script = [&*begin, script, &*end].concat();
        let Form { clock, limit, .. } = plan.form();
        let machine = Machine::new(&unpacked, scratch, &script, clock, limit)?;
        let (tally, came_to_tests) = watch(&kernel, &machine)?;
        total += tally;
        is_whole &= came_to_tests;
        ran += 1;
    }
    if ran == 0 {
        super::loud(&["SKIPPED: the whole vm ring: none of the kernels that were asked for can be had."]);
    }
    Ok((total, is_whole && ran > 0))
}

/// What a machine runs.
#[derive(Debug, Clone, Copy)]
enum Script {
    Tests,
    Refusal,
}

/// The kernels to run something on. That there may be none is said loudly.
fn kernels(cache: &Path, plan: &Plan<'_>) -> Vec<(Kernel, Script)> {
    let offered = kernel::offered().unwrap_or_else(|error| {
        super::loud(&[&format!("SKIPPED: all kernels: {error:#}")]);
        Vec::new()
    });
    let most = if plan.is_smoke { 1 } else { usize::MAX };
    let asked = offered.into_iter().filter(|kernel| kernel.version().starts_with(plan.version)).take(most);
    let mut kernels: Vec<_> = asked.map(|kernel| (kernel, Script::Tests)).collect();
    if !plan.is_smoke && kernel::TOO_OLD.starts_with(plan.version) {
        match kernel::too_old(cache) {
            Ok(kernel) => kernels.push((kernel, Script::Refusal)),
            Err(error) => super::loud(&[&format!("SKIPPED: kernel {}: {error:#}", kernel::TOO_OLD)]),
        }
    }
    kernels
}

/// The test programs, and that with the driver's own tests: they find what a kernel does otherwise before a proxy hangs on it.
struct Programs {
    driver: Option<PathBuf>,
    tests: Vec<PathBuf>,
}

/// Builds the test programs.
fn build(repo: &Repo, plan: &Plan<'_>) -> Result<Programs> {
    let tests = plan.form().tests;
    let mut command = Command::new(cargo::program());
    command.current_dir(repo.root()).args(["test", "-p", "proxy-tests", "--no-run"]);
    command.args(tests.iter().flat_map(|(name, _)| ["--test", name]));
    if !plan.is_smoke {
        command.args(["-p", "proxy-io", "--lib"]);
    }
    let said = process::messages(command.env("CARGO_TERM_COLOR", "never"))?;
    let path = |name: &str| {
        let paths = said
            .lines()
            .filter_map(|line| line.trim_end().strip_suffix(')')?.rsplit_once('('))
            .map(|(_, path)| path);
        let mut found =
            paths.filter(|path| path.rsplit_once('/').is_some_and(|(_, file)| is_build_of(file, name)));
        found
            .next()
            .map(|path| repo.root().join(path))
            .with_context(|| format!("cargo does not say where {name} is"))
    };
    let tests = tests.iter().map(|(name, _)| path(name)).collect::<Result<_>>()?;
    Ok(Programs { driver: (!plan.is_smoke).then(|| path("proxy_io")).transpose()?, tests })
}

/// Tells whether a file is cargo's build of this name: `node_life-0061f3c8ceca190a`.
fn is_build_of(file: &str, name: &str) -> bool {
    file.rsplit_once('-').is_some_and(|(begin, _hash)| begin == name)
}

impl Programs {
    /// What the guest does: the driver, then each test with each driver, as `cargo test` would.
    fn script(&self, plan: &Plan<'_>) -> String {
        let Form { tests, hang_limit, .. } = plan.form();
        let mut script = String::new();
        let mut run = |path: &Path, io: &str, what: &str| {
            let (path, limit) = (path.display(), hang_limit.as_secs());
            let test = format!("timeout --signal=KILL {limit} '{path}' --color=never {what}");
            script += &format!("echo 'Running ({path})'\nWEIR_TEST_IO={io} {test}\n");
        };
        if let Some(driver) = &self.driver {
            run(driver, "", "driver::");
        }
        for driver in plan.drivers {
            for (path, (_, tests)) in self.tests.iter().zip(tests) {
                run(path, driver, &format!("--test-threads=1 --exact {}", tests.join(" ")));
            }
        }
        script + "\"$WEIR_BIN\" doctor\n"
    }
}

/// Shows what the guest's console says, and adds it up; tells whether the guest came as far as its tests go. What this machine is
/// too slow for, or qemu cannot start, is no failure of Weir's.
fn watch(kernel: &Kernel, machine: &Machine) -> Result<(Tally, bool)> {
    let start = Instant::now();
    let mut child =
        machine.command().stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start qemu")?;
    let console = child.stdout.take().context("the pipe was asked for above")?;
    let said = console::read(console, &mut io::stdout()).context("cannot read from qemu")?;
    let status = child.wait().context("cannot wait for qemu")?;
    let seconds = start.elapsed().as_secs();
    let is_stopped = !said.has_ended && status.code().is_some_and(|code| STOPPED.contains(&code));
    let is_whole = said.has_ended || (said.has_begun && !is_stopped);
    if !is_whole {
        let what =
            if is_stopped { "was stopped: this machine emulates it too slowly" } else { "did not boot" };
        super::loud(&[&format!("SKIPPED: {kernel}: it {what} ({status} after {seconds} s).")]);
    }
    let has_died = is_whole && !said.has_ended;
    let mut tally = said.into_tally(is_stopped);
    if has_died {
        tally += Tally::failure("the machine did not come to its end");
    }
    println!("== {kernel}: {seconds} s");
    Ok((tally.with_driver(&kernel.to_string()), is_whole))
}
