//! What ends a client's connection, and what the client is told.

use super::code::Code;
use super::flood::Flood;

/// Why a connection is to be ended: nothing behind what its peer sent can be trusted, or borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// There is too much of something.
    Flood(Flood),
    /// It is not HTTP/2.
    Breach(Breach),
}

/// A rule that was broken, named as the error code of the GOAWAY that ends the connection (RFC 9113, 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Breach {
    /// What has no code of its own.
    Protocol,
    /// A window that is too large, or used beyond its end.
    FlowControl,
    /// A frame that is too long, or too short for what it must contain.
    FrameSize,
    /// A frame on a stream that the client itself had ended.
    StreamClosed,
    /// Fields that cannot be decompressed.
    Compression,
}

impl Fault {
    /// The error code that says so (RFC 9113, 7).
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Flood(_) => Code::ENHANCE_YOUR_CALM,
            Self::Breach(breach) => breach.code(),
        }
    }

    /// Word for logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flood(flood) => flood.as_str(),
            Self::Breach(breach) => breach.as_str(),
        }
    }
}

impl Breach {
    /// The error code that says so (RFC 9113, 7).
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Protocol => Code::PROTOCOL_ERROR,
            Self::FlowControl => Code::FLOW_CONTROL_ERROR,
            Self::StreamClosed => Code::STREAM_CLOSED,
            Self::FrameSize => Code::FRAME_SIZE_ERROR,
            Self::Compression => Code::COMPRESSION_ERROR,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::FlowControl => "flow_control",
            Self::FrameSize => "frame_size",
            Self::StreamClosed => "stream_closed",
            Self::Compression => "compression",
        }
    }
}

impl From<Flood> for Fault {
    fn from(flood: Flood) -> Self {
        Self::Flood(flood)
    }
}

impl From<Breach> for Fault {
    fn from(breach: Breach) -> Self {
        Self::Breach(breach)
    }
}
