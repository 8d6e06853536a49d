//! Whether a request is tried again, when, and who pays for it.
//!
//! ```text
//!   failure ──> safe? ──> wanted? ──> tries left? ──> time left? ──> budget? ──> pause ──> another try
//!                 │          │            │              │             └─ if it is charged: Load::throttle_failure (where the
//!                 │          │            │              │                policy has a throttle), then Load::try_retry
//!                 └──────────┴────────────┴──────────────┴─> the failure is the answer
//! ```
//!
//! Safe is what nobody can have worked on ([`proof`] says how that is known, and HTTP/2 servers say it themselves), what may be
//! repeated by its meaning (RFC 9110, 9.2.2), and a gRPC call that failed with a status which the policy names: that is
//! how the owner of a service says which failures may be followed by the same call (gRPC proposal A6). Everything else a proxy
//! must not repeat.

pub mod proof;
mod pushback;

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::grpc::{Status, StatusSet};
use crate::load::{Budget, RetryThrottle};

pub use self::pushback::{MAX_PUSHBACK, Pushback};

/// What the config says about trying again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Further tries after the first one; 0 is none.
    pub attempts: u32,
    /// Failures after which it is tried again.
    pub on: RetryOn,
    /// Retries that may be under way, in percent of the requests of the service that are.
    pub budget_percent: u8,
    /// Retries that may be under way whatever the share says: a service with few requests must be able to retry, too.
    pub budget_least: u32,
    /// Bound by how tries end, if wanted.
    pub throttle: Option<RetryThrottle>,
    /// Longest pause before the first retry; it doubles with each one. The pause is drawn from zero to this ("full jitter").
    pub base_back_off: Duration,
    /// Bound on that.
    pub max_back_off: Duration,
}

/// Failures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection could be made.
    pub connect_failure: bool,
    /// The connection ended before the first byte of an answer.
    pub reset: bool,
    /// No head of an answer came within the time for one try.
    pub timeout: bool,
    /// Statuses, as inclusive ranges.
    pub statuses: Vec<(u16, u16)>,
    /// Statuses of gRPC.
    pub grpc: StatusSet,
}

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be made, TLS included.
    Connect,
    /// The connection ended, and it is proven that no server had the request ([`proof::Evidence`]).
    ResetBeforeSend {
        /// It had carried a request before: the endpoint closed it as one that rests, which says nothing about this one.
        is_reused: bool,
    },
    /// The connection ended before the first byte of an answer, and a server may have had the request.
    ResetAfterSend {
        /// As above; for a connection that was in use before this is the likely reason, though not proven.
        is_reused: bool,
    },
    /// No head of an answer came within the time for one try.
    PerTryTimeout,
    /// An answer came with this status, and nothing of it was passed on.
    Status(u16),
    /// A gRPC call ended with this status in the header `grpc-status`, and nothing of the answer was passed on: usually it
    /// is a head and nothing else ("Trailers-Only").
    Grpc {
        /// The status.
        status: Status,
        /// What the endpoint says about another try.
        pushback: Option<Pushback>,
    },
    /// The server says that it did not begin with the request: RST_STREAM with REFUSED_STREAM, or a stream beyond the last one
    /// that its GOAWAY names (RFC 9113, 8.7 and 6.8).
    Refused {
        /// It goes, with the whole connection, and said so: nobody is asked there any more.
        is_leaving: bool,
    },
}

impl Failure {
    fn pushback(self) -> Option<Pushback> {
        if let Self::Grpc { pushback, .. } = self { pushback } else { None }
    }

    /// Tells whether the endpoint has said that it wants no other try.
    #[must_use]
    pub fn forbids_retry(self) -> bool {
        self.pushback() == Some(Pushback::Never)
    }

    /// Tells whether it is sure that no server worked on the request.
    #[must_use]
    pub fn is_unseen(self) -> bool {
        matches!(self, Self::Connect | Self::ResetBeforeSend { .. } | Self::Refused { .. })
    }
}

