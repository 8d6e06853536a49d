//! Saying loudly that a test cannot run on this machine.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;

/// Names the file to which skipped tests are appended, one line each.
const SKIP_FILE: &str = "WEIR_SKIP_FILE";
/// Set to 1 where a skipped node test is a failure.
const REQUIRE_NODE: &str = "WEIR_REQUIRE_NODE";

/// Reports that the test of this thread is skipped; the test returns after this.
///
/// # Panics
/// If `WEIR_REQUIRE_NODE=1` says that nothing may be skipped, or the report cannot be written.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}", thread.name().unwrap_or("a test"));
    assert!(env::var_os(REQUIRE_NODE).is_none_or(|value| value != "1"), "must not be skipped: {line}");
    eprintln!("SKIPPED: {line}");
    if let Some(path) = env::var_os(SKIP_FILE) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        written.expect("a skip that nobody sees would pass for a success");
    }
}
