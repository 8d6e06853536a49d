//! How a connection or a request ended, and who ended it.

mod request;

pub use self::request::{Blame, RequestReason};

/// Why a connection is over. One word per connection, used as metric label and log field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Both sides said FIN.
    Fin,
    /// The client reset it.
    DownstreamReset,
    /// The endpoint reset it.
    UpstreamReset,
    /// No endpoint accepted the connection: refused.
    ConnectRefused,
    /// No endpoint answered in time.
    ConnectTimeout,
    /// The network had no way to any endpoint.
    ConnectUnreachable,
    /// The service has no usable endpoint.
    NoEndpoint,
    /// A limit on open connections was reached.
    Limit,
    /// Its application has as many connections open as it may.
    ApplicationLimit,
    /// Its application opens connections faster than it may.
    ApplicationRate,
    /// Memory or descriptors run out: the connection was at rest, came when none are taken, or held the most.
    Overload,
    /// Neither side said anything for too long.
    IdleTimeout,
    /// One side had closed, and the other neither sent nor closed for too long.
    HalfCloseTimeout,
    /// Sent bytes were not acknowledged in time (TCP_USER_TIMEOUT), or a ping of HTTP/2.
    UserTimeout,
    /// Its endpoint failed or was removed, and the policy says reset.
    EndpointLost,
    /// Weir is stopping and the time for draining was over.
    Drained,
    /// It was as old as it may get, and its client was asked to make another.
    MaxAge,
    /// The connection came without a known original destination.
    NoOriginalDst,
    /// It came from a network namespace that could not be entered (in time).
    NoNamespace,
    /// No complete head of a request came in time.
    HeadTimeout,
    /// A part of a body that somebody waited for did not come in time.
    BodyTimeout,
    /// A peer said something that its protocol does not allow.
    Protocol,
    /// The client sent more of what costs than it may: small HTTP/2 frames, resets.
    Flood,
    /// A client's HTTP/2 frame was too long, or too short for what it must contain.
    FrameSize,
    /// A client used a window of HTTP/2 beyond its end, or made it too large.
    FlowControl,
    /// A client sent a frame of HTTP/2 on a stream that it had ended.
    StreamClosed,
    /// The fields of a client's HTTP/2 frames could not be decompressed.
    Compression,
    /// The TLS handshake with the client or the endpoint failed.
    TlsHandshake,
    /// The client did not end its TLS handshake, or say the name that it wants, in time.
    TlsTimeout,
    /// A certificate was refused, by us or by the other side.
    TlsCertificate,
    /// As much was sent in a session of TLS 1.2 as its key may protect.
    TlsWorn,
    /// A connection to a listener that expects a header of the PROXY protocol began with something else.
    ProxyHeader,
    /// The header did not come in time.
    ProxyHeaderTimeout,
    /// A connection to such a listener came from somebody whose header is not believed.
    ProxyUntrusted,
    /// Weir itself failed: a system call unexpectedly, or a bug (a panic) ended the connection or its worker.
    Internal,
}

impl Reason {
    /// Every reason, in the order that tables use.
    pub const ALL: [Self; 35] = [
        Self::Fin,
        Self::DownstreamReset,
        Self::UpstreamReset,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectUnreachable,
        Self::NoEndpoint,
        Self::Limit,
        Self::ApplicationLimit,
        Self::ApplicationRate,
        Self::Overload,
        Self::IdleTimeout,
        Self::HalfCloseTimeout,
        Self::UserTimeout,
        Self::EndpointLost,
        Self::Drained,
        Self::MaxAge,
        Self::NoOriginalDst,
        Self::NoNamespace,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::Protocol,
        Self::Flood,
        Self::FrameSize,
        Self::FlowControl,
        Self::StreamClosed,
        Self::Compression,
        Self::TlsHandshake,
        Self::TlsTimeout,
        Self::TlsCertificate,
        Self::TlsWorn,
        Self::ProxyHeader,
        Self::ProxyHeaderTimeout,
        Self::ProxyUntrusted,
        Self::Internal,
    ];

    /// Whether it was turned away here, before anything was asked of an endpoint.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        use Reason::{
            ApplicationLimit, ApplicationRate, Limit, NoEndpoint, NoNamespace, NoOriginalDst, ProxyUntrusted,
        };
        matches!(
            self,
            Limit
                | ApplicationLimit
                | ApplicationRate
                | NoEndpoint
                | NoOriginalDst
                | NoNamespace
                | ProxyUntrusted
        )
    }

    /// Word for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::DownstreamReset => "downstream_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectUnreachable => "connect_unreachable",
            Self::NoEndpoint => "no_endpoint",
            Self::Limit => "limit",
            Self::ApplicationLimit => "application_limit",
            Self::ApplicationRate => "application_rate",
            Self::Overload => "overload",
            Self::IdleTimeout => "idle_timeout",
            Self::HalfCloseTimeout => "half_close_timeout",
            Self::UserTimeout => "user_timeout",
            Self::EndpointLost => "endpoint_lost",
            Self::Drained => "drained",
            Self::MaxAge => "max_age",
            Self::NoOriginalDst => "no_original_dst",
            Self::NoNamespace => "no_namespace",
            Self::HeadTimeout => "head_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::Protocol => "protocol",
            Self::Flood => "flood",
            Self::FrameSize => "frame_size",
            Self::FlowControl => "flow_control",
            Self::StreamClosed => "stream_closed",
            Self::Compression => "compression",
            Self::TlsHandshake => "tls_handshake",
            Self::TlsTimeout => "tls_timeout",
            Self::TlsCertificate => "tls_certificate",
            Self::TlsWorn => "tls_worn",
            Self::ProxyHeader => "proxy_header",
            Self::ProxyHeaderTimeout => "proxy_header_timeout",
            Self::ProxyUntrusted => "proxy_untrusted",
            Self::Internal => "internal",
        }
    }
}

/// What a connection, or a request, says about its endpoint; feeds passive health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attempt {
    /// The endpoint accepted and, as far as seen, behaved; in HTTP, it answered with a status below 500.
    Good,
    /// It refused, timed out, could not be reached, or reset the connection.
    Bad,
    /// It answered with a status of 500 or above.
    BadStatus,
}
