//! How much may be under way in a service at once: its requests, those that wait for a connection, its retries.
//!
//! Bounds on connections are [`Load::try_acquire`]'s. All counts live in [`Load`], so every worker and every version of a
//! service sees the same ones; each operation is one or two atomic steps, and nobody waits.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Load;
use crate::priority::Priority;

/// What is under way in a service.
#[derive(Debug, Default)]
pub(super) struct Counts {
    requests: AtomicU32,
    pending: AtomicU32,
    retries: AtomicU32,
}

/// Bounds on what is under way; no bound where absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestLimits {
    /// Requests.
    pub max_requests: Option<u32>,
    /// Requests that wait for a connection.
    pub max_pending: Option<u32>,
    /// Retries.
    pub max_retries: Option<u32>,
}

impl RequestLimits {
    /// The same for requests of a priority: low ones leave some room for the others.
    #[must_use]
    pub fn of_priority(self, priority: Priority) -> Self {
        let share = |most| priority.share(most);
        Self { max_requests: self.max_requests.map(share), max_pending: self.max_pending.map(share), ..self }
    }
}

/// Share of the requests under way that may be retries: their budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Percent of the requests of the service that are under way.
    pub percent: u8,
    /// Retries that may be under way whatever the share says.
    pub least: u32,
}

impl Budget {
    /// Most retries beside so many requests.
    #[must_use]
    pub fn most(self, request_count: u32) -> u32 {
        let share = u64::from(request_count) * u64::from(self.percent) / 100;
        u32::try_from(share).unwrap_or(u32::MAX).max(self.least)
    }
}

/// Why there may be no further retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRetry {
    /// As many as the budget allows are under way.
    #[error("the retry budget is used up")]
    Budget,
    /// As many as the service allows are under way.
    #[error("the service has as many retries as it may")]
    Limit,
}

impl Load {
    /// Counts a request from here to the guard's end, unless that would exceed the bound.
    ///
    /// The guard takes any pointer to the load: a borrow where the caller keeps the service, an [`std::sync::Arc`] elsewhere.
    #[must_use]
    pub fn try_request<L: Deref<Target = Self>>(load: L, limits: RequestLimits) -> Option<Request<L>> {
        try_add(&load.counts.requests, limits.max_requests).then(|| Request(load))
    }

    /// Counts a request that waits for a connection, unless that would exceed the bound.
    #[must_use]
    pub fn try_pending<L: Deref<Target = Self>>(load: L, limits: RequestLimits) -> Option<Pending<L>> {
        try_add(&load.counts.pending, limits.max_pending).then(|| Pending(load))
    }

    /// Counts a retry, unless that would exceed its budget or the bound.
    ///
    /// The share is one of the requests that are under way at this moment: with fewer later, no retry is called back.
    ///
    /// # Errors
    /// What is used up.
    pub fn try_retry<L: Deref<Target = Self>>(
        load: L,
        budget: Budget,
        limits: RequestLimits,
    ) -> Result<Retry<L>, NoRetry> {
        let Counts { requests, retries, .. } = &load.counts;
        let most = limits.max_retries.unwrap_or(u32::MAX);
        let more = |count| {
            let has_room = count < most && count < budget.most(requests.load(Ordering::Relaxed));
            has_room.then_some(count + 1)
        };
        match retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Retry(load)),
            Err(count) if count >= most => Err(NoRetry::Limit),
            Err(_) => Err(NoRetry::Budget),
        }
    }

    /// Requests under way.
    #[must_use]
    pub fn request_count(&self) -> u32 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Requests that wait for a connection.
    #[must_use]
    pub fn pending_count(&self) -> u32 {
        self.counts.pending.load(Ordering::Relaxed)
    }

    /// Retries under way.
    #[must_use]
    pub fn retry_count(&self) -> u32 {
        self.counts.retries.load(Ordering::Relaxed)
    }
}

/// Without a bound one step that cannot fail, which is the usual case.
fn try_add(count: &AtomicU32, most: Option<u32>) -> bool {
    match most {
        None => {
            count.fetch_add(1, Ordering::Relaxed);
            true
        }
        Some(most) => {
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < most).then_some(n + 1)).is_ok()
        }
    }
}

