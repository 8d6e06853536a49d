//! A stream of bytes that may be inside TLS.

use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use proxy_io::{Chunk, Socket, sock};

use super::error::Fault;
use super::handshake::Negotiated;
use super::paced::Paced;
use super::seal::{OVERHEAD_BYTES, PLAIN_BYTES};
use super::session::Session;
use crate::pace::Pacer;

/// Plaintext that is sealed at once: four whole records, which one send carries.
const SEAL_BYTES: usize = 4 * PLAIN_BYTES;
/// Level and description (RFC 8446, 6).
const ALERT_BYTES: usize = 2;

/// One side of a proxied connection, as those who read and write plain bytes see it.
///
/// Each direction has one waiter: the last task that polled it is the one that is woken.
pub enum Stream {
    /// The bytes are on the wire as they are.
    Plain(Socket),
    /// The bytes are inside TLS.
    Tls(Box<TlsStream>),
    /// Either, of an application that may be bounded.
    Paced(Box<Paced>),
}

impl Stream {
    /// Makes it one that keeps a pace, both ways.
    #[must_use]
    pub fn paced(self, pacer: Rc<Pacer>) -> Self {
        Self::Paced(Box::new(Paced::new(self, pacer)))
    }

    /// The pace that it keeps, if it keeps one.
    #[must_use]
    pub fn pacer(&self) -> Option<&Rc<Pacer>> {
        match self {
            Self::Plain(_) | Self::Tls(_) => None,
            Self::Paced(paced) => Some(&paced.pacer),
        }
    }

    /// For those who move bytes of its socket themselves ([`Stream::as_plain`]): how many they may, as soon as they may.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        self.pacer().map_or(Poll::Ready(usize::MAX), |pacer| pacer.poll_room(cx))
    }

    /// Takes note of what they have moved.
    pub fn handle_moved(&self, bytes: usize) {
        if let Some(pacer) = self.pacer() {
            pacer.handle_moved(bytes);
        }
    }

    /// Receives the next bytes, in one piece; an empty chunk is the end of the stream.
    ///
    /// # Errors
    /// What the connection died of. Inside TLS also `UnexpectedEof` for an end that was not announced, `ConnectionReset` if
    /// the peer gave the session up, and `InvalidData` for what is not TLS or was altered.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self {
            Self::Plain(socket) => socket.poll_recv(cx),
            Self::Tls(stream) => stream.poll_recv(cx, Socket::poll_recv),
            Self::Paced(paced) => paced.poll_recv(cx, Self::poll_recv),
        }
    }

    /// Receives everything that is there, maybe in several parts ([`Chunk::parts`]); an empty chunk is the end of the stream.
    ///
    /// # Errors
    /// As [`Stream::poll_recv`].
    pub fn poll_recv_bundle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self {
            Self::Plain(socket) => socket.poll_recv_bundle(cx),
            Self::Tls(stream) => stream.poll_recv(cx, Socket::poll_recv_bundle),
            Self::Paced(paced) => paced.poll_recv(cx, Self::poll_recv_bundle),
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
            Self::Tls(stream) => stream.poll_send(cx, chunk),
            Self::Paced(paced) => paced.poll_send(cx, chunk),
        }
    }

    /// Says that what is sent next is the last: [`Socket::expect_end`].
    pub fn expect_end(&mut self) {
        match self {
            Self::Plain(socket) => socket.expect_end(),
            Self::Tls(stream) => stream.expect_end(),
            Self::Paced(paced) => paced.stream.expect_end(),
        }
    }

    /// Ends what is sent: inside TLS with close_notify, then FIN. Only while no send is in flight.
    ///
    /// # Errors
    /// What the connection died of; `NotConnected` if it is gone already.
    pub fn poll_shutdown_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Poll::Ready(socket.shutdown_write()),
            Self::Tls(stream) => stream.poll_shutdown_write(cx),
            Self::Paced(paced) => paced.stream.poll_shutdown_write(cx),
        }
    }

    /// The socket, if its bytes may be passed on by splice.
    pub fn as_plain(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) => None,
            Self::Paced(paced) => paced.stream.as_plain(),
        }
    }

    /// What was agreed on, inside TLS.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(&stream.negotiated),
            Self::Paced(paced) => paced.stream.negotiated(),
        }
    }

    /// Tells whether nothing more should be begun on it: its key may protect little more, and TLS 1.2 has no way to change it.
    #[must_use]
    pub fn is_wearing(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.session.is_wearing(),
            Self::Paced(paced) => paced.stream.is_wearing(),
        }
    }

    /// The descriptor, for options and statistics.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.fd(),
            Self::Tls(stream) => stream.socket.fd(),
            Self::Paced(paced) => paced.stream.fd(),
        }
    }

    /// Bytes that the kernel holds of it: received and not read, sent and not acknowledged.
    #[must_use]
    pub fn queued_memory(&self) -> u64 {
        sock::queued_memory(&self.fd()).unwrap_or(0)
    }

    /// Closes with RST: the peer learns that the stream is incomplete.
    pub fn abort(self) {
        match self {
            Self::Plain(socket) => socket.abort(),
            Self::Tls(stream) => stream.socket.abort(),
            Self::Paced(paced) => paced.stream.abort(),
        }
    }
}

/// A socket and the session that runs over it. While nothing is under way it holds no buffer.
pub struct TlsStream {
    socket: Socket,
    session: Session,
    /// Ciphertext that came with the end of the handshake.
    early: Chunk,
    /// Plaintext whose sender has lent it and that is not sealed yet.
    plain: Chunk,
    /// Sealed records that the kernel has not accepted yet.
    sealed: Chunk,
    /// The sender's chunk is lent.
    is_sending: bool,
    is_closed: bool,
    /// What is sent next is the last: close_notify goes right behind it.
    expects_end: bool,
    /// Why the session is over; the peer may still have to be told.
    fault: Option<Fault>,
    negotiated: Negotiated,
}

