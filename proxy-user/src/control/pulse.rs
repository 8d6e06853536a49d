//! The control task's sign of life. It may hang (on a disk, on a bug) while everything else goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proxy_io::clock::monotonic_ns;

/// Silence after which the control task counts as hung: it beats once a second, and reading a config of 100,000 services
/// takes half of one.
pub const HUNG: Duration = Duration::from_secs(10);

/// When the control task last said that it lives. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Begins now.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(monotonic_ns())))
    }

    /// Gives a sign of life.
    pub fn beat(&self) {
        self.0.store(monotonic_ns(), Ordering::Relaxed);
    }

    /// Time since the last one.
    #[must_use]
    pub fn silence(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.0.load(Ordering::Relaxed)))
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}
