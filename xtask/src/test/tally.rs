//! Adding up the results that test programs print.

use std::fmt;
use std::ops::AddAssign;

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
}

impl Tally {
    /// Something that is not a test went wrong, such as a build: it must show in the sum.
    pub(super) fn failure() -> Self {
        Self { failed: 1, ..Self::default() }
    }

    /// Reads the line with which a test program ends: `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let count = |word: &str| {
            let part = counts.split(';').find_map(|part| part.trim().strip_suffix(word))?;
            part.trim().parse().ok()
        };
        Some(Self { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
    }

    /// Tests that skipped themselves have returned normally, so they were counted as passed.
    pub(super) fn with_skips(self, skips: usize) -> Self {
        let moved = skips.min(self.passed);
        Self { passed: self.passed - moved, skipped: self.skipped + moved, ..self }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_read_and_added_up() {
        let ok =
            "test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        let bad = "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 1.20s\n";
        let mut sum = Tally::default();
        for line in [ok, bad] {
            sum += Tally::parse(line).unwrap();
        }
        assert_eq!(sum.to_string(), "15 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn other_lines_are_no_results() {
        for line in
            ["test a::b ... ok", "test result: ok", "test result: ok. 1 passed", "running 3 tests", ""]
        {
            assert_eq!(Tally::parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_skip_takes_a_passed_test_away_but_never_more_than_there_are() {
        let tally = Tally { passed: 3, failed: 1, skipped: 1 };
        assert_eq!(tally.with_skips(2).to_string(), "1 passed, 1 failed, 3 skipped");
        assert_eq!(tally.with_skips(9).to_string(), "0 passed, 1 failed, 4 skipped");
    }
}
