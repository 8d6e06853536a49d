//! One interface, two drivers: how a worker waits for its sockets and moves their bytes.
//!
//! A worker is a tokio `current_thread` runtime with one [`Driver`]. Everything here is `!Send`: a socket
//! lives and dies on the worker that took it.

pub mod probe;

mod busy;
mod epoll;
mod ring;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::buf::Chunk;
use crate::splice::Pipe;
use crate::{sock, sys};

/// Which driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// io_uring: completions. Cheaper per operation, most of all with many connections.
    Ring,
    /// epoll: readiness, through tokio. Works wherever io_uring is switched off.
    Epoll,
}

/// Sizes of a driver, and how it waits; [`DriverOptions::new`] gives what production uses by default.
#[derive(Clone, Copy, Debug)]
pub struct DriverOptions {
    /// Receive buffers of the worker, shared by all its sockets.
    pub buffers: u16,
    /// Bytes of each receive buffer.
    pub buffer_bytes: u32,
    /// Time for which a worker that has just had something to do looks for more before it sleeps; zero for none.
    pub busy_poll: Duration,
}

impl DriverOptions {
    #[must_use]
    pub fn new(kind: DriverKind) -> DriverOptions {
        let (buffers, buffer_bytes) = match kind {
            DriverKind::Epoll => (epoll::BUFFERS, epoll::BUFFER_BYTES),
            DriverKind::Ring => (ring::BUFFERS, ring::BUFFER_BYTES),
        };
        DriverOptions { buffers, buffer_bytes, busy_poll: Duration::ZERO }
    }
}

/// What a driver has done so far and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverCounters {
    /// Sockets open now, including dropped ones on which the kernel still holds an operation.
    pub sockets: u64,
    /// Receive buffers that exist at most.
    pub buffers: u64,
    /// Receive buffers on loan now.
    pub buffers_leased: u64,
    /// Sockets that wait for a receive buffer now.
    pub starved: u64,
    /// How often a socket found no receive buffer.
    pub starvations: u64,
    /// Bytes now held in this process's heap because their receiver was slower than their sender.
    pub held_bytes: u64,
    /// Operations handed to the kernel (epoll: receive and send calls).
    pub submissions: u64,
    /// Operations that the kernel answered (epoll: calls that moved bytes).
    pub completions: u64,
    /// Calls of io_uring_enter(2); 0 for epoll.
    pub enters: u64,
    /// Completions that came for a socket that was dropped before.
    pub late_completions: u64,
}

/// A worker's driver. Clones share it.
#[derive(Clone)]
pub struct Driver {
    inner: DriverInner,
}

#[derive(Clone)]
enum DriverInner {
    Ring(Rc<ring::Ring>),
    Epoll(Rc<epoll::Epoll>),
}

