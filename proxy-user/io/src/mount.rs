//! Mounting bpffs where a host has not done it, and taking it away again.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Magic number of bpffs (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Makes sure that a bpffs is mounted at a path; tells whether that was left to do.
///
/// # Errors
/// The error of mount(2), for example `PermissionDenied` without CAP_SYS_ADMIN.
pub fn ensure_bpffs(path: &Path) -> io::Result<bool> {
    if is_bpffs(path) {
        return Ok(false);
    }
    std::fs::create_dir_all(path)?;
    let target = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all strings are terminated and live through the call; bpffs takes no data.
    let result = unsafe {
        libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), libc::MS_NOSUID, std::ptr::null())
    };
    if result == 0 { Ok(true) } else { Err(io::Error::last_os_error()) }
}

/// Takes away what is mounted at a path, if nobody uses it.
///
/// # Errors
/// As umount2(2), for example `ResourceBusy`.
pub fn unmount(path: &Path) -> io::Result<()> {
    let target = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is terminated and lives through the call.
    let result = unsafe { libc::umount2(target.as_ptr(), libc::UMOUNT_NOFOLLOW) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Tells whether a path is on a bpffs.
#[must_use]
pub fn is_bpffs(path: &Path) -> bool {
    let Ok(target) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: all zeroes is a valid statfs.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is terminated and `stat` is whole; both live through the call.
    let result = unsafe { libc::statfs(target.as_ptr(), &raw mut stat) };
    result == 0 && stat.f_type == BPF_FS_MAGIC
}
