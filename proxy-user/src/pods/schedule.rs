//! When the kubelet is asked for the labels of pods.

use std::time::{Duration, Instant};

/// Least time between two questions, and after the first failure.
const LEAST_GAP: Duration = Duration::from_secs(1);

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Every pod is known.
    Complete,
    /// There are pods on this node that it did not name: it may not have heard of them yet, or they are somebody else's.
    Incomplete,
    /// There was none.
    Failed,
}

/// ```text
///   resting --interval or a new pod--> asking --Complete--> resting for the interval
///                                        |----Incomplete, Failed--> resting for 1 s, 2 s, 4 s … up to the interval
/// ```
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// When the next question is due; none while one is under way, or nobody wants to know.
    due: Option<Instant>,
    /// When the last one began.
    asked: Option<Instant>,
    is_asking: bool,
    /// Answers in a row that were not complete.
    misses: u32,
    is_failing: bool,
}

impl Schedule {
    /// Says whether labels are needed at all; if they are needed again, that is now.
    pub(super) fn set_wanted(&mut self, now: Instant, is_wanted: bool) {
        match (is_wanted, self.due) {
            (false, _) => self.due = None,
            (true, None) if !self.is_asking => self.due = Some(now),
            (true, _) => {}
        }
    }

    /// A pod has come that nobody knows: it is asked for at once, but a kubelet that is away is left in peace.
    pub(super) fn handle_newcomer(&mut self, now: Instant) {
        if self.is_failing {
            return;
        }
        self.misses = 0;
        let earliest = self.asked.map_or(now, |asked| now.max(asked + LEAST_GAP));
        self.due = self.due.map(|due| due.min(earliest));
    }

    /// Tells whether to ask now.
    pub(super) fn poll_due(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            (self.due, self.asked, self.is_asking) = (None, Some(now), true);
        }
        is_due
    }

    /// When [`poll_due`](Self::poll_due) will say yes.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn handle_answer(&mut self, now: Instant, interval: Duration, answer: Answer) {
        self.is_asking = false;
        self.is_failing = answer == Answer::Failed;
        self.misses = if answer == Answer::Complete { 0 } else { self.misses.saturating_add(1) };
        let wait = match self.misses {
            0 => interval,
            misses => LEAST_GAP.saturating_mul(2_u32.saturating_pow(misses - 1)).min(interval),
        };
        self.due = Some(now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    /// Times of the questions of a minute, with the same answer to each.
    fn asked(schedule: &mut Schedule, begin: Instant, answer: Answer) -> Vec<u64> {
        let mut times = Vec::new();
        while let Some(due) = schedule.next_due().filter(|due| *due < begin + Duration::from_secs(60)) {
            assert!(!schedule.poll_due(due - Duration::from_millis(1)) && schedule.poll_due(due));
            assert_eq!(schedule.next_due(), None, "one at a time");
            times.push((due - begin).as_secs());
            schedule.handle_answer(due, INTERVAL, answer);
        }
        times
    }

    #[test]
    fn a_kubelet_that_answers_is_asked_at_intervals_and_one_that_fails_soon_but_ever_later() {
        let now = Instant::now();
        for (answer, times) in [
            (Answer::Complete, vec![0, 10, 20, 30, 40, 50]),
            (Answer::Incomplete, vec![0, 1, 3, 7, 15, 25, 35, 45, 55]),
            (Answer::Failed, vec![0, 1, 3, 7, 15, 25, 35, 45, 55]),
        ] {
            let mut schedule = Schedule::default();
            schedule.set_wanted(now, true);
            schedule.set_wanted(now, true);
            assert_eq!(asked(&mut schedule, now, answer), times, "{answer:?}");
        }
    }

    #[test]
    fn nobody_is_asked_who_nobody_wants_to_hear() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.handle_newcomer(now);
        assert!(schedule.next_due().is_none() && !schedule.poll_due(now));
        schedule.set_wanted(now, true);
        schedule.set_wanted(now, false);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn a_new_pod_is_asked_for_at_once_unless_the_kubelet_is_away() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.set_wanted(now, true);
        assert!(schedule.poll_due(now));
        schedule.handle_newcomer(now);
        assert_eq!(schedule.next_due(), None, "the question is under way");
        schedule.handle_answer(now, INTERVAL, Answer::Complete);
        schedule.handle_newcomer(now);
        assert_eq!(schedule.next_due(), Some(now + LEAST_GAP), "not twice in a moment");
        let later = now + Duration::from_secs(5);
        schedule.handle_newcomer(later);
        assert!(schedule.poll_due(later));
        (0..5).for_each(|_| schedule.handle_answer(later, INTERVAL, Answer::Failed));
        schedule.handle_newcomer(later);
        assert_eq!(schedule.next_due(), Some(later + INTERVAL));
    }
}
