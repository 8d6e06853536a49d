//! A client's connection: requests come, and each goes its own way.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use proxy_core::http::HttpLimits;
use proxy_core::http2::{Code, FieldList};
use proxy_io::Chunk;

use super::conn::{Conn, Leaving};
use super::error::End;
use super::io::Io;
use super::stream::Stream;
use crate::tls::{self, Count};

/// A client's connection.
pub struct ServerConnection {
    io: Io,
}

/// Begins a client's connection with what was received of it already; waits for its first settings.
///
/// # Errors
/// If what it says first is not HTTP/2, or the connection died.
pub async fn accept(
    stream: tls::Stream,
    received: Chunk,
    limits: &HttpLimits,
    count: Rc<dyn Count>,
) -> Result<ServerConnection, End> {
    let conn = Conn::of_client(limits, Instant::now());
    let mut connection = ServerConnection { io: Io::new(conn, stream, received, count) };
    poll_fn(|cx| connection.poll_begun(cx)).await?;
    Ok(connection)
}

impl ServerConnection {
    fn conn(&self) -> &RefCell<Conn> {
        &self.io.conn
    }

    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let (Poll::Ready(()) | Poll::Pending) = self.io.poll_receive(cx);
        if let Poll::Ready(end) = self.poll_flush(cx) {
            return Poll::Ready(Err(end));
        }
        let conn = self.conn().borrow();
        if conn.end.is_none() && conn.peer.is_greeted { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Streams are used from here on until [`ServerConnection::poll_flush`] is pending.
    pub fn begin_turn(&mut self) {
        self.conn().borrow_mut().begin_turn();
    }

    /// Waits for the next request; none comes any more once the connection has ended.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<(FieldList, Stream)>> {
        loop {
            if let Some(asked) = self.next() {
                return Poll::Ready(Some(asked));
            }
            if self.io.poll_receive(cx).is_ready() {
                return Poll::Ready(None);
            }
            if self.conn().borrow().asked.is_empty() {
                return Poll::Pending;
            }
        }
    }

    /// Sends what there is to send. Ready when the connection has ended, and the client knows.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let sent = self.io.poll_send(cx);
        let mut conn = self.conn().borrow_mut();
        if let Poll::Ready(Err(error)) = sent {
            conn.finish(End::Died(error.kind()));
        }
        if matches!(conn.leaving, Leaving::Behind(_)) && conn.streams.open() == 0 {
            conn.finish(End::Left);
        }
        conn.end_turn(cx);
        let end = conn.end;
        drop(conn);
        match end {
            Some(end @ End::Died(_)) => Poll::Ready(end),
            // What the connection dies of now says nothing more.
            Some(end) => self.io.poll_shutdown(cx).map(|_| end),
            None => Poll::Pending,
        }
    }

    /// How the connection ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.conn().borrow().end
    }

    /// The next request that its client has not given up.
    fn next(&mut self) -> Option<(FieldList, Stream)> {
        loop {
            let asked = self.conn().borrow_mut().asked.pop_front();
            let (key, request) = asked?;
            let stream = Stream::new(Rc::clone(&self.io.conn), key);
            let conn = self.conn().borrow();
            if conn.streams.all.get(key).is_some_and(|inner| inner.failure.is_none()) {
                return Some((request, stream));
            }
            drop(conn);
        }
    }

    /// Tells whether the session of TLS can carry little more.
    #[must_use]
    pub fn is_wearing(&self) -> bool {
        self.conn().borrow().is_wearing
    }

    /// Asks the client to begin no more requests; the connection ends when those under way are over.
    pub fn leave(&mut self) {
        self.conn().borrow_mut().leave();
    }

    /// Ends the connection with all its streams, and tells the client why, if it takes it at once.
    pub fn give_up(&mut self, cx: &mut Context<'_>, code: Code) {
        self.conn().borrow_mut().give_up(End::GivenUp(code), code);
        // Nobody waits for that.
        let (Poll::Ready(_) | Poll::Pending) = self.io.poll_shutdown(cx);
    }

    /// Asks the client whether it is there.
    pub fn ping(&mut self) {
        self.conn().borrow_mut().ping();
    }

    /// Whether the client said anything since the last look.
    pub fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.conn().borrow_mut().is_heard)
    }

    /// Bytes that wait for room in the windows of streams that nobody has any more.
    #[must_use]
    pub fn left_bytes(&self) -> usize {
        self.conn().borrow().left_bytes()
    }
}
