//! Active checks of one endpoint: when the next is due, and what their results mean.

use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::SmallRng;

use crate::service::HealthCheck;

/// Longest wait for the first check of an endpoint: spreads the checks of a big config, hardly delays the verdict.
const MOST_FIRST_DELAY: Duration = Duration::from_millis(100);

/// Checks of one endpoint.
///
/// ```text
///               first result decides
///   untested ──────────┬────────────> healthy <──────────────────┐
///                      │                 │ `unhealthy` bad        │ `healthy` good
///                      └─────────────> unhealthy ── in a row ─────┘ in a row
/// ```
/// An untested endpoint is believed to be healthy.
#[derive(Debug)]
pub(super) struct Checks {
    verdict: Verdict,
    /// Results in a row that contradict the verdict.
    contrary_count: u32,
    schedule: Schedule,
    pub(super) last_check: Option<Instant>,
    pub(super) last_error: Option<String>,
    pub(super) checks_total: u64,
    pub(super) failures_total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Untested,
    Healthy,
    Unhealthy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schedule {
    /// No checks.
    Off,
    /// The next check begins then.
    Due(Instant),
    /// A check was issued and its result is awaited.
    InFlight,
    /// As before, but what it asks is outdated: its result says nothing.
    Outdated,
}

impl Checks {
    pub(super) fn new() -> Self {
        Self {
            verdict: Verdict::Untested,
            contrary_count: 0,
            schedule: Schedule::Off,
            last_check: None,
            last_error: None,
            checks_total: 0,
            failures_total: 0,
        }
    }

    /// Begins anew with another config. The verdict stays, except that without checks there is none.
    pub(super) fn restart(&mut self, now: Instant, config: Option<&HealthCheck>, rng: &mut SmallRng) {
        self.contrary_count = 0;
        if config.is_none() {
            self.verdict = Verdict::Untested;
            self.last_error = None;
        }
        self.schedule = match (self.schedule, config) {
            (Schedule::InFlight | Schedule::Outdated, _) => Schedule::Outdated,
            (_, None) => Schedule::Off,
            (_, Some(config)) => Schedule::Due(now + first_delay(config, rng)),
        };
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self.schedule {
            Schedule::Due(due) => Some(due),
            Schedule::Off | Schedule::InFlight | Schedule::Outdated => None,
        }
    }

    pub(super) fn is_unhealthy(&self) -> bool {
        self.verdict == Verdict::Unhealthy
    }

    /// Notes that a check was issued.
    pub(super) fn begin(&mut self) {
        self.schedule = Schedule::InFlight;
    }

    /// Takes the result of the check in flight and plans the next; a result that nobody waits for is dropped.
    pub(super) fn handle_result(
        &mut self,
        now: Instant,
        result: Result<(), String>,
        config: Option<&HealthCheck>,
        rng: &mut SmallRng,
    ) {
        match (self.schedule, config) {
            (Schedule::InFlight, Some(config)) => {
                self.record(now, result, config);
                self.schedule = Schedule::Due(now + self.delay(config, rng));
            }
            (Schedule::Outdated, Some(_)) => self.schedule = Schedule::Due(now),
            (Schedule::InFlight | Schedule::Outdated, None) => self.schedule = Schedule::Off,
            (Schedule::Off | Schedule::Due(_), _) => {}
        }
    }

    fn record(&mut self, now: Instant, result: Result<(), String>, config: &HealthCheck) {
        self.last_check = Some(now);
        self.checks_total += 1;
        self.failures_total += u64::from(result.is_err());
        let (told, threshold) = match result {
            Ok(()) => (Verdict::Healthy, config.healthy),
            Err(_) => (Verdict::Unhealthy, config.unhealthy),
        };
        self.last_error = result.err();
        if told == self.verdict {
            self.contrary_count = 0;
            return;
        }
        self.contrary_count += 1;
        if self.verdict == Verdict::Untested || self.contrary_count >= threshold {
            self.verdict = told;
            self.contrary_count = 0;
        }
    }

