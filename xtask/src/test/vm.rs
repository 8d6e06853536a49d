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
pub(super) fn run(
    repo: &Repo,
    weir: &Path,
    scratch: &Path,
    drivers: &[&str],
    version: &str,
) -> Result<(Tally, usize)> {
    let programs = build(repo)?;
    let (mut total, mut ran) = (Tally::default(), 0);
    for kernel in kernel::offered()?.into_iter().filter(|kernel| kernel.version().starts_with(version)) {
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

/// The test programs, and that with the driver's own tests: they find what a kernel does otherwise before a proxy hangs on it.
struct Programs {
    driver: PathBuf,
    tests: Vec<PathBuf>,
}

/// Builds the test programs.
fn build(repo: &Repo) -> Result<Programs> {
    let names = TESTS.iter().flat_map(|(name, _)| ["--test", name]);
    let mut command = Command::new(cargo::program());
    command.current_dir(repo.root()).args([
        "test",
        "-p",
        "proxy-io",
        "-p",
        "proxy-tests",
        "--no-run",
        "--lib",
    ]);
    let said = process::messages(command.args(names).env("CARGO_TERM_COLOR", "never"))?;
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
    let tests = TESTS.iter().map(|(name, _)| path(name)).collect::<Result<_>>()?;
    Ok(Programs { driver: path("proxy_io")?, tests })
}

/// Tells whether a file is cargo's build of this name: `node_life-0061f3c8ceca190a`.
fn is_build_of(file: &str, name: &str) -> bool {
    file.rsplit_once('-').is_some_and(|(begin, _hash)| begin == name)
}

/// What the guest does: the driver, then each test with each driver, as `cargo test` would.
fn script(root: &Path, weir: &Path, programs: &Programs, drivers: &[&str]) -> String {
    let mut script =
        format!("export WEIR_BIN='{}' WEIR_SKIP_FILE=/run/skips\ncd '{}'\n", weir.display(), root.display());
    let mut run = |path: &Path, before: &str, what: &str| {
        let path = path.display();
        script += &format!("echo 'Running ({path})'\n{before} '{path}' --color=never {what}\n");
    };
    run(&programs.driver, "", "driver::");
    for driver in drivers {
        for (path, (_, tests)) in programs.tests.iter().zip(TESTS) {
            let what = format!("--test-threads=1 --exact {}", tests.join(" "));
            run(path, &format!("WEIR_TEST_IO={driver}"), &what);
        }
    }
    script + &format!("\"$WEIR_BIN\" doctor\nsed 's/^/{SKIPPED}/' /run/skips\necho '{END}'\n")
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