impl TlsStream {
    pub(super) fn new(socket: Socket, session: Session, early: Chunk, negotiated: Negotiated) -> Self {
        Self {
            socket,
            session,
            early,
            plain: Chunk::default(),
            sealed: Chunk::default(),
            is_sending: false,
            is_closed: false,
            expects_end: false,
            fault: None,
            negotiated,
        }
    }

    #[cfg(test)]
    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Sends what no session of ours would.
    #[cfg(test)]
    pub(super) async fn send_raw(&mut self, bytes: Vec<u8>) {
        let mut chunk = Chunk::from(bytes);
        std::future::poll_fn(|cx| self.socket.poll_send(cx, &mut chunk)).await.unwrap();
    }

    /// Memory that it holds for bytes under way.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.session.held_bytes() + self.early.len() + self.plain.len() + self.sealed.len()
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        recv: fn(&mut Socket, &mut Context<'_>) -> Poll<io::Result<Chunk>>,
    ) -> Poll<io::Result<Chunk>> {
        while self.fault.is_none() {
            if self.session.is_ended() {
                return Poll::Ready(Ok(Chunk::default()));
            }
            let mut chunk = std::mem::take(&mut self.early);
            if chunk.is_empty() {
                chunk = ready!(recv(&mut self.socket, cx))?;
            }
            if chunk.is_empty() {
                let why = "the connection ended in the middle of its TLS session";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
            }
            let mut plain = Vec::new();
            let opened = chunk.parts().try_for_each(|part| self.session.open(part, &mut plain));
            if let Err(fault) = opened {
                self.handle_fault(fault);
            }
            if !plain.is_empty() {
                return Poll::Ready(Ok(Chunk::from(plain)));
            }
        }
        self.poll_fault(cx)
    }

    /// Prepares to tell the peer; nobody may be interrupted in the middle of a record for that.
    #[cold]
    fn handle_fault(&mut self, fault: Fault) {
        if let Some(alert) = fault.alert()
            && self.sealed.is_empty()
            && !self.is_closed
        {
            let mut sealed = Vec::new();
            if self.session.fail(alert, &mut sealed).is_ok() {
                self.sealed = Chunk::from(sealed);
                self.is_closed = true;
            }
        }
        self.fault = Some(fault);
    }

    fn poll_fault(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        let Some(fault) = self.fault.clone() else { return Poll::Ready(Ok(Chunk::default())) };
        // What is being sent is its sender's to finish.
        if self.is_closed && !self.is_sending && !self.sealed.is_empty() {
            // That the peer cannot be told makes nothing worse.
            let _ = ready!(self.socket.poll_send(cx, &mut self.sealed));
        }
        Poll::Ready(Err(fault.into()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        if !self.is_sending {
            if chunk.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.is_closed || self.fault.is_some() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.plain = chunk.lend();
            self.is_sending = true;
        }
        let sent = self.poll_send_plain(cx);
        if sent.is_pending() {
            // A slow reader must not hold one of the worker's buffers.
            self.plain.detach();
        } else {
            *chunk = Chunk::default();
            self.plain = Chunk::default();
            self.is_sending = false;
        }
        sent
    }

    /// Seals and sends what was lent, a few records at a time.
    fn poll_send_plain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.sealed.is_empty() {
                ready!(self.socket.poll_send(cx, &mut self.sealed))?;
            }
            if self.plain.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.fault.is_some() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let count = self.plain.len().min(SEAL_BYTES);
            let is_end = self.expects_end && count == self.plain.len();
            let records = count.div_ceil(PLAIN_BYTES) + usize::from(is_end);
            let mut sealed = Vec::with_capacity(count + ALERT_BYTES + records * OVERHEAD_BYTES);
            if let Err(fault) = self.session.seal(first(&self.plain, count), &mut sealed) {
                // What was sealed is lost, so nothing that follows could be read.
                self.is_closed = true;
                self.fault = Some(fault.clone());
                return Poll::Ready(Err(fault.into()));
            }
            self.plain.advance(count);
            if is_end {
                self.close(&mut sealed)?;
            }
            self.sealed = Chunk::from(sealed);
        }
    }

    fn expect_end(&mut self) {
        self.expects_end = true;
        self.socket.expect_end();
    }

    /// Seals what ends the session: why it failed, or close_notify.
    fn close(&mut self, sealed: &mut Vec<u8>) -> Result<(), Fault> {
        self.is_closed = true;
        match self.fault.as_ref().and_then(Fault::alert) {
            Some(alert) => self.session.fail(alert, sealed),
            None => self.session.close(sealed),
        }
    }

    fn poll_shutdown_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_closed {
            if self.is_sending {
                let why = "shutdown while a send is in flight would cut it off";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::ResourceBusy, why)));
            }
            let mut sealed = Vec::new();
            self.close(&mut sealed)?;
            self.sealed = Chunk::from(sealed);
        }
        if !self.sealed.is_empty() {
            ready!(self.socket.poll_send(cx, &mut self.sealed))?;
        }
        Poll::Ready(self.socket.shutdown_write())
    }
}

/// The first `count` bytes of a chunk, in its parts.
fn first(chunk: &Chunk, count: usize) -> impl Iterator<Item = &[u8]> {
    let mut left = count;
    chunk.parts().map_while(move |part| {
        let part = &part[..part.len().min(left)];
        left -= part.len();
        (!part.is_empty()).then_some(part)
    })
}