/// What must be known of a request to repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Doing it twice is as good as once.
    pub is_idempotent: bool,
    /// All that was sent of it is still there to be sent again; what was not read from the client yet does not matter.
    pub is_replayable: bool,
}

/// Tells whether a method is idempotent by its definition (RFC 9110, 9.2.2). Methods are case-sensitive.
#[must_use]
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// A try that may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Time to wait before it.
    pub pause: Duration,
    /// A server may have worked on the request before, so that this try is work on top: it needs a [`Load::try_retry`]
    /// guard. What no server had costs none any work and is free; a budget that a restarted endpoint's closed connections
    /// could use up would turn what nobody need notice into errors.
    ///
    /// [`Load::try_retry`]: crate::load::Load::try_retry
    pub is_charged: bool,
    /// It must go over a new connection: others that rest may have been closed at the same moment. The endpoint may be the
    /// same. Else another endpoint is preferred, by telling the balancer which ones were tried.
    pub is_fresh: bool,
}

/// Why none may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GiveUp {
    /// A server may have worked on it, and doing it twice is not as good as once; or it is not there any more.
    #[error("the request may not be repeated")]
    Unsafe,
    /// The policy does not name this failure.
    #[error("the policy does not ask for a retry")]
    Unwanted,
    /// The endpoint asks for no other, or for one too late to wait for.
    #[error("the endpoint does not want a retry")]
    Pushback,
    /// As many tries were made as the policy allows.
    #[error("no tries are left")]
    Exhausted,
    /// The pause before the next would end when the request's time is over.
    #[error("no time is left")]
    Deadline,
}

/// Tries of a request beyond its first that cost nothing because a server refused it: it may have too much to do.
pub const FREE_REFUSALS: u8 = 3;
/// The same if servers let connections go. That is nobody's load, but connections that began together are let go together:
/// a request may meet several in a row.
pub const FREE_DEPARTURES: u8 = 16;

/// The retries of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    counted: u32,
    /// Retries since the back-off began: an endpoint that says how long to wait lets it begin anew.
    backed_off: u32,
    has_refreshed: bool,
    refusals: u8,
}

impl Retries {
    /// Retries that were allowed so far, by whichever reason.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.counted + u32::from(self.has_refreshed) + u32::from(self.refusals)
    }

    /// Decides whether a request is tried again after a failure, and takes note of it. `left` is the time until the request's
    /// deadline.
    ///
    /// A connection that rested and turns out to be closed is replaced once, whatever the policy says, without a pause and
    /// without counting as a retry: applications that have connections of their own never meet it, so it is Weir's to hide.
    /// If it is not proven that no server had the request, only an idempotent one is repeated, and not if the policy allows no
    /// retry at all.
    ///
    /// So is a request tried again, a few times, that a server refused: it had bad luck, as one that came to a connection just
    /// closed. gRPC allows as many tries where the request never left the client, and one where it did (proposal A6, "Transparent
    /// Retries"); a proxy with a hundred requests on a connection meets several GOAWAYs in a row. The connection that was refused on must not be offered again if it goes
    /// away; another one may be one that rests.
    ///
    /// # Errors
    /// Why it is not.
    pub fn handle_failure(
        &mut self,
        failure: Failure,
        kind: Kind,
        policy: &RetryPolicy,
        left: Option<Duration>,
        rng: &mut SmallRng,
    ) -> Result<Retry, GiveUp> {
        let is_unseen = failure.is_unseen();
        let is_by_status = matches!(failure, Failure::Grpc { .. });
        if !kind.is_replayable || !(is_unseen || is_by_status || kind.is_idempotent) {
            return Err(GiveUp::Unsafe);
        }
        if left == Some(Duration::ZERO) {
            return Err(GiveUp::Deadline);
        }
        if !self.has_refreshed && policy.is_stale(failure) {
            self.has_refreshed = true;
            return Ok(Retry { pause: Duration::ZERO, is_charged: !is_unseen, is_fresh: true });
        }
        if let Failure::Refused { is_leaving } = failure
            && self.refusals < if is_leaving { FREE_DEPARTURES } else { FREE_REFUSALS }
        {
            self.refusals += 1;
            return Ok(Retry { pause: Duration::ZERO, is_charged: false, is_fresh: false });
        }
        if !policy.on.names(failure) {
            return Err(GiveUp::Unwanted);
        }
        if self.counted >= policy.attempts {
            return Err(GiveUp::Exhausted);
        }
        let pause = self.pause(failure, policy, rng)?;
        if left.is_some_and(|left| pause >= left) {
            return Err(GiveUp::Deadline);
        }
        self.counted += 1;
        self.backed_off = if failure.pushback().is_some() { 0 } else { self.backed_off + 1 };
        Ok(Retry { pause, is_charged: !is_unseen, is_fresh: false })
    }

    /// The pause that the endpoint asks for, else a drawn one.
    fn pause(&self, failure: Failure, policy: &RetryPolicy, rng: &mut SmallRng) -> Result<Duration, GiveUp> {
        match failure.pushback() {
            None => Ok(policy.pause(self.backed_off, rng)),
            Some(Pushback::After(pause)) if pause <= MAX_PUSHBACK => Ok(pause),
            Some(Pushback::After(_) | Pushback::Never) => Err(GiveUp::Pushback),
        }
    }
}

