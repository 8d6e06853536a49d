//! Until when a request, and one try of it, may take.

use std::time::{Duration, Instant};

use crate::outcome::RequestReason;
use crate::route::Timeouts;

/// The times of one request, as instants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    began: Instant,
    /// End of the whole request, all tries and pauses included.
    request: Option<Instant>,
    /// Time for one try.
    per_try: Option<Duration>,
}

impl Deadlines {
    /// Begins to count when a request's head is complete. A time too long for the clock is none.
    #[must_use]
    pub fn new(began: Instant, timeouts: Timeouts) -> Self {
        let request = timeouts.request.and_then(|time| began.checked_add(time));
        Self { began, request, per_try: timeouts.per_try }
    }

    /// Takes up what whoever is in front has left for the request, if that is known and shorter: a deadline shrinks from hop
    /// to hop and never grows.
    #[must_use]
    pub fn shrink(self, incoming: Option<Duration>) -> Self {
        let incoming = incoming.and_then(|time| self.began.checked_add(time));
        let request = [self.request, incoming].into_iter().flatten().min();
        Self { request, ..self }
    }

    /// When a try that begins now must have the head of an answer, and what it is called if that passes. The request's own end
    /// wins if both fall together: trying again would be of no use.
    #[must_use]
    pub fn of_try(&self, now: Instant) -> Option<(Instant, RequestReason)> {
        let request = self.request.map(|at| (at, RequestReason::RequestTimeout));
        let own = self.per_try.and_then(|time| now.checked_add(time));
        let own = own.map(|at| (at, RequestReason::PerTryTimeout));
        match (request, own) {
            (Some(request), Some(own)) => Some(if own.0 < request.0 { own } else { request }),
            (request, own) => request.or(own),
        }
    }

    /// When the answer must have ended.
    #[must_use]
    pub fn of_request(&self) -> Option<Instant> {
        self.request
    }

    /// Time that is left for the request: none is no bound, zero is over.
    #[must_use]
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.request.map(|at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const SECOND: Duration = Duration::from_secs(1);

    fn timeouts(request: Option<u64>, per_try: Option<u64>) -> Timeouts {
        let seconds = |time: Option<u64>| time.map(Duration::from_secs);
        Timeouts { request: seconds(request), per_try: seconds(per_try) }
    }

    #[test]
    fn each_try_has_its_own_time_until_the_request_is_over() {
        let began = fixture::now();
        let deadlines = Deadlines::new(began, timeouts(Some(10), Some(4)));
        let of_try = |seconds: u32| deadlines.of_try(began + SECOND * seconds).unwrap();
        assert_eq!(of_try(0), (began + SECOND * 4, RequestReason::PerTryTimeout));
        assert_eq!(of_try(5), (began + SECOND * 9, RequestReason::PerTryTimeout));
        assert_eq!(of_try(6), (began + SECOND * 10, RequestReason::RequestTimeout), "both at once");
        assert_eq!(of_try(9), (began + SECOND * 10, RequestReason::RequestTimeout));
        assert_eq!(deadlines.left(began + SECOND * 7), Some(SECOND * 3));
        assert_eq!(deadlines.left(began + SECOND * 12), Some(Duration::ZERO));
    }

    #[test]
    fn what_is_not_bounded_has_no_end() {
        let began = fixture::now();
        let none = Deadlines::new(began, timeouts(None, None));
        assert_eq!((none.of_try(began), none.of_request(), none.left(began)), (None, None, None));
        let own = Deadlines::new(began, timeouts(None, Some(1)));
        assert_eq!(own.of_try(began), Some((began + SECOND, RequestReason::PerTryTimeout)));
        assert_eq!(own.left(began), None);
        let long = Timeouts { request: Some(Duration::MAX), per_try: Some(Duration::MAX) };
        assert_eq!(Deadlines::new(began, long).of_try(began), None, "beyond the clock");
    }

    #[test]
    fn deadlines_shrink_from_hop_to_hop_and_never_grow() {
        let began = fixture::now();
        let own = Deadlines::new(began, timeouts(Some(10), None));
        assert_eq!(own.shrink(Some(SECOND * 3)).of_request(), Some(began + SECOND * 3));
        assert_eq!(own.shrink(Some(SECOND * 30)).of_request(), Some(began + SECOND * 10));
        assert_eq!(own.shrink(None), own);
        assert_eq!(own.shrink(Some(Duration::MAX)), own);
        let none = Deadlines::new(began, timeouts(None, None));
        assert_eq!(none.shrink(Some(SECOND)).of_request(), Some(began + SECOND));
    }
}
