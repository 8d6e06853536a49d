//! The poll traits that `h2` reads and writes by, on a stream of the driver.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use proxy_core::http2::{BlockMeter, Breach, Fault, Flood, FrameMeter, HeadBounds, PREFACE_BYTES};
use proxy_io::Chunk;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::forward::wire::{self, Count};
use crate::tls::Stream;
use crate::upstream::http2::Heard;

/// Bytes that are collected before they are sent without being asked: `h2` writes frame by frame and flushes at the end.
const COLLECTED_BYTES: usize = 64 << 10;
/// Length, type, flags and stream of a frame (RFC 9113, 4.1).
const FRAME_HEAD_BYTES: usize = 9;
/// A GOAWAY without more than it must have, and what it begins with (RFC 9113, 6.8).
const GOAWAY_BYTES: usize = FRAME_HEAD_BYTES + 8;
const GOAWAY_HEAD: [u8; FRAME_HEAD_BYTES] = [0, 0, 8, 7, 0, 0, 0, 0, 0];

/// What a client says before its settings (RFC 9113, 3.4), the type of that frame, and the begin of one setting.
const PREFACE: &[u8; PREFACE_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const SETTING_BYTES: usize = 6;
const MAX_HEADER_LIST_SIZE: [u8; 2] = [0, 6];

/// Room for what is collected, from the first byte: the frames of some requests, so that nothing is copied as they become more.
const COLLECTED_ROOM: usize = 4 << 10;

/// A stream as `h2` sees it: what is written is collected, and one send carries it when `h2` flushes.
pub struct H2Io {
    meter: Option<Rc<Meter>>,
    heard: Rc<Heard>,
    stream: Stream,
    /// Who counts a client's bytes.
    count: Option<Rc<dyn Count>>,
    blocks: BlockMeter,
    /// What settings are still to say of heads.
    head_bytes: Option<u32>,
    received: Chunk,
    collected: Vec<u8>,
    /// What is collected may begin within a frame.
    is_split: bool,
    sending: Chunk,
}

impl H2Io {
    /// Begins with an endpoint.
    #[must_use]
    pub fn of_endpoint(stream: Stream, bounds: HeadBounds) -> Self {
        Self::new(stream, Chunk::default(), bounds, 0)
    }

    fn new(stream: Stream, received: Chunk, bounds: HeadBounds, preface_bytes: usize) -> Self {
        Self {
            meter: None,
            heard: Rc::default(),
            stream,
            count: None,
            blocks: BlockMeter::new(bounds, preface_bytes),
            head_bytes: Some(bounds.list_bytes),
            received,
            collected: Vec::new(),
            is_split: false,
            sending: Chunk::default(),
        }
    }

    /// Tells, later, whether the peer says anything.
    #[must_use]
    pub fn heard(&self) -> Rc<Heard> {
        Rc::clone(&self.heard)
    }

    /// Begins with what was received, and counted, already: for a client, which is not trusted with more than it should send.
    #[must_use]
    pub fn of_client(
        stream: Stream,
        received: Chunk,
        bounds: HeadBounds,
        meter: Rc<Meter>,
        count: Rc<dyn Count>,
    ) -> Self {
        Self { meter: Some(meter), count: Some(count), ..Self::new(stream, received, bounds, PREFACE_BYTES) }
    }

    /// Sends what was collected, all of it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.sending.is_empty() {
                let (stream, sending) = (&mut self.stream, &mut self.sending);
                ready!(match &self.count {
                    Some(count) => wire::poll_send(stream, cx, sending, &**count),
                    None => stream.poll_send(cx, sending),
                })?;
            }
            if self.collected.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.sending = Chunk::from(std::mem::take(&mut self.collected));
        }
    }

    /// Says in the first settings what of heads is allowed, and not what `h2` is told ([`HeadBounds`]).
    fn correct_settings(&mut self) {
        let Some(head_bytes) = self.head_bytes else { return };
        let frames = match self.collected.strip_prefix(PREFACE) {
            Some(frames) => self.collected.len() - frames.len(),
            None => 0,
        };
        let Some([a, b, c, SETTINGS, ..]) = self.collected.get(frames..) else { return };
        let length_bytes = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap_or(0);
        let settings = self.collected[frames + FRAME_HEAD_BYTES..].chunks_exact_mut(SETTING_BYTES);
        for setting in settings.take(length_bytes / SETTING_BYTES) {
            if setting.starts_with(&MAX_HEADER_LIST_SIZE) {
                setting[2..].copy_from_slice(&head_bytes.to_be_bytes());
            }
        }
        self.head_bytes = None;
    }

    /// Gives the GOAWAY by which `h2` ends a connection the error code of RFC 9113: it says PROTOCOL_ERROR for what it cannot
    /// decompress, too. Only at the end of what is collected, when that ends with a frame.
    fn correct_goaway(&mut self) {
        // What the meter found has its code already.
        let is_unnamed = |meter: &&Rc<Meter>| meter.fault().is_none() && !self.is_split;
        let Some(meter) = self.meter.as_ref().filter(is_unnamed) else { return };
        let code_of_h2 = u32::from(h2::Reason::PROTOCOL_ERROR).to_be_bytes();
        let Some(at) = self.collected.len().checked_sub(GOAWAY_BYTES) else { return };
        let is_like_one =
            self.collected.ends_with(&code_of_h2) && self.collected[at..].starts_with(&GOAWAY_HEAD);
        // A body may end with the same bytes.
        if is_like_one && is_frame_at(&self.collected, at) {
            let breach = meter.breach();
            meter.fault.set(Some(breach.into()));
            let code = self.collected.len() - code_of_h2.len();
            self.collected[code..].copy_from_slice(&breach.code().to_be_bytes());
        }
    }
}