impl RetryPolicy {
    /// The budget of these retries.
    #[must_use]
    pub fn budget(&self) -> Budget {
        Budget { percent: self.budget_percent, least: self.budget_least }
    }

    /// Draws the pause before the retry that follows `count` others: evenly from zero to a bound that doubles each time. Full
    /// jitter spreads those who failed together best (Brooker, "Exponential Backoff And Jitter", 2015).
    fn pause(&self, count: u32, rng: &mut SmallRng) -> Duration {
        let factor = 1u32.checked_shl(count).unwrap_or(u32::MAX);
        let most = self.base_back_off.saturating_mul(factor).min(self.max_back_off);
        let most_ns = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(rng.random_range(0..=most_ns))
    }

    /// Tells whether a connection that rested is to be replaced by a fresh one.
    fn is_stale(&self, failure: Failure) -> bool {
        match failure {
            Failure::ResetBeforeSend { is_reused } => is_reused,
            Failure::ResetAfterSend { is_reused } => is_reused && self.attempts > 0,
            Failure::Connect
            | Failure::PerTryTimeout
            | Failure::Status(_)
            | Failure::Grpc { .. }
            | Failure::Refused { .. } => false,
        }
    }
}

impl RetryOn {
    /// Tells whether a failure is among these. An end before anything was sent is as good as no connection, and as bad as a
    /// reset: either name means it. The same holds for a request that was refused a second time.
    #[must_use]
    pub fn names(&self, failure: Failure) -> bool {
        match failure {
            Failure::Connect => self.connect_failure,
            Failure::ResetBeforeSend { .. } | Failure::Refused { .. } => self.connect_failure || self.reset,
            Failure::ResetAfterSend { .. } => self.reset,
            Failure::PerTryTimeout => self.timeout,
            Failure::Status(status) => self.has_status(status),
            Failure::Grpc { status, .. } => self.grpc.contains(status),
        }
    }

    /// Tells whether a status is among these: an answer with another one is passed on without being held.
    #[must_use]
    pub fn has_status(&self, status: u16) -> bool {
        self.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

impl Default for RetryPolicy {
    /// What holds where the config says nothing: another endpoint where no connection could be made, which is always safe.
    fn default() -> Self {
        Self {
            attempts: 2,
            on: RetryOn { connect_failure: true, ..RetryOn::default() },
            budget_percent: 20,
            budget_least: 3,
            throttle: None,
            base_back_off: Duration::from_millis(25),
            max_back_off: Duration::from_millis(250),
        }
    }
}

#[cfg(test)]
mod tests;
