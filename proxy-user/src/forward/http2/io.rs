//! The poll traits that `h2` reads and writes by, on a stream of the driver.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use proxy_core::http2::{Flood, FrameMeter};
use proxy_io::Chunk;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::Stream;
use crate::upstream::http2::Heard;

/// Bytes that are collected before they are sent without being asked: `h2` writes frame by frame and flushes at the end.
const COLLECTED_BYTES: usize = 64 << 10;

/// Room for what is collected, from the first byte: the frames of some requests, so that nothing is copied as they become more.
const COLLECTED_ROOM: usize = 4 << 10;

/// A stream as `h2` sees it: what is written is collected, and one send carries it when `h2` flushes.
pub struct H2Io {
    meter: Option<Rc<Meter>>,
    heard: Rc<Heard>,
    stream: Stream,
    received: Chunk,
    collected: Vec<u8>,
    sending: Chunk,
}

impl H2Io {
    /// Begins with what was received already.
    #[must_use]
    pub fn new(stream: Stream, received: Chunk) -> Self {
        let (meter, heard) = (None, Rc::default());
        Self { meter, heard, stream, received, collected: Vec::new(), sending: Chunk::default() }
    }

    /// Tells, later, whether the peer says anything.
    #[must_use]
    pub fn heard(&self) -> Rc<Heard> {
        Rc::clone(&self.heard)
    }

    /// Begins with what was received already, for a peer that is not trusted with more than it should send.
    #[must_use]
    pub fn metered(stream: Stream, received: Chunk, meter: Rc<Meter>) -> Self {
        Self { meter: Some(meter), ..Self::new(stream, received) }
    }

    /// Sends what was collected, all of it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.sending.is_empty() {
                ready!(self.stream.poll_send(cx, &mut self.sending))?;
            }
            if self.collected.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.sending = Chunk::from(std::mem::take(&mut self.collected));
        }
    }
}

/// What is known of the frames that a peer sends, and whether there are too many.
pub struct Meter {
    frames: RefCell<FrameMeter>,
    flood: Cell<Option<Flood>>,
}

impl Meter {
    /// Begins with a client's connection.
    #[must_use]
    pub fn of_client() -> Rc<Self> {
        let frames = RefCell::new(FrameMeter::of_client(Instant::now()));
        Rc::new(Self { frames, flood: Cell::new(None) })
    }

    /// What the peer sends too much of, if it does.
    #[must_use]
    pub fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    /// Takes note of a piece of a head or body that was sent to the peer.
    pub fn handle_sent(&self, bytes: usize) {
        self.frames.borrow_mut().handle_sent(bytes);
    }

    fn follow(&self, bytes: &[u8]) -> bool {
        if self.flood.get().is_none() {
            self.flood.set(self.frames.borrow_mut().follow(bytes, Instant::now()).err());
        }
        self.flood.get().is_none()
    }
}

impl AsyncRead for H2Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.received.is_empty() {
            this.received = ready!(this.stream.poll_recv(cx))?;
            this.heard.set();
        }
        // A bundle shows its first part.
        let first = &*this.received;
        let count = first.len().min(buf.remaining());
        if let Some(meter) = &this.meter
            && !meter.follow(&first[..count])
        {
            // Nothing more is read; whoever drives the connection ends it.
            return Poll::Pending;
        }
        buf.put_slice(&first[..count]);
        this.received.advance(count);
        // What is left waits for a peer that is not read fast enough: it must not hold one of the worker's buffers.
        this.received.detach();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_all(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_all(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.stream.poll_shutdown_write(cx)
    }
}

impl H2Io {
    fn poll_write_all(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.collected.len() >= COLLECTED_BYTES {
            ready!(self.poll_send(cx))?;
        }
        if self.collected.capacity() == 0 {
            self.collected.reserve(COLLECTED_ROOM);
        }
        bufs.iter().for_each(|buf| self.collected.extend_from_slice(buf));
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }
}
