//! How much may be under way in a service, found out by how fast it answers.
//!
//! ```text
//!   measuring ──(slower than at its best? halve again)──┐
//!     ^   ^──────────────────────────────────────────────┘
//!     │   └──> running: each window   limit × gradient + √limit,   gradient = best × (1 + tolerance) / now
//!     └────────────┘ from time to time, or when even the least is slow
//! ```
//!
//! A service that is given more than it can work on at once lets it wait, so its answers come later and no faster: the limit
//! falls until they come nearly as soon as when there was less (the gradient of Netflix' concurrency-limits, which Envoy has, too).
//! How soon that is must be known from a time with less; so from time to time the limit is halved for some answers.
//!
//! It is the node's: each worker by itself would have fewer answers to judge by, and a share that its part of the connections does not
//! fit. Everything is in atomics but one look at each window's end, which one worker takes and no other waits for.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

/// Answers that a window has at least: fewer say nothing.
const WINDOW_SAMPLES: u32 = 10;
/// Answers that the best time is found out from.
const MEASURE_SAMPLES: u32 = 25;
/// What a limit begins with, where the config allows it: not too much for most services, and halved at once where it is.
const INITIAL: u32 = 64;
/// The least that one window leaves of the limit: a pause of all its answers is not the end of a service.
const LEAST_GRADIENT: f64 = 0.5;
/// Windows in a row at the least limit, and slow, after which the best time is out of date: the service itself has got slower.
const STUCK_WINDOWS: u32 = 5;
/// Buckets for each doubling of a time: an error of 4 % at most.
const STEPS: u32 = 16;
/// Doublings from a microsecond: 67 s, as much as anybody waits.
const DOUBLINGS: u32 = 26;
const BUCKETS: usize = (STEPS * DOUBLINGS) as usize;

/// What the config says of a limit that follows a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdaptivePolicy {
    /// The lowest limit; 1 or more.
    pub least: u32,
    /// The highest limit.
    pub most: u32,
    /// How much slower than at its best a service may answer, in percent of that.
    pub tolerance_percent: u8,
    /// Time whose answers are judged together.
    pub window: Duration,
    /// Time between two measurements of the best; up to an eighth more, so that nodes do not measure together.
    pub measure_interval: Duration,
}

impl AdaptivePolicy {
    /// What holds where the config says nothing: as Envoy, but for a lowest limit that its own square root lifts.
    pub const DEFAULT: Self = Self {
        least: 4,
        most: 1000,
        tolerance_percent: 25,
        window: Duration::from_millis(100),
        measure_interval: Duration::from_secs(60),
    };
}

/// The limit of a service, shared by all workers and by every version of the service that says the same about it.
#[derive(Debug)]
pub struct Adaptive {
    policy: AdaptivePolicy,
    limit: AtomicU32,
    /// The best, in nanoseconds; 0 until it is known.
    best_ns: AtomicU64,
    /// Most requests that were under way in this window.
    peak: AtomicU32,
    /// Answers in this window.
    count: AtomicU32,
    /// When it may end.
    due_ns: AtomicU64,
    /// Requests that began before do not count: they waited behind those that the limit now keeps out.
    since_ns: AtomicU64,
    buckets: Box<[AtomicU32]>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    /// Measuring, and the limit before that; none while the measurement is over.
    measuring: Option<f64>,
    /// There was a first window: it only shows that there are requests.
    is_warm: bool,
    measure_due_ns: u64,
    stuck_windows: u32,
}

/// What a scrape shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveReading {
    /// Requests that may be under way.
    pub limit: u32,
    /// How soon the service answers when it is not too much; none until that is known.
    pub best: Option<Duration>,
}

impl Adaptive {
    /// Begins with a measurement.
    #[must_use]
    pub fn new(policy: AdaptivePolicy) -> Self {
        let limit = INITIAL.clamp(policy.least, policy.most.max(policy.least));
        Self {
            policy,
            limit: AtomicU32::new(limit),
            best_ns: AtomicU64::new(0),
            peak: AtomicU32::new(0),
            count: AtomicU32::new(0),
            due_ns: AtomicU64::new(0),
            since_ns: AtomicU64::new(0),
            buckets: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
            state: Mutex::new(State {
                limit: f64::from(limit),
                measuring: Some(f64::from(limit)),
                is_warm: false,
                measure_due_ns: 0,
                stuck_windows: 0,
            }),
        }
    }

    /// What the config said.
    #[must_use]
    pub fn policy(&self) -> AdaptivePolicy {
        self.policy
    }

    /// Requests that may be under way now.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Where it stands.
    #[must_use]
    pub fn read(&self) -> AdaptiveReading {
        let best_ns = self.best_ns.load(Ordering::Relaxed);
        AdaptiveReading { limit: self.limit(), best: (best_ns > 0).then(|| Duration::from_nanos(best_ns)) }
    }

