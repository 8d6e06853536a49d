//! Whether a request is tried again, when, and who pays for it.

use std::time::Duration;

/// What the config says about trying again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Further tries after the first one; 0 is none.
    pub attempts: u32,
    /// Failures after which it is tried again.
    pub on: RetryOn,
    /// Retries that may be under way, in percent of the requests of the service that are.
    pub budget_percent: u8,
    /// Retries that may be under way whatever the share says: a service with few requests must be able to retry, too.
    pub budget_least: u32,
    /// Longest pause before the first retry; it doubles with each one. The pause is drawn from zero to this ("full jitter").
    pub base_back_off: Duration,
    /// Bound on that.
    pub max_back_off: Duration,
}

/// Failures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection could be made.
    pub connect_failure: bool,
    /// The connection ended before the first byte of an answer.
    pub reset: bool,
    /// No head of an answer came within the time for one try.
    pub timeout: bool,
    /// Statuses, as inclusive ranges.
    pub statuses: Vec<(u16, u16)>,
}

impl Default for RetryPolicy {
    /// What holds where the config says nothing: another endpoint where no connection could be made, which is always safe.
    fn default() -> Self {
        Self {
            attempts: 2,
            on: RetryOn { connect_failure: true, ..RetryOn::default() },
            budget_percent: 20,
            budget_least: 3,
            base_back_off: Duration::from_millis(25),
            max_back_off: Duration::from_millis(250),
        }
    }
}
