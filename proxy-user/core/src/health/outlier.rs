//! Passive health of one endpoint: ejection after failures of real connections.

use std::time::{Duration, Instant};

use crate::outcome::Attempt;
use crate::service::Outlier;

/// What real connections said about one endpoint.
///
/// ```text
///             `consecutive_failures` bad attempts in a row, or
///             `consecutive_5xx` bad statuses in a row
///   believed ──────────────────────────────────────────────> ejected
///      <───────────── base x level, at most max ────────────
/// ```
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Bad attempts in a row.
    bad_count: u32,
    /// Bad statuses in a row.
    bad_status_count: u32,
    /// What led to the ejection in force.
    cause: Option<Cause>,
    /// Ejections that still count for the length of the next; one less for each quiet `base_ejection`.
    level: u32,
    /// Since when there was no failure, as far as `level` has taken note of it.
    quiet_since: Option<Instant>,
    pub(super) ejected_until: Option<Instant>,
    pub(super) ejections_total: u64,
}

/// What an endpoint is ejected for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Failures,
    Statuses,
}

impl Cause {
    /// How many in a row it takes; none if the config does not eject for it.
    fn threshold(self, config: &Outlier) -> Option<u32> {
        let most = match self {
            Self::Failures => config.consecutive_failures,
            Self::Statuses => config.consecutive_5xx,
        };
        (most > 0).then_some(most)
    }
}

impl Attempts {
    /// Takes note of an attempt and tells for what the endpoint deserves ejection, if it does; the caller knows if it can be
    /// spared.
    ///
    /// Failures and statuses are counted apart. An answer, however bad, ends a row of failures; a failure says nothing of
    /// what the answer would have been, so it neither ends nor lengthens a row of bad statuses. What an ejected endpoint does
    /// says nothing: its connections are from before.
    pub(super) fn handle_attempt(
        &mut self,
        now: Instant,
        attempt: Attempt,
        config: &Outlier,
    ) -> Option<Cause> {
        if self.ejected_until.is_some() {
            return None;
        }
        let (count, cause) = match attempt {
            Attempt::Good => {
                (self.bad_count, self.bad_status_count) = (0, 0);
                return None;
            }
            Attempt::Bad => (&mut self.bad_count, Cause::Failures),
            Attempt::BadStatus => {
                self.bad_count = 0;
                (&mut self.bad_status_count, Cause::Statuses)
            }
        };
        *count = count.saturating_add(1);
        let is_deserved = cause.threshold(config).is_some_and(|most| *count >= most);
        self.decay(now, config.base_ejection);
        is_deserved.then_some(cause)
    }

    /// Tells whether the config (still) ejects for what the endpoint was ejected for.
    pub(super) fn is_ejection_wanted(&self, config: &Outlier) -> bool {
        self.cause.is_some_and(|cause| cause.threshold(config).is_some())
    }

    /// Ejects the endpoint and tells until when.
    pub(super) fn eject(&mut self, now: Instant, cause: Cause, config: &Outlier) -> Instant {
        self.level = self.level.saturating_add(1);
        self.ejections_total += 1;
        (self.bad_count, self.bad_status_count) = (0, 0);
        self.cause = Some(cause);
        let until = now + config.base_ejection.saturating_mul(self.level).min(config.max_ejection);
        self.ejected_until = Some(until);
        self.quiet_since = Some(until);
        until
    }

    /// Takes the endpoint back.
    pub(super) fn restore(&mut self) {
        self.ejected_until = None;
        self.cause = None;
        (self.bad_count, self.bad_status_count) = (0, 0);
    }

