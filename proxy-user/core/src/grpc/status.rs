//! How a call ended.

use crate::outcome::{Attempt, RequestReason};

/// A status of gRPC (the specification's "statuscodes.md"). Its number is that of the variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the specification says what each means, and so does its name")]
pub enum Status {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl Status {
    /// Every status, by number.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// Word in the config, in metrics and in the access log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data_loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }

    /// Finds a status by its word in the config.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Number, 0 to 16.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Value of the header `grpc-status`.
    #[must_use]
    pub fn header_value(self) -> &'static str {
        const VALUES: [&str; 17] =
            ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
        VALUES[usize::from(self.code())]
    }

    /// Reads the header `grpc-status`. What is no status that we know counts as [`Status::Unknown`], as the specification says.
    #[must_use]
    pub fn from_header(value: &[u8]) -> Self {
        let is_number = (1..=2).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
        let code = value.iter().fold(0, |code, digit| code * 10 + usize::from(digit.wrapping_sub(b'0')));
        Some(code)
            .filter(|_| is_number)
            .and_then(|code| Self::ALL.get(code).copied())
            .unwrap_or(Self::Unknown)
    }

    /// What an answer means that ended in order: by the header `grpc-status` of its trailers, or of its head if that is all there
    /// is ("Trailers-Only"); without one by the status of HTTP.
    #[must_use]
    pub fn of_answer(http_status: u16, grpc_status: Option<&[u8]>) -> Self {
        grpc_status.map_or_else(|| Self::from_http_status(http_status), Self::from_header)
    }

    /// What a client takes an HTTP status for that comes without a `grpc-status` (the specification's
    /// "http-grpc-status-mapping.md").
    #[must_use]
    pub fn from_http_status(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502..=504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// What a client takes the error code of a RST_STREAM for (PROTOCOL-HTTP2, "HTTP2 Transport Mapping"; codes of RFC 9113,
    /// 7).
    #[must_use]
    pub fn from_reset(error_code: u32) -> Self {
        match error_code {
            0x7 => Self::Unavailable,
            0x8 => Self::Cancelled,
            0xb => Self::ResourceExhausted,
            0xc => Self::PermissionDenied,
            0x0..=0xd => Self::Internal,
            _ => Self::Unknown,
        }
    }

    /// What Weir tells a client whose call it ends itself; none where the config says what is answered, or the endpoint did.
    ///
    /// It may differ from what a client makes of the HTTP status, which knows less: time that is over is
    /// `deadline_exceeded`, and what is too large or too much `resource_exhausted`. `unavailable` says that the call may be made
    /// again.
    #[must_use]
    pub fn of_reason(reason: RequestReason) -> Option<Self> {
        use RequestReason as R;
        Some(match reason {
            R::Ok | R::Redirect | R::DirectResponse | R::FaultInjected => return None,
            R::NoRoute | R::UnsupportedTunnel => Self::Unimplemented,
            R::RequestTimeout | R::PerTryTimeout => Self::DeadlineExceeded,
            R::NoEndpoint
            | R::Limit
            | R::PendingLimit
            | R::ConcurrencyLimit
            | R::Overload
            | R::ConnectRefused
            | R::ConnectTimeout
            | R::ConnectUnreachable
            | R::TlsUpstream
            | R::UpstreamReset
            | R::UpstreamClosed
            | R::UpstreamSilent
            | R::UpstreamRefused
            | R::UpstreamNoTunnel
            | R::ResponseCut
            | R::ResponseTimeout
            | R::EndpointLost
            | R::TlsWorn
            | R::Draining => Self::Unavailable,
            R::RateLimited
            | R::UpstreamHeadTooLarge
            | R::ResponseTooLarge
            | R::HeadTooLarge
            | R::TooManyHeaders
            | R::RequestTooLarge => Self::ResourceExhausted,
            R::DownstreamReset | R::HeadTimeout | R::BodyTimeout => Self::Cancelled,
            R::UpstreamMalformed
            | R::MalformedHead
            | R::BadFraming
            | R::BadChunk
            | R::BadEncoding
            | R::BadHost
            | R::BadTarget
            | R::UnsupportedVersion
            | R::UnsupportedTransferCoding
            | R::UnsupportedExpectation
            | R::Internal => Self::Internal,
        })
    }

    /// What it says about the endpoint, for passive health: an answer of 500 or above, in the words of gRPC.
    ///
    /// `deadline_exceeded` and `unimplemented` are the client's doing as often as not, by a deadline too short and a method that
    /// nobody has: whoever sends those must not be able to have endpoints ejected.
    #[must_use]
    pub fn attempt(self) -> Attempt {
        match self {
            Self::Unknown | Self::Internal | Self::Unavailable | Self::DataLoss => Attempt::BadStatus,
            _ => Attempt::Good,
        }
    }
}

/// Some statuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StatusSet(u32);

impl StatusSet {
    /// Adds a status.
    pub fn insert(&mut self, status: Status) {
        self.0 |= 1 << status.code();
    }

