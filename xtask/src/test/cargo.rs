//! One run of `cargo test`, shown while it goes on and counted.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow};

use super::report::Report;
use super::tally::Tally;
use crate::process;
use crate::repo::Repo;

/// Written into the output when cargo has ended: a process that a dying test left behind may hold the pipe open for long.
const END: &[u8] = b"\x04end of cargo test\n";

/// The cargo that runs us, so that the tests are built by the same toolchain.
pub(super) fn program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A `cargo test` to be run.
pub(super) struct CargoTest {
    command: Command,
    test_args: Vec<&'static str>,
}

impl CargoTest {
    pub(super) fn new(repo: &Repo) -> Self {
        let mut command = Command::new(program());
        // no-fail-fast: the sum must cover every program
        command.current_dir(repo.root()).args(["test", "--no-fail-fast"]);
        Self { command, test_args: Vec::new() }
    }

    /// The test programs `tests/tests/RING_*.rs`.
    pub(super) fn outside(repo: &Repo, ring: &str) -> Self {
        let pattern = format!("{ring}_*");
        let mut test = Self::new(repo);
        test.command.args(["-p", "proxy-tests", "--test", &pattern]);
        test
    }

    pub(super) fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(args);
        self
    }

    /// Arguments for the test programs themselves.
    pub(super) fn test_args(mut self, args: impl IntoIterator<Item = &'static str>) -> Self {
        self.test_args.extend(args);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it and counts; a build that fails or a program that dies counts as one failed test.
    pub(super) fn run(mut self) -> Result<Tally> {
        // One pipe for both outputs: on stderr cargo says which program runs, on stdout the program says the rest.
        let (output, mut writer) = io::pipe().context("cannot make a pipe")?;
        self.command.arg("--").args(&self.test_args).env("CARGO_TERM_COLOR", "never");
        self.command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer.try_clone()?);
        let mut child = self.command.spawn().context("cannot start cargo test")?;
        let waiting = thread::spawn(move || {
            let status = child.wait();
            writer.write_all(END).and(status)
        });
        let mut tally = echo(output, &mut io::stdout())?;
        let waited = waiting.join().map_err(|_| anyhow!("the thread that waits has panicked"))?;
        let status = waited.context("cannot wait for cargo test")?;
        if !status.success() && tally.failed.is_empty() {
            tally += Tally::failure(format!("cargo test, without a failed test: {status}"));
        }
        Ok(tally)
    }

    /// Builds the programs and counts their tests without running any.
    pub(super) fn count(mut self) -> Result<usize> {
        let list = process::output(self.command.args(["--quiet", "--", "--list", "--format=terse"]))?;
        Ok(list.lines().filter(|line| line.ends_with(": test")).count())
    }
}

/// Copies what a child prints, line by line as it comes, up to [`END`], and adds up the results in it.
fn echo(from: impl Read, to: &mut impl Write) -> Result<Tally> {
    let mut from = BufReader::new(from);
    let mut report = Report::default();
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).context("cannot read from cargo test")? > 0 {
        let last = line.strip_suffix(END);
        let shown = last.unwrap_or(&line);
        to.write_all(shown).and_then(|()| to.flush()).context("cannot write to standard output")?;
        report.handle_line(&String::from_utf8_lossy(shown));
        if last.is_some() {
            break;
        }
        line.clear();
    }
    Ok(report.into_tally())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_passes_unchanged_while_results_are_counted() {
        let text: &[u8] =
            b"running 2 tests\n\xff\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n\
                     test result: FAILED. 1 passed; 2 failed; 3 ignored; 0 measured\nlast";
        let mut shown = Vec::new();
        // whoever still holds the pipe is not waited for
        let tally = echo([text, END, b" later\n"].concat().as_slice(), &mut shown).unwrap();
        assert_eq!(shown, text);
        assert_eq!((tally.passed, tally.failed.len(), tally.skipped), (3, 2, 3));
    }
}
