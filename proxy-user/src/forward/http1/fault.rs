//! What can be wrong with a message.

use proxy_core::outcome::RequestReason;

/// Why a message is refused. The peer that sent it loses its connection, nobody else notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A line that does not end with CR LF, or a CR inside one.
    #[error("a line that does not end with CR LF")]
    LineEnd,
    /// The head is longer than allowed.
    #[error("the head is too large")]
    HeadTooLarge,
    /// More headers or trailers than allowed.
    #[error("too many headers")]
    TooManyFields,
    /// The first line is not one of HTTP/1.
    #[error("malformed first line")]
    StartLine,
    /// Another version than 1.0 and 1.1.
    #[error("unsupported version")]
    Version,
    /// A name or value with a forbidden byte, a folded line, a space before the colon.
    #[error("malformed header")]
    Field,
    /// No Host, several, or one with forbidden bytes.
    #[error("malformed or missing Host")]
    Host,
    /// A target that does not fit the method, or with forbidden bytes.
    #[error("malformed target")]
    Target,
    /// Content-Length that is no number, or several.
    #[error("malformed Content-Length")]
    ContentLength,
    /// Both Content-Length and Transfer-Encoding, or Transfer-Encoding in HTTP/1.0.
    #[error("contradictory framing")]
    Framing,
    /// A transfer coding other than `chunked`.
    #[error("unsupported transfer coding")]
    TransferCoding,
    /// A chunk's size line is malformed or too long.
    #[error("malformed chunk")]
    Chunk,
    /// A malformed or forbidden trailer.
    #[error("malformed trailer")]
    Trailer,
    /// The body is no base64, and has to be.
    #[error("the body is no base64")]
    Base64,
    /// The body is longer than allowed.
    #[error("the body is too large")]
    BodyTooLarge,
    /// A stream of HTTP/2 that is to become what nobody here knows.
    #[error("a tunnel of an unknown protocol")]
    Tunnel,
    /// An expectation other than `100-continue`.
    #[error("unknown expectation")]
    Expectation,
}

impl Fault {
    /// What it is called if a client's message has it.
    #[must_use]
    pub fn of_request(self) -> RequestReason {
        match self {
            Self::LineEnd | Self::StartLine | Self::Field => RequestReason::MalformedHead,
            Self::HeadTooLarge => RequestReason::HeadTooLarge,
            Self::TooManyFields => RequestReason::TooManyHeaders,
            Self::Version => RequestReason::UnsupportedVersion,
            Self::Host => RequestReason::BadHost,
            Self::Target => RequestReason::BadTarget,
            Self::ContentLength | Self::Framing => RequestReason::BadFraming,
            Self::TransferCoding => RequestReason::UnsupportedTransferCoding,
            Self::Chunk | Self::Trailer => RequestReason::BadChunk,
            Self::Base64 => RequestReason::BadEncoding,
            Self::BodyTooLarge => RequestReason::RequestTooLarge,
            Self::Tunnel => RequestReason::UnsupportedTunnel,
            Self::Expectation => RequestReason::UnsupportedExpectation,
        }
    }

    /// What it is called if an endpoint's message has it.
    #[must_use]
    pub fn of_answer(self) -> RequestReason {
        match self {
            Self::HeadTooLarge | Self::TooManyFields => RequestReason::UpstreamHeadTooLarge,
            Self::BodyTooLarge => RequestReason::ResponseTooLarge,
            _ => RequestReason::UpstreamMalformed,
        }
    }
}
