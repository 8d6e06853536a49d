//! Which connections to endpoints are kept between two requests, which of them is used next, and which go.
//!
//! The one that rested the shortest is used next: it is the warmest, the least likely to be closed by its server at this
//! moment, and the others may get old enough to go. So as many stay as the load needs, and the bounds matter in floods only.

use std::hash::Hash;
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::rngs::SmallRng;
use rustc_hash::FxHashMap;

/// Bounds on connections that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Connections that rest for one key.
    pub idle_per_key: usize,
    /// Connections that rest altogether: each costs a descriptor that no client pays for.
    pub idle_total: usize,
    /// Time that one may rest.
    pub max_idle: Duration,
    /// Time from its first request after which it gets no further one; up to a tenth less, so that connections that were made
    /// together do not go together. `None` is no bound.
    pub max_age: Option<Duration>,
    /// Requests that it may carry; `None` is no bound.
    pub max_requests: Option<u32>,
}

impl PoolLimits {
    /// What holds where the config says nothing.
    ///
    /// As many as one worker has requests under way to an endpoint in the busiest of benches, and four times that
    /// altogether. Four seconds are less than the five after which Node.js, Apache and uvicorn close (nginx: 75), so the race
    /// with their FIN is rare; and a connection that is needed less than every four seconds is not worth keeping. Within an
    /// hour every client has followed a change behind an address, as of a load balancer in front of the endpoint.
    pub const DEFAULT: Self = Self {
        idle_per_key: 1024,
        idle_total: 4096,
        max_idle: Duration::from_secs(4),
        max_age: Some(Duration::from_secs(3600)),
        max_requests: None,
    };

    /// Begins the life of a new connection, which is about to carry its first request.
    #[must_use]
    pub fn begin(&self, now: Instant, rng: &mut SmallRng) -> Life {
        let ends = self.max_age.and_then(|age| {
            let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            now.checked_add(Duration::from_nanos(age_ns - rng.random_range(0..=age_ns / 10)))
        });
        Life { ends, requests_left: self.max_requests.unwrap_or(u32::MAX) }
    }
}

/// How much longer a connection may be used. It goes with its connection, in the pool and out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    ends: Option<Instant>,
    requests_left: u32,
}

impl Life {
    /// Tells whether the connection is too old for another request.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }
}

/// Connections of one worker that rest, by what they can be used for: endpoint, network namespace, TLS.
///
/// A connection is whatever its owner makes of it; dropping one closes it. Empty it holds no memory.
#[derive(Debug)]
pub struct Pool<K, C> {
    limits: PoolLimits,
    idle: FxHashMap<K, Vec<Idle<C>>>,
    count: usize,
}

#[derive(Debug)]
struct Idle<C> {
    conn: C,
    life: Life,
    /// When it has rested, or lived, for too long.
    until: Instant,
}

