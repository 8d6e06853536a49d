//! One side of an HTTP/1.1 connection: its stream, and what was received of it and is not used yet.

use std::io;
use std::task::{Context, Poll, ready};

use proxy_io::Chunk;

use super::http1::{Fault, Scan};
use crate::tls::{Count, Stream};

/// A side.
pub struct Wire {
    /// Where bytes come from and go to.
    pub stream: Stream,
    /// Received and not used yet. Begins with a message, or with the part of a body that is next.
    pub chunk: Chunk,
    /// The peer sends nothing more.
    pub is_ended: bool,
}

/// Bounds on a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadBound {
    /// Bytes.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
}

/// Why there is no head.
#[derive(Debug)]
pub enum NoHead {
    /// The stream ended before its first byte.
    Ended,
    /// The stream ended within it.
    Cut,
    /// It is none.
    Fault(Fault),
    /// The connection died.
    Died(io::Error),
}

impl Wire {
    /// Begins with what was received already.
    #[must_use]
    pub fn new(stream: Stream, chunk: Chunk) -> Self {
        Self { stream, chunk, is_ended: false }
    }

    /// Bytes that are held of it: received and not used yet, and in the kernel.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.chunk.len() as u64 + self.stream.queued_memory()
    }

    /// Receives more behind what is there. Says whether there was more: not at the end of the stream.
    ///
    /// # Errors
    /// What the connection died of.
    pub fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        count: &(impl Count + ?Sized),
    ) -> Poll<io::Result<bool>> {
        if self.is_ended {
            return Poll::Ready(Ok(false));
        }
        // Whoever waits must not hold one of the worker's buffers.
        self.chunk.detach();
        let more = ready!(self.stream.poll_recv_bundle(cx))?;
        self.is_ended = more.is_empty();
        count.count(more.len(), 0);
        if self.chunk.is_empty() {
            self.chunk = more;
        } else {
            more.parts().for_each(|part| self.chunk.append(part));
        }
        Poll::Ready(Ok(!self.is_ended))
    }

    /// Sends all of `chunk`, as [`Stream::poll_send`] does.
    ///
    /// # Errors
    /// What the connection died of.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Chunk,
        count: &(impl Count + ?Sized),
    ) -> Poll<io::Result<()>> {
        self.stream.poll_send_counted(cx, chunk, count)
    }

    /// Receives a head; gives its length. It stands at the beginning of [`Wire::chunk`] then, in one piece.
    ///
    /// # Errors
    /// See [`NoHead`]; what was received stays.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        scan: &mut Scan,
        bound: HeadBound,
        count: &(impl Count + ?Sized),
    ) -> Poll<Result<usize, NoHead>> {
        loop {
            match self.head(scan, bound) {
                Err(fault) => return Poll::Ready(Err(NoHead::Fault(fault))),
                Ok(Some(bytes)) => return Poll::Ready(Ok(bytes)),
                Ok(None) => {}
            }
            if !ready!(self.poll_more(cx, count)).map_err(NoHead::Died)? {
                let nothing = if self.chunk.is_empty() { NoHead::Ended } else { NoHead::Cut };
                return Poll::Ready(Err(nothing));
            }
        }
    }

    /// Looks for a head in what is there.
    ///
    /// # Errors
    /// If it is none.
    pub fn head(&mut self, scan: &mut Scan, bound: HeadBound) -> Result<Option<usize>, Fault> {
        if self.chunk.is_empty() {
            return Ok(None);
        }
        // Mostly the first part has all of it; a scan may only be continued on what it saw, and more.
        let before = *scan;
        match scan.find(&self.chunk, bound.bytes, bound.fields) {
            Ok(None) if self.chunk.parts().nth(1).is_some() => {
                *scan = before;
                self.chunk.flatten();
                scan.find(&self.chunk, bound.bytes, bound.fields)
            }
            found => found,
        }
    }
}
