//! Reading what `cargo test` and the test programs print.

use std::collections::HashMap;

use super::tally::{Failure, Tally};

/// Of what a failed test said, so much is repeated, in characters: enough to tell what was compared.
const WHY_CHARS: usize = 300;

/// Reads line by line: which program runs, which of its tests failed and why, how many ended how.
///
/// A program prints its failed tests twice under `failures:`, first with their output, then as an indented list right
/// before its result. So the list is what was indented since the last `failures:`.
#[derive(Debug, Default)]
pub(super) struct Report {
    tally: Tally,
    /// The name of the program that runs, without cargo's hash.
    program: String,
    /// It has begun to run tests and has not told the result.
    is_running: bool,
    /// Names of its failed tests, once it lists them.
    listed: Vec<String>,
    /// The failed test whose output is being read.
    speaker: String,
    /// What its panic says is being read.
    is_panic: bool,
    /// What failed tests said, by their names.
    said: HashMap<String, String>,
}

impl Report {
    pub(super) fn handle_line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(program) = program(line) {
            self.handle_end();
            self.program = program;
        } else if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.is_running = true;
        } else if line == "failures:" {
            self.listed.clear();
        } else if let Some(counts) = Counts::parse(line) {
            self.handle_result(counts);
        } else if let Some(speaker) = speaker(line) {
            speaker.clone_into(&mut self.speaker);
        } else if let Some(place) = panic_place(line) {
            // The first panic is the cause of the others.
            self.is_panic = !self.said.contains_key(&self.speaker);
            self.said.entry(self.speaker.clone()).or_insert_with(|| place.to_owned());
        } else if let Some(name) = line.strip_prefix("    ").filter(|_| !self.is_panic) {
            self.listed.push(name.to_owned());
        } else {
            self.handle_said(line.trim());
        }
    }

    /// Takes a line of a panic's message, which ends with an empty line or with the backtrace.
    fn handle_said(&mut self, line: &str) {
        self.is_panic &= !(line.is_empty() || line == "stack backtrace:" || line.starts_with("note: "));
        if self.is_panic
            && let Some(said) = self.said.get_mut(&self.speaker)
        {
            let room = WHY_CHARS.saturating_sub(said.chars().count());
            said.extend(" ".chars().chain(line.chars()).take(room));
        }
    }

    /// The results that were told, without the program that may still run.
    pub(super) fn into_results(self) -> Tally {
        self.tally
    }

    /// What was read up to the end of the output.
    pub(super) fn into_tally(mut self) -> Tally {
        self.handle_end();
        self.tally
    }

    fn handle_result(&mut self, counts: Counts) {
        self.is_running = false;
        let mut names = std::mem::take(&mut self.listed);
        // The count is what is sure; output of a child amid the list may cost a name.
        names.resize(counts.failed, "a test whose name was not seen".to_owned());
        let failed = names
            .into_iter()
            .map(|name| {
                let why = self.said.remove(&name).unwrap_or_default();
                Failure { name: format!("{}::{name}", self.program), why }
            })
            .collect();
        self.said.clear();
        self.tally += Tally { passed: counts.passed, failed, skipped: counts.ignored };
    }

    /// A program that told no result has died, or was killed.
    fn handle_end(&mut self) {
        self.listed.clear();
        if std::mem::take(&mut self.is_running) {
            self.tally += Tally::failure(format!("{} ended without a result", self.program));
        }
    }
}

/// Reads cargo's line before a program: `Running tests/node_life.rs (target/debug/deps/node_life-0061f3c8ceca190a)` or
/// `Doc-tests proxy_core`.
fn program(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(library) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{library} (documentation)"));
    }
    let (_, path) = line.strip_prefix("Running ")?.strip_suffix(')')?.rsplit_once('(')?;
    let (_, file) = path.rsplit_once('/')?;
    let (name, _hash) = file.rsplit_once('-')?;
    Some(name.to_owned())
}

