//! What the kernel offers for the ring driver, found out by trying.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

use crate::buf::ring::BufRing;

/// Parts of io_uring that the ring driver uses if they are there. It needs provided-buffer rings (5.19) and multishot
/// receive (6.0) in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFeatures {
    /// A multishot receive that ends after a number of bytes, kernel 6.17: back-pressure without cancellation. With
    /// it, receive bundles (6.10) are used as well: several buffers per completion. Without it they are not,
    /// because one completion could bring megabytes.
    ///
    /// SINGLE_ISSUER and DEFER_TASKRUN (6.1), by which completions are worked off when the driver asks and not whenever
    /// the kernel interrupts the worker, are used with it only: on 6.12 a ring with them signals its eventfd once and then
    /// no more, and everything on it hangs (`cargo xtask test vm`). 6.18 does not.
    pub recv_cap: bool,
}

/// Why the ring driver cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum RingUnavailable {
    #[error("this kernel is built without io_uring (CONFIG_IO_URING)")]
    NotBuilt,
    #[error("io_uring is switched off for this process: sysctl kernel.io_uring_disabled is {value}")]
    Disabled {
        /// 1: only for processes without CAP_SYS_ADMIN outside kernel.io_uring_group; 2: for all.
        value: u8,
    },
    #[error(
        "io_uring is forbidden though kernel.io_uring_disabled allows it: a seccomp filter (as container runtimes \
         install) or a security module refuses it"
    )]
    Forbidden,
    #[error("io_uring here lacks {what}, which kernel {since} has")]
    Missing { what: &'static str, since: &'static str },
    #[error("io_uring could not be set up")]
    Io(#[from] io::Error),
}

/// Entries of the queues that only the probe uses.
const PROBE_ENTRIES: u32 = 4;
/// One more than a receive of `PROBE_BYTES` may take: one that takes all ends because none are left.
const PROBE_BUFFERS: u16 = 2;
/// Size of a buffer, and the cap that is tried.
const PROBE_BYTES: u32 = 64;
/// Any buffer group: each ring has its own.
const PROBE_GROUP: u16 = 0;

/// Finds out whether the ring driver works here, by receiving one byte the way it does.
///
/// # Errors
/// The reason, named so that an operator knows what to change.
pub fn ring() -> Result<RingFeatures, RingUnavailable> {
    let found = find()?;
    Ok(older::limited(found))
}

fn find() -> Result<RingFeatures, RingUnavailable> {
    let deferring = match build(true) {
        Ok(ring) => Some(ring),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
        Err(error) => return Err(refusal(error)),
    };
    let bundling = deferring.filter(|ring| ring.params().is_feature_recvsend_bundle());
    if bundling.is_some_and(|ring| try_multishot_recv(ring, Some(PROBE_BYTES)).is_ok()) {
        return Ok(RingFeatures { recv_cap: true });
    }
    let ring = build(false).map_err(refusal)?;
    if !ring.params().is_feature_nodrop() {
        return Err(RingUnavailable::Missing { what: "completions that are never lost", since: "5.5" });
    }
    try_multishot_recv(ring, None)?;
    Ok(RingFeatures { recv_cap: false })
}

/// A receive that completes again and again, each time with a buffer of `group`.
///
/// With `cap` it completes with bundles of buffers and ends by itself after so many bytes. Without, it polls first: a
/// request that has begun by receiving cannot be found by a cancellation before the socket has run dry once,
/// which a fast sender may never let happen.
pub(super) fn multishot_recv(fd: types::Fd, group: u16, cap: Option<u32>) -> squeue::Entry {
    // Of linux/io_uring.h; the io-uring crate does not offer these together.
    const IORING_RECVSEND_POLL_FIRST: u16 = 1 << 0;
    const IORING_RECV_MULTISHOT: u16 = 1 << 1;
    const IORING_RECVSEND_BUNDLE: u16 = 1 << 4;
    /// Offset of `optlen` in struct io_uring_sqe, which the crate does not offer at all.
    const OPTLEN_OFFSET: usize = 44;
    let how = if cap.is_some() { IORING_RECVSEND_BUNDLE } else { IORING_RECVSEND_POLL_FIRST };
    let mut entry = opcode::Recv::new(fd, std::ptr::null_mut(), 0)
        .buf_group(group)
        .ioprio(IORING_RECV_MULTISHOT | how)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT);
    const { assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() >= 4) };
    // SAFETY: the offset lies in the entry, which is the kernel's struct (64 bytes, repr(C)).
    let optlen = unsafe { (&raw mut entry).byte_add(OPTLEN_OFFSET) }.cast::<u32>();
    // SAFETY: aligned, in bounds, exclusively borrowed, and any value of these four bytes is a valid entry.
    unsafe { optlen.write(cap.unwrap_or(0)) };
    entry
}

