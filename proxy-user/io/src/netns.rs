//! Other network namespaces.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

use crate::{sock, sys};

/// A network namespace, kept alive by this handle.
#[derive(Debug)]
pub struct Netns {
    file: File,
    cookie: u64,
}

impl Netns {
    /// Takes hold of the namespace that a file names, such as `/run/netns/shop` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// The error of opening the file, of entering the namespace, or of asking for its cookie.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut netns = Self { file: File::open(path)?, cookie: 0 };
        netns.cookie = netns.within(sock::netns_cookie)??;
        Ok(netns)
    }

    /// The file that it is entered and held by.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its cookie (SO_NETNS_COOKIE), unique on this machine until reboot.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Runs a function on this thread inside, about 2 µs there and back. Sockets that it makes stay in the namespace.
    ///
    /// # Errors
    /// If the namespace cannot be entered: CAP_SYS_ADMIN is missing, or the file is none of a network namespace.
    pub fn within<T>(&self, function: impl FnOnce() -> T) -> io::Result<T> {
        let home = home()?;
        enter(self.file.as_raw_fd())?;
        let _way_back = WayBack(home);
        Ok(function())
    }
}

/// Tells one namespace from another by a file that names it, without entering: its device and inode. A namespace made
/// anew under the same name has another inode.
pub type FileId = (u64, u64);

/// Reads the [`FileId`] of a namespace's file.
///
/// # Errors
/// `NotFound` if there is no such file.
pub fn file_id(path: impl AsRef<Path>) -> io::Result<FileId> {
    std::fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Says whether the loopback interface is up in this thread's namespace. Where it is down, sockets can be bound to its
/// addresses, but what is sent to them is lost.
///
/// # Errors
/// If no socket can be opened.
pub fn is_loopback_up() -> io::Result<bool> {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    sys::is_interface_up(socket.as_fd(), b"lo")
}

/// Brings the thread back, also when the function panics.
struct WayBack(RawFd);

impl Drop for WayBack {
    fn drop(&mut self) {
        if enter(self.0).is_err() {
            // Everything that this thread opened from now on would be in a stranger's network.
            std::process::abort();
        }
    }
}

/// The namespace that the process was started in.
fn home() -> io::Result<RawFd> {
    static HOME: OnceLock<File> = OnceLock::new();
    if HOME.get().is_none() {
        // The main thread's, which never leaves; a second file for the same namespace does no harm.
        let _ = HOME.set(File::open("/proc/self/ns/net")?);
    }
    HOME.get().map(|file| file.as_raw_fd()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

fn enter(fd: RawFd) -> io::Result<()> {
    // SAFETY: setns(2) takes integers only.
    let result = unsafe { libc::setns(fd, libc::CLONE_NEWNET) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Option<Netns> {
        match Netns::open(Path::new("/proc/self/ns/net")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("SKIPPED: entering a namespace needs root");
                None
            }
            result => Some(result.unwrap()),
        }
    }

    #[test]
    fn the_own_namespace_has_the_own_cookie() {
        let Some(netns) = own() else { return };
        assert_eq!(netns.cookie(), sock::netns_cookie().unwrap());
        assert_eq!(file_id("/proc/self/ns/net").unwrap(), file_id("/proc/thread-self/ns/net").unwrap());
    }

    #[test]
    fn the_thread_comes_back_whatever_happens_inside() {
        let Some(own) = own() else { return };
        // a namespace of its own, on a thread that nobody else uses
        let (other, path) = std::thread::spawn(|| {
            // SAFETY: unshare(2) takes integers only.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            assert!(!is_loopback_up().unwrap(), "that of a new namespace");
            // SAFETY: gettid(2) takes nothing and cannot fail.
            let path = format!("/proc/{}/ns/net", unsafe { libc::gettid() });
            (File::open(&path).unwrap(), path)
        })
        .join()
        .unwrap();
        let mut other = Netns { file: other, cookie: 0 };
        other.cookie = other.within(sock::netns_cookie).unwrap().unwrap();
        assert_ne!(other.cookie(), own.cookie(), "{path}");
        let inside = std::panic::AssertUnwindSafe(|| other.within(|| panic!("expected")));
        assert!(std::panic::catch_unwind(inside).is_err());
        assert_eq!(sock::netns_cookie().unwrap(), own.cookie());
    }

    #[test]
    fn other_files_are_refused() {
        assert!(Netns::open(Path::new("/dev/null")).is_err());
        assert_eq!(Netns::open(Path::new("/no/such/file")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