/// Reads the line before the output of a failed test: `---- a_small_limit stdout ----`.
fn speaker(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// Reads where a thread panicked: `thread 'a' (12) panicked at tests/node_limits.rs:61:5:`.
fn panic_place(line: &str) -> Option<&str> {
    line.strip_prefix("thread '")?.strip_suffix(':')?.split_once(" panicked at ").map(|(_, place)| place)
}

struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Counts {
    /// Reads the line with which a test program ends: `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |word: &str| {
            let part = counts.split(';').find_map(|part| part.trim().strip_suffix(word))?;
            part.trim().parse().ok()
        };
        Some(Self { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Tally {
        let mut report = Report::default();
        for line in text.lines() {
            report.handle_line(line);
        }
        report.into_tally()
    }

    /// Two programs as cargo 1.95 shows them; one test has failed in the second, and says what looks like a list.
    const TWO: &str = "\
    Finished `test` profile [unoptimized + debuginfo] target(s) in 0.30s
     Running unittests src/lib.rs (target/debug/deps/proxy_tests-7e0b8a0d4c1f2a3b)

running 14 tests
test wait::tests::a_deadline_ends_the_wait - should panic ... ok

test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s

     Running tests/node_limits.rs (/tmp/target/debug/deps/node_limits-0061f3c8ceca190a)

running 4 tests
test a_small_limit ... ok
test a_peer_that_vanishes ... FAILED

failures:

---- a_peer_that_vanishes stdout ----

thread 'a_peer_that_vanishes' panicked at tests/tests/node_limits.rs:61:5:
    waited 15s in vain
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace


failures:
    a_peer_that_vanishes

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 1.20s

error: test failed, to rerun pass `-p proxy-tests --test node_limits`
   Doc-tests proxy_core

running 2 tests
test core/src/lib.rs - pick (line 12) ... FAILED

failures:

failures:
    core/src/lib.rs - pick (line 12)

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.50s
";

    #[test]
    fn results_are_added_up_and_failed_tests_named() {
        let failures = [
            ("node_limits::a_peer_that_vanishes", "tests/tests/node_limits.rs:61:5 waited 15s in vain"),
            ("proxy_core (documentation)::core/src/lib.rs - pick (line 12)", ""),
        ];
        let failed =
            failures.map(|(name, why)| Failure { name: name.to_owned(), why: why.to_owned() }).to_vec();
        assert_eq!(read(TWO), Tally { passed: 16, failed, skipped: 2 });
    }

    #[test]
    fn a_program_that_dies_is_a_failure_wherever_it_stands() {
        let died =
            "     Running tests/node_a.rs (target/debug/deps/node_a-12)\n\nrunning 1 test\ntest a ... ";
        let tally = read(&format!("{died}\n{TWO}{}", died.replace("node_a", "node_b")));
        assert_eq!(tally.failed.len(), 4, "{tally}");
        assert_eq!(tally.failed.first().unwrap().name, "node_a ended without a result");
        assert_eq!(tally.failed.last().unwrap().name, "node_b ended without a result");
    }

    #[test]
    fn a_failure_counts_although_its_name_was_lost() {
        let result = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured";
        let tally = read(&format!("failures:\n    a::b\nnoise\n{result}"));
        let names: Vec<_> = tally.failed.iter().map(|failure| failure.name.as_str()).collect();
        assert_eq!(names, ["::a::b", "::a test whose name was not seen"]);
    }

    #[test]
    fn the_first_panic_of_a_test_says_why_in_one_line() {
        let long = "x".repeat(2 * WHY_CHARS);
        let text = format!(
            "---- a stdout ----\nnoise\nthread 'a' (7) panicked at a.rs:1:2:\nassertion failed\n  left: 1\n right: 2\n\
             stack backtrace:\n   0: core\nthread 'a' (7) panicked at b.rs:1:2:\nlater\n\n\
             ---- b stdout ----\nthread 'b' (8) panicked at c.rs:3:4:\n{long}\n\n\
             failures:\n    a\n    b\n\ntest result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured"
        );
        let tally = read(&text);
        let whys: Vec<_> = tally.failed.iter().map(|failure| failure.why.as_str()).collect();
        assert_eq!(whys[0], "a.rs:1:2 assertion failed left: 1 right: 2");
        assert!(whys[1].starts_with("c.rs:3:4 xxx") && whys[1].len() == WHY_CHARS, "{}", whys[1]);
    }

    #[test]
    fn other_lines_are_no_results() {
        for line in ["test a::b ... ok", "test result: ok", "test result: ok. 1 passed", "Running away", ""] {
            assert_eq!(read(line), Tally::default(), "{line}");
        }
    }
}
