//! Where a body ends.

use proxy_io::Chunk;

use super::{Chunked, Fault};

/// How the length of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// In bytes; 0 is no body.
    Length(u64),
    /// In chunks (RFC 9112, 7.1).
    Chunked,
    /// By the end of the connection; answers only.
    UntilClose,
}

/// What is still to come of a body.
pub enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Box<Chunked>),
    /// Everything up to the end of the stream.
    UntilClose,
}

impl Body {
    /// Begins a body. `most_trailers` bounds its trailers, `most_bytes` their bytes.
    #[must_use]
    pub fn new(framing: Framing, most_trailers: usize, most_bytes: usize) -> Self {
        match framing {
            Framing::Length(count) => Self::Length(count),
            Framing::Chunked => Self::Chunked(Box::new(Chunked::new(most_trailers, most_bytes))),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Tells whether everything has been taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_done(),
            Self::UntilClose => false,
        }
    }

    /// Tells how many of these bytes belong to the body, and moves on by them.
    ///
    /// # Errors
    /// If they are not what a body of this framing may be.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(chunked) => chunked.take(bytes, |_| {}),
            Self::UntilClose => Ok(bytes.len()),
        }
    }

    /// Takes what belongs to the body from the front of a chunk, which may come in several parts; the rest stays.
    ///
    /// # Errors
    /// As [`Body::take`].
    pub fn split(&mut self, chunk: &mut Chunk) -> Result<Chunk, Fault> {
        let mut taken = 0;
        for part in chunk.parts() {
            let count = self.take(part)?;
            taken += count;
            if count < part.len() {
                break;
            }
        }
        if taken == chunk.len() {
            return Ok(std::mem::take(chunk));
        }
        // The next message came with the end of this one: rare, and mostly short.
        let mut rest = Vec::with_capacity(chunk.len() - taken);
        let mut skipped = taken;
        for part in chunk.parts() {
            let skip = skipped.min(part.len());
            rest.extend_from_slice(&part[skip..]);
            skipped -= skip;
        }
        chunk.truncate(taken);
        Ok(std::mem::replace(chunk, Chunk::from(rest)))
    }
}
