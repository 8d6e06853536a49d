//! The ring driver: completions from io_uring, worked off by one task of the worker.
//!
//! Everything that sockets ask for is queued and goes to the kernel when the driver task runs, in the same
//! system call that fetches completions. An eventfd tells tokio that there are some: the descriptor of a ring
//! with DEFER_TASKRUN does not become readable by itself.

mod core;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use self::core::Core;
use super::busy::BusyPoll;
use super::probe::{self, RingFeatures};
use super::{DriverCounters, DriverOptions};
use crate::buf::Chunk;
use crate::buf::ring::{Bell, BufRing};
use crate::slot::Op;
use crate::splice::{self, Pipe};
use crate::sys;

/// Size of one receive buffer. Requests and answers mostly fit; bulk takes several per completion. Halving it
/// costs bulk, doubling it makes the working set of 64 busy connections outgrow a 512 KiB L2 cache.
pub(super) const BUFFER_BYTES: u32 = 8 << 10;
/// 2 MiB per worker. Buffers are on loan between a completion and the next run of its reader; above this many
/// completions per turn, sockets starve for a turn.
pub(super) const BUFFERS: u16 = 256;

/// State shared by the sockets of one worker.
pub(super) struct Ring {
    core: RefCell<Core>,
    buffers: Rc<BufRing>,
    bell: Rc<Bell>,
    eventfd: AsyncFd<OwnedFd>,
    busy: BusyPoll,
}

impl Ring {
    pub(super) fn new(options: DriverOptions) -> io::Result<Ring> {
        let features: RingFeatures =
            probe::ring().map_err(|reason| io::Error::new(io::ErrorKind::Unsupported, reason))?;
        let bell = Rc::new(Bell::default());
        let buffers = BufRing::new(options.buffers, options.buffer_bytes, Rc::clone(&bell))?;
        let eventfd = sys::eventfd()?;
        let core = Core::new(features, Rc::clone(&buffers), Rc::clone(&bell), eventfd.as_fd())?;
        // SAFETY: an OwnedFd keeps its descriptor open, and the same, for as long as it lives.
        let eventfd = unsafe { AsyncFd::register_with_interest(eventfd, Interest::READABLE) }?;
        let busy = BusyPoll::new(options.busy_poll);
        Ok(Ring { core: RefCell::new(core), buffers, bell, eventfd, busy })
    }

    /// Works off completions and submits what was queued, whenever there is either. Returns only with an error.
    pub(super) async fn run(&self) -> io::Result<()> {
        let mut looks_again = false;
        loop {
            poll_fn(|cx| self.poll_run(cx, std::mem::take(&mut looks_again))).await?;
            // First tokio looks at what else the worker waits for: timers, listeners, mailboxes.
            tokio::task::yield_now().await;
            looks_again = true;
        }
    }

    /// Ready when it is to be asked to look again, although nothing may have happened.
    fn poll_run(&self, cx: &mut Context<'_>, looks_again: bool) -> Poll<io::Result<()>> {
        self.bell.set_driver(cx.waker());
        let mut is_due = self.bell.take() | looks_again;
        // The eventfd is never read: tokio watches edges, and each signal is one.
        while let Poll::Ready(guard) = self.eventfd.poll_read_ready(cx) {
            guard?.clear_ready();
            is_due = true;
        }
        if is_due {
            // The bell is quiet while this runs: what rings it now, or was left over, asks for the next turn,
            // before which others run, so that what they queue goes out with it.
            if self.turn()? {
                self.bell.ring();
            } else if self.busy.is_awake(self.core.borrow().completions()) {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// One turn; says whether the kernel has more already.
    fn turn(&self) -> io::Result<bool> {
        let mut woken = Vec::new();
        let outcome = self.with(|core| core.turn(&mut woken));
        // Wakers run code of others, so nothing is borrowed here.
        for waker in woken {
            waker.wake();
        }
        outcome
    }

    pub(super) fn counters(&self) -> DriverCounters {
        let core = self.core.borrow();
        DriverCounters {
            buffers: u64::from(self.buffers.count()),
            buffers_leased: u64::from(self.buffers.leased()),
            ..core.counters()
        }
    }

    /// Runs `body` on the core and drops the wakers that it replaced afterwards: dropping the last handle to a
    /// task drops what the task owns, sockets of this driver for example.
    fn with<R>(&self, body: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.core.borrow_mut();
        let outcome = body(&mut core);
        let litter = core.take_litter();
        drop(core);
        drop(litter);
        outcome
    }
}

/// A handle to a slot of the ring. Holds no buffer.
pub(super) struct RingSocket {
    ring: Rc<Ring>,
    index: u32,
    /// The same as the slot's descriptor, which stays open for as long as this handle lives.
    raw: std::os::fd::RawFd,
}

impl RingSocket {
    pub(super) fn new(ring: &Rc<Ring>, fd: OwnedFd) -> io::Result<RingSocket> {
        let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let index = ring.with(|core| core.open(fd))?;
        Ok(RingSocket { ring: Rc::clone(ring), index, raw })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the slot owns the descriptor and closes it only after this handle was dropped.
        unsafe { BorrowedFd::borrow_raw(self.raw) }
    }

    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        self.ring.with(|core| core.poll_recv(self.index, cx, false))
    }

    pub(super) fn poll_recv_bundle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        self.ring.with(|core| core.poll_recv(self.index, cx, true))
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        self.ring.with(|core| core.poll_send(self.index, cx, chunk))
    }

    pub(super) fn expect_end(&mut self) {
        self.ring.core.borrow_mut().expect_end(self.index);
    }

    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ring.with(|core| core.poll_watch(self.index, cx, Op::Readable))
    }

    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ring.with(|core| core.poll_watch(self.index, cx, Op::Writable))
    }

    pub(super) fn pause_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ring.with(|core| core.pause_recv(self.index, cx))
    }

    pub(super) fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ring.with(|core| core.poll_settle(self.index, cx))
    }

    pub(super) fn take_back(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        self.ring.with(|core| core.take_back(self.index, chunk))
    }

    pub(super) fn take_buffered(&mut self) -> Chunk {
        self.ring.with(|core| core.take_buffered(self.index))
    }

    pub(super) fn has_failed(&self) -> bool {
        self.ring.core.borrow().has_failed(self.index)
    }

    pub(super) fn has_buffered(&self) -> bool {
        self.ring.core.borrow().has_buffered(self.index)
    }

    pub(super) fn shutdown_write(&self) -> io::Result<()> {
        if self.ring.core.borrow().is_sending(self.index) {
            let why = "shutdown while a send is in flight would cut it off";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        sys::shutdown_write(self.fd())
    }

    pub(super) fn poll_splice_in(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        self.ring.with(|core| core.make_nonblocking(self.index))?;
        loop {
            match splice::splice_in(&self.fd(), pipe, most) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && pipe.is_empty() => {
                    ready!(self.poll_readable(cx))?;
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    pub(super) fn poll_splice_out(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<()>> {
        self.ring.with(|core| core.make_nonblocking(self.index))?;
        while !pipe.is_empty() {
            match splice::splice_out(pipe, &self.fd(), usize::MAX) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_writable(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for RingSocket {
    fn drop(&mut self) {
        super::cut_if_panicking(self.fd());
        // What the slot held is dropped outside the borrow; closing the descriptor is part of that.
        let remains = self.ring.with(|core| core.release(self.index));
        drop(remains);
    }
}
