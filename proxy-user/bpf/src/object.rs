//! The committed BPF object.

use std::borrow::Cow;

use aya::include_bytes_aligned;

/// Object that the source in `proxy-ebpf` was built into by `cargo xtask ebpf`.
static COMMITTED: &[u8] = include_bytes_aligned!("../object/weir.bpf.o");

/// Names another object file for experiments.
pub const OBJECT_ENV: &str = "WEIR_EBPF_OBJECT";

/// Gives the object to load: the committed one, or the file that [`OBJECT_ENV`] names.
///
/// # Errors
/// The error of reading that file.
pub fn bytes() -> std::io::Result<Cow<'static, [u8]>> {
    match std::env::var_os(OBJECT_ENV) {
        None => Ok(Cow::Borrowed(COMMITTED)),
        Some(path) => std::fs::read(path).map(Cow::Owned),
    }
}
