//! Receiving and sending, into and out of one piece of memory or several.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use libc::c_int;

use super::{Call, call};

/// Parts that one [`send_parts`] takes: a head and a body of 16 KiB in pieces of any sane size.
const MOST_PARTS: usize = 16;

pub(crate) fn recv(fd: BorrowedFd<'_>, into: &mut [u8], flags: c_int) -> io::Result<usize> {
    // SAFETY: the pointer and the length describe `into`, which outlives the call.
    let len = call(Call::Recv, || unsafe {
        libc::recv(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), flags)
    })?;
    Ok(len.unsigned_abs())
}

pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8], flags: c_int) -> io::Result<usize> {
    // SAFETY: the pointer and the length describe `bytes`, which outlives the call.
    let len = call(Call::Send, || unsafe {
        libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags)
    })?;
    Ok(len.unsigned_abs())
}

/// Receives into several parts by one call, the first ones if there are more than [`MOST_PARTS`].
pub(crate) fn recv_parts<'a>(
    fd: BorrowedFd<'_>,
    parts: impl Iterator<Item = &'a mut [u8]>,
) -> io::Result<usize> {
    let mut all = Parts::new(parts.map(|part| (part.as_mut_ptr(), part.len())));
    let mut header = all.header();
    // SAFETY: the header describes `all` and what the caller lent, both of which outlive the call.
    let len = call(Call::Recv, || unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, 0) })?;
    Ok(len.unsigned_abs())
}

/// Sends several parts by one call, the first ones if there are more than [`MOST_PARTS`].
pub(crate) fn send_parts<'a>(
    fd: BorrowedFd<'_>,
    parts: impl Iterator<Item = &'a [u8]>,
    flags: c_int,
) -> io::Result<usize> {
    let mut all = Parts::new(parts.map(|part| (part.as_ptr().cast_mut(), part.len())));
    let header = all.header();
    // SAFETY: as in `recv_parts`; sendmsg(2) writes to none of it.
    let len = call(Call::Send, || unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) })?;
    Ok(len.unsigned_abs())
}

/// Where several parts are.
struct Parts {
    places: [libc::iovec; MOST_PARTS],
    count: usize,
}

impl Parts {
    fn new(parts: impl Iterator<Item = (*mut u8, usize)>) -> Parts {
        let mut all = Parts { places: [iovec(std::ptr::null_mut(), 0); MOST_PARTS], count: 0 };
        for (place, (start, len)) in all.places.iter_mut().zip(parts) {
            *place = iovec(start, len);
            all.count += 1;
        }
        all
    }

    fn header(&mut self) -> libc::msghdr {
        msghdr(&mut self.places[..self.count])
    }
}

pub(crate) fn iovec(start: *mut u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: start.cast(), iov_len: len }
}

/// What sendmsg(2) and recvmsg(2) are told of parts, to which it points: no address, no control data.
pub(crate) fn msghdr(parts: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeroes is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = parts.as_mut_ptr();
    header.msg_iovlen = parts.len();
    header
}
