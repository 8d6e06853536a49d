//! Why a stream or a connection is over.

use std::io;

use proxy_core::http2::{Code, Fault};

/// Why a stream is over before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The connection died.
    #[error("the connection died: {0}")]
    Died(io::ErrorKind),
    /// The peer reset the stream.
    #[error("the peer reset the stream: {0}")]
    Reset(Code),
    /// The peer goes away and has done nothing with the stream.
    #[error("the peer goes away: {0}")]
    GoAway(Code),
    /// The stream was reset here: for what the peer sent, or because nobody wants it any more.
    #[error("the stream was given up: {0}")]
    GivenUp(Code),
    /// The connection was ended here.
    #[error("the connection was given up: {0}")]
    Ended(Code),
}

impl Error {
    /// Tells whether the peer is proven to have done nothing with a request (RFC 9113, 8.7).
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::GoAway(_) | Self::Reset(Code::REFUSED_STREAM))
    }
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The peer ended it.
    #[error("the peer ended the connection")]
    Eof,
    /// It died.
    #[error("the connection died: {0}")]
    Died(io::ErrorKind),
    /// The peer broke the rules.
    #[error("{}", .0.as_str())]
    Fault(Fault),
    /// The peer said a head that is too long to go on.
    #[error("a head is too long")]
    HeadTooLong,
    /// The peer goes away, and what was under way is over.
    #[error("the peer goes away: {0}")]
    GoAway(Code),
    /// It was given up here.
    #[error("given up: {0}")]
    GivenUp(Code),
    /// It was left here, and what was under way is over.
    #[error("it was left")]
    Left,
}

impl End {
    /// What the streams are told that are under way.
    pub(super) fn of_stream(self) -> Error {
        match self {
            Self::Eof => Error::Died(io::ErrorKind::UnexpectedEof),
            Self::Died(kind) => Error::Died(kind),
            Self::Fault(fault) => Error::Ended(fault.code()),
            Self::HeadTooLong => Error::Ended(Code::ENHANCE_YOUR_CALM),
            Self::GoAway(code) => Error::GoAway(code),
            Self::GivenUp(code) => Error::Ended(code),
            Self::Left => Error::Ended(Code::NO_ERROR),
        }
    }
}
