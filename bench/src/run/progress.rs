//! How far the whole run is, and how long it is going to take.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::Plan;
use crate::case::Work;

/// Start and end of a load generator and of a proxy.
const START: Duration = Duration::from_millis(150);
/// What a proxy needs for each service in its config.
const SERVICE: Duration = Duration::from_micros(100);
/// Opening and using a connection once, and a look at its memory.
const CONNECTION: Duration = Duration::from_micros(600);

impl Plan {
    /// About how long this work takes with so many contestants. Only the ratio between two kinds of work matters, since the
    /// machine's own speed is known as soon as something is done.
    #[must_use]
    pub fn guess(&self, work: Work, contestants: usize) -> Duration {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let one = Duration::from_millis(self.warm_up_ms + self.length_ms);
        let contestants = count(contestants);
        let repetition = match work {
            // Calls take next to nothing beside their connections.
            Work::Idle { connections }
            | Work::HttpIdle { connections, .. }
            | Work::GrpcIdle { connections, .. } => {
                let each = (START + CONNECTION * connections) * contestants;
                return each * count(self.memory_repetitions);
            }
            Work::Overhead => {
                let started: Duration =
                    self.services.iter().map(|services| START + SERVICE * *services).sum();
                started + (one + START) * count(1 + 2 * self.services.len())
            }
            Work::ControlPlane => (START * 2 + SERVICE * 10_000) * 2,
            _ => (START + one * count(work.rates().len().max(1))) * contestants,
        };
        repetition * count(self.repetitions)
    }
}

/// Tells how far the run is: on a terminal in one line that is written again and again, else in a line for each case.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    /// Names, and how long each takes if the guess is right.
    cases: Vec<(&'static str, Duration)>,
    /// Cases that have begun.
    begun: usize,
    /// Steps of the current one, and those that are done.
    steps: (usize, usize),
}

impl Progress {
    /// Begins a run of these cases, with a guess for each.
    #[must_use]
    pub fn new(cases: Vec<(&'static str, Duration)>) -> Self {
        Self { began: Instant::now(), cases, begun: 0, steps: (0, 0) }
    }

    /// Begins the next case.
    pub fn begin_case(&mut self) {
        self.begun += 1;
        self.steps = (0, 0);
        self.show(true);
    }

    /// Ends the line of a case, below which its results come.
    pub fn end_case(&self) {
        if io::stderr().is_terminal() {
            say("\r\x1b[K");
        }
    }

    /// Tells how many steps the current case has.
    pub(super) fn begin_steps(&mut self, count: usize) {
        self.steps = (count, 0);
    }

    /// Ends one of them.
    pub(super) fn step(&mut self) {
        self.steps.1 += 1;
        self.show(false);
    }

    fn show(&self, is_new: bool) {
        let line = self.line(self.began.elapsed());
        if io::stderr().is_terminal() {
            say(&format!("\r{line}\x1b[K"));
        } else if is_new {
            say(&format!("{line}\n"));
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let index = self.begun.saturating_sub(1);
        let name = self.cases.get(index).map_or("", |(name, _)| name);
        let left = self.left(elapsed).map_or(String::new(), |left| format!(", about {} left", minutes(left)));
        let passed = minutes(elapsed);
        let (steps, done) = self.steps;
        let of_case = if steps > 0 { format!(" {done}/{steps}") } else { String::new() };
        format!("case {} of {}, {name}{of_case}: {passed} passed{left}", self.begun, self.cases.len())
    }

    /// What is left by the guesses, in the proportion in which they were right so far; nothing while nothing is done.
    fn left(&self, elapsed: Duration) -> Option<Duration> {
        let seconds = |(_, guess): &(&str, Duration)| guess.as_secs_f64();
        let all: f64 = self.cases.iter().map(seconds).sum();
        let (before, from_here) = self.cases.split_at(self.begun.saturating_sub(1));
        let (steps, steps_done) = self.steps;
        let current = from_here.first().map_or(0.0, seconds) * steps_done as f64 / steps.max(1) as f64;
        let done = before.iter().map(seconds).sum::<f64>() + current;
        let left = elapsed.as_secs_f64() * (all - done).max(0.0) / done;
        Duration::try_from_secs_f64(left).ok()
    }
}

/// As `1:05`.
fn minutes(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

/// A terminal that is gone is no reason to stop.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::CASES;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_left_follows_the_guesses_and_the_machines_speed() {
        let at = |begun, steps| {
            let cases = vec![("a", SECOND * 10), ("b", SECOND * 30)];
            Progress { begun, steps, ..Progress::new(cases) }
        };
        assert_eq!(at(1, (2, 0)).line(SECOND), "case 1 of 2, a 0/2: 0:01 passed", "nobody knows yet");
        // an eighth of all took 10 s
        assert_eq!(at(1, (2, 1)).line(SECOND * 10), "case 1 of 2, a 1/2: 0:10 passed, about 1:10 left");
        assert_eq!(at(2, (0, 0)).line(SECOND * 30), "case 2 of 2, b: 0:30 passed, about 1:30 left");
        assert_eq!(at(2, (1, 1)).left(SECOND * 90), Some(Duration::ZERO));
    }

    #[test]
    fn a_quick_run_is_guessed_to_take_three_minutes() {
        let guess = |plan: Plan| {
            let mut cases = CASES;
            cases.iter_mut().for_each(|case| case.work.fit(plan.most_idle.min(9500), plan.most_rates));
            let contestants = |work: Work| match (work.front(), work.rates()) {
                (None, []) => 11,
                _ => 7,
            };
            cases.iter().map(|case| plan.guess(case.work, contestants(case.work))).sum::<Duration>()
        };
        let (quick, full) = (guess(Plan::QUICK), guess(Plan::FULL));
        assert!((150..210).contains(&quick.as_secs()), "{quick:?}");
        assert!(full > quick * 5, "{full:?}");
    }
}