impl Driver {
    /// Makes a driver for the worker whose tokio runtime this is called in.
    ///
    /// # Errors
    /// `Unsupported` or the kernel's refusal if `kind` is not available here.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn new(kind: DriverKind, options: DriverOptions) -> io::Result<Driver> {
        match kind {
            DriverKind::Epoll => {
                Ok(Driver { inner: DriverInner::Epoll(Rc::new(epoll::Epoll::new(options))) })
            }
            DriverKind::Ring => Ok(Driver { inner: DriverInner::Ring(Rc::new(ring::Ring::new(options)?)) }),
        }
    }

    /// Accepts one connection from a non-blocking listener, for [`Driver::accepted`]; `None` when none is waiting.
    ///
    /// Connections that died in the queue are skipped, as accept(2) advises for TCP.
    ///
    /// # Errors
    /// What is wrong with us and not with one connection; ask [`sock::is_out_of_descriptors`] about it.
    pub fn accept(&self, listener: &impl AsFd) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
        sock::accept(listener, self.wants_nonblocking())
    }

    /// Takes over what [`Driver::accept`] gave: it has the right mode already, which saves a system call.
    ///
    /// # Errors
    /// If the descriptor cannot be watched.
    pub fn accepted(&self, fd: OwnedFd) -> io::Result<Socket> {
        let inner = match &self.inner {
            DriverInner::Ring(ring) => SocketInner::Ring(ring::RingSocket::new(ring, fd)?),
            DriverInner::Epoll(epoll) => SocketInner::Epoll(epoll::EpollSocket::new(epoll, fd)?),
        };
        Ok(Socket { inner })
    }

    /// Takes over any other connected or connecting stream socket.
    ///
    /// # Errors
    /// As [`Driver::accepted`].
    pub fn socket(&self, fd: OwnedFd) -> io::Result<Socket> {
        sys::set_nonblocking(fd.as_fd(), self.wants_nonblocking())?;
        self.accepted(fd)
    }

    /// Whether sockets have O_NONBLOCK. On those io_uring answers EAGAIN instead of waiting.
    fn wants_nonblocking(&self) -> bool {
        self.kind() == DriverKind::Epoll
    }

    /// Runs the driver; spawn it once with `spawn_local` before the first socket does anything. It never
    /// returns but for errors (with epoll, whose driver is tokio, it only keeps the worker awake).
    ///
    /// # Errors
    /// If the kernel refuses to go on; no socket of this driver makes progress then.
    pub async fn run(&self) -> io::Result<()> {
        match &self.inner {
            DriverInner::Ring(ring) => ring.run().await,
            DriverInner::Epoll(epoll) => {
                epoll.run().await;
                Ok(())
            }
        }
    }

    #[must_use]
    pub fn kind(&self) -> DriverKind {
        match &self.inner {
            DriverInner::Ring(_) => DriverKind::Ring,
            DriverInner::Epoll(_) => DriverKind::Epoll,
        }
    }

    #[must_use]
    pub fn counters(&self) -> DriverCounters {
        match &self.inner {
            DriverInner::Ring(ring) => ring.counters(),
            DriverInner::Epoll(epoll) => epoll.counters(),
        }
    }
}

/// Makes closing a socket send RST if a panic closes it: a FIN would tell its peer that it had everything.
fn cut_if_panicking(socket: BorrowedFd<'_>) {
    if std::thread::panicking() {
        let _ = sock::set_linger_reset(&socket);
    }
}

/// A stream socket on a driver. Dropping it abandons what it was doing and closes it at once.
///
/// Each direction has one waiter: the last task that polled it is the one that is woken.
pub struct Socket {
    inner: SocketInner,
}

enum SocketInner {
    Ring(ring::RingSocket),
    Epoll(epoll::EpollSocket),
}

