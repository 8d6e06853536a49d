//! A stream of bytes that may be inside TLS.

use std::io;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

use proxy_io::{Chunk, Socket};

/// One side of a proxied connection, as those who read and write plain bytes see it.
///
/// Each direction has one waiter: the last task that polled it is the one that is woken.
pub enum Stream {
    /// The bytes are on the wire as they are.
    Plain(Socket),
}

impl Stream {
    /// Receives the next bytes, in one piece; an empty chunk is the end of the stream.
    ///
    /// # Errors
    /// What the connection died of; inside TLS also `UnexpectedEof` for an end that was not announced.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self {
            Self::Plain(socket) => socket.poll_recv(cx),
        }
    }

    /// Receives everything that is there, maybe in several parts ([`Chunk::parts`]); an empty chunk is the end of the stream.
    ///
    /// # Errors
    /// As [`Stream::poll_recv`].
    pub fn poll_recv_bundle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self {
            Self::Plain(socket) => socket.poll_recv_bundle(cx),
        }
    }

    /// Sends all of `chunk`; ready when the kernel has accepted the last byte, and `chunk` is empty then. Ask again with
    /// the same chunk until ready.
    ///
    /// # Errors
    /// What the connection died of.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_send(cx, chunk),
        }
    }

    /// Ends what is sent: inside TLS with close_notify, then FIN. Only while no send is in flight.
    ///
    /// # Errors
    /// What the connection died of; `NotConnected` if it is gone already.
    pub fn poll_shutdown_write(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Poll::Ready(socket.shutdown_write()),
        }
    }

    /// The socket, if its bytes may be passed on by splice.
    pub fn as_plain(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
        }
    }

    /// The descriptor, for options and statistics.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.fd(),
        }
    }

    /// Closes with RST: the peer learns that the stream is incomplete.
    pub fn abort(self) {
        match self {
            Self::Plain(socket) => socket.abort(),
        }
    }
}