/// Sets the flags that the driver uses with and without the cap.
pub(super) fn configure(builder: &mut io_uring::Builder, has_recv_cap: bool) {
    // COOP_TASKRUN and TASKRUN_FLAG are as old as provided-buffer rings (5.19).
    builder.setup_coop_taskrun().setup_taskrun_flag();
    if has_recv_cap {
        builder.setup_single_issuer().setup_defer_taskrun();
    }
}

fn build(has_recv_cap: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    configure(&mut builder, has_recv_cap);
    builder.build(PROBE_ENTRIES)
}

fn try_multishot_recv(mut ring: IoUring, cap: Option<u32>) -> Result<(), RingUnavailable> {
    let buffers = BufRing::new(PROBE_BUFFERS, PROBE_BYTES, Rc::default())?;
    // SAFETY: the entries live in `buffers`, which outlives the ring: it is dropped after it, at the end.
    unsafe { ring.submitter().register_buf_ring_with_flags(buffers.addr(), buffers.count(), PROBE_GROUP, 0) }
        .map_err(|_| RingUnavailable::Missing { what: "provided-buffer rings", since: "5.19" })?;
    let (near, mut far) = UnixStream::pair()?;
    far.write_all(b"x")?;
    let entry = multishot_recv(types::Fd(near.as_raw_fd()), PROBE_GROUP, cap);
    // SAFETY: the operation reads no memory of ours, and writes to the registered buffers only.
    unsafe { ring.submission().push(&entry) }.map_err(|full| io::Error::other(full.to_string()))?;
    // SAFETY: no argument is passed.
    unsafe { ring.submitter().enter::<libc::sigset_t>(1, 1, EnterFlags::GETEVENTS.bits(), None) }?;
    let received = ring.completion().any(|entry| entry.result() == 1 && cqueue::more(entry.flags()));
    // The end of the stream ends the operation, so that the kernel holds none when the buffers go.
    drop(far);
    if received {
        // SAFETY: no argument is passed.
        unsafe { ring.submitter().enter::<libc::sigset_t>(0, 1, EnterFlags::GETEVENTS.bits(), None) }?;
        drop(ring);
        drop(buffers);
        return Ok(());
    }
    Err(RingUnavailable::Missing { what: "multishot receive", since: "6.0" })
}

/// Names the reason for which io_uring_setup(2) failed.
fn refusal(error: io::Error) -> RingUnavailable {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => RingUnavailable::NotBuilt,
        Some(libc::EINVAL) => RingUnavailable::Missing { what: "cooperative task running", since: "5.19" },
        Some(libc::EPERM | libc::EACCES) => match disabled() {
            Some(value) if value > 0 => RingUnavailable::Disabled { value },
            _ => RingUnavailable::Forbidden,
        },
        _ => RingUnavailable::Io(error),
    }
}

/// The sysctl kernel.io_uring_disabled; `None` before kernel 6.6.
fn disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// Lets a test do without what newer kernels have; compiled to nothing outside tests.
pub(crate) mod older {
    use super::RingFeatures;

    #[cfg(not(test))]
    pub(super) fn limited(found: RingFeatures) -> RingFeatures {
        found
    }

    #[cfg(test)]
    thread_local! {
        static MOST: std::cell::Cell<RingFeatures> =
            const { std::cell::Cell::new(RingFeatures { recv_cap: true }) };
    }

    #[cfg(test)]
    pub(super) fn limited(found: RingFeatures) -> RingFeatures {
        RingFeatures { recv_cap: found.recv_cap && MOST.get().recv_cap }
    }

    /// From now on this thread's probes find no more than `most`.
    #[cfg(test)]
    pub(crate) fn limit(most: RingFeatures) {
        MOST.set(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_named() {
        let named = |errno| refusal(io::Error::from_raw_os_error(errno)).to_string();
        assert!(named(libc::ENOSYS).contains("CONFIG_IO_URING"));
        assert!(named(libc::EINVAL).contains("5.19"));
        let forbidden = named(libc::EPERM);
        assert!(forbidden.contains("seccomp") || forbidden.contains("io_uring_disabled is"), "{forbidden}");
        assert!(matches!(refusal(io::Error::from_raw_os_error(libc::ENOMEM)), RingUnavailable::Io(_)));
    }

    #[test]
    fn the_probe_decides() {
        match ring() {
            Ok(features) => println!("io_uring works here: {features:?}"),
            Err(reason) => eprintln!("NO RING HERE: {reason}; the tests ran on epoll only"),
        }
    }
}
