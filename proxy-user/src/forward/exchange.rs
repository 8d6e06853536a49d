//! One request and its answer, on their way between a client and an endpoint.
//!
//! ```text
//!   client ──head, body──> [upload]  ──> endpoint
//!   client <──head, body── [download] <── endpoint      both at once: an answer may come before the request is complete
//! ```
//!
//! Nothing is received that cannot be passed on: a slow reader holds its sender back and not our memory.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use proxy_core::outcome::Reason;
use proxy_io::Chunk;
use tokio::time::Sleep;

use super::http1::{Body, Fault, Scan};
use super::l4::Watch;
use super::wire::{HeadBound, NoHead, Wire};

/// Pieces of a body that move before others get their turn; 64 KiB each where there is much of it.
pub(super) const TURN_PIECES: u32 = 8;

/// What ends an exchange before its time.
#[derive(Debug)]
pub enum Trouble {
    /// The client is gone.
    ClientDied(io::Error),
    /// The client ended its stream within the body.
    ClientCut,
    /// The client's body is malformed or too large.
    ClientFault(Fault),
    /// The endpoint's connection died, or could not be written to.
    UpstreamDied(io::Error),
    /// The endpoint did not answer when it was asked whether it is still there.
    UpstreamSilent,
    /// The endpoint ended its stream; before the first byte of an answer if there was none.
    UpstreamEnded {
        /// There was a part of an answer.
        has_begun: bool,
    },
    /// The endpoint has said that it did nothing with the request: a refused stream, or one beyond the last that it took up
    /// (RFC 9113, 8.7).
    UpstreamRefused {
        /// It takes no more requests on this connection.
        is_leaving: bool,
    },
    /// The endpoint's answer is malformed or too large.
    UpstreamFault(Fault),
    /// The time is over.
    Timeout,
    /// The owner wants it to end.
    Killed(Reason),
}

impl From<NoHead> for Trouble {
    /// What it means that an endpoint sent no head.
    fn from(no: NoHead) -> Self {
        match no {
            // A FIN came in order, whatever became of what was sent: a reset behind it only answers that.
            NoHead::Ended => Self::UpstreamEnded { has_begun: false },
            NoHead::Cut => Self::UpstreamEnded { has_begun: true },
            NoHead::Fault(fault) => Self::UpstreamFault(fault),
            NoHead::Died(error) => Self::UpstreamDied(error),
        }
    }
}

/// The request's way to the endpoint.
pub struct Upload {
    /// On its way: the head first.
    out: Chunk,
    body: Body,
    /// Bytes of the body so far.
    pub bytes: u64,
    most_bytes: u64,
    /// Everything is sent, or cannot be.
    is_over: bool,
    /// The endpoint takes no more: it may have answered early.
    is_refused: bool,
}

impl Upload {
    /// Begins with the head and what is there of the body.
    #[must_use]
    pub fn new(out: Chunk, body: Body, body_bytes: u64, most_bytes: u64) -> Self {
        Self { out, body, bytes: body_bytes, most_bytes, is_over: false, is_refused: false }
    }