impl Socket {
    /// Receives the next bytes; an empty chunk is the end of the stream.
    ///
    /// Bytes are given out as they come: a chunk is as long as the kernel had bytes for one buffer.
    ///
    /// # Errors
    /// What the connection died of, `ConnectionReset` for an RST.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.poll_recv(cx),
            SocketInner::Epoll(socket) => socket.poll_recv(cx),
        }
    }

    /// Receives everything that has arrived (about 100 KiB at most), maybe in several parts; an empty chunk is the end
    /// of the stream.
    ///
    /// For passing bytes on without looking at them: one send carries them all. See [`Chunk::parts`].
    ///
    /// # Errors
    /// As [`Socket::poll_recv`].
    pub fn poll_recv_bundle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.poll_recv_bundle(cx),
            SocketInner::Epoll(socket) => socket.poll_recv_bundle(cx),
        }
    }

    /// Sends all of `chunk`; ready when the kernel has accepted the last byte, and `chunk` is empty then.
    ///
    /// The bytes may move from `chunk` into the driver before, though the chunk keeps its length: ask again with the
    /// *same* chunk until ready. To give up on a send, drop the socket.
    ///
    /// A leased buffer is given back at once if the kernel does not take everything: what is left waits in a
    /// heap allocation of its size.
    ///
    /// # Errors
    /// What the connection died of. Bytes accepted before may or may not have reached the peer.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.poll_send(cx, chunk),
            SocketInner::Epoll(socket) => socket.poll_send(cx, chunk),
        }
    }

    /// Says that what is sent next is the last, and that FIN follows at once, by [`Socket::shutdown_write`] or because the socket is
    /// dropped: both leave in one packet then (MSG_MORE, send(2)). Where FIN does not follow, the kernel keeps what does not fill
    /// a packet for 200 ms.
    pub fn expect_end(&mut self) {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.expect_end(),
            SocketInner::Epoll(socket) => socket.expect_end(),
        }
    }

    /// Waits until a receive would not block: bytes, end of stream or an error.
    ///
    /// While a receive is armed it would take the bytes first: settle it with [`Socket::pause_recv`].
    ///
    /// # Errors
    /// If the socket cannot be watched.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.poll_readable(cx),
            SocketInner::Epoll(socket) => socket.poll_readable(cx),
        }
    }

    /// Waits until a send would not block, a connect has ended (ask [`sock::take_error`] how), or an error.
    ///
    /// # Errors
    /// If the socket cannot be watched.
    pub fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.poll_writable(cx),
            SocketInner::Epoll(socket) => socket.poll_writable(cx),
        }
    }

    /// Stops receiving ahead, so that bytes stay in the kernel. The next [`Socket::poll_recv`] that finds
    /// nothing buffered starts it again.
    ///
    /// Bytes, an end or an error may have arrived already: take them with `poll_recv` while
    /// [`Socket::has_buffered`] says so, before somebody else reads from the descriptor.
    ///
    /// # Errors
    /// If the driver has died.
    pub fn pause_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.pause_recv(cx),
            // Reads only when asked.
            SocketInner::Epoll(_) => Poll::Ready(Ok(())),
        }
    }

    /// Stops receiving and sending, so that somebody else can go on with the descriptor: ready when the kernel holds no bytes of
    /// this process, nor this process any that it has not given out. Take those then: of a send that was under way with
    /// [`Socket::take_back`], of what was received with [`Socket::take_buffered`]. Whoever goes on receiving or sending here
    /// undoes it.
    ///
    /// # Errors
    /// If the driver has died.
    pub fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.poll_settle(cx),
            // Nothing is ever in flight.
            SocketInner::Epoll(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ends a send that is settled: `chunk`, the one that it was asked for with, holds exactly what the kernel has not accepted.
    ///
    /// # Errors
    /// What the send failed with.
    pub fn take_back(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.take_back(chunk),
            SocketInner::Epoll(socket) => {
                socket.forget_send();
                Ok(())
            }
        }
    }

    /// Takes all bytes that were received and not given out; empty if there are none.
    #[must_use]
    pub fn take_buffered(&mut self) -> Chunk {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.take_buffered(),
            SocketInner::Epoll(_) => Chunk::default(),
        }
    }

    /// Says whether an error has come that nobody has been told: the descriptor does not say it a second time.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        match &self.inner {
            SocketInner::Ring(socket) => socket.has_failed(),
            SocketInner::Epoll(_) => false,
        }
    }

    /// Says whether `poll_recv` has something to give out without asking the kernel.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        match &self.inner {
            SocketInner::Ring(socket) => socket.has_buffered(),
            SocketInner::Epoll(_) => false,
        }
    }

    /// Moves up to `most` bytes from this socket into `pipe`, waiting until there are some; 0 is the end of
    /// the stream. Only after [`Socket::pause_recv`] and with nothing left buffered.
    ///
    /// # Errors
    /// `WouldBlock` if `pipe` is not empty and no more fits or comes: empty it first. Else what the connection
    /// died of.
    pub fn poll_splice_in(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.poll_splice_in(cx, pipe, most),
            SocketInner::Epoll(socket) => socket.poll_splice_in(cx, pipe, most),
        }
    }

    /// Moves everything from `pipe` to this socket; ready when the pipe is empty. Waits for a send that is
    /// in flight.
    ///
    /// # Errors
    /// What the connection died of.
    pub fn poll_splice_out(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<io::Result<()>> {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.poll_splice_out(cx, pipe),
            SocketInner::Epoll(socket) => socket.poll_splice_out(cx, pipe),
        }
    }

    /// Sends FIN after what was sent before. Only while no send is in flight.
    ///
    /// # Errors
    /// `NotConnected` if the connection is gone already, `ResourceBusy` if the driver still holds bytes to send.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        match &mut self.inner {
            SocketInner::Ring(socket) => socket.shutdown_write(),
            SocketInner::Epoll(socket) => sys::shutdown_write(socket.fd()),
        }
    }

    /// The descriptor, for options and statistics. Not for reading, writing or closing.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.inner {
            SocketInner::Ring(socket) => socket.fd(),
            SocketInner::Epoll(socket) => socket.fd(),
        }
    }

    /// Closes with RST: the peer learns that the stream is incomplete.
    pub fn abort(self) {
        // A failure means that the connection is gone already; closing is all that is left.
        let _ = sock::set_linger_reset(&self.fd());
    }
}

#[cfg(test)]
mod tests;
