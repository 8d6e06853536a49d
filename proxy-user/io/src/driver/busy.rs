//! Looking again for a while before sleeping.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Keeps a worker awake for a while after it had something to do: to be woken takes longer than most answers, above all in a virtual
/// machine, whose processor is given to somebody else as soon as it rests.
pub(super) struct BusyPoll {
    time: Duration,
    /// Operations that were done when somebody last looked, and when more had been done.
    seen: Cell<u64>,
    since: Cell<Instant>,
}

impl BusyPoll {
    pub(super) fn new(time: Duration) -> Self {
        Self { time, seen: Cell::new(0), since: Cell::new(Instant::now()) }
    }

    pub(super) fn is_on(&self) -> bool {
        !self.time.is_zero()
    }

    /// Whether to look again, when so many operations were done.
    pub(super) fn is_awake(&self, done: u64) -> bool {
        if !self.is_on() {
            return false;
        }
        let now = Instant::now();
        if self.seen.replace(done) != done {
            self.since.set(now);
        }
        now.duration_since(self.since.get()) < self.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_awake_while_something_is_done_and_as_long_as_it_should_after_that() {
        let never = BusyPoll::new(Duration::ZERO);
        assert!(!never.is_awake(1) && !never.is_on());
        let long = BusyPoll::new(Duration::from_secs(3600));
        assert!(long.is_awake(0) && long.is_awake(1) && long.is_awake(1));
        let short = BusyPoll::new(Duration::from_nanos(1));
        assert!(short.is_awake(1), "something was done");
        std::thread::sleep(Duration::from_millis(1));
        assert!(!short.is_awake(1) && short.is_awake(2));
    }
}
