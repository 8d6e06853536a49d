//! One stream, for whoever asks or answers on it.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use proxy_core::http2::{Code, FieldList};

use super::conn::Conn;
use super::error::Error;
use super::streams::{DATA, Inner, RESET, ROOM};

/// What comes next of a body.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes, and whether they are the last.
    Data(Bytes, bool),
    /// The end, with fields behind the body.
    Trailers(FieldList),
    /// The end.
    End,
}

/// A stream. It has one owner, who is woken for whatever it polled for; dropped before its end it is reset, and what was given
/// before still goes out.
pub struct Stream {
    conn: Rc<RefCell<Conn>>,
    key: usize,
}

impl Stream {
    pub(super) fn new(conn: Rc<RefCell<Conn>>, key: usize) -> Self {
        Self { conn, key }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> Option<T> {
        self.conn.borrow_mut().streams.all.get_mut(self.key).map(look)
    }

    /// Waits for the head of the answer, or of what comes before it (1xx).
    ///
    /// # Errors
    /// If there is none to come.
    pub fn poll_response(&mut self, cx: &Context<'_>) -> Poll<Result<FieldList, Error>> {
        let found = self.with(|inner| match (inner.responses.pop_front(), inner.failure) {
            (Some(head), _) => {
                if inner.responses.is_empty() {
                    inner.responses = std::collections::VecDeque::new();
                }
                Poll::Ready(Ok(head))
            }
            (None, Some(error)) => Poll::Ready(Err(error)),
            (None, None) => {
                inner.wait(DATA, cx);
                Poll::Pending
            }
        });
        found.unwrap_or(Poll::Ready(Err(Error::Ended(Code::NO_ERROR))))
    }

    /// Tells whether no body is to come, and nothing behind it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let has_ended = |inner: &mut Inner| {
            inner.has_received_all && inner.received.is_empty() && inner.trailers.is_none()
        };
        self.with(has_ended).unwrap_or(true)
    }

    /// Takes the next piece of the body. The peer may send as much again as the one before had only now, when that is on its way.
    ///
    /// # Errors
    /// If the stream is over before its end; what came before is given first.
    pub fn poll_take(&mut self, cx: &Context<'_>) -> Poll<Result<Piece, Error>> {
        let mut conn = self.conn.borrow_mut();
        conn.release_of(self.key);
        let Some(inner) = conn.streams.all.get_mut(self.key) else { return Poll::Ready(Ok(Piece::End)) };
        if !inner.received.is_empty() {
            let data = std::mem::take(&mut inner.received);
            inner.taken += u32::try_from(data.len()).unwrap_or(0);
            let is_last = inner.has_received_all && inner.trailers.is_none();
            return Poll::Ready(Ok(Piece::Data(data.into(), is_last)));
        }
        if inner.has_received_all {
            let trailers = inner.trailers.take();
            return Poll::Ready(Ok(trailers.map_or(Piece::End, |trailers| Piece::Trailers(*trailers))));
        }
        if let Some(error) = inner.failure {
            return Poll::Ready(Err(error));
        }
        inner.wait(DATA, cx);
        Poll::Pending
    }

    /// Answers with a head; one of 1xx is followed by another.
    ///
    /// # Errors
    /// If the stream is over.
    pub fn respond(&mut self, head: &FieldList, has_ended: bool) -> Result<(), Error> {
        self.conn.borrow_mut().respond(self.key, head, has_ended)
    }

    /// Sends a piece of a body. Only after [`Stream::poll_sent`] was ready, or once: what has no room waits. Behind the last one
    /// nothing is sent.
    ///
    /// # Errors
    /// If the stream is over.
    pub fn give(&mut self, piece: Piece) -> Result<(), Error> {
        self.conn.borrow_mut().give(self.key, piece)
    }

    /// Waits until what was given is on its way, and so there is room for more.
    ///
    /// # Errors
    /// If the peer takes no more.
    pub fn poll_sent(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let found = self.with(|inner| {
            if inner.has_sent_all {
                return Poll::Ready(Ok(()));
            }
            match inner.failure {
                Some(error) => Poll::Ready(Err(error)),
                None if inner.pending.is_empty() => Poll::Ready(Ok(())),
                None => {
                    inner.wait(ROOM, cx);
                    Poll::Pending
                }
            }
        });
        found.unwrap_or(Poll::Ready(Ok(())))
    }

    /// Gives the stream up.
    pub fn reset(&mut self, code: Code) {
        self.conn.borrow_mut().reset(self.key, code);
    }

    /// Waits until the stream is over before its end.
    pub fn poll_reset(&mut self, cx: &Context<'_>) -> Poll<Error> {
        let found = self.with(|inner| match inner.failure {
            Some(error) => Poll::Ready(error),
            None => {
                inner.wait(RESET, cx);
                Poll::Pending
            }
        });
        found.unwrap_or(Poll::Pending)
    }

    /// Bytes that are held for it.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let held = |inner: &mut Inner| {
            inner.received.len() + inner.pending.len() + usize::try_from(inner.taken).unwrap_or(0)
        };
        self.with(held).unwrap_or(0)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.conn.borrow_mut().drop_stream(self.key);
    }
}
