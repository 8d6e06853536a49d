//! What one application may have of the proxy lane, so that others have the rest.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The longest that a new connection waits for its turn: long enough for the bursts of a program that starts, short enough that no
/// usual timeout of a client is over.
pub const MOST_CONNECTION_WAIT: Duration = Duration::from_secs(1);
/// How far new connections may be ahead of their pace: a second's worth may come at once.
const CONNECTIONS_AHEAD: Duration = Duration::from_secs(1);
/// How far bytes may be ahead of theirs: what timers are late by (1 ms) is made up for, and a neighbour hardly notices it.
const BYTES_AHEAD: Duration = Duration::from_millis(100);
const SECOND_NS: u64 = 1_000_000_000;

/// Bounds on each application as configured; what is absent is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Quota {
    /// Open connections; 1 or more.
    pub max_connections: Option<u32>,
    /// New connections; 1 or more.
    pub connections_per_second: Option<u32>,
    /// Bytes in both directions together; [`Quota::LEAST_BYTES_PER_SECOND`] or more.
    pub bytes_per_second: Option<u64>,
}

impl Quota {
    /// What a hundred connections that share it can still live on: each of them moves within a few seconds.
    pub const LEAST_BYTES_PER_SECOND: u64 = 64 << 10;
    /// More than any machine moves; small enough that no sum overflows.
    pub const MOST_BYTES_PER_SECOND: u64 = 1 << 40;
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// As many are open as may be.
    Connections,
    /// They come so fast that it would wait for too long.
    Rate,
}

/// What one application has used up of its [`Quota`]. All workers share it, so that the bound is the node's.
#[derive(Debug, Default)]
pub struct Account {
    open: AtomicU64,
    /// 0 is no bound, here and below.
    most_open: AtomicU64,
    connections: Line,
    bytes: Line,
}

impl Account {
    /// Says what the bounds are from now on.
    pub fn set(&self, quota: Quota) {
        self.most_open.store(quota.max_connections.map_or(0, u64::from), Ordering::Relaxed);
        self.connections.set(quota.connections_per_second.map_or(0, u64::from));
        self.bytes.set(quota.bytes_per_second.unwrap_or(0));
    }

    /// Takes up a connection that comes now, and says how long it has to wait. Unless that failed it has to be given back by
    /// [`Account::close`].
    ///
    /// # Errors
    /// If it is not to be served; it uses up nothing then.
    pub fn try_open(&self, now_ns: u64) -> Result<Duration, Exceeded> {
        let most = self.most_open.load(Ordering::Relaxed);
        let more = |open| (most == 0 || open < most).then_some(open + 1);
        let opened = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        opened.map_err(|_| Exceeded::Connections)?;
        let wait = self.connections.try_stand(1, CONNECTIONS_AHEAD, MOST_CONNECTION_WAIT, now_ns);
        wait.ok_or_else(|| {
            self.close();
            Exceeded::Rate
        })
    }

