//! Adding up how tests ended.

use std::fmt;
use std::ops::AddAssign;

/// How many tests ended how, and which of them failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) failed: Vec<Failure>,
    pub(super) skipped: usize,
}

/// A test that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Failure {
    /// Such as `node_limits::idle_connections_are_closed`.
    pub(super) name: String,
    /// What it said, in one line; empty if it was not heard.
    pub(super) why: String,
}

impl Tally {
    /// Something that is not a test went wrong, such as a build: it must show in the sum.
    pub(super) fn failure(name: impl Into<String>) -> Self {
        Self { failed: vec![Failure { name: name.into(), why: String::new() }], ..Self::default() }
    }

    /// Tests that skipped themselves have returned normally, so they were counted as passed.
    pub(super) fn with_skips(self, skips: usize) -> Self {
        let moved = skips.min(self.passed);
        Self { passed: self.passed - moved, skipped: self.skipped + moved, ..self }
    }

    /// Says with which driver tests failed.
    pub(super) fn with_driver(mut self, driver: &str) -> Self {
        for failure in &mut self.failed {
            failure.name.push_str(&format!(" ({driver})"));
        }
        self
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped += other.skipped;
    }
}

/// A line for each failed test, then the sum: the end of a log that was cut off tells enough.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Failure { name, why } in &self.failed {
            let colon = if why.is_empty() { "" } else { ": " };
            writeln!(f, "FAILED: {name}{colon}{why}")?;
        }
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tests_are_named_with_their_driver_before_the_sum() {
        let mut sum = Tally { passed: 2, ..Tally::default() };
        let failed = vec![Failure { name: "node_life::a".to_owned(), why: "left is not right".to_owned() }];
        sum += Tally { failed, ..sum.clone() }.with_driver("epoll");
        sum += Tally::failure("build weir");
        assert_eq!(
            sum.to_string(),
            "FAILED: node_life::a (epoll): left is not right\nFAILED: build weir\n4 passed, 2 failed, 0 skipped"
        );
    }

    #[test]
    fn a_skip_takes_a_passed_test_away_but_never_more_than_there_are() {
        let tally = Tally { passed: 3, skipped: 1, ..Tally::default() };
        assert_eq!(tally.clone().with_skips(2).to_string(), "1 passed, 0 failed, 3 skipped");
        assert_eq!(tally.with_skips(9).to_string(), "0 passed, 0 failed, 4 skipped");
    }
}
