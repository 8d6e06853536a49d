//! The vm ring: other kernels boot in an emulated machine and run the tests that show the most.
//!
//! ```text
//!   Debian's kernel packages ──> kernel, and a first file system with the modules that it needs
//!                                          │
//!   this machine's own files, read-only ──┴──> qemu ──> the tests, on its console
//! ```
//!
//! The machine is emulated in software, so that nothing but qemu is needed; it has no network but its own. What it writes goes
//! to its memory.

mod boot;
mod kernel;

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use self::boot::Machine;
use self::kernel::Kernel;
use super::cargo;
use super::report::Report;
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

/// The tests: every way to connect and both lanes, streams to their last byte, servers that see their clients, pods, and links that are taken
/// over after a kill.
const TESTS: [(&str, &[&str]); 5] = [
    ("node_connect", &["every_kind_of_connect_is_caught", "applications_see_the_addresses_that_they_expect"]),
    ("node_stream", &["either_side_may_end_first"]),
    ("node_inbound", &["applications_see_their_clients"]),
    ("node_pods", &["both_lanes_serve_pods_and_keep_their_addresses"]),
    ("node_takeover", &["with_nobody_to_take_over_from_it_starts_as_usual_also_after_a_kill"]),
];

/// What the guest says before a test that it could not run, and when it has come to its end.
const SKIPPED: &str = "vm: skipped: ";
const END: &str = "vm: end";

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

/// Runs the tests on every kernel that can be had; tells on how many.
pub(super) fn run(repo: &Repo, weir: &Path, scratch: &Path, drivers: &[&str]) -> Result<(Tally, usize)> {
    let programs = build(repo)?;
    let (mut total, mut ran) = (Tally::default(), 0);
    for kernel in kernel::offered()? {
        super::heading(&format!("vm ring, {kernel}"));
        let unpacked = match kernel.fetch(&repo.root().join("target/vm")) {
            Ok(unpacked) => unpacked,
            Err(error) => {
                super::loud(&[&format!("SKIPPED: {kernel}: it cannot be had: {error:#}")]);
                continue;
            }
        };
        let script = script(repo.root(), weir, &programs, drivers);
        let machine = Machine::new(&unpacked, scratch, &script)?;
        total += watch(&kernel, machine)?;
        ran += 1;
    }
    Ok((total, ran))
}

/// Builds the test programs; gives each with its path.
fn build(repo: &Repo) -> Result<Vec<(&'static str, PathBuf)>> {
    let names = TESTS.iter().flat_map(|(name, _)| ["--test", name]);
    let mut command = Command::new(cargo::program());
    command.current_dir(repo.root()).args(["test", "-p", "proxy-tests", "--no-run"]).args(names);
    command.env("CARGO_TERM_COLOR", "never");
    let said = process::messages(&mut command)?;
    let path = |name: &'static str| {
        let found = said.lines().find_map(|line| {
            let (what, path) =
                line.trim_start().strip_prefix("Executable ")?.strip_suffix(')')?.split_once(" (")?;
            (what == format!("tests/{name}.rs")).then(|| repo.root().join(path))
        });
        Ok((name, found.with_context(|| format!("cargo does not say where {name} is"))?))
    };
    TESTS.iter().map(|(name, _)| path(name)).collect()
}

/// What the guest does: each driver in turn, as `cargo test` would.
fn script(root: &Path, weir: &Path, programs: &[(&str, PathBuf)], drivers: &[&str]) -> String {
    let mut script =
        format!("export WEIR_BIN='{}'\ncd '{}'\n\"$WEIR_BIN\" doctor\n", weir.display(), root.display());
    for driver in drivers {
        for ((name, path), (_, tests)) in programs.iter().zip(TESTS) {
            let (path, tests) = (path.display(), tests.join(" "));
            script += &format!(
                "echo \"     Running tests/{name}.rs ({path})\"\n\
                 WEIR_TEST_IO={driver} WEIR_SKIP_FILE=/run/skips '{path}' --color=never --test-threads=1 --exact {tests}\n"
            );
        }
    }
    script + &format!("sed 's/^/{SKIPPED}/' /run/skips\necho '{END}'\n")
}

/// Shows what the guest's console says, and adds it up.
fn watch(kernel: &Kernel, machine: Machine) -> Result<Tally> {
    let mut child =
        machine.command().stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start qemu")?;
    let console = BufReader::new(child.stdout.take().context("the pipe was asked for above")?);
    let (mut report, mut skips, mut has_ended) = (Report::default(), 0, false);
    for line in console.split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("cannot read from qemu")?).into_owned();
        writeln!(io::stdout(), "{}", line.trim_end())?;
        report.handle_line(&line);
        skips += usize::from(line.starts_with(SKIPPED));
        has_ended |= line.starts_with(END);
    }
    child.wait().context("cannot wait for qemu")?;
    let mut tally = report.into_tally().with_skips(skips);
    if !has_ended {
        tally += Tally::failure("the machine did not come to its end");
    }
    Ok(tally.with_driver(&kernel.to_string()))
}
