//! Moves a connection's bytes: what is collected to the peer, what comes from it into the connection.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use proxy_io::Chunk;

use super::MOST_COLLECTED_BYTES;
use super::conn::Conn;
use super::error::End;
use crate::tls::{Count, Stream};

/// Chunks that are taken in a row before others get their turn; 64 KiB each where there is much to receive.
const TURN_CHUNKS: usize = 4;

/// A connection and its stream of bytes.
pub(super) struct Io {
    pub(super) conn: Rc<RefCell<Conn>>,
    stream: Stream,
    /// Received before the connection began.
    received: Chunk,
    sending: Chunk,
    count: Rc<dyn Count>,
    /// Nothing is received until what is collected is sent.
    is_paused: bool,
    is_shut: bool,
}

impl Io {
    pub(super) fn new(conn: Conn, stream: Stream, received: Chunk, count: Rc<dyn Count>) -> Self {
        let conn = Rc::new(RefCell::new(conn));
        Self { conn, stream, received, sending: Chunk::default(), count, is_paused: false, is_shut: false }
    }

    /// Sends all that is collected, and what has room behind it.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.sending.is_empty() {
                ready!(self.stream.poll_send_counted(cx, &mut self.sending, &*self.count))?;
            }
            let mut conn = self.conn.borrow_mut();
            conn.push_queued();
            conn.is_wearing = self.stream.is_wearing();
            if conn.out.is_empty() {
                if std::mem::take(&mut self.is_paused) {
                    cx.waker().wake_by_ref();
                }
                return Poll::Ready(Ok(()));
            }
            self.sending = Chunk::from(conn.take_out());
        }
    }

    /// Receives for as long as there is something and the connection takes it; ready when it has reached its end.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURN_CHUNKS {
            let mut chunk = std::mem::take(&mut self.received);
            if chunk.is_empty() {
                let conn = self.conn.borrow();
                if conn.end.is_some() {
                    return Poll::Ready(());
                }
                if conn.out.len() > MOST_COLLECTED_BYTES {
                    self.is_paused = true;
                    return Poll::Pending;
                }
                drop(conn);
                match ready!(self.stream.poll_recv_bundle(cx)) {
                    Ok(more) if more.is_empty() => self.conn.borrow_mut().handle_eof(),
                    Ok(more) => {
                        self.count.count(more.len(), 0);
                        chunk = more;
                    }
                    Err(error) => self.conn.borrow_mut().finish(End::Died(error.kind())),
                }
            }
            let now = Instant::now();
            let mut conn = self.conn.borrow_mut();
            chunk.parts().for_each(|part| conn.receive(part, now));
            if !conn.asked.is_empty() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends what is left, and that nothing follows.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        if !self.is_shut {
            ready!(self.stream.poll_shutdown_write(cx))?;
            self.is_shut = true;
        }
        Poll::Ready(Ok(()))
    }
}
