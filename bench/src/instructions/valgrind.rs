//! Counting by valgrind, so that equal code gives equal counts.
//!
//! The program under it is alone with one thread, an empty environment, the same memory addresses every time
//! (valgrind's own), no randomness ([`FIXED_RANDOM`]) and the C library's plain way of copying.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::part::Part;

/// Counts only between the entry of this function and its return. Named in full, since symbols carry more than the name.
pub const COUNTED: &str = "*instructions_count_from_here*";
/// Instead of getrandom(2).
const FIXED_RANDOM: &str = include_str!("fixed_random.c");
/// Processors differ in what they have for long copies; without these the C library takes the same way on all of them.
const PLAIN_COPIES: &str =
    "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM";

/// Valgrind, ready to count.
#[derive(Debug)]
pub struct Counter<'a> {
    /// The program that does a part when it is told `run PART`.
    pub program: PathBuf,
    /// Where files may lie that nobody needs afterwards.
    pub scratch: &'a Path,
    random: PathBuf,
}

impl<'a> Counter<'a> {
    /// Makes what takes the place of randomness, with the compiler that Rust links with.
    ///
    /// # Errors
    /// If there is no C compiler.
    pub fn new(program: PathBuf, scratch: &'a Path) -> Result<Self> {
        let (source, random) = (scratch.join("fixed_random.c"), scratch.join("fixed_random.so"));
        fs::write(&source, FIXED_RANDOM)?;
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&random).arg(&source);
        let output = cc.output().context("cannot run cc, which Rust links with")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self { program, scratch, random })
    }

    /// Instructions of a part done once, on average.
    ///
    /// # Errors
    /// If valgrind cannot be run, or nothing was counted.
    pub fn count(&self, part: Part) -> Result<f64> {
        let profile = self.scratch.join("callgrind.out");
        let mut valgrind = Command::new("valgrind");
        valgrind
            .args(["--tool=callgrind", "--collect-atstart=no"])
            .arg(format!("--toggle-collect={COUNTED}"))
            .arg(format!("--callgrind-out-file={}", profile.display()))
            .arg(&self.program)
            .args(["run", part.name])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LD_PRELOAD", &self.random)
            .env("GLIBC_TUNABLES", PLAIN_COPIES)
            .stdin(Stdio::null());
        let output = valgrind.output().context("cannot run valgrind")?;
        ensure!(output.status.success(), "valgrind: {}", String::from_utf8_lossy(&output.stderr).trim());
        let text = fs::read_to_string(&profile).context("valgrind wrote no profile")?;
        let total = total(&text).context("valgrind's profile has no total")?;
        ensure!(total > 0, "nothing was counted: is the function {COUNTED} still there?");
        // a tenth of an instruction is what rare turns make of one
        Ok((total as f64 / part.times as f64 * 10.0).round() / 10.0)
    }
}

/// The line `totals: N` of a profile (callgrind's format, "Line-Type totals").
fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_its_line() {
        assert_eq!(total("events: Ir\nsummary: 3\n\nfn=(1) main\n16 4\n\ntotals: 4242\n"), Some(4242));
        assert_eq!(total("events: Ir\n"), None);
    }
}
