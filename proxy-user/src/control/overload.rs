//! Watches over memory and descriptors, and says which rung of the ladder is in force.

mod memory;

use std::time::{Duration, Instant};

use proxy_core::overload::{Ladder, OverloadPolicy, Rung};
use proxy_io::{heap, limit};

use self::memory::Memory;
use crate::stats::overload::{Overload, Share};

/// Time between two looks at what changes slowly, or costs more: limits, what of a cgroup's memory is only cache.
const SLOW_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two resets: what one gives back shows before the next.
const RESET_INTERVAL: Duration = Duration::from_millis(500);

/// Knows what is in use and what that means.
pub(super) struct Watchman {
    policy: OverloadPolicy,
    memory: Memory,
    nofile: u64,
    ladder: Ladder,
    of_descriptors: Ladder,
    slow_due: Instant,
    reset_due: Instant,
}

impl Watchman {
    pub(super) fn new(policy: OverloadPolicy) -> Self {
        let now = Instant::now();
        Self {
            policy,
            memory: Memory::new(),
            nofile: 0,
            ladder: Ladder::default(),
            of_descriptors: Ladder::default(),
            slow_due: now,
            reset_due: now,
        }
    }

    pub(super) fn set_policy(&mut self, policy: OverloadPolicy) {
        self.policy = policy;
    }

    /// Looks, and says what is in force from now on. Takes six microseconds, forty once a second, and more where memory is short.
    /// Says whether a stream is to be reset.
    pub(super) fn look(&mut self, now: Instant, overload: &Overload) -> bool {
        let is_slow = now >= self.slow_due;
        if is_slow {
            self.slow_due = now + SLOW_INTERVAL;
            self.memory.look_slowly();
            self.nofile = limit::nofile().unwrap_or(0);
        }
        let memory = self.memory.look(self.policy.max_memory);
        let descriptors = Share { used: limit::open_fd_count().unwrap_or(0), bound: self.nofile };
        overload.show(memory, descriptors);
        let pressure = memory.pressure().max(descriptors.pressure());
        let before = self.ladder.rung();
        let has_changed = self.ladder.handle_pressure(now, pressure, &self.policy);
        self.of_descriptors.handle_pressure(now, descriptors.pressure(), &self.policy);
        let rung = self.ladder.rung();
        let are_descriptors_short = self.policy.includes(self.of_descriptors.rung(), Rung::Refuse);
        overload.set(rung, &self.policy, are_descriptors_short);
        if has_changed {
            tell(before, rung, memory, descriptors);
        }
        let first = self.policy.thresholds.iter().flatten().min();
        if is_slow && first.is_some_and(|first| memory.pressure().percent() >= u16::from(*first)) {
            // What was freed and is kept for later must not count as in use.
            heap::give_back();
        }
        let is_due = rung == Some(Rung::Reset) && now >= self.reset_due;
        if is_due {
            self.reset_due = now + RESET_INTERVAL;
        }
        is_due
    }
}

fn tell(before: Option<Rung>, after: Option<Rung>, memory: Share, descriptors: Share) {
    let word = |rung: Option<Rung>| rung.map_or("none", Rung::as_str);
    let percent = |share: Share| format!("{}%", share.pressure().percent());
    let (memory_percent, descriptors_percent) = (percent(memory), percent(descriptors));
    let (rung, before_rung) = (word(after), word(before));
    let (used_bytes, bound_bytes) = (memory.used, memory.bound);
    if after > before {
        tracing::warn!(
            rung,
            before = before_rung,
            memory = memory_percent,
            descriptors = descriptors_percent,
            used_bytes,
            bound_bytes,
            "overload: a rung is entered"
        );
    } else {
        tracing::warn!(
            rung,
            before = before_rung,
            memory = memory_percent,
            descriptors = descriptors_percent,
            "overload: a rung is left"
        );
    }
}
