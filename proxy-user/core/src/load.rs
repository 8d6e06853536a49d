//! What is under way, and how long it takes: counts that all workers share, of a service or of one endpoint.

pub mod adaptive;
mod latency;
mod limit;
mod throttle;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use self::latency::Latency;
use self::limit::Counts;
pub use self::limit::{Budget, NoRetry, Pending, Request, RequestLimits, Retry};
use self::throttle::Missing;
pub use self::throttle::RetryThrottle;

/// What all workers know of a service or an endpoint between two snapshots, shared by every version of it.
#[derive(Debug, Default)]
pub struct Load {
    open: AtomicU32,
    is_suspect: AtomicBool,
    counts: Counts,
    missing: Missing,
    latency: Latency,
}

impl Load {
    /// Connections open now; of an endpoint that HTTP is spoken with, only those that a request is on. HTTP/1.1 has one for
    /// each, and one that rests until the next request is no load: so `least_request` compares what its name says.
    #[must_use]
    pub fn open_count(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Remembers that a connection failed: the next good one is news.
    pub fn set_suspect(&self) {
        self.is_suspect.store(true, Ordering::Relaxed);
    }

    /// Tells whether a good connection is news, once.
    pub fn take_suspect(&self) -> bool {
        self.is_suspect.load(Ordering::Relaxed) && self.is_suspect.swap(false, Ordering::Relaxed)
    }

    /// Counts one more connection unless that would exceed `most`; the caller owes one [`Load::release`].
    #[must_use]
    pub fn try_acquire(&self, most: u32) -> bool {
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1)).is_ok()
    }

    /// Counts one connection less.
    pub fn release(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_refuses_beyond_its_bound_and_counts_back() {
        let load = Load::default();
        assert!(load.try_acquire(2) && load.try_acquire(2) && !load.try_acquire(2));
        load.release();
        assert_eq!(load.open_count(), 1);
    }
}
