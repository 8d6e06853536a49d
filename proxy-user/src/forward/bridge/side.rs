//! The two sides of a bridge: a body comes from each of them, and one goes to each.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use proxy_io::Chunk;

use crate::forward::http1::{Body, Fault, Framing};
use crate::forward::http2 as heads;
use crate::forward::wire::Wire;
use crate::http2::{self, Piece, Stream};
use crate::tls::Count;

/// Why a side is of no more use.
#[derive(Debug)]
pub enum Failed {
    /// The connection died.
    Died(io::Error),
    /// It ended within a body.
    Cut,
    /// What came is malformed.
    Fault(Fault),
    /// Only the stream, or the connection that it is on, was given up, in HTTP/2.
    Stream(http2::Error),
}

/// One side.
pub enum Side<'a> {
    /// A whole connection.
    Http1(Http1Side<'a>),
    /// A stream of a connection.
    Http2(Http2Side),
}

impl Side<'_> {
    /// Takes the next piece of the body that comes from here; after the end there is none.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Failed>> {
        match self {
            Self::Http1(side) => side.poll_take(cx),
            Self::Http2(side) => side.stream.poll_take(cx).map_err(Failed::Stream),
        }
    }

    /// Gives a piece of the body that goes here. Only after [`Side::poll_flush`] was ready.
    ///
    /// # Errors
    /// If the stream is over.
    pub fn give(&mut self, piece: Piece) -> Result<(), Failed> {
        match self {
            Self::Http1(side) => {
                side.give(piece);
                Ok(())
            }
            Self::Http2(side) => side.stream.give(piece).map_err(Failed::Stream),
        }
    }

    /// Waits until what was given is on its way, and so there is room for more.
    ///
    /// # Errors
    /// If the peer takes no more.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        match self {
            Self::Http1(side) => side.poll_flush(cx),
            Self::Http2(side) => side.stream.poll_sent(cx).map_err(Failed::Stream),
        }
    }

    /// Bytes that are held for it. Of an HTTP/2 connection, which others share, those of this stream.
    #[must_use]
    pub fn weight(&self) -> u64 {
        match self {
            Self::Http1(side) => side.wire.weight() + side.out.len() as u64,
            Self::Http2(side) => side.stream.held_bytes() as u64,
        }
    }

    /// Notices a peer that is gone, while nothing is awaited from it.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Failed> {
        match self {
            Self::Http1(side) => side.poll_gone(cx),
            Self::Http2(side) => side.stream.poll_reset(cx).map(Failed::Stream),
        }
    }
}

/// A connection of HTTP/1.1.
pub struct Http1Side<'a> {
    /// The connection.
    pub(super) wire: &'a mut Wire,
    /// Who counts a client's bytes.
    count: &'a dyn Count,
    /// What is still to come from it.
    pub(super) incoming: Body,
    /// How the body that goes there is framed.
    outgoing: Framing,
    /// On its way there: the head first.
    out: Chunk,
    /// Bytes that were given to be sent, the head included.
    pub(super) sent_bytes: u64,
    /// Bytes of the head that was sent.
    pub(super) head_bytes: u64,
    /// What goes there is a tunnel's, and ends with the stream.
    is_tunnel: bool,
    /// That end comes behind what is on its way.
    is_ending: bool,
}

impl<'a> Http1Side<'a> {
    /// A client's connection that nothing was sent on yet, and what is to come from it.
    #[must_use]
    pub fn of_client(wire: &'a mut Wire, incoming: Body, count: &'a dyn Count) -> Self {
        Self { count, ..Self::of_endpoint(wire, incoming) }
    }

    /// The same of an endpoint.
    #[must_use]
    pub fn of_endpoint(wire: &'a mut Wire, incoming: Body) -> Self {
        let outgoing = Framing::Length(0);
        Self {
            wire,
            count: &(),
            incoming,
            outgoing,
            out: Chunk::default(),
            sent_bytes: 0,
            head_bytes: 0,
            is_tunnel: false,
            is_ending: false,
        }
    }

    /// Begins a message with its head.
    pub fn begin(&mut self, head: Vec<u8>, outgoing: Framing) {
        self.head_bytes = head.len() as u64;
        self.outgoing = outgoing;
        self.put(head);
    }

