//! How a request ended, who is to blame, and what Weir answers.

/// Why a request is over. One word per request: in the access log, in metrics, and in the header `x-weir-reason` of answers
/// that Weir makes itself.
///
/// Statuses follow one rule, so that a client knows what it may do: 4xx is its own fault, 503 says that no server saw the
/// request, 502 that one did and broke, 504 that one did and took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestReason {
    /// An endpoint's answer was passed on to its end, whatever its status.
    Ok,
    /// The config says that the client is to ask elsewhere.
    Redirect,
    /// The config says what is answered.
    DirectResponse,
    /// No rule of any route fits.
    NoRoute,
    /// The rule names no service that can be drawn, or the service has no usable endpoint.
    NoEndpoint,
    /// As many requests, or connections, as the service or each endpoint may have are under way.
    Limit,
    /// As many requests as the service may have wait for a connection.
    PendingLimit,
    /// As many requests are under way as the service works on without letting them wait.
    ConcurrencyLimit,
    /// Memory or descriptors run out: no new requests are taken, or this one held the most.
    Overload,
    /// Requests of the service, the rule or the client come faster than allowed.
    RateLimited,
    /// The config lets requests fail on purpose.
    FaultInjected,
    /// The time for the request was over.
    RequestTimeout,
    /// The time for the last try was over.
    PerTryTimeout,
    /// The last endpoint refused the connection.
    ConnectRefused,
    /// The last endpoint did not answer a connection in time.
    ConnectTimeout,
    /// The network had no way to the last endpoint.
    ConnectUnreachable,
    /// No TLS session with the last endpoint: wrong certificate, version or name.
    TlsUpstream,
    /// The endpoint reset its connection before the head of an answer was complete.
    UpstreamReset,
    /// The endpoint closed its connection before the head of an answer was complete.
    UpstreamClosed,
    /// The endpoint said nothing on an HTTP/2 connection any more, and did not answer a ping.
    UpstreamSilent,
    /// The endpoint refused the request without beginning with it, and so did the ones tried after it.
    UpstreamRefused,
    /// The endpoint, in HTTP/2, lets no stream become a WebSocket.
    UpstreamNoTunnel,
    /// The endpoint's answer is not HTTP, or contradicts itself.
    UpstreamMalformed,
    /// The head of the endpoint's answer is longer than allowed.
    UpstreamHeadTooLarge,
    /// The body of the endpoint's answer is longer than allowed.
    ResponseTooLarge,
    /// The endpoint's connection ended within the body of its answer.
    ResponseCut,
    /// The body of the endpoint's answer came to a stop for too long.
    ResponseTimeout,
    /// The endpoint was removed or failed while it answered, and the policy says reset.
    EndpointLost,
    /// The client was gone before the end of its answer.
    DownstreamReset,
    /// The client's session of TLS 1.2 has carried as much as its key may protect.
    TlsWorn,
    /// The client did not complete a head in time.
    HeadTimeout,
    /// The client's body came to a stop for too long.
    BodyTimeout,
    /// The client's head is not HTTP: first line, headers, line ends.
    MalformedHead,
    /// The client's head is longer than allowed.
    HeadTooLarge,
    /// The client's message has more headers, or trailers, than allowed.
    TooManyHeaders,
    /// The end of the client's body cannot be told for sure: contradictory or repeated lengths and codings.
    BadFraming,
    /// A chunk or trailer of the client's body is malformed.
    BadChunk,
    /// The client's body is no base64, as the text form of gRPC-Web has to be.
    BadEncoding,
    /// The client named no host, several, or one that cannot be.
    BadHost,
    /// The client's target does not fit its method, or has forbidden bytes.
    BadTarget,
    /// A version other than HTTP/1.0 and 1.1.
    UnsupportedVersion,
    /// A transfer coding other than `chunked`.
    UnsupportedTransferCoding,
    /// A stream of HTTP/2 that is to become something else than a WebSocket or a connection to a host.
    UnsupportedTunnel,
    /// An expectation other than `100-continue`.
    UnsupportedExpectation,
    /// The client's body is longer than allowed.
    RequestTooLarge,
    /// Weir is stopping, or the client's connection was too old and the time for its requests over.
    Draining,
    /// A system call of ours failed unexpectedly.
    Internal,
}

