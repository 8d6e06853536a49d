//! Whether a peer that says nothing is still there.

use std::time::{Duration, Instant};

/// When a peer of HTTP/2 is asked (PING, RFC 9113, 6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pings {
    /// Silence of a client that has requests under way, after which it is asked; `None` is never.
    pub clients: Option<Duration>,
    /// The same of an endpoint's connection.
    pub endpoints: Option<Duration>,
    /// Silence after the question that ends the connection.
    pub timeout: Duration,
}

impl Pings {
    /// What holds where the config says nothing.
    ///
    /// Servers of gRPC end the connection of a client that asks thrice in less than five minutes each while they are silent
    /// themselves (`too_many_pings`, gRPC's proposal A8), and load balancers forget a connection that is silent for longer
    /// (Amazon's after 350 s): between the two. Clients are asked as servers of gRPC ask theirs (A9), which wakes no phone for
    /// nothing; both give twenty seconds.
    pub const DEFAULT: Self = Self {
        clients: Some(Duration::from_secs(2 * 3600)),
        endpoints: Some(Duration::from_secs(330)),
        timeout: Duration::from_secs(20),
    };
}

/// What one connection's silence asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// A ping.
    Ask,
    /// Its end: the peer is gone.
    Lost,
}

/// Follows the silence of one connection.
///
/// ```text
///   heard ──nothing for `interval`, with requests under way──> asked ──nothing for `timeout`──> lost
///     ^───────────────────────── any byte ───────────────────────┘
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// When the peer was heard last, or had nothing to answer.
    since: Instant,
    asked: Option<Instant>,
    interval: Duration,
    timeout: Duration,
}

impl Silence {
    /// Begins with a new connection, whose peer is asked after `interval` and has `timeout` to answer.
    #[must_use]
    pub fn new(now: Instant, interval: Duration, timeout: Duration) -> Self {
        Self { since: now, asked: None, interval, timeout }
    }

    /// Looks at the connection: whether anything came since the last look, and whether requests are under way. As exact as the
    /// looks are frequent.
    pub fn look(&mut self, now: Instant, has_heard: bool, is_busy: bool) -> Step {
        if has_heard || !is_busy {
            (self.since, self.asked) = (now, None);
            return Step::Wait;
        }
        match self.asked {
            Some(asked) if now.saturating_duration_since(asked) >= self.timeout => Step::Lost,
            None if now.saturating_duration_since(self.since) >= self.interval => {
                self.asked = Some(now);
                Step::Ask
            }
            _ => Step::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const INTERVAL: Duration = Duration::from_secs(30);
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Looks once a second, and gives each step with its second.
    fn steps(
        seconds: u64,
        has_heard: impl Fn(u64) -> bool,
        is_busy: impl Fn(u64) -> bool,
    ) -> Vec<(u64, Step)> {
        let began = fixture::now();
        let mut silence = Silence::new(began, INTERVAL, TIMEOUT);
        let look = |second| {
            let now = began + Duration::from_secs(second);
            (second, silence.look(now, has_heard(second), is_busy(second)))
        };
        (1..=seconds).map(look).filter(|(_, step)| *step != Step::Wait).collect()
    }

    #[test]
    fn a_silent_peer_is_asked_and_then_given_up() {
        let found = steps(40, |_| false, |_| true);
        assert_eq!(found, [(30, Step::Ask), (40, Step::Lost)]);
    }

    #[test]
    fn whoever_answers_in_time_is_asked_after_the_next_silence() {
        let found = steps(79, |second| second == 39, |_| true);
        assert_eq!(found, [(30, Step::Ask), (69, Step::Ask), (79, Step::Lost)]);
    }

    #[test]
    fn who_says_anything_is_not_asked() {
        assert_eq!(steps(300, |second| second % 29 == 0, |_| true), []);
    }

    #[test]
    fn without_requests_nothing_is_awaited() {
        assert_eq!(steps(300, |_| false, |_| false), []);
        let found = steps(140, |_| false, |second| second > 100);
        assert_eq!(found, [(130, Step::Ask), (140, Step::Lost)], "from the first request on");
        assert_eq!(steps(60, |_| false, |second| second <= 31), [(30, Step::Ask)], "it ended meanwhile");
    }
}
