//! Waiting for a descriptor that is no stream: listeners, queues of the kernel programs.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor for readability on the tokio runtime that this is called in.
///
/// # Errors
/// If the descriptor cannot be polled.
///
/// # Panics
/// Outside a tokio runtime with I/O enabled.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and names the same file for as long as the AsyncFd holds it.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(watched?)
}

/// The same of a descriptor that others hold, too; it is closed by the last of them.
///
/// # Errors
/// As [`readable`].
///
/// # Panics
/// As [`readable`].
pub fn readable_shared(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: as above; the Arc keeps its OwnedFd open and gives nobody the means to replace it.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(watched?)
}
