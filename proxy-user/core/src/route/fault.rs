//! Faults on purpose: requests that are held up, that fail, or that are told to come later, to see what clients make of it.

use std::time::Duration;

use super::{Request, Text, TextPattern, is_drawn};
use crate::grpc::Status;

/// What the config says about the faults of a rule. Shares are in parts of 10,000, above zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPolicy {
    /// On which requests of the rule: on those with all of these headers, by name in lower case.
    pub headers: Vec<(Box<str>, TextPattern)>,
    /// Those that are held up.
    pub delay: Option<Delay>,
    /// Those that fail.
    pub abort: Option<Abort>,
    /// Those that are answered as if they came faster than allowed.
    pub rate_limit: Option<RateLimited>,
}

/// Requests that are held up before anything else happens with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Share of the requests.
    pub share: u16,
    /// How long. It counts in the time that the request has.
    pub time: Duration,
}

/// Requests that fail and go to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Share of the requests.
    pub share: u16,
    /// What is answered.
    pub answer: FaultAnswer,
}

/// What a client gets for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAnswer {
    /// A status of HTTP, 200 to 599; for a gRPC call what [`Status::from_http_status`] makes of it.
    Http(u16),
    /// A status of gRPC, in a head that is all of the answer and has the status 200.
    Grpc(Status),
}

/// Requests that are answered as if they came faster than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimited {
    /// Share of the requests.
    pub share: u16,
    /// When to come again.
    pub retry_after: Duration,
}

/// What is done to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// It is held up for this long first.
    pub delay: Option<Duration>,
    /// Then it ends so, with the reason [`FaultInjected`](crate::outcome::RequestReason::FaultInjected).
    pub end: Option<FaultEnd>,
}

/// How a request ends on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultEnd {
    /// It is answered with this.
    Abort(FaultAnswer),
    /// It is answered 429, or `resource_exhausted`, and told to come again after this time.
    RateLimited(Duration),
}

/// The faults of a rule, ready to be drawn. Two are equal if the config says the same.
#[derive(Clone, Debug)]
pub struct Faults {
    policy: FaultPolicy,
    headers: Box<[(Box<str>, Text)]>,
}

impl Faults {
    /// Compiles what the config says.
    #[must_use]
    pub fn new(policy: FaultPolicy) -> Self {
        let headers = policy.headers.iter().map(|(name, pattern)| (name.clone(), Text::new(pattern)));
        Self { headers: headers.collect(), policy }
    }

    /// What the config says.
    #[must_use]
    pub fn policy(&self) -> &FaultPolicy {
        &self.policy
    }

    /// Draws what is done to a request, with 32 evenly random bits from each call of `draw`.
    ///
    /// Each is drawn for itself, so a request may be held up and then fail. Of those that fail some would also be told to come
    /// later: they fail.
    #[must_use]
    pub fn inject(&self, request: &impl Request, mut draw: impl FnMut() -> u32) -> Injected {
        let is_meant = |(name, text): &(Box<str>, Text)| request.header(name).is_some_and(|v| text.fits(v));
        if !self.headers.iter().all(is_meant) {
            return Injected::default();
        }
        let FaultPolicy { delay, abort, rate_limit, .. } = &self.policy;
        let mut is_hit = |share| is_drawn(share, draw());
        let delay = delay.filter(|delay| is_hit(delay.share));
        let abort = abort.filter(|abort| is_hit(abort.share));
        let rate_limit = rate_limit.filter(|limit| is_hit(limit.share));
        let limited = rate_limit.map(|limit| FaultEnd::RateLimited(limit.retry_after));
        Injected {
            delay: delay.map(|delay| delay.time),
            end: abort.map(|abort| FaultEnd::Abort(abort.answer)).or(limited),
        }
    }
}

impl PartialEq for Faults {
    fn eq(&self, other: &Self) -> bool {
        self.policy == other.policy
    }
}

impl Eq for Faults {}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct With(&'static [(&'static str, &'static [u8])]);

    impl Request for With {
        fn host(&self) -> &str {
            ""
        }

        fn method(&self) -> &str {
            "GET"
        }

        fn path(&self) -> &str {
            "/"
        }

        fn query(&self) -> &str {
            ""
        }

        fn header(&self, name: &str) -> Option<&[u8]> {
            self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
        }
    }

    fn policy() -> FaultPolicy {
        FaultPolicy {
            headers: Vec::new(),
            delay: Some(Delay { share: 1000, time: SECOND }),
            abort: Some(Abort { share: 100, answer: FaultAnswer::Grpc(Status::Unavailable) }),
            rate_limit: Some(RateLimited { share: 5000, retry_after: 2 * SECOND }),
        }
    }

    #[test]
    fn shares_are_kept_and_drawn_each_for_itself() {
        let (faults, mut rng) = (Faults::new(policy()), SmallRng::seed_from_u64(7));
        let drawn: Vec<_> = (0..100_000).map(|_| faults.inject(&With(&[]), || rng.random())).collect();
        let count = |is_it: fn(&Injected) -> bool| drawn.iter().filter(|injected| is_it(injected)).count();
        let delayed = count(|injected| injected.delay == Some(SECOND));
        let aborted = count(|injected| matches!(injected.end, Some(FaultEnd::Abort(_))));
        let limited = count(|injected| injected.end == Some(FaultEnd::RateLimited(2 * SECOND)));
        let both = count(|injected| injected.delay.is_some() && injected.end.is_some());
        assert!((9_600..10_400).contains(&delayed), "{delayed}");
        assert!((900..1100).contains(&aborted), "{aborted}");
        assert!((49_000..50_000).contains(&limited), "{limited}: half of those that do not fail");
        assert!((4_800..5_300).contains(&both), "{both}");
    }

    #[test]
    fn a_whole_share_hits_all_and_headers_choose_whom() {
        let headers = vec![
            ("x-chaos".into(), TextPattern::Exact("1".into())),
            ("x-team".into(), TextPattern::Regex("red|blue".into())),
        ];
        let abort = Some(Abort { share: 10_000, answer: FaultAnswer::Http(503) });
        let faults = Faults::new(FaultPolicy { headers, abort, ..FaultPolicy::default() });
        let hit = Some(FaultEnd::Abort(FaultAnswer::Http(503)));
        for draw in [0, 1 << 31, u32::MAX] {
            let end = |headers| faults.inject(&With(headers), || draw).end;
            assert_eq!(end(&[("x-chaos", b"1"), ("x-team", b"red")]), hit);
            assert_eq!(end(&[("x-chaos", b"1"), ("x-team", b"reddish")]), None);
            assert_eq!(end(&[("x-team", b"red")]), None);
        }
        let unmeant = faults.inject(&With(&[]), || panic!("nothing is drawn for those who are not meant"));
        assert_eq!(unmeant, Injected::default());
    }
}
