//! A connection to an endpoint: requests are begun on it, as many at a time as both sides allow.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use proxy_core::http::HttpLimits;
use proxy_core::http2::{Code, Edit, FieldList};
use proxy_io::Chunk;

use super::conn::Conn;
use super::error::{End, Error};
use super::io::Io;
use super::stream::Stream;
use crate::tls;

/// A connection to an endpoint that was begun.
pub struct Begun {
    /// Begins requests.
    pub sender: Sender,
    /// To be driven by somebody.
    pub driving: Driving,
}

/// Begins a connection to an endpoint.
#[must_use]
pub fn connect(stream: tls::Stream, limits: &HttpLimits) -> Begun {
    let io = Io::new(Conn::of_endpoint(limits), stream, Chunk::default(), Rc::new(()));
    Begun { sender: Sender { conn: Rc::clone(&io.conn) }, driving: Driving { io } }
}

/// Begins requests.
pub struct Sender {
    conn: Rc<RefCell<Conn>>,
}

impl Sender {
    /// Begins a request, edited; one that `has_ended` has no body. If the endpoint has no room for it now, it waits.
    ///
    /// # Errors
    /// If the connection is over, or its endpoint goes away: nothing was sent.
    pub fn begin(&self, request: &FieldList, edits: &[Edit<'_>], has_ended: bool) -> Result<Stream, Error> {
        let key = self.conn.borrow_mut().begin(request, edits, has_ended)?;
        Ok(Stream::new(Rc::clone(&self.conn), key))
    }

    /// Streams that both sides allow at a time.
    #[must_use]
    pub fn most_streams(&self) -> usize {
        usize::try_from(self.conn.borrow().most_streams()).unwrap_or(usize::MAX)
    }

    /// Tells whether the endpoint takes no more requests, or should get none.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        let conn = self.conn.borrow();
        conn.goaway.is_some() || conn.end.is_some() || conn.is_wearing
    }

    /// Tells whether the endpoint lets a stream become a tunnel of a protocol (RFC 8441, 3); waits until that is known.
    pub async fn takes_protocols(&self) -> bool {
        poll_fn(|cx| {
            let mut conn = self.conn.borrow_mut();
            if conn.peer.is_greeted || conn.end.is_some() {
                return Poll::Ready(conn.peer.takes_protocols);
            }
            conn.greeted.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Tells whether the connection was ended because its endpoint said a head that is too long.
    #[must_use]
    pub fn is_head_too_long(&self) -> bool {
        self.conn.borrow().end == Some(End::HeadTooLong)
    }

    /// Asks the endpoint whether it is there.
    pub fn ping(&self) {
        self.conn.borrow_mut().ping();
    }

    /// Whether the endpoint said anything since the last look.
    #[must_use]
    pub fn take_heard(&self) -> bool {
        std::mem::take(&mut self.conn.borrow_mut().is_heard)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut conn = self.conn.borrow_mut();
        conn.is_left = true;
        conn.wake();
    }
}

/// Moves a connection's bytes until it is over: its endpoint went away, nobody has a way to ask any more, or it died. Dropped before,
/// it ends the connection at once.
pub struct Driving {
    io: Io,
}

impl Future for Driving {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let io = &mut self.io;
        io.conn.borrow_mut().begin_turn();
        let (Poll::Ready(()) | Poll::Pending) = io.poll_receive(cx);
        let sent = io.poll_send(cx);
        let mut conn = io.conn.borrow_mut();
        if let Poll::Ready(Err(error)) = &sent {
            conn.finish(End::Died(error.kind()));
        }
        if conn.end.is_none() && conn.streams.all.is_empty() {
            match conn.goaway {
                Some((_, code)) => conn.finish(End::GoAway(code)),
                None if conn.is_left => conn.finish(End::Left),
                None => {}
            }
        }
        match conn.end {
            // What was said last may be the end of a request that is answered already.
            Some(end) if sent.is_ready() => {
                drop(conn);
                let (Poll::Ready(_) | Poll::Pending) = io.poll_shutdown(cx);
                Poll::Ready(end)
            }
            _ => {
                conn.end_turn(cx);
                Poll::Pending
            }
        }
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.io.conn.borrow_mut().finish(End::GivenUp(Code::NO_ERROR));
    }
}
