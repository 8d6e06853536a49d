//! Debian's Python, with what its packages bring.

use std::path::Path;

use crate::skip;

/// The interpreter that sees Debian's packages; one in front of it in `PATH` may not.
pub const PYTHON: &str = "/usr/bin/python3";

/// Tells whether it has a module; reports that the test is skipped if not.
#[must_use]
pub fn has_module(name: &str) -> bool {
    let has = Path::new("/usr/lib/python3/dist-packages").join(name).is_dir();
    if !has {
        skip::skip(&format!("{name} for Python is not installed"));
    }
    has
}
