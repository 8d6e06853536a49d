//! Waiting for a descriptor that is no stream: listeners, queues of the kernel programs.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor for readability on the tokio runtime that this is called in. Others may hold it, too; the last of them
/// closes it.
///
/// # Errors
/// If the descriptor cannot be polled.
///
/// # Panics
/// Outside a tokio runtime with I/O enabled.
pub fn readable(fd: impl Into<Arc<OwnedFd>>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an OwnedFd is open and names the same file for as long as the AsyncFd holds it, and an Arc gives nobody the means
    // to replace it.
    let watched = unsafe { AsyncFd::register_with_interest(fd.into(), Interest::READABLE) };
    Ok(watched?)
}
