//! Throttling of retries as gRPC has it (proposal A6, "Throttling Retry Attempts and Hedged RPCs"): a service whose calls fail
//! gets no retries until enough have gone well.
//!
//! It stands beside the budget and does not replace it. The budget bounds what is under way at once and knows nothing of how tries
//! end; the throttle remembers how they ended and bounds nothing while they end well. A retry needs the consent of both.
//!
//! Tokens lie in [`Load`], as the counts do, so that all workers and every version of a service share them; how many there
//! are and what a success gives back is the policy's, as with the budget. What is kept is how many are *missing*: nothing has to be
//! filled at the begin, and rules that differ can share it, each by its own bound.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Load;

/// Parts of a token that are counted.
const TOKEN: u32 = RetryThrottle::WHOLE as u32;

/// What the config says about throttling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryThrottle {
    /// Tokens at the begin, and at most; 1 to 1000. A failure takes one; while half or less are there, nothing is tried again.
    pub max_tokens: u16,
    /// What a success gives back, in parts of 10,000 of a token.
    pub token_ratio: u16,
}

impl RetryThrottle {
    /// Parts that a token has.
    pub const WHOLE: u16 = 10_000;

    fn most(self) -> u32 {
        u32::from(self.max_tokens) * TOKEN
    }
}

/// Parts of tokens that are missing.
#[derive(Debug, Default)]
pub(super) struct Missing(AtomicU32);

impl Load {
    /// Takes note of a try that failed in a way that the policy names, or whose endpoint wants no other; tells whether another
    /// one may follow.
    #[must_use]
    pub fn throttle_failure(&self, throttle: RetryThrottle) -> bool {
        let more = |missing: u32| Some(missing.saturating_add(TOKEN).min(throttle.most()).max(missing));
        let before = self.missing.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        let missing = before.map_or(0, |missing| more(missing).unwrap_or(missing));
        // More than half must be there.
        missing < throttle.most() - missing.min(throttle.most())
    }

    /// Takes note of a request that went well. Costs one look while nothing is missing. What rules with more tokens lack beyond
    /// these is forgotten, so that fewer tokens in a new version of the config take effect.
    pub fn throttle_success(&self, throttle: RetryThrottle) {
        let less = |missing: u32| {
            (missing > 0).then(|| missing.min(throttle.most()).saturating_sub(throttle.token_ratio.into()))
        };
        // It only refuses where nothing is to be done.
        let _ = self.missing.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const USUAL: RetryThrottle = RetryThrottle { max_tokens: 10, token_ratio: 1000 };

    fn fail(load: &Load, throttle: RetryThrottle, times: u32) {
        for _ in 0..times {
            let _ = load.throttle_failure(throttle);
        }
    }

    #[test]
    fn retries_end_when_half_of_the_tokens_are_gone_and_return_with_successes() {
        let load = Load::default();
        for failure in 1..=4 {
            assert!(load.throttle_failure(USUAL), "{failure}");
        }
        assert!(!load.throttle_failure(USUAL), "five of ten are left, which is not more than half");
        (0..10).for_each(|_| load.throttle_success(USUAL));
        assert!(!load.throttle_failure(USUAL));
        (0..11).for_each(|_| load.throttle_success(USUAL));
        assert!(load.throttle_failure(USUAL), "6.1 and one less is 5.1");
    }

    #[test]
    fn an_outage_is_forgotten_after_as_many_successes_however_long_it_was() {
        let load = Load::default();
        fail(&load, USUAL, 100_000);
        // Of ten that are missing all but four must return, and one for the failure that asks: 60 and a bit.
        (0..60).for_each(|_| load.throttle_success(USUAL));
        assert!(!load.throttle_failure(USUAL));
        (0..11).for_each(|_| load.throttle_success(USUAL));
        assert!(load.throttle_failure(USUAL));
    }

    #[test]
    fn a_rule_with_fewer_tokens_does_not_lock_out_one_with_more() {
        let (load, many) = (Load::default(), RetryThrottle { max_tokens: 1000, token_ratio: 1000 });
        fail(&load, USUAL, 50);
        assert!(load.throttle_failure(many));
        fail(&load, many, 200);
        assert!(load.throttle_failure(many) && !load.throttle_failure(USUAL), "by its own bound each");
        load.throttle_success(USUAL);
        assert!(load.throttle_failure(many));
    }

    /// As many threads as there are, each failing once: as many tokens are missing.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "what is tested is what several threads do at once")]
    fn no_token_is_lost_between_threads() {
        let load = Arc::new(Load::default());
        let throttle = RetryThrottle { max_tokens: 1000, token_ratio: 10_000 };
        let worker = |load: Arc<Load>| {
            move || {
                (0..2000).for_each(|_| {
                    fail(&load, throttle, 1);
                    load.throttle_success(throttle);
                });
                fail(&load, throttle, 1);
            }
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(worker(Arc::clone(&load)))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(load.missing.0.load(Ordering::Relaxed), 4 * TOKEN);
    }

    proptest! {
        /// The proposal in its own words, with a count of tokens that begins full.
        #[test]
        fn it_does_what_the_proposal_says(
            max_tokens in 1u16..=1000, token_ratio in 1u16..=10_000,
            calls in prop::collection::vec(any::<bool>(), 0..600),
        ) {
            let (load, throttle) = (Load::default(), RetryThrottle { max_tokens, token_ratio });
            let most = u64::from(max_tokens) * 10_000;
            let mut tokens = most;
            for has_failed in calls {
                if has_failed {
                    tokens = tokens.saturating_sub(10_000);
                    prop_assert_eq!(load.throttle_failure(throttle), tokens > most / 2);
                } else {
                    tokens = most.min(tokens + u64::from(token_ratio));
                    load.throttle_success(throttle);
                }
            }
        }
    }
}
