//! How long a worker rests after a failure before it begins again.

use std::time::Duration;

/// Rest after the second failure in a row; doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest rest: what makes a worker fail again and again must not take a core, and when it is over service goes on soon.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Whoever has worked for so long has recovered: the next failure is a first one.
const RECOVERED: Duration = Duration::from_secs(60);

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    failures: u32,
}

impl Restarts {
    /// Takes note of a failure after so much time of work; says how long to rest.
    ///
    /// Not at all after a first one: who waits to be accepted is accepted a moment later.
    pub(super) fn handle_failure(&mut self, worked: Duration) -> Duration {
        self.failures = if worked >= RECOVERED { 1 } else { self.failures.saturating_add(1) };
        match self.failures.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => PAUSE_MIN.saturating_mul(1 << doublings.min(16)).min(PAUSE_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_costs_no_rest_and_many_in_a_row_ever_more_up_to_a_bound() {
        let mut restarts = Restarts::default();
        let pauses: Vec<u128> =
            (0..12).map(|_| restarts.handle_failure(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses[..5], [0, 100, 200, 400, 800]);
        assert_eq!(pauses[9..], [10_000; 3]);
        assert_eq!(restarts.handle_failure(RECOVERED), Duration::ZERO);
        assert_eq!(restarts.handle_failure(Duration::from_secs(59)), PAUSE_MIN);
    }
}