/// Tells whether a frame begins somewhere in bytes that begin with a frame.
fn is_frame_at(mut frames: &[u8], at: usize) -> bool {
    let end = frames.len() - at;
    while frames.len() > end {
        let [a, b, c, ..] = frames else { return false };
        let length_bytes = u32::from_be_bytes([0, *a, *b, *c]);
        let frame_bytes = usize::try_from(length_bytes).map_or(usize::MAX, |bytes| bytes + FRAME_HEAD_BYTES);
        frames = frames.get(frame_bytes..).unwrap_or_default();
    }
    frames.len() == end
}

/// What is known of the frames that a peer sends, and whether there are too many, or wrong ones.
pub struct Meter {
    frames: RefCell<FrameMeter>,
    fault: Cell<Option<Fault>>,
    /// Bytes that wait to be sent on streams whose calls are over.
    left: Rc<Cell<usize>>,
}

impl Meter {
    /// Begins with a client's connection.
    #[must_use]
    pub fn of_client() -> Rc<Self> {
        let frames = RefCell::new(FrameMeter::of_client(Instant::now()));
        Rc::new(Self { frames, fault: Cell::new(None), left: Rc::default() })
    }

    /// Why the connection is to be ended, or was, if the peer is to blame.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    /// Bytes that wait to be sent on streams whose calls are over.
    #[must_use]
    pub fn left(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.left)
    }

    /// Takes note of a piece of a head or body that was sent to the peer.
    pub fn handle_sent(&self, bytes: usize) {
        self.frames.borrow_mut().handle_sent(bytes);
    }

    fn follow(&self, bytes: &[u8], is_long: bool) -> bool {
        if self.fault.get().is_none() {
            let too_long = is_long.then_some(Fault::Flood(Flood::Continuation));
            self.fault.set(self.frames.borrow_mut().follow(bytes, Instant::now()).err().or(too_long));
        }
        self.fault.get().is_none()
    }

    /// What `h2` means that calls it PROTOCOL_ERROR.
    fn breach(&self) -> Breach {
        self.frames.borrow().breach()
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
            if let Some(count) = &this.count {
                count.count(this.received.len(), 0);
            }
            this.heard.set();
        }
        // A bundle shows its first part.
        let first = &*this.received;
        let count = first.len().min(buf.remaining());
        let is_long = this.blocks.follow(&first[..count]).is_err();
        match &this.meter {
            Some(meter) if meter.follow(&first[..count], is_long) => {}
            // Nothing more is read; whoever drives the connection ends it.
            Some(_) => return Poll::Pending,
            None if is_long => {
                this.heard.set_too_long();
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a head is too long")));
            }
            None => {}
        }
        this.heard.follow(&first[..count]);
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

    /// `h2` flushes between two frames only.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.correct_settings();
        self.correct_goaway();
        ready!(self.poll_send(cx))?;
        self.is_split = false;
        Poll::Ready(Ok(()))
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
            self.is_split = true;
        }
        if self.collected.capacity() == 0 {
            self.collected.reserve(COLLECTED_ROOM);
        }
        bufs.iter().for_each(|buf| self.collected.extend_from_slice(buf));
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goaway_is_told_from_a_body_that_looks_like_one() {
        let goaway = [&GOAWAY_HEAD[..], &[0, 0, 0, 7, 0, 0, 0, 1]].concat();
        let data = [&[0, 0, 17, 0, 1, 0, 0, 0, 1], &goaway[..]].concat();
        assert!(is_frame_at(&goaway, 0));
        assert!(!is_frame_at(&data, FRAME_HEAD_BYTES));
        let both = [&data[..], &goaway].concat();
        assert!(is_frame_at(&both, data.len()));
    }
}