/// Who made a request end as it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Blame {
    /// Nobody: all went as it should.
    Nobody,
    /// The client.
    Downstream,
    /// The endpoint, or the network to it.
    Upstream,
    /// Weir, or what its operator told it.
    Weir,
}

impl Blame {
    /// Word for metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Weir => "weir",
        }
    }
}

impl RequestReason {
    /// Every reason, in the order that tables use.
    pub const ALL: [Self; 47] = [
        Self::Ok,
        Self::Redirect,
        Self::DirectResponse,
        Self::NoRoute,
        Self::NoEndpoint,
        Self::Limit,
        Self::PendingLimit,
        Self::ConcurrencyLimit,
        Self::Overload,
        Self::RateLimited,
        Self::FaultInjected,
        Self::RequestTimeout,
        Self::PerTryTimeout,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectUnreachable,
        Self::TlsUpstream,
        Self::UpstreamReset,
        Self::UpstreamClosed,
        Self::UpstreamSilent,
        Self::UpstreamRefused,
        Self::UpstreamNoTunnel,
        Self::UpstreamMalformed,
        Self::UpstreamHeadTooLarge,
        Self::ResponseTooLarge,
        Self::ResponseCut,
        Self::ResponseTimeout,
        Self::EndpointLost,
        Self::DownstreamReset,
        Self::TlsWorn,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::MalformedHead,
        Self::HeadTooLarge,
        Self::TooManyHeaders,
        Self::BadFraming,
        Self::BadChunk,
        Self::BadEncoding,
        Self::BadHost,
        Self::BadTarget,
        Self::UnsupportedVersion,
        Self::UnsupportedTransferCoding,
        Self::UnsupportedTunnel,
        Self::UnsupportedExpectation,
        Self::RequestTooLarge,
        Self::Draining,
        Self::Internal,
    ];

    /// Word for the access log, metrics and `x-weir-reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// What Weir answers as long as nothing of another answer has gone to the client; none where there is nobody to answer,
    /// the answer had begun by the meaning of the word, or the config says which.
    #[must_use]
    pub fn status(self) -> Option<u16> {
        self.row().1
    }

    /// Who is to blame.
    #[must_use]
    pub fn blame(self) -> Blame {
        self.row().2
    }

