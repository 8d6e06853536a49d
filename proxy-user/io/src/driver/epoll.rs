//! The epoll driver: readiness from tokio, buffers from a pool of the worker.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::busy::BusyPoll;
use super::{DriverCounters, DriverOptions};
use crate::buf::Chunk;
use crate::buf::pool::{Pool, PoolLease};
use crate::splice::{self, Pipe};
use crate::sys;

/// Receive size: one call takes what an ordinary 16 KiB TLS record or HTTP body piece brings.
pub(super) const BUFFER_BYTES: u32 = 16 << 10;
/// 2 MiB per worker at most. A buffer is on loan between a receive and the send after it, mostly within one
/// poll of a task, so a few would do; consumers that hold chunks across polls need the rest.
pub(super) const BUFFERS: u16 = 128;
/// Buffers that are received into at once where the last receive filled one: 64 KiB, which one send carries on. It is also what
/// a blocked send leaves over at most, copied to the heap.
const BUNDLE_BUFFERS: usize = 4;

/// State shared by the sockets of one worker.
pub(super) struct Epoll {
    pool: Rc<Pool>,
    sockets: Cell<u64>,
    /// Number that the next socket gets.
    next_number: Cell<u64>,
    starvations: Cell<u64>,
    held_bytes: Cell<u64>,
    calls: Cell<u64>,
    moves: Cell<u64>,
    busy: BusyPoll,
    moved: Notify,
}

impl Epoll {
    pub(super) fn new(options: DriverOptions) -> Epoll {
        Epoll {
            pool: Pool::new(usize::from(options.buffers), options.buffer_bytes as usize),
            sockets: Cell::new(0),
            next_number: Cell::new(0),
            starvations: Cell::new(0),
            held_bytes: Cell::new(0),
            calls: Cell::new(0),
            moves: Cell::new(0),
            busy: BusyPoll::new(options.busy_poll),
            moved: Notify::new(),
        }
    }

    pub(super) fn counters(&self) -> DriverCounters {
        DriverCounters {
            sockets: self.sockets.get(),
            buffers: self.pool.most() as u64,
            buffers_leased: self.pool.leased() as u64,
            starved: self.pool.starved() as u64,
            starvations: self.starvations.get(),
            held_bytes: self.held_bytes.get(),
            submissions: self.calls.get(),
            completions: self.moves.get(),
            ..DriverCounters::default()
        }
    }

    /// Counts one call and whether it moved bytes.
    fn count(&self, outcome: &io::Result<usize>) {
        self.calls.set(self.calls.get() + 1);
        if outcome.is_ok() {
            self.moves.set(self.moves.get() + 1);
            if self.busy.is_on() {
                self.moved.notify_one();
            }
        }
    }