/// Declares guards, each of which takes its one off a count when it is dropped.
macro_rules! guards {
    ($($(#[$doc:meta])* $name:ident of $count:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        #[must_use = "it counts only for as long as it is kept"]
        pub struct $name<L: Deref<Target = Load>>(L);

        impl<L: Deref<Target = Load>> Drop for $name<L> {
            fn drop(&mut self) {
                self.0.counts.$count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    )*};
}

guards! {
    /// A request under way.
    Request of requests,
    /// A request that waits for a connection.
    Pending of pending,
    /// A retry under way: from the decision for it to the end of its request, the pause before it included.
    Retry of retries,
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    const NONE: RequestLimits = RequestLimits { max_requests: None, max_pending: None, max_retries: None };

    #[test]
    fn guards_count_for_as_long_as_they_are_kept() {
        let load = Load::default();
        let limits = RequestLimits { max_requests: Some(2), max_pending: Some(1), ..NONE };
        let first = Load::try_request(&load, limits);
        let second = Load::try_request(&load, limits);
        assert!(second.is_some() && Load::try_request(&load, limits).is_none());
        let waiting = Load::try_pending(&load, limits);
        assert!(waiting.is_some() && Load::try_pending(&load, limits).is_none());
        drop((first, waiting));
        assert_eq!((load.request_count(), load.pending_count()), (1, 0));
        assert!(Load::try_request(&load, limits).is_some());
        assert_eq!(load.request_count(), 1, "that one was not kept");
    }

    #[test]
    fn what_low_ones_leave_free_is_there_for_the_others() {
        let load = Load::default();
        let limits = RequestLimits { max_requests: Some(8), max_pending: Some(4), ..NONE };
        let try_as = |priority| Load::try_request(&load, limits.of_priority(priority));
        let low: Vec<_> = std::iter::from_fn(|| try_as(Priority::Low)).collect();
        let others: Vec<_> = std::iter::from_fn(|| try_as(Priority::Default)).collect();
        assert_eq!((low.len(), others.len()), (6, 2));
        assert!(try_as(Priority::High).is_none(), "the bound holds for everybody");
        assert_eq!(limits.of_priority(Priority::Low).max_pending, Some(3));
    }

    #[test]
    fn a_bound_of_zero_lets_nothing_through_and_no_bound_everything() {
        let load = Load::default();
        let limits = RequestLimits { max_requests: Some(0), max_pending: Some(0), max_retries: Some(0) };
        assert!(Load::try_request(&load, limits).is_none() && Load::try_pending(&load, limits).is_none());
        let budget = Budget { percent: 100, least: 9 };
        assert_eq!(Load::try_retry(&load, budget, limits).unwrap_err(), NoRetry::Limit);
        let guards: Vec<_> = (0..5000).map(|_| Load::try_request(&load, NONE).unwrap()).collect();
        assert_eq!(load.request_count(), 5000);
        drop(guards);
        assert_eq!(load.request_count(), 0);
    }

    #[test]
    fn the_budget_is_a_share_of_requests_with_a_floor() {
        let budget = Budget { percent: 20, least: 3 };
        assert_eq!([0, 10, 15, 20, 1000].map(|n| budget.most(n)), [3, 3, 3, 4, 200]);
        assert_eq!(Budget { percent: 100, least: 0 }.most(u32::MAX), u32::MAX);
        assert_eq!(Budget { percent: 255, least: 0 }.most(u32::MAX), u32::MAX, "no overflow");

        let load = Load::default();
        let try_retry = || Load::try_retry(&load, budget, NONE);
        let alone: Vec<_> = (0..3).map(|_| try_retry().unwrap()).collect();
        assert_eq!(try_retry().unwrap_err(), NoRetry::Budget);
        let requests: Vec<_> = (0..20).map(|_| Load::try_request(&load, NONE).unwrap()).collect();
        let fourth = try_retry().unwrap();
        assert_eq!(try_retry().unwrap_err(), NoRetry::Budget);
        drop(requests);
        assert_eq!(load.retry_count(), 4, "nobody calls it back");
        drop((alone, fourth));
        assert!(try_retry().is_ok());
    }

    #[test]
    fn the_bound_on_retries_holds_below_the_budget() {
        let load = Load::default();
        let limits = RequestLimits { max_retries: Some(1), ..NONE };
        let budget = Budget { percent: 0, least: 5 };
        let one = Load::try_retry(&load, budget, limits);
        assert!(one.is_ok());
        assert_eq!(Load::try_retry(&load, budget, limits).unwrap_err(), NoRetry::Limit);
    }

    /// Threads take and give back as fast as they can, each checking after every step that nobody had too much.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "what is tested is what several threads do at once")]
    fn no_bound_is_exceeded_however_many_threads_try() {
        const THREADS: usize = 8;
        let limits = RequestLimits { max_requests: Some(5), max_pending: Some(2), max_retries: None };
        let budget = Budget { percent: 40, least: 1 };
        let load = Arc::new(Load::default());
        let together = Arc::new(Barrier::new(THREADS));
        let worker = |load: Arc<Load>, together: Arc<Barrier>| {
            move || {
                // First all at once, so that the bounds are met however few threads run at a time.
                let request = Load::try_request(&*load, limits);
                let pending = Load::try_pending(Arc::clone(&load), limits);
                let got = (request.is_some(), pending.is_some());
                together.wait();
                drop((request, pending));
                for _ in 0..20_000 {
                    let _request = Load::try_request(&*load, limits);
                    let _pending = Load::try_pending(Arc::clone(&load), limits);
                    let _retry = Load::try_retry(&*load, budget, limits);
                    assert!(load.request_count() <= 5 && load.pending_count() <= 2);
                    // 40 % of the five requests that there can be.
                    assert!(load.retry_count() <= 2);
                }
                got
            }
        };
        let threads: Vec<_> = (0..THREADS)
            .map(|_| std::thread::spawn(worker(Arc::clone(&load), Arc::clone(&together))))
            .collect();
        let got: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!((load.request_count(), load.pending_count(), load.retry_count()), (0, 0, 0));
        let count = |of: fn(&(bool, bool)) -> bool| got.iter().filter(|got| of(got)).count();
        assert_eq!((count(|got| got.0), count(|got| got.1)), (5, 2), "of those who tried at once");
    }
}
