//! Bounds on HTTP messages and connections.

use std::time::Duration;

use crate::http2::Pings;

/// What a peer may take, in bytes and in time. Every figure bounds something that a peer could else grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HttpLimits {
    /// Bytes of a head: first line, headers and the empty line. More is answered 431 (from a client) or 502.
    pub head_bytes: u32,
    /// Headers, or trailers, of one message.
    pub header_count: u16,
    /// Time for a head from its first byte to its last.
    pub head_timeout: Duration,
    /// Time that a connection may rest between requests; `None` is for ever.
    pub idle_timeout: Option<Duration>,
    /// Time without a byte of a body that somebody waits for.
    pub body_timeout: Duration,
    /// Bytes of a request's body; more is answered 413.
    pub request_bytes: Option<u64>,
    /// Bytes of an answer's body; more is cut off, with both connections.
    pub response_bytes: Option<u64>,
    /// Bytes of one message of a gRPC call, in either direction; a longer one ends the call with `resource_exhausted`.
    pub message_bytes: Option<u32>,
    /// When silent peers of HTTP/2 are asked whether they are still there.
    pub pings: Pings,
}

impl HttpLimits {
    /// What holds where the config says nothing.
    ///
    /// A head as nginx's four large buffers of 8 KiB and HAProxy's one of 16 KiB allow, and more: large cookies are common and a
    /// refusal is hard to explain. Headers as Envoy and HAProxy have them, times as nginx.
    pub const DEFAULT: Self = Self {
        head_bytes: 64 << 10,
        header_count: 100,
        head_timeout: Duration::from_secs(60),
        idle_timeout: Some(Duration::from_secs(75)),
        body_timeout: Duration::from_secs(60),
        request_bytes: None,
        response_bytes: None,
        message_bytes: None,
        pings: Pings::DEFAULT,
    };
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
