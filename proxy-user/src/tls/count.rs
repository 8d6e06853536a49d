//! Who counts what goes over a stream.

use std::io;
use std::task::{Context, Poll};

use proxy_io::Chunk;

use super::stream::Stream;

/// Who counts the bytes of a client's connection, as they are inside TLS: those that came from the client, and those that the kernel
/// took for it.
pub trait Count {
    /// So many more, from the client and for it.
    fn count(&self, _sent_bytes: usize, _received_bytes: usize) {}
}

/// Nobody: an endpoint's connection, or one that nobody is known to carry yet.
impl Count for () {}

impl Stream {
    /// Sends all of `chunk`, as [`Stream::poll_send`] does, and counts it as it goes.
    ///
    /// # Errors
    /// What the connection died of.
    pub fn poll_send_counted(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Chunk,
        count: &(impl Count + ?Sized),
    ) -> Poll<io::Result<()>> {
        let before = chunk.len();
        let sent = self.poll_send(cx, chunk);
        if !matches!(sent, Poll::Ready(Err(_))) {
            // A chunk that is lent keeps its length until all of it was taken.
            count.count(0, before - chunk.len());
        }
        sent
    }
}