    /// Time to the next check; in doubt the short one, so that a change is seen soon.
    fn delay(&self, config: &HealthCheck, rng: &mut SmallRng) -> Duration {
        let is_in_doubt = self.verdict == Verdict::Unhealthy || self.contrary_count > 0;
        let delay = if is_in_doubt { config.unhealthy_interval } else { config.interval };
        delay.mul_f64(rng.random_range(0.9..=1.1))
    }
}

fn first_delay(config: &HealthCheck, rng: &mut SmallRng) -> Duration {
    config.interval.min(MOST_FIRST_DELAY).mul_f64(rng.random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::fixture;

    #[test]
    fn the_first_result_decides_and_then_the_thresholds_do() {
        let mut run = Run::new();
        assert!(!run.checks.is_unhealthy(), "believed until checked");
        assert!(run.bad(), "the first decides");
        assert!(run.good() && !run.good(), "two good ones of two");
        assert!(!run.bad() && !run.bad(), "two bad ones of three");
        assert!(!run.good());
        assert!(!run.bad() && !run.bad() && run.bad(), "three in a row");
        assert!(run.good() && run.bad() && run.good() && !run.good(), "a bad one breaks the row");
        assert_eq!((run.checks.checks_total, run.checks.failures_total), (13, 7));
        assert_eq!(run.checks.last_error, None);
    }

    #[test]
    fn checks_come_faster_while_unhealthy_or_in_doubt() {
        let mut run = Run::new();
        let (slow, fast) = (9_000..=11_000, 900..=1_100);
        assert!(run.checks.due().unwrap() <= run.now + MOST_FIRST_DELAY);
        run.good();
        assert!(slow.contains(&run.wait_ms()));
        run.bad();
        assert!(fast.contains(&run.wait_ms()), "in doubt");
        run.good();
        assert!(slow.contains(&run.wait_ms()), "doubt gone");
        for _ in 0..5 {
            run.bad();
            assert!(fast.contains(&run.wait_ms()));
        }
        run.good();
        assert!(fast.contains(&run.wait_ms()), "still unhealthy");
    }

    #[test]
    fn intervals_differ_by_up_to_a_tenth() {
        let mut run = Run::new();
        let waits: Vec<_> = (0..200).map(|_| (run.good(), run.wait_ms()).1).collect();
        let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!((9_000..9_200).contains(least) && (10_800..=11_000).contains(most), "{least} to {most}");
    }

    #[test]
    fn a_result_from_before_a_change_of_config_says_nothing() {
        let mut run = Run::new();
        run.good();
        run.checks.begin();
        run.checks.restart(run.now, Some(&fixture::check()), &mut run.rng);
        assert_eq!(run.checks.due(), None, "not twice at once");
        run.result(Err("old".into()));
        assert_eq!((run.checks.due(), run.checks.checks_total), (Some(run.now), 1));
    }

    #[test]
    fn without_checks_an_endpoint_is_believed_again() {
        let mut run = Run::new();
        assert!(run.bad());
        run.checks.restart(run.now, None, &mut run.rng);
        assert!(!run.checks.is_unhealthy());
        assert_eq!((run.checks.due(), run.checks.last_error.take()), (None, None));
    }

    struct Run {
        checks: Checks,
        now: Instant,
        rng: SmallRng,
    }

    impl Run {
        fn new() -> Self {
            let (mut checks, now, mut rng) = (Checks::new(), fixture::now(), SmallRng::seed_from_u64(1));
            checks.restart(now, Some(&fixture::check()), &mut rng);
            Self { checks, now, rng }
        }

        fn good(&mut self) -> bool {
            self.checks.begin();
            self.result(Ok(()))
        }

        fn bad(&mut self) -> bool {
            self.checks.begin();
            self.result(Err("refused".into()))
        }

        fn result(&mut self, result: Result<(), String>) -> bool {
            self.checks.handle_result(self.now, result, Some(&fixture::check()), &mut self.rng);
            self.checks.is_unhealthy()
        }

        fn wait_ms(&self) -> u128 {
            (self.checks.due().unwrap() - self.now).as_millis()
        }
    }
}
