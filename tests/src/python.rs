//! Programs in Python with Debian's packages.

use std::path::Path;

use crate::skip;

/// Debian's interpreter, which sees Debian's packages.
pub const PROGRAM: &str = "/usr/bin/python3";

/// Tells whether Debian's python has a module; reports that the test is skipped if not.
#[must_use]
pub fn has_module(name: &str) -> bool {
    let has = Path::new("/usr/lib/python3/dist-packages").join(name).is_dir();
    if !has {
        skip::skip(&format!("{name} for Python is not installed"));
    }
    has
}
