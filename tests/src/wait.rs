//! Waiting for something to become true, with a deadline.

use std::time::{Duration, Instant};

/// Pause between two looks; short beside anything that a test waits for.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks again and again until there is an answer.
///
/// # Panics
/// If there is none when `limit` has passed; `what` says what was waited for.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain for {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Looks again and again until it is so.
///
/// # Panics
/// If it is not when `limit` has passed.
#[track_caller]
pub fn until_true(what: &str, limit: Duration, mut look: impl FnMut() -> bool) {
    until(what, limit, || look().then_some(()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_is_taken() {
        let mut looks = 0;
        let answer = until("the third look", Duration::from_secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(answer, 3);
    }

    #[test]
    #[should_panic(expected = "in vain for a miracle")]
    fn a_deadline_ends_the_wait() {
        until_true("a miracle", Duration::from_millis(20), || false);
    }
}
