//! Other network namespaces.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use crate::sock;

/// Runs a function on a thread of its own inside a network namespace, named by a file such as `/run/netns/shop`.
///
/// A thread, because setns(2) changes the calling thread for good. Sockets that the function makes stay in the namespace.
///
/// # Errors
/// The error of opening the file or of entering the namespace.
///
/// # Panics
/// If the function panics.
pub fn run_in<T: Send>(path: &Path, function: impl FnOnce() -> T + Send) -> io::Result<T> {
    let file = File::open(path)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: setns(2) takes integers only, and `file` is open through the call.
            let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            if result == 0 { Ok(function()) } else { Err(io::Error::last_os_error()) }
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Cookie (SO_NETNS_COOKIE) of the network namespace that a file names.
///
/// # Errors
/// Those of [`run_in`], and the error of asking.
pub fn cookie_of(path: &Path) -> io::Result<u64> {
    run_in(path, sock::netns_cookie)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_has_the_own_cookie() {
        match cookie_of(Path::new("/proc/self/ns/net")) {
            Ok(cookie) => assert_eq!(cookie, sock::netns_cookie().unwrap()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("SKIPPED: entering a namespace needs root");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
