//! How many requests may begin in a time: a bound on a rate, where [`crate::load`] bounds what is under way.
//!
//! A rate is kept as the time at which the next request would come if all came evenly (GCRA, ITU-T I.371): one number, which a token
//! bucket needs two for, and which nothing has to refill. Workers share it, so that the bound is the node's, exact, and not one of
//! each worker.

mod clients;
mod quota;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::clients::Clients;

pub use self::clients::MAX_CLIENTS;
pub use self::quota::{Account, Exceeded, MOST_CONNECTION_WAIT, Quota};

/// A bound on a rate as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Requests that may begin in each `interval`; 1 to 1,000,000.
    pub requests: u32,
    /// Not zero.
    pub interval: Duration,
    /// Requests that may begin at once; 1 or more.
    pub burst: u32,
    /// Whom it bounds.
    pub per: Per,
}

/// Whom a bound is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Per {
    /// Each client by itself, as [`one_client`] tells them apart.
    Client,
    /// All clients together.
    All,
}

/// What an address has in common with all that are the same client.
///
/// One that comes from elsewhere can have 2^64 addresses of IPv6 for the asking: a network of this size is what the smallest
/// customer is given (RFC 6177), and hosts draw new addresses in it by themselves (RFC 8981). So it is the network that counts.
/// Whoever is on this node has the address that he was given, in a network with all others, and counts by himself; so does an
/// address of IPv4.
#[must_use]
pub fn one_client(address: IpAddr, is_remote: bool) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if is_remote => Ipv6Addr::from_bits(v6.to_bits() & NETWORK).into(),
        other => other,
    }
}

/// The first 64 bits.
const NETWORK: u128 = !0 << 64;

/// A request that comes too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooEarly {
    /// Time after which it would be let through if no other comes before.
    pub wait: Duration,
}

impl TooEarly {
    /// Value of the header `retry-after`: whole seconds, rounded up and never zero, which would be taken for now.
    #[must_use]
    pub fn retry_after_seconds(self) -> u64 {
        let is_part = self.wait.subsec_nanos() > 0;
        (self.wait.as_secs() + u64::from(is_part)).max(1)
    }

    /// Value of the header `grpc-retry-pushback-ms`, rounded up.
    #[must_use]
    pub fn pushback_ms(self) -> u32 {
        let most_ms = i32::MAX.unsigned_abs();
        u32::try_from(self.wait.as_nanos().div_ceil(1_000_000)).map_or(most_ms, |ms| ms.min(most_ms))
    }
}

/// The bounds on the rate of a service or of a rule, and how far each is used up.
///
/// Two are equal if they are configured the same, whatever is used up.
#[derive(Debug, Default)]
pub struct RateLimits(Box<[Limiter]>);

#[derive(Debug)]
struct Limiter {
    limit: RateLimit,
    pace: Pace,
    used: Used,
}

#[derive(Debug)]
enum Used {
    All(AtomicU64),
    Clients(Clients),
}

impl RateLimits {
    /// Makes bounds of which nothing is used up.
    #[must_use]
    pub fn new(limits: &[RateLimit]) -> Self {
        let mut limits = limits.to_vec();
        // Those of single clients first: whoever floods must not use up what is for all.
        limits.sort_by_key(|limit| limit.per);
        Self(limits.into_iter().map(Limiter::new).collect())
    }

    /// Lists the bounds: those per client first, else as configured.
    pub fn limits(&self) -> impl Iterator<Item = RateLimit> {
        self.0.iter().map(|limiter| limiter.limit)
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts a request of a client that begins now, unless it comes too early; one that does is not counted.
    ///
    /// `client` is an address, or what [`one_client`] makes of it. `now_ns` is any clock that all workers share and that does not go back. Costs some ten nanoseconds for each bound, and a lock
    /// that is held as long for one that is per client.
    ///
    /// # Errors
    /// How long it had to wait.
    pub fn try_begin(&self, client: IpAddr, now_ns: u64) -> Result<(), TooEarly> {
        self.0.iter().try_for_each(|limiter| limiter.try_begin(client, now_ns))
    }
}

impl PartialEq for RateLimits {
    fn eq(&self, other: &Self) -> bool {
        self.limits().eq(other.limits())
    }
}

impl Eq for RateLimits {}

impl Limiter {
    fn new(limit: RateLimit) -> Self {
        let used = match limit.per {
            Per::All => Used::All(AtomicU64::new(0)),
            Per::Client => Used::Clients(Clients::default()),
        };
        Self { limit, pace: Pace::of(limit), used }
    }

    fn try_begin(&self, client: IpAddr, now_ns: u64) -> Result<(), TooEarly> {
        match &self.used {
            Used::Clients(clients) => clients.with(client, |due_ns| {
                *due_ns = self.pace.next(*due_ns, now_ns)?;
                Ok(())
            }),
            Used::All(due_ns) => {
                let mut seen = due_ns.load(Ordering::Relaxed);
                loop {
                    let next = self.pace.next(seen, now_ns)?;
                    match due_ns.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => return Ok(()),
                        Err(other) => seen = other,
                    }
                }
            }
        }
    }
}

/// A bound in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Between two requests that come evenly.
    gap_ns: u64,
    /// How far ahead of them a request may come.
    ahead_ns: u64,
}

impl Pace {
    fn of(limit: RateLimit) -> Self {
        let interval_ns = u64::try_from(limit.interval.as_nanos()).unwrap_or(u64::MAX);
        let gap_ns = (interval_ns / u64::from(limit.requests.max(1))).max(1);
        Self { gap_ns, ahead_ns: gap_ns.saturating_mul(u64::from(limit.burst.max(1) - 1)) }
    }

    /// When the request after one that comes now is due, by when this one is.
    fn next(self, due_ns: u64, now_ns: u64) -> Result<u64, TooEarly> {
        let ahead_ns = due_ns.saturating_sub(now_ns);
        if ahead_ns > self.ahead_ns {
            return Err(TooEarly { wait: Duration::from_nanos(ahead_ns - self.ahead_ns) });
        }
        Ok(due_ns.max(now_ns).saturating_add(self.gap_ns))
    }
}

#[cfg(test)]
mod tests;
