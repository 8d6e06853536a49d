//! A stream that keeps a pace.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use proxy_io::Chunk;

use super::stream::Stream;
use crate::pace::Pacer;

/// A stream that moves bytes when its [`Pacer`] lets it.
pub struct Paced {
    pub(super) stream: Stream,
    pub(super) pacer: Rc<Pacer>,
    /// A send is under way, and is accounted for.
    is_sending: bool,
}

impl Paced {
    pub(super) fn new(stream: Stream, pacer: Rc<Pacer>) -> Self {
        Self { stream, pacer, is_sending: false }
    }

    pub(super) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        recv: fn(&mut Stream, &mut Context<'_>) -> Poll<io::Result<Chunk>>,
    ) -> Poll<io::Result<Chunk>> {
        ready!(self.pacer.poll_room(cx));
        let received = ready!(recv(&mut self.stream, cx));
        self.pacer.handle_moved(received.as_ref().map_or(0, Chunk::len));
        Poll::Ready(received)
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        if !self.is_sending && !chunk.is_empty() {
            if self.pacer.poll_room(cx).is_pending() {
                // What waits for its turn must not hold one of the worker's buffers.
                chunk.detach();
                return Poll::Pending;
            }
            self.pacer.handle_moved(chunk.len());
            self.is_sending = true;
        }
        ready!(self.stream.poll_send(cx, chunk))?;
        self.is_sending = false;
        Poll::Ready(Ok(()))
    }
}