    /// Goes on as a tunnel behind the head: bytes in both directions, each to the end of its stream.
    pub fn begin_tunnel(&mut self) {
        self.incoming = Body::UntilClose;
        self.outgoing = Framing::UntilClose;
        self.is_tunnel = true;
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        ready!(self.wire.poll_send(cx, &mut self.out, self.count)).map_err(Failed::Died)?;
        if self.is_ending {
            match ready!(self.wire.stream.poll_shutdown_write(cx)) {
                // It is gone already; what it says about that comes from reading it.
                Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                    return Poll::Ready(Err(Failed::Died(error)));
                }
                _ => self.is_ending = false,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn put(&mut self, bytes: Vec<u8>) {
        self.sent_bytes += bytes.len() as u64;
        if self.out.is_empty() { self.out = Chunk::from(bytes) } else { self.out.append(&bytes) }
    }
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Failed>> {
        loop {
            if self.incoming.is_done() {
                return Poll::Ready(self.trailers());
            }
            if self.wire.chunk.is_empty()
                && !ready!(self.wire.poll_more(cx, self.count)).map_err(Failed::Died)?
            {
                let is_complete = matches!(self.incoming, Body::UntilClose);
                return Poll::Ready(if is_complete { Ok(Piece::End) } else { Err(Failed::Cut) });
            }
            let data = self.take().map_err(Failed::Fault)?;
            if !data.is_empty() {
                let is_last = matches!(self.incoming, Body::Length(0));
                return Poll::Ready(Ok(Piece::Data(Bytes::from(data), is_last)));
            }
        }
    }

    /// Takes what is there of the body out of the wire: without chunks, and in memory of its own.
    fn take(&mut self) -> Result<Vec<u8>, Fault> {
        let chunk = &mut self.wire.chunk;
        match &mut self.incoming {
            Body::Chunked(chunked) => {
                chunk.flatten();
                let mut data = Vec::with_capacity(chunk.len());
                let used = chunked.take(chunk, |bytes| data.extend_from_slice(bytes))?;
                chunk.advance(used);
                Ok(data)
            }
            body => {
                let piece = body.split(chunk)?;
                Ok(piece.parts().collect::<Vec<_>>().concat())
            }
        }
    }

    fn trailers(&mut self) -> Result<Piece, Failed> {
        let Body::Chunked(chunked) = &mut self.incoming else { return Ok(Piece::End) };
        let mut lines = chunked.take_trailers();
        if lines.is_empty() {
            return Ok(Piece::End);
        }
        lines.extend_from_slice(b"\r\n");
        heads::trailers(&lines).map(Piece::Trailers).map_err(Failed::Fault)
    }

    fn give(&mut self, piece: Piece) {
        use std::io::Write as _;
        let mut out = Vec::new();
        let is_chunked = self.outgoing == Framing::Chunked;
        self.is_ending = self.is_tunnel && !matches!(piece, Piece::Data(_, false));
        match piece {
            Piece::Data(data, is_last) => {
                if is_chunked && !data.is_empty() {
                    // Writing to a Vec does not fail.
                    let _ = write!(out, "{:x}\r\n", data.len());
                    out.extend_from_slice(&data);
                    out.extend_from_slice(b"\r\n");
                } else {
                    out.extend_from_slice(&data);
                }
                if is_chunked && is_last {
                    out.extend_from_slice(b"0\r\n\r\n");
                }
            }
            Piece::Trailers(trailers) if is_chunked => heads::write_trailers(&trailers, &mut out),
            Piece::End if is_chunked => out.extend_from_slice(b"0\r\n\r\n"),
            // Only chunks have room for trailers.
            Piece::Trailers(_) | Piece::End => {}
        }
        self.put(out);
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Failed> {
        if self.incoming.is_done() && self.wire.chunk.is_empty() && !self.wire.is_ended {
            match ready!(self.wire.poll_more(cx, self.count)) {
                Ok(_) => self.wire.chunk.detach(),
                Err(error) => return Poll::Ready(Failed::Died(error)),
            }
        }
        Poll::Pending
    }
}

/// A stream of HTTP/2.
pub struct Http2Side {
    /// The stream.
    pub stream: Stream,
    /// A head was sent on it.
    pub has_begun: bool,
}

impl Http2Side {
    /// A client whose request is to be answered.
    #[must_use]
    pub fn of_client(stream: Stream) -> Self {
        Self { stream, has_begun: false }
    }

    /// An endpoint that a request's head was sent to.
    #[must_use]
    pub fn of_endpoint(stream: Stream) -> Self {
        Self { stream, has_begun: true }
    }
}