    fn decay(&mut self, now: Instant, base: Duration) {
        let since = self.quiet_since.unwrap_or(now);
        let quiet = now.saturating_duration_since(since).as_nanos();
        let periods = quiet.checked_div(base.as_nanos()).unwrap_or(0);
        self.level = self.level.saturating_sub(u32::try_from(periods).unwrap_or(u32::MAX));
        self.quiet_since = Some(now.max(since));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_failures_in_a_row_count() {
        let (mut attempts, now, config) = (Attempts::default(), fixture::now(), fixture::outlier());
        let mut handle = |attempt| attempts.handle_attempt(now, attempt, &config).is_some();
        assert!(!handle(Attempt::Bad) && !handle(Attempt::Bad) && !handle(Attempt::Good));
        assert!(!handle(Attempt::Bad) && !handle(Attempt::Bad) && handle(Attempt::Bad));
    }

    #[test]
    fn failures_and_bad_statuses_are_counted_apart() {
        let (mut attempts, now) = (Attempts::default(), fixture::now());
        let config = Outlier { consecutive_5xx: 2, ..fixture::outlier() };
        let mut handle = |attempt| attempts.handle_attempt(now, attempt, &config);
        assert_eq!([handle(Attempt::Bad), handle(Attempt::Bad)], [None, None]);
        assert_eq!(handle(Attempt::BadStatus), None, "it answered: that ends the row of failures");
        assert_eq!([handle(Attempt::Bad), handle(Attempt::Bad)], [None, None]);
        assert_eq!(
            handle(Attempt::BadStatus),
            Some(Cause::Statuses),
            "failures do not end the row of statuses"
        );
        assert_eq!(handle(Attempt::Good), None);
        assert_eq!(handle(Attempt::BadStatus), None, "a good answer does");
        let mut handle = |attempt| attempts.handle_attempt(now, attempt, &fixture::outlier());
        assert!((0..100).all(|_| handle(Attempt::BadStatus).is_none()), "usually they do not count");
    }

    #[test]
    fn zero_switches_ejection_off() {
        let (mut attempts, now) = (Attempts::default(), fixture::now());
        let config = Outlier { consecutive_failures: 0, ..fixture::outlier() };
        assert!((0..100).all(|_| attempts.handle_attempt(now, Attempt::Bad, &config).is_none()));
    }

    #[test]
    fn ejections_grow_up_to_the_longest_and_shrink_in_quiet_times() {
        let (mut attempts, mut now, config) = (Attempts::default(), fixture::now(), fixture::outlier());
        let mut eject_after = |quiet: Duration| {
            now += quiet;
            for _ in 0..3 {
                attempts.handle_attempt(now, Attempt::Bad, &config);
            }
            let length = attempts.eject(now, Cause::Failures, &config) - now;
            now += length;
            attempts.restore();
            length.as_secs()
        };
        let lengths: Vec<_> = (0..8).map(|_| eject_after(SECOND)).collect();
        assert_eq!(lengths, [10, 20, 30, 40, 50, 60, 60, 60]);
        assert_eq!(eject_after(60 * SECOND), 30, "eight ejections, six quiet periods, and one more");
        assert_eq!(eject_after(19 * SECOND), 30);
        assert_eq!(eject_after(3600 * SECOND), 10);
    }

    #[test]
    fn attempts_during_an_ejection_say_nothing() {
        let (mut attempts, now, config) = (Attempts::default(), fixture::now(), fixture::outlier());
        let until = attempts.eject(now, Cause::Failures, &config);
        assert!((0..9).all(|_| attempts.handle_attempt(now, Attempt::Bad, &config).is_none()));
        assert_eq!(attempts.ejected_until, Some(until));
        attempts.restore();
        assert_eq!(attempts.handle_attempt(until, Attempt::Bad, &config), None);
    }

    #[test]
    fn an_ejection_of_no_length_does_not_divide_by_zero() {
        let (mut attempts, now) = (Attempts::default(), fixture::now());
        let config = Outlier { base_ejection: Duration::ZERO, ..fixture::outlier() };
        assert_eq!(attempts.eject(now, Cause::Failures, &config), now);
        attempts.restore();
        assert_eq!(attempts.handle_attempt(now + SECOND, Attempt::Bad, &config), None);
    }
}