impl<K: Eq + Hash, C> Pool<K, C> {
    /// Begins with nothing kept.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Self {
        Self { limits, idle: FxHashMap::default(), count: 0 }
    }

    /// Takes the connection that rested the shortest. Those that are too old, or not `is_alive` (closed by their endpoint, or
    /// with bytes that nobody asked for), are dropped on the way.
    ///
    /// O(1) over the life of a connection.
    pub fn checkout(
        &mut self,
        key: &K,
        now: Instant,
        mut is_alive: impl FnMut(&mut C) -> bool,
    ) -> Option<(C, Life)> {
        let own = self.idle.get_mut(key)?;
        while let Some(Idle { mut conn, life, until }) = own.pop() {
            self.count -= 1;
            if now < until && is_alive(&mut conn) {
                return Some((conn, life));
            }
        }
        None
    }

    /// Keeps a connection after a request; gives back what must be closed instead: that one if its life is over or the pool
    /// is full of others, else the one of its key that rested the longest.
    #[must_use]
    pub fn put(&mut self, key: K, conn: C, life: Life, now: Instant) -> Option<C> {
        let requests_left = life.requests_left.saturating_sub(u32::from(self.limits.max_requests.is_some()));
        let rested = now + self.limits.max_idle;
        let until = life.ends.map_or(rested, |ends| ends.min(rested));
        if requests_left == 0 || until <= now || self.limits.idle_per_key == 0 {
            return Some(conn);
        }
        let is_full = self.count >= self.limits.idle_total;
        let own = self.idle.entry(key).or_default();
        let idle = Idle { conn, life: Life { requests_left, ..life }, until };
        if own.len() >= self.limits.idle_per_key || is_full && !own.is_empty() {
            // As long as what a sweep moves, and only in a flood.
            let oldest = own.remove(0);
            own.push(idle);
            return Some(oldest.conn);
        }
        if is_full {
            return Some(idle.conn);
        }
        own.push(idle);
        self.count += 1;
        None
    }

    /// Gives the connections that are too old, or not `is_alive`; to be called every second or so. Costs a look at each.
    #[must_use]
    pub fn sweep(&mut self, now: Instant, mut is_alive: impl FnMut(&mut C) -> bool) -> Vec<C> {
        self.remove_where(|_, idle| idle.until <= now || !is_alive(&mut idle.conn))
    }

    /// Gives the connections whose key is gone: an endpoint that was lost, a network namespace, a certificate.
    #[must_use]
    pub fn remove_keys(&mut self, is_gone: impl Fn(&K) -> bool) -> Vec<C> {
        self.remove_where(|key, _| is_gone(key))
    }

    /// Connections that rest.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Tells whether none rests.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn remove_where(&mut self, mut is_gone: impl FnMut(&K, &mut Idle<C>) -> bool) -> Vec<C> {
        let mut gone = Vec::new();
        self.idle.retain(|key, own| {
            gone.extend(own.extract_if(.., |idle| is_gone(key, idle)).map(|idle| idle.conn));
            own.shrink_to(own.len() * 2);
            !own.is_empty()
        });
        self.count -= gone.len();
        self.idle.shrink_to(self.idle.len() * 2);
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use rand::SeedableRng as _;

    use super::*;
    use crate::fixture;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: PoolLimits =
        PoolLimits { idle_per_key: 3, idle_total: 5, max_idle: SECOND, max_age: None, max_requests: None };

    fn life(limits: &PoolLimits, now: Instant) -> Life {
        limits.begin(now, &mut SmallRng::seed_from_u64(3))
    }

    #[test]
    fn the_one_that_rested_the_shortest_is_used_next() {
        let (mut pool, now) = (Pool::new(LIMITS), fixture::now());
        for conn in [1, 2, 3] {
            assert_eq!(pool.put("a", conn, life(&LIMITS, now), now), None);
        }
        let mut take = || pool.checkout(&"a", now, |_| true).map(|(conn, _)| conn);
        assert_eq!([take(), take(), take(), take()], [Some(3), Some(2), Some(1), None]);
        assert_eq!(pool.checkout(&"b", now, |_| true), None);
        assert!(pool.is_empty());
    }

    #[test]
    fn dead_connections_are_passed_over() {
        let (mut pool, now) = (Pool::new(LIMITS), fixture::now());
        for conn in [1, 2, 3] {
            assert_eq!(pool.put("a", conn, life(&LIMITS, now), now), None);
        }
        let taken = pool.checkout(&"a", now, |conn| *conn == 1);
        assert_eq!((taken.map(|(conn, _)| conn), pool.len()), (Some(1), 0));
    }

    #[test]
    fn a_full_key_closes_its_oldest_and_a_full_pool_the_newcomer() {
        let (mut pool, now) = (Pool::new(LIMITS), fixture::now());
        let mut put = |key, conn| pool.put(key, conn, life(&LIMITS, now), now);
        assert_eq!([put("a", 1), put("a", 2), put("a", 3), put("a", 4)], [None, None, None, Some(1)]);
        assert_eq!(
            [put("b", 5), put("b", 6), put("b", 7)],
            [None, None, Some(5)],
            "its own oldest, for five in all"
        );
        assert_eq!(put("c", 8), Some(8), "it has none of its own");
        assert_eq!(pool.len(), 5);
    }

    #[test]
    fn rest_is_bounded_and_a_sweep_gives_what_is_over() {
        let (mut pool, now) = (Pool::new(LIMITS), fixture::now());
        assert_eq!(pool.put("a", 1, life(&LIMITS, now), now), None);
        assert_eq!(pool.put("a", 2, life(&LIMITS, now), now + SECOND / 2), None);
        assert_eq!(pool.sweep(now + SECOND / 2, |_| true), [0; 0]);
        assert_eq!(pool.sweep(now + SECOND, |_| true), [1]);
        assert_eq!(pool.checkout(&"a", now + SECOND * 3 / 2, |_| true), None, "also without a sweep");
        assert_eq!(pool.put("a", 3, life(&LIMITS, now), now), None);
        assert_eq!(pool.sweep(now, |_| false), [3], "closed by its endpoint");
        assert_eq!((pool.len(), pool.idle.capacity()), (0, 0), "empty it holds no memory");
    }

    #[test]
    fn requests_are_counted_over_the_life_of_a_connection() {
        let limits = PoolLimits { max_requests: Some(3), ..LIMITS };
        let (mut pool, now) = (Pool::new(limits), fixture::now());
        let mut life = life(&limits, now);
        for _ in 0..2 {
            assert_eq!(pool.put("a", 1, life, now), None);
            life = pool.checkout(&"a", now, |_| true).unwrap().1;
        }
        assert_eq!(pool.put("a", 1, life, now), Some(1), "that was the third");
    }

    #[test]
    fn lives_end_at_different_times_and_not_later_than_allowed() {
        let limits = PoolLimits { max_age: Some(SECOND * 100), max_idle: SECOND * 1000, ..LIMITS };
        let (now, mut rng) = (fixture::now(), SmallRng::seed_from_u64(1));
        let ends: HashSet<Duration> =
            (0..100).map(|_| limits.begin(now, &mut rng).ends.unwrap() - now).collect();
        assert!(ends.len() > 90 && ends.iter().all(|age| (SECOND * 90..=SECOND * 100).contains(age)));
        let mut pool = Pool::new(limits);
        let life = limits.begin(now, &mut rng);
        assert_eq!(pool.put("a", 1, life, now), None);
        assert_eq!(pool.checkout(&"a", now + SECOND * 100, |_| true), None);
        assert_eq!(pool.put("a", 2, life, now + SECOND * 100), Some(2));
    }

    #[test]
    fn what_belongs_to_a_lost_endpoint_goes() {
        let (mut pool, now) = (Pool::new(LIMITS), fixture::now());
        for (key, conn) in [("a", 1), ("b", 2), ("a", 3)] {
            assert_eq!(pool.put(key, conn, life(&LIMITS, now), now), None);
        }
        assert_eq!(pool.remove_keys(|key| *key == "a"), [1, 3]);
        assert_eq!(pool.len(), 1);
    }

    proptest! {
        /// Against a list: no connection is lost, doubled or kept beyond the bounds, and the youngest is taken.
        #[test]
        fn every_connection_is_kept_or_given_back(
            steps in prop::collection::vec((0u8..4, 0u8..3, 0u64..600), 0..200),
            idle_per_key in 0usize..4,
            idle_total in 0usize..6,
        ) {
            let limits = PoolLimits { idle_per_key, idle_total, ..LIMITS };
            let (mut pool, mut now) = (Pool::new(limits), fixture::now());
            let mut kept: Vec<(u8, usize, Instant)> = Vec::new();
            for (conn, (what, key, pause_ms)) in steps.into_iter().enumerate() {
                now += Duration::from_millis(pause_ms);
                match what {
                    0 | 1 => {
                        let closed = pool.put(key, conn, life(&limits, now), now);
                        kept.push((key, conn, now + SECOND));
                        kept.retain(|(_, conn, _)| Some(*conn) != closed);
                    }
                    2 => {
                        let taken = pool.checkout(&key, now, |_| true).map(|(conn, _)| conn);
                        let mut alive = kept.iter().filter(|(k, _, until)| *k == key && now < *until);
                        prop_assert_eq!(taken, alive.next_back().map(|(_, conn, _)| *conn));
                        // What lies above the taken one is dropped; without one, all of the key.
                        kept.retain(|(k, conn, _)| *k != key || taken.is_some_and(|taken| *conn < taken));
                    }
                    _ => {
                        let gone: HashSet<usize> = pool.sweep(now, |_| true).into_iter().collect();
                        let over: HashSet<usize> =
                            kept.iter().filter(|(_, _, until)| *until <= now).map(|(_, conn, _)| *conn).collect();
                        prop_assert_eq!(&gone, &over);
                        kept.retain(|(_, conn, _)| !over.contains(conn));
                    }
                }
                prop_assert_eq!(pool.len(), kept.len());
                prop_assert!(pool.len() <= idle_total);
                for key in 0..3 {
                    prop_assert!(kept.iter().filter(|(k, _, _)| *k == key).count() <= idle_per_key);
                }
            }
        }
    }
}
