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
    /// Age at which a client is asked to make another connection; see [`HttpLimits::age_limit`].
    pub max_age: Option<Duration>,
    /// Time that requests under way get after that, in HTTP/2.
    pub max_age_grace: Option<Duration>,
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
        max_age: None,
        max_age_grace: None,
    };

    /// Age at which a connection goes that began then, in nanoseconds of any clock: up to a tenth more or less than the limit, so
    /// that connections that were made together do not go together (as gRPC's proposal A9 wants it). The nanoseconds of its
    /// begin are as good as dice, and need not be remembered.
    #[must_use]
    pub fn age_limit(&self, began_ns: u64) -> Option<Duration> {
        let max_age = self.max_age?;
        // Stafford's mix, as in SplitMix64: every bit of the begin moves all of the result.
        let mut bits = began_ns.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let thousandths = 900 + u32::try_from((bits ^ bits >> 31) % 201).unwrap_or(100);
        Some(max_age / 1000 * thousandths)
    }
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spread_by_a_tenth_to_both_sides() {
        let hour = Duration::from_secs(3600);
        let limits = HttpLimits { max_age: Some(hour), ..HttpLimits::DEFAULT };
        // A burst of connections, a microsecond apart.
        let ages: Vec<Duration> =
            (0..10_000).filter_map(|n| limits.age_limit(1_000_000 + n * 1000)).collect();
        let range = hour * 9 / 10..=hour * 11 / 10;
        assert!(ages.len() == 10_000 && ages.iter().all(|age| range.contains(age)));
        let early = ages.iter().filter(|age| **age < hour).count();
        assert!((4_500..5_500).contains(&early), "{early} of 10000");
        let last_minute = ages.iter().filter(|age| **age > hour * 11 / 10 - hour / 60).count();
        assert!((500..1_200).contains(&last_minute), "{last_minute} within a minute of twelve");
        assert_eq!(HttpLimits::DEFAULT.age_limit(7), None);
    }
}