    /// Tells whether the whole request is with the kernel.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.is_over && !self.is_refused
    }

    fn poll<W: Watch>(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Wire,
        up: &mut Wire,
        watch: &W,
    ) -> Poll<Result<(), Trouble>> {
        for _ in 0..TURN_PIECES {
            if ready!(up.stream.poll_send(cx, &mut self.out)).is_err() {
                // What was answered before counts; who reads it tells how it ended.
                self.is_refused = true;
                self.is_over = true;
                return Poll::Ready(Ok(()));
            }
            if self.body.is_done() {
                self.is_over = true;
                return Poll::Ready(Ok(()));
            }
            if down.chunk.is_empty() && !ready!(down.poll_more(cx, watch)).map_err(Trouble::ClientDied)? {
                return Poll::Ready(Err(Trouble::ClientCut));
            }
            self.out = self.body.split(&mut down.chunk).map_err(Trouble::ClientFault)?;
            self.bytes += self.out.len() as u64;
            if self.bytes > self.most_bytes {
                return Poll::Ready(Err(Trouble::ClientFault(Fault::BodyTooLarge)));
            }
            watch.handle_progress();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The answer's way to the client.
pub struct Download {
    /// On its way: the head first.
    out: Chunk,
    body: Body,
    /// The client must not see chunks: it speaks HTTP/1.0.
    is_unwrapped: bool,
    /// The client's connection ends with it.
    is_last: bool,
    /// Bytes of the body so far.
    pub bytes: u64,
    most_bytes: u64,
}

impl Download {
    /// Begins with a head.
    #[must_use]
    pub fn new(head: Vec<u8>, body: Body, is_unwrapped: bool, most_bytes: u64) -> Self {
        Self { out: Chunk::from(head), body, is_unwrapped, is_last: false, bytes: 0, most_bytes }
    }

    /// Says whether the client's connection ends with it, at once.
    #[must_use]
    pub fn ending(self, is_last: bool) -> Self {
        Self { is_last, ..self }
    }

    /// Takes up what is there of the body already, so that one send carries it with the head.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn take_early(&mut self, up: &mut Wire) -> Result<(), Fault> {
        if up.chunk.is_empty() || self.body.is_done() {
            return Ok(());
        }
        let piece = self.piece(&mut up.chunk)?;
        self.out = Chunk::join(std::mem::take(&mut self.out), piece);
        Ok(())
    }

    fn piece(&mut self, chunk: &mut Chunk) -> Result<Chunk, Fault> {
        let piece = match &mut self.body {
            Body::Chunked(chunked) if self.is_unwrapped => {
                chunk.flatten();
                let mut data = Vec::with_capacity(chunk.len());
                let used = chunked.take(chunk, |bytes| data.extend_from_slice(bytes))?;
                chunk.advance(used);
                Chunk::from(data)
            }
            body => body.split(chunk)?,
        };
        self.bytes += piece.len() as u64;
        if self.bytes > self.most_bytes { Err(Fault::BodyTooLarge) } else { Ok(piece) }
    }

    fn poll<W: Watch>(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Wire,
        up: &mut Wire,
        watch: &W,
    ) -> Poll<Result<(), Trouble>> {
        for _ in 0..TURN_PIECES {
            if self.is_last && self.body.is_done() {
                down.stream.expect_end();
            }
            ready!(down.poll_send(cx, &mut self.out, watch)).map_err(Trouble::ClientDied)?;
            if self.body.is_done() {
                return Poll::Ready(Ok(()));
            }
            if up.chunk.is_empty() && !ready!(up.poll_more(cx, &())).map_err(Trouble::UpstreamDied)? {
                let is_complete = matches!(self.body, Body::UntilClose);
                let cut = Err(Trouble::UpstreamEnded { has_begun: true });
                return Poll::Ready(if is_complete { Ok(()) } else { cut });
            }
            self.out = self.piece(&mut up.chunk).map_err(Trouble::UpstreamFault)?;
            watch.handle_progress();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A request under way to one endpoint.
pub struct Exchange<'a, W> {
    /// The client's side.
    pub down: &'a mut Wire,
    /// The endpoint's side.
    pub up: &'a mut Wire,
    /// The request.
    pub upload: Upload,
    /// Whom to tell and to obey.
    pub watch: &'a W,
    /// When it has to be over.
    pub deadline: Option<Pin<Box<Sleep>>>,
}

impl<W: Watch> Exchange<'_, W> {
    /// Sends the request and waits for the head of an answer, which stands at the beginning of `up.chunk` then; gives its
    /// length.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn head(&mut self, scan: &mut Scan, bound: HeadBound) -> Result<usize, Trouble> {
        poll_fn(|cx| {
            self.poll_end(cx)?;
            if self.poll_upload(cx)? {
                self.watch.handle_sent();
            }
            match self.up.poll_head(cx, scan, bound, &()) {
                Poll::Ready(Ok(bytes)) => Poll::Ready(Ok(bytes)),
                Poll::Ready(Err(no)) => Poll::Ready(Err(no.into())),
                Poll::Pending => self.poll_client(cx),
            }
        })
        .await
    }

    /// Notices a client that is gone while an answer is awaited. What it sends meanwhile is its next request and waits.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Trouble>> {
        if self.upload.is_over && self.down.chunk.is_empty() && !self.down.is_ended {
            let _ = ready!(self.down.poll_more(cx, self.watch)).map_err(Trouble::ClientDied)?;
            self.down.chunk.detach();
        }
        Poll::Pending
    }

    /// Sends an answer to its end, and what is left of the request meanwhile.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn answer(&mut self, download: &mut Download) -> Result<(), Trouble> {
        poll_fn(|cx| {
            self.poll_end(cx)?;
            self.poll_upload(cx)?;
            download.poll(cx, self.down, self.up, self.watch)
        })
        .await
    }

    /// Moves what is left of the request; says whether that was its end.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<bool, Trouble> {
        if self.upload.is_over {
            return Ok(false);
        }
        match self.upload.poll(cx, self.down, self.up, self.watch) {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Result<(), Trouble> {
        if let Some(reason) = self.watch.poll_kill(cx) {
            return Err(Trouble::Killed(reason));
        }
        if self.watch.wants_weight() {
            self.watch.set_weight(self.down.weight() + self.up.weight() + self.upload.out.len() as u64);
        }
        let is_late = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if is_late { Err(Trouble::Timeout) } else { Ok(()) }
    }
}
