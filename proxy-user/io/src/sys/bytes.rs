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
    let mut row = Row::new(parts.map(|part| (part.as_mut_ptr(), part.len())));
    let mut header = row.header();
    // SAFETY: the header describes `row` and that what the caller lent, both of which outlive the call.
    let len = call(Call::Recv, || unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, 0) })?;
    Ok(len.unsigned_abs())
}

/// Sends several parts by one call, the first ones if there are more than [`MOST_PARTS`].
pub(crate) fn send_parts<'a>(
    fd: BorrowedFd<'_>,
    parts: impl Iterator<Item = &'a [u8]>,
    flags: c_int,
) -> io::Result<usize> {
    let mut row = Row::new(parts.map(|part| (part.as_ptr().cast_mut(), part.len())));
    let header = row.header();
    // SAFETY: as in `recv_parts`; sendmsg(2) writes to none of it.
    let len = call(Call::Send, || unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) })?;
    Ok(len.unsigned_abs())
}

/// Says where several parts are.
struct Row {
    parts: [libc::iovec; MOST_PARTS],
    count: usize,
}

impl Row {
    fn new(parts: impl Iterator<Item = (*mut u8, usize)>) -> Row {
        let mut row =
            Row { parts: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MOST_PARTS], count: 0 };
        for (place, (start, len)) in row.parts.iter_mut().zip(parts) {
            *place = libc::iovec { iov_base: start.cast(), iov_len: len };
            row.count += 1;
        }
        row
    }

    fn header(&mut self) -> libc::msghdr {
        // SAFETY: all zeroes is a valid msghdr: no address, no control data.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = self.parts.as_mut_ptr();
        header.msg_iovlen = self.count;
        header
    }
}