    /// Keeps the worker awake for as long as it should be; tokio is its driver. Never returns.
    pub(super) async fn run(&self) {
        loop {
            self.moved.notified().await;
            while self.busy.is_awake(self.moves.get()) {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// A socket watched by tokio. Holds no buffer.
pub(super) struct EpollSocket {
    fd: AsyncFd<OwnedFd>,
    driver: Rc<Epoll>,
    /// Unique among the sockets of this driver, ever.
    number: u64,
    /// Bytes of the blocked send that wait in its chunk's heap allocation; 0 when none is blocked.
    held_bytes: u32,
    /// FIN comes right behind what is sent.
    expects_end: bool,
    /// The last receive filled a buffer: more is likely to be there than the next one holds.
    is_bulk: bool,
}

impl EpollSocket {
    pub(super) fn new(driver: &Rc<Epoll>, fd: OwnedFd) -> io::Result<EpollSocket> {
        // SAFETY: an OwnedFd keeps its descriptor open, and the same, for as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE | Interest::WRITABLE) }?;
        driver.sockets.set(driver.sockets.get() + 1);
        let number = driver.next_number.replace(driver.next_number.get() + 1);
        Ok(EpollSocket {
            fd,
            driver: Rc::clone(driver),
            number,
            held_bytes: 0,
            expects_end: false,
            is_bulk: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }

    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        self.poll_recv_into(cx, 1)
    }

    pub(super) fn poll_recv_bundle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        let most = if self.is_bulk { BUNDLE_BUFFERS } else { 1 };
        let outcome = ready!(self.poll_recv_into(cx, most));
        self.is_bulk = outcome.as_ref().is_ok_and(|chunk| chunk.len() >= self.driver.pool.buffer_bytes());
        Poll::Ready(outcome)
    }

    /// Receives by one call into so many buffers at most, fewer if there are not so many.
    fn poll_recv_into(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Chunk>> {
        let pool = &self.driver.pool;
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let Some(mut first) = pool.try_lease() else {
                self.driver.starvations.set(self.driver.starvations.get() + 1);
                pool.wake_on_return(self.number, cx.waker());
                return Poll::Pending;
            };
            let mut more: Vec<PoolLease> = (1..most).map_while(|_| pool.try_lease_spare()).collect();
            let fd = guard.get_inner().as_fd();
            let outcome = if more.is_empty() {
                sys::recv(fd, &mut first, 0)
            } else {
                let leases = std::iter::once(&mut first).chain(&mut more);
                sys::recv_parts(fd, leases.map(|lease| &mut **lease))
            };
            self.driver.count(&outcome);
            match outcome {
                Ok(0) => return Poll::Ready(Ok(Chunk::default())),
                Ok(len) => {
                    let buffer_bytes = first.len();
                    if len < buffer_bytes * (1 + more.len()) {
                        // A short receive emptied the socket; a later FIN is a new event, an earlier one
                        // was seen with this event and tokio never forgets it.
                        guard.clear_ready();
                    }
                    let mut chunk = Chunk::from_pool(first, len.min(buffer_bytes));
                    for lease in more.into_iter().take((len - 1) / buffer_bytes) {
                        let left = len - chunk.len();
                        chunk.push(Chunk::from_pool(lease, left.min(buffer_bytes)));
                    }
                    return Poll::Ready(Ok(chunk));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        let outcome = self.poll_send_all(cx, chunk);
        let held = if outcome.is_pending() {
            // A slow reader must not hold one of the worker's buffers.
            chunk.detach();
            u32::try_from(chunk.len()).expect("a chunk is far below 4 GiB")
        } else {
            0
        };
        self.set_held(held);
        outcome
    }

    fn poll_send_all(&self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        // Most sends fit: try before asking whether the socket is writable, unless this one had to wait.
        if self.held_bytes == 0 {
            match self.send_some(chunk) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(()) => {}
            }
        }
        while !chunk.is_empty() {
            // The guard is taken before the attempt: clearing it then cannot lose a later event.
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match self.send_some(chunk) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
                Ok(()) => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    fn send_some(&self, chunk: &mut Chunk) -> io::Result<()> {
        while !chunk.is_empty() {
            let more = if self.expects_end { libc::MSG_MORE } else { 0 };
            let flags = libc::MSG_NOSIGNAL | more;
            let outcome = if chunk.is_bundle() {
                sys::send_parts(self.fd(), chunk.parts(), flags)
            } else {
                sys::send(self.fd(), chunk, flags)
            };
            self.driver.count(&outcome);
            chunk.advance(outcome?);
        }
        Ok(())
    }

    pub(super) fn expect_end(&mut self) {
        self.expects_end = true;
    }

    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            // tokio's readiness may be old: whoever read last outside `poll_recv` did not clear it.
            if sys::is_ready(guard.get_inner().as_fd(), libc::POLLIN | libc::POLLRDHUP)? {
                return Poll::Ready(Ok(()));
            }
            guard.clear_ready();
        }
    }

    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            if sys::is_ready(guard.get_inner().as_fd(), libc::POLLOUT)? {
                return Poll::Ready(Ok(()));
            }
            guard.clear_ready();
        }
    }

    pub(super) fn poll_splice_in(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            let outcome = splice::splice_in(guard.get_inner(), pipe, most);
            self.driver.count(&outcome);
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && pipe.is_empty() => {
                    guard.clear_ready();
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    pub(super) fn poll_splice_out(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<()>> {
        while !pipe.is_empty() {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            let outcome = splice::splice_out(pipe, guard.get_inner(), usize::MAX);
            self.driver.count(&outcome);
            match outcome {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The next send begins anew: it tries before it waits.
    pub(super) fn forget_send(&mut self) {
        self.set_held(0);
    }

    fn set_held(&mut self, bytes: u32) {
        let held = &self.driver.held_bytes;
        held.set(held.get() - u64::from(self.held_bytes) + u64::from(bytes));
        self.held_bytes = bytes;
    }
}

impl Drop for EpollSocket {
    fn drop(&mut self) {
        super::cut_if_panicking(self.fd());
        self.set_held(0);
        self.driver.pool.forget(self.number);
        self.driver.sockets.set(self.driver.sockets.get() - 1);
    }
}
