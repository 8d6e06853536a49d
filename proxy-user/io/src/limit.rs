//! How many descriptors this process may open, and how many it has.

use std::io;

use crate::sys;

/// Raises the soft limit on open descriptors to the hard limit and returns the limit now in force.
///
/// # Errors
/// If the kernel refuses either call; the old limit stays in force then.
pub fn raise_nofile() -> io::Result<u64> {
    let (soft, hard) = sys::nofile_limit()?;
    if soft < hard {
        sys::set_nofile_limit(hard, hard)?;
    }
    Ok(hard.max(soft))
}

/// The limit on open descriptors that is in force.
///
/// # Errors
/// If the kernel does not say.
pub fn nofile() -> io::Result<u64> {
    sys::nofile_limit().map(|(soft, _)| soft)
}

/// Counts the descriptors that this process holds open now: two microseconds since 6.2, where the size of `/proc/self/fd` is their
/// number. Before that it has to be read, a system call per few hundred descriptors: for once a second, not once a connection.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn open_fd_count() -> io::Result<u64> {
    let size = std::fs::metadata("/proc/self/fd")?.len();
    if size > 0 {
        return Ok(size);
    }
    let entries = std::fs::read_dir("/proc/self/fd")?.count() as u64;
    // Reading the directory holds one descriptor of its own.
    Ok(entries.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_and_stays() {
        let limit = raise_nofile().unwrap();
        assert!(limit >= 64, "{limit}");
        assert_eq!(raise_nofile().unwrap(), limit);
        assert_eq!(sys::nofile_limit().unwrap().0, limit);
    }

    #[test]
    fn a_refused_limit_is_an_error() {
        let refused =
            sys::fault::with(|name| (name == sys::Call::Limit).then_some(libc::EPERM), raise_nofile);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn open_descriptors_are_counted() {
        // Other tests open and close descriptors at the same time: hold many more than they do.
        let held: Vec<_> = (0..256).map(|_| sys::pipe().unwrap()).collect();
        assert!(open_fd_count().unwrap() >= 2 * held.len() as u64);
    }
}