    /// Takes up a connection that was open before, whatever the bounds are.
    pub fn go_on(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a connection back.
    pub fn close(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// The bound on bytes, if there is one.
    #[must_use]
    pub fn bytes_per_second(&self) -> Option<u64> {
        Some(self.bytes.per_second.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// Buys bytes; says how long to wait before they may be moved. Whoever asks first waits the shortest, so connections of an
    /// application that all want more than they get move the same.
    #[must_use]
    pub fn buy_bytes(&self, bytes: u64, now_ns: u64) -> Duration {
        self.bytes.try_stand(bytes, BYTES_AHEAD, Duration::MAX, now_ns).unwrap_or_default()
    }

    /// Gives back bytes that were bought and not moved.
    pub fn return_bytes(&self, bytes: u64) {
        self.bytes.leave(bytes);
    }
}

/// A line that moves at an even pace (GCRA, as in [`super`]): whoever comes too early keeps the place that he gets.
#[derive(Debug, Default)]
struct Line {
    per_second: AtomicU64,
    /// When the next one is due.
    due_ns: AtomicU64,
}

impl Line {
    fn set(&self, per_second: u64) {
        if self.per_second.swap(per_second, Ordering::Relaxed) != per_second {
            // What stands in line at another pace says nothing about this one.
            self.due_ns.store(0, Ordering::Relaxed);
        }
    }

    /// Takes a place for `count` at once, and says how long it is until then; `None`, and no place, if that is longer than `most`.
    fn try_stand(&self, count: u64, ahead: Duration, most: Duration, now_ns: u64) -> Option<Duration> {
        let cost_ns = self.cost_ns(count);
        if cost_ns == 0 {
            return Some(Duration::ZERO);
        }
        let (ahead_ns, most_ns) = (nanos(ahead), nanos(most));
        let mut due_ns = self.due_ns.load(Ordering::Relaxed);
        loop {
            let end_ns = due_ns.max(now_ns).saturating_add(cost_ns);
            // The whole of it is through at its end; what may come at once is never less than one.
            let wait_ns = (end_ns - now_ns).saturating_sub(ahead_ns.max(cost_ns));
            if wait_ns > most_ns {
                return None;
            }
            match self.due_ns.compare_exchange_weak(due_ns, end_ns, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(Duration::from_nanos(wait_ns)),
                Err(other) => due_ns = other,
            }
        }
    }

    fn leave(&self, count: u64) {
        let cost_ns = self.cost_ns(count);
        let less = |due_ns: u64| Some(due_ns.saturating_sub(cost_ns));
        let _ = self.due_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Time that `count` of them take; 0 without a bound.
    fn cost_ns(&self, count: u64) -> u64 {
        match self.per_second.load(Ordering::Relaxed) {
            0 => 0,
            rate => {
                let cost_ns = (u128::from(count) * u128::from(SECOND_NS)).div_ceil(rate.into());
                u64::try_from(cost_ns).unwrap_or(u64::MAX)
            }
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1000 * SECOND_NS;

    fn account(quota: Quota) -> Account {
        let account = Account::default();
        account.set(quota);
        account
    }

    #[test]
    fn without_bounds_everything_comes_at_once() {
        let account = Account::default();
        for _ in 0..1000 {
            assert_eq!(account.try_open(START), Ok(Duration::ZERO));
        }
        assert_eq!((account.bytes_per_second(), account.buy_bytes(1 << 40, START)), (None, Duration::ZERO));
    }

    #[test]
    fn as_many_are_open_as_may_be_and_no_more() {
        let account = account(Quota { max_connections: Some(2), ..Quota::default() });
        assert!(account.try_open(START).is_ok() && account.try_open(START).is_ok());
        assert_eq!(account.try_open(START), Err(Exceeded::Connections));
        account.close();
        assert!(account.try_open(START).is_ok());
        account.go_on();
        account.close();
        assert_eq!(account.try_open(START), Err(Exceeded::Connections), "two are open");
        account.set(Quota::default());
        assert!(account.try_open(START).is_ok(), "no bound any more");
    }

    #[test]
    fn a_burst_of_connections_goes_through_then_each_waits_a_second_at_most() {
        let account = account(Quota { connections_per_second: Some(10), ..Quota::default() });
        let waits: Vec<_> = (0..40).map(|_| account.try_open(START)).collect();
        assert!(waits[..10].iter().all(|wait| *wait == Ok(Duration::ZERO)), "{waits:?}");
        assert_eq!(waits[10], Ok(Duration::from_millis(100)));
        assert_eq!(waits[19], Ok(Duration::from_secs(1)));
        assert!(waits[20..].iter().all(|wait| *wait == Err(Exceeded::Rate)));
        let later = START + SECOND_NS / 10;
        assert_eq!(
            account.try_open(later),
            Ok(Duration::from_secs(1)),
            "those that were refused took no place"
        );
        assert_eq!(account.open.load(Ordering::Relaxed), 21);
    }

    #[test]
    fn bytes_that_are_given_back_are_there_for_others() {
        let account = account(Quota { bytes_per_second: Some(1 << 20), ..Quota::default() });
        assert_eq!(account.buy_bytes(1 << 20, START), Duration::ZERO, "one is never too much to begin with");
        assert!(account.buy_bytes(1 << 16, START) > Duration::from_millis(900));
        account.return_bytes((1 << 20) + (1 << 16));
        assert_eq!(account.buy_bytes(1 << 16, START), Duration::ZERO);
    }

    #[test]
    fn another_pace_begins_anew() {
        let account = account(Quota { bytes_per_second: Some(1 << 16), ..Quota::default() });
        let _ = account.buy_bytes(1 << 30, START);
        account.set(Quota { bytes_per_second: Some(1 << 17), ..Quota::default() });
        assert_eq!(account.buy_bytes(1 << 10, START), Duration::ZERO);
    }

    proptest! {
        /// Connections that buy piece after piece, each when it may, get what was promised together, and the same each.
        #[test]
        fn connections_share_the_rate_evenly(
            rate in Quota::LEAST_BYTES_PER_SECOND..1 << 34, connections in 1usize..50, piece in 1u64 << 10..1 << 18,
        ) {
            let account = account(Quota { bytes_per_second: Some(rate), ..Quota::default() });
            let time_ns = 100 * SECOND_NS.max(SECOND_NS * piece * 50 / rate);
            let mut ready = vec![START; connections];
            let mut moved = vec![0u64; connections];
            // At most 20,000 steps: then the clock has not come to its end, and what counts is how far it has.
            let mut now_ns = START;
            for _ in 0..20_000 {
                let (next, at) = ready.iter().copied().enumerate().min_by_key(|(_, at)| *at).unwrap();
                now_ns = now_ns.max(at);
                if now_ns > START + time_ns {
                    break;
                }
                ready[next] = now_ns + nanos(account.buy_bytes(piece, now_ns));
                moved[next] += piece;
            }
            let seconds = (now_ns - START) as f64 / SECOND_NS as f64;
            let total: u64 = moved.iter().sum();
            let slack = rate as f64 / 10.0 + (connections as u64 * piece * 2) as f64;
            prop_assert!((total as f64) <= seconds * rate as f64 + slack, "{total} in {seconds} s at {rate}");
            prop_assert!((total as f64) >= seconds * rate as f64 - slack, "{total} in {seconds} s at {rate}");
            let (least, most) = (moved.iter().min().unwrap(), moved.iter().max().unwrap());
            let burst = (rate / 10).max(piece);
            prop_assert!(most - least <= burst + 2 * piece, "{moved:?}");
        }
    }
}
