//! What a machine says on its console, and what follows from it.

use std::io::{self, BufRead as _, BufReader, Read, Write};

use super::old::Refusal;
use crate::test::report::Report;
use crate::test::tally::Tally;

/// What the guest says when its own programs begin, before a test that it could not run, and when it has come to its end.
pub(super) const BEGIN: &str = "vm: begin";
pub(super) const SKIPPED: &str = "vm: skipped: ";
pub(super) const END: &str = "vm: end";

/// How far a machine came, and what it found.
#[derive(Debug, Default)]
pub(super) struct Said {
    report: Report,
    refusal: Refusal,
    skips: usize,
    pub(super) has_begun: bool,
    pub(super) has_ended: bool,
}

/// Copies what the console says, line by line as it comes.
pub(super) fn read(console: impl Read, to: &mut impl Write) -> io::Result<Said> {
    let mut said = Said::default();
    for line in BufReader::new(console).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(to, "{}", line.trim_end())?;
        said.report.handle_line(&line);
        said.refusal.handle_line(line.trim_end());
        said.skips += usize::from(line.starts_with(SKIPPED));
        said.has_begun |= line.starts_with(BEGIN);
        said.has_ended |= line.starts_with(END);
    }
    Ok(said)
}

impl Said {
    /// Adds it up. A program that told no result has died, unless the machine was stopped under it.
    pub(super) fn into_tally(self, is_stopped: bool) -> Tally {
        let tally = if is_stopped { self.report.into_results() } else { self.report.into_tally() };
        let mut tally = tally.with_skips(self.skips);
        tally += self.refusal.into_tally();
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN: &str = "noise\r\nvm: begin\r\nRunning (/a/node_a-1)\r\nrunning 2 tests\r\n";
    const REST: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\r\nvm: skipped: b: no MPTCP\r\nvm: end\r\n";

    fn said(text: &str) -> Said {
        read(text.as_bytes(), &mut Vec::new()).unwrap()
    }

    #[test]
    fn skips_are_told_from_passes_and_the_end_from_an_early_one() {
        let whole = said(&[BEGUN, REST].concat());
        assert!(whole.has_begun && whole.has_ended);
        assert_eq!(whole.into_tally(false), Tally { passed: 1, skipped: 1, ..Tally::default() });
        let early = said("noise\r\n");
        assert!(!early.has_begun && !early.has_ended);
        assert_eq!(early.into_tally(false), Tally::default());
    }

    #[test]
    fn a_program_without_a_result_has_died_unless_its_machine_was_stopped() {
        assert_eq!(said(BEGUN).into_tally(false).failed.len(), 1);
        assert_eq!(said(BEGUN).into_tally(true), Tally::default());
    }
}