    /// The table, which ARCHITECTURE.md shows to people.
    fn row(self) -> (&'static str, Option<u16>, Blame) {
        use Blame::{Downstream, Nobody, Upstream, Weir};
        match self {
            Self::Ok => ("ok", None, Nobody),
            Self::Redirect => ("redirect", None, Nobody),
            Self::DirectResponse => ("direct_response", None, Nobody),
            Self::NoRoute => ("no_route", Some(404), Downstream),
            Self::NoEndpoint => ("no_endpoint", Some(503), Upstream),
            Self::Limit => ("limit", Some(503), Weir),
            Self::PendingLimit => ("pending_limit", Some(503), Weir),
            Self::ConcurrencyLimit => ("concurrency_limit", Some(503), Weir),
            Self::Overload => ("overload", Some(503), Weir),
            Self::RateLimited => ("rate_limited", Some(429), Downstream),
            Self::FaultInjected => ("fault_injected", None, Weir),
            Self::RequestTimeout => ("request_timeout", Some(504), Upstream),
            Self::PerTryTimeout => ("per_try_timeout", Some(504), Upstream),
            Self::ConnectRefused => ("connect_refused", Some(503), Upstream),
            Self::ConnectTimeout => ("connect_timeout", Some(503), Upstream),
            Self::ConnectUnreachable => ("connect_unreachable", Some(503), Upstream),
            Self::TlsUpstream => ("tls_upstream", Some(503), Upstream),
            Self::UpstreamReset => ("upstream_reset", Some(502), Upstream),
            Self::UpstreamClosed => ("upstream_closed", Some(502), Upstream),
            Self::UpstreamSilent => ("upstream_silent", Some(504), Upstream),
            Self::UpstreamRefused => ("upstream_refused", Some(503), Upstream),
            Self::UpstreamNoTunnel => ("upstream_no_tunnel", Some(503), Upstream),
            Self::UpstreamMalformed => ("upstream_malformed", Some(502), Upstream),
            Self::UpstreamHeadTooLarge => ("upstream_head_too_large", Some(502), Upstream),
            Self::ResponseTooLarge => ("response_too_large", Some(502), Upstream),
            Self::ResponseCut => ("response_cut", None, Upstream),
            Self::ResponseTimeout => ("response_timeout", None, Upstream),
            Self::EndpointLost => ("endpoint_lost", Some(502), Upstream),
            Self::DownstreamReset => ("downstream_reset", None, Downstream),
            Self::TlsWorn => ("tls_worn", None, Weir),
            Self::HeadTimeout => ("head_timeout", Some(408), Downstream),
            Self::BodyTimeout => ("body_timeout", Some(408), Downstream),
            Self::MalformedHead => ("malformed_head", Some(400), Downstream),
            Self::HeadTooLarge => ("head_too_large", Some(431), Downstream),
            Self::TooManyHeaders => ("too_many_headers", Some(431), Downstream),
            Self::BadFraming => ("bad_framing", Some(400), Downstream),
            Self::BadChunk => ("bad_chunk", Some(400), Downstream),
            Self::BadEncoding => ("bad_encoding", Some(400), Downstream),
            Self::BadHost => ("bad_host", Some(400), Downstream),
            Self::BadTarget => ("bad_target", Some(400), Downstream),
            Self::UnsupportedVersion => ("unsupported_version", Some(505), Downstream),
            Self::UnsupportedTransferCoding => ("unsupported_transfer_coding", Some(501), Downstream),
            Self::UnsupportedTunnel => ("unsupported_tunnel", Some(501), Downstream),
            Self::UnsupportedExpectation => ("unsupported_expectation", Some(417), Downstream),
            Self::RequestTooLarge => ("request_too_large", Some(413), Downstream),
            Self::Draining => ("draining", Some(503), Weir),
            Self::Internal => ("internal", Some(500), Weir),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_its_place_and_a_word_of_its_own() {
        for (index, reason) in RequestReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason:?}");
        }
        let words: HashSet<&str> = RequestReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), RequestReason::ALL.len());
        let is_word = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(words.iter().all(|word| is_word(word)), "{words:?}");
    }

    #[test]
    fn statuses_follow_the_rule() {
        for reason in RequestReason::ALL {
            let Some(status) = reason.status() else { continue };
            match status {
                400..=499 => assert_eq!(reason.blame(), Blame::Downstream, "{reason:?}"),
                502 | 504 => assert_eq!(reason.blame(), Blame::Upstream, "{reason:?}"),
                500 => assert_eq!(reason.blame(), Blame::Weir, "{reason:?}"),
                // What HTTP itself has words for, beyond that rule (RFC 9110, 15.6.2 and 15.6.6).
                501 | 505 => assert_eq!(reason.blame(), Blame::Downstream, "{reason:?}"),
                503 => assert!(matches!(reason.blame(), Blame::Upstream | Blame::Weir), "{reason:?}"),
                _ => panic!("{reason:?}: {status}"),
            }
        }
    }

    /// The page that people read says the same.
    #[test]
    fn the_table_in_the_architecture_is_this_one() {
        let page = include_str!("../../../ARCHITECTURE.md");
        for reason in RequestReason::ALL {
            let status = reason.status().map_or_else(String::new, |status| status.to_string());
            let row = format!("| `{}` | {status} | {} |", reason.as_str(), reason.blame().as_str());
            assert!(page.contains(&row), "no row {row:?}");
        }
    }
}