    /// Tells whether a status is among them.
    #[must_use]
    pub fn contains(self, status: Status) -> bool {
        self.0 & 1 << status.code() != 0
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Lists them by number.
    pub fn iter(self) -> impl Iterator<Item = Status> {
        Status::ALL.into_iter().filter(move |status| self.contains(*status))
    }
}

impl FromIterator<Status> for StatusSet {
    fn from_iter<I: IntoIterator<Item = Status>>(statuses: I) -> Self {
        let mut set = Self::default();
        statuses.into_iter().for_each(|status| set.insert(status));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn statuses_have_their_number_and_a_word_each() {
        for (code, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(status.code()), code);
            assert_eq!(status.header_value(), code.to_string());
            assert_eq!(Status::from_header(status.header_value().as_bytes()), status);
            assert_eq!(Status::named(status.as_str()), Some(status));
        }
        let words: HashSet<&str> = Status::ALL.iter().map(|status| status.as_str()).collect();
        assert_eq!((words.len(), Status::ALL.len()), (17, 17));
        assert_eq!(Status::named("UNAVAILABLE"), None);
    }

    #[test]
    fn a_number_that_is_none_is_unknown() {
        for value in ["", "17", "99", "-1", "014", "1x", "x", " 0", "256", "65536"] {
            assert_eq!(Status::from_header(value.as_bytes()), Status::Unknown, "{value:?}");
        }
        assert_eq!(Status::from_header(b"00"), Status::Ok);
    }

    #[test]
    fn an_answer_without_a_status_of_its_own_is_understood_by_that_of_http() {
        assert_eq!(Status::of_answer(200, Some(b"14")), Status::Unavailable);
        assert_eq!(Status::of_answer(503, Some(b"5")), Status::NotFound, "its own counts");
        assert_eq!(Status::of_answer(200, None), Status::Unknown, "it was to have one");
        for (http, status) in [
            (400, Status::Internal),
            (401, Status::Unauthenticated),
            (403, Status::PermissionDenied),
            (404, Status::Unimplemented),
            (429, Status::Unavailable),
            (500, Status::Unknown),
            (502, Status::Unavailable),
            (503, Status::Unavailable),
            (504, Status::Unavailable),
            (302, Status::Unknown),
        ] {
            assert_eq!(Status::of_answer(http, None), status, "{http}");
        }
        let resets =
            [(0, Status::Internal), (7, Status::Unavailable), (8, Status::Cancelled), (14, Status::Unknown)];
        for (code, status) in resets {
            assert_eq!(Status::from_reset(code), status, "{code}");
        }
    }

    /// What a client may take for "nothing happened, make the call again" never stands for its own mistake, and a call that
    /// Weir ends is never said to have gone well.
    #[test]
    fn reasons_are_told_in_words_that_clients_act_on_rightly() {
        use crate::outcome::Blame;
        for reason in RequestReason::ALL {
            let status = Status::of_reason(reason);
            assert_ne!(status, Some(Status::Ok), "{reason:?}");
            if reason.blame() == Blame::Downstream {
                assert_ne!(status, Some(Status::Unavailable), "{reason:?}");
            }
            assert!(reason.status().is_none() || status.is_some(), "{reason:?}");
            if reason.status() == Some(503) {
                assert_eq!(status, Some(Status::Unavailable), "{reason:?}: no server saw it");
            }
        }
    }

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let all: StatusSet = Status::ALL.into_iter().collect();
        assert_eq!(all.iter().collect::<Vec<_>>(), Status::ALL);
        let some: StatusSet = [Status::Unavailable, Status::Ok].into_iter().collect();
        assert_eq!(some.iter().collect::<Vec<_>>(), [Status::Ok, Status::Unavailable]);
        assert!(StatusSet::default().is_empty() && !some.is_empty() && !some.contains(Status::Internal));
    }

    #[test]
    fn what_a_client_can_provoke_ejects_nobody() {
        let bad: Vec<_> = Status::ALL.into_iter().filter(|s| s.attempt() == Attempt::BadStatus).collect();
        assert_eq!(bad, [Status::Unknown, Status::Internal, Status::Unavailable, Status::DataLoss]);
    }
}