    /// Takes note of an answer: how long its head took, and how many requests are under way.
    ///
    /// `now_ns` is any clock that all workers share and that does not go back. Costs two atomic steps, and some microseconds at the
    /// end of a window.
    pub fn handle_answer(&self, took_ns: u64, now_ns: u64, request_count: u32) {
        if now_ns.saturating_sub(took_ns) < self.since_ns.load(Ordering::Relaxed) {
            return;
        }
        if request_count > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(request_count, Ordering::Relaxed);
        }
        self.buckets[bucket(took_ns)].fetch_add(1, Ordering::Relaxed);
        let count = self.count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if count < WINDOW_SAMPLES || now_ns < self.due_ns.load(Ordering::Relaxed) {
            return;
        }
        match self.state.try_lock() {
            Ok(mut state) => self.turn(&mut state, now_ns),
            Err(TryLockError::Poisoned(poisoned)) => self.turn(&mut poisoned.into_inner(), now_ns),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// Takes note of a request that was given up before it had an answer: it would have taken longer. Whoever gives up sooner than
    /// the best says nothing.
    pub fn handle_given_up(&self, waited_ns: u64, now_ns: u64, request_count: u32) {
        let best_ns = self.best_ns.load(Ordering::Relaxed);
        if best_ns > 0 && waited_ns > best_ns {
            self.handle_answer(waited_ns, now_ns, request_count);
        }
    }

    /// Ends a window.
    fn turn(&self, state: &mut State, now_ns: u64) {
        let wanted =
            if state.measuring.is_some() && state.is_warm { MEASURE_SAMPLES } else { WINDOW_SAMPLES };
        if self.count.load(Ordering::Relaxed) < wanted || now_ns < self.due_ns.load(Ordering::Relaxed) {
            return;
        }
        let Some(median_ns) = self.take_median() else { return };
        let peak = self.peak.swap(0, Ordering::Relaxed);
        match state.measuring {
            // Answers to those that came first, to a service at rest, say nothing of the limit.
            Some(_) if !std::mem::replace(&mut state.is_warm, true) => {
                self.since_ns.store(now_ns, Ordering::Relaxed);
            }
            Some(before) => self.handle_measured(state, before, median_ns, now_ns),
            None => self.handle_window(state, median_ns, peak, now_ns),
        }
        self.due_ns.store(now_ns.saturating_add(nanos(self.policy.window)), Ordering::Relaxed);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a u32's range"
        )]
        self.limit.store(state.limit.round() as u32, Ordering::Relaxed);
    }

    fn handle_window(&self, state: &mut State, median_ns: u64, peak: u32, now_ns: u64) {
        let gradient = self.gradient(median_ns);
        let mut limit = state.limit * gradient.clamp(LEAST_GRADIENT, 1.0) + state.limit.sqrt();
        if f64::from(peak) < state.limit / 2.0 {
            // Nobody asks for more, so nothing is known of it.
            limit = limit.min(state.limit);
        }
        state.limit = self.clamped(limit);
        let is_stuck = gradient < LEAST_GRADIENT && state.limit <= self.lowest() + state.limit.sqrt();
        state.stuck_windows = if is_stuck { state.stuck_windows + 1 } else { 0 };
        if now_ns >= state.measure_due_ns || state.stuck_windows >= STUCK_WINDOWS {
            self.begin_measuring(state, state.limit, now_ns);
        }
    }

    /// The median when the limit was halved: the best, and once more if that was clearly better than before.
    fn handle_measured(&self, state: &mut State, before: f64, median_ns: u64, now_ns: u64) {
        let is_better = self.gradient(median_ns) > 1.0 + 2.0 * self.tolerance();
        let is_first = self.best_ns.swap(median_ns, Ordering::Relaxed) == 0;
        // What it was before was too much if this is better.
        let after = if is_better { state.limit } else { before };
        if (is_first || is_better) && state.limit > self.lowest() {
            // It had waited before, so it may have waited now, too.
            return self.begin_measuring(state, after, now_ns);
        }
        state.limit = after;
        state.measuring = None;
        let interval_ns = nanos(self.policy.measure_interval);
        // The nanoseconds of a clock are as good as a draw.
        let jitter_ns = now_ns % (interval_ns / 8).max(1);
        state.measure_due_ns = now_ns.saturating_add(interval_ns).saturating_add(jitter_ns);
    }

    fn begin_measuring(&self, state: &mut State, before: f64, now_ns: u64) {
        state.measuring = Some(before);
        state.limit = self.clamped(state.limit / 2.0);
        state.stuck_windows = 0;
        self.since_ns.store(now_ns, Ordering::Relaxed);
    }

    /// How much sooner than it may be the answers came: less than 1 if they came too late.
    fn gradient(&self, median_ns: u64) -> f64 {
        self.best_ns.load(Ordering::Relaxed) as f64 * (1.0 + self.tolerance()) / median_ns.max(1) as f64
    }

    fn tolerance(&self) -> f64 {
        f64::from(self.policy.tolerance_percent) / 100.0
    }

    fn lowest(&self) -> f64 {
        f64::from(self.policy.least)
    }

    fn clamped(&self, limit: f64) -> f64 {
        limit.clamp(self.lowest(), f64::from(self.policy.most.max(self.policy.least)))
    }

    /// Takes the answers of the window out and gives the median of their times.
    fn take_median(&self) -> Option<u64> {
        self.count.store(0, Ordering::Relaxed);
        let take = |count: &AtomicU32| {
            if count.load(Ordering::Relaxed) > 0 { count.swap(0, Ordering::Relaxed) } else { 0 }
        };
        let counts: Vec<u32> = self.buckets.iter().map(take).collect();
        let all: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let mut below = 0;
        let median = counts.iter().position(|count| {
            below += u64::from(*count);
            below * 2 >= all
        });
        median.filter(|_| all > 0).map(time_of)
    }
}

/// Where a time is counted: by the position of its first bit, and the ones behind that.
fn bucket(took_ns: u64) -> usize {
    let micros = (took_ns / 1000).max(1);
    let doubling = micros.ilog2();
    let step = if doubling >= STEPS.ilog2() {
        micros >> (doubling - STEPS.ilog2())
    } else {
        micros << (STEPS.ilog2() - doubling)
    };
    let index = u64::from(doubling * STEPS) + step - u64::from(STEPS);
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The middle of a bucket, in nanoseconds.
fn time_of(bucket: usize) -> u64 {
    let steps = STEPS as usize;
    let (doubling, step) = (bucket / steps, bucket % steps);
    (1000_u64 << doubling) * (2 * (steps + step) as u64 + 1) / (2 * u64::from(STEPS))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
