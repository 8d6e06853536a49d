//! What is given up now because memory or descriptors run out: set by the control task, asked by workers.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use proxy_core::overload::{OverloadPolicy, Pressure, Rung};
use proxy_core::priority::Priority;

/// Where the node stands, and what was done about it.
///
/// A worker asks for each request: one load of what is written only when a rung is entered or left, or ten times a second.
#[derive(Debug, Default)]
pub struct Overload {
    /// A bit for each rung in force.
    in_force: AtomicU8,
    are_descriptors_short: AtomicBool,
    memory: Use,
    descriptors: Use,
    actions: Actions,
}

#[derive(Debug, Default)]
struct Use {
    used: AtomicU64,
    bound: AtomicU64,
}

/// Apart from what is asked for all the time.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Actions([AtomicU64; Rung::ALL.len()]);

/// So much in use of so much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// In use.
    pub used: u64,
    /// What there is; 0 if there is no bound.
    pub bound: u64,
}

impl Share {
    /// The same as a share.
    #[must_use]
    pub fn pressure(self) -> Pressure {
        Pressure::of(self.used, self.bound)
    }
}

/// What a scrape shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverloadReading {
    /// What is in force.
    pub in_force: [bool; Rung::ALL.len()],
    /// Memory in bytes.
    pub memory: Share,
    /// Descriptors.
    pub descriptors: Share,
    /// What was done, by rung.
    pub actions: [u64; Rung::ALL.len()],
}

impl Overload {
    /// Tells whether what a rung gives up is given up.
    #[must_use]
    pub fn is_at(&self, rung: Rung) -> bool {
        self.in_force.load(Ordering::Relaxed) & bit(rung) != 0
    }

    /// Tells whether new requests of a priority are refused: by the rung that is for them, or one that is for higher ones.
    #[must_use]
    pub fn refuses(&self, priority: Priority) -> bool {
        // The rungs that refuse stand in a row: all bits from its own to the last of them.
        let bits = (bit(Rung::RefuseHigh) << 1) - bit(Rung::refusing(priority));
        self.in_force.load(Ordering::Relaxed) & bits != 0
    }

    /// Tells whether connections are refused, because it is descriptors that run out.
    #[must_use]
    pub fn are_descriptors_short(&self) -> bool {
        self.are_descriptors_short.load(Ordering::Relaxed)
    }

    /// Counts what was done because a rung is in force.
    pub fn count(&self, rung: Rung, actions: u64) {
        self.actions.0[rung as usize].fetch_add(actions, Ordering::Relaxed);
    }

    /// Says what is in force from now on.
    pub fn set(&self, rung: Option<Rung>, policy: &OverloadPolicy, are_descriptors_short: bool) {
        let bits = Rung::ALL.into_iter().filter(|one| policy.includes(rung, *one)).map(bit);
        self.in_force.store(bits.sum(), Ordering::Relaxed);
        self.are_descriptors_short.store(are_descriptors_short, Ordering::Relaxed);
    }

    /// Shows what is in use.
    pub fn show(&self, memory: Share, descriptors: Share) {
        for (at, share) in [(&self.memory, memory), (&self.descriptors, descriptors)] {
            at.used.store(share.used, Ordering::Relaxed);
            at.bound.store(share.bound, Ordering::Relaxed);
        }
    }

    /// Everything at once.
    #[must_use]
    pub fn read(&self) -> OverloadReading {
        let share = |of: &Use| Share {
            used: of.used.load(Ordering::Relaxed),
            bound: of.bound.load(Ordering::Relaxed),
        };
        OverloadReading {
            in_force: Rung::ALL.map(|rung| self.is_at(rung)),
            memory: share(&self.memory),
            descriptors: share(&self.descriptors),
            actions: Rung::ALL.map(|rung| self.actions.0[rung as usize].load(Ordering::Relaxed)),
        }
    }

    /// What was done, as one process says it to the next.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); Rung::ALL.len()] {
        let OverloadReading { actions, .. } = self.read();
        Rung::ALL.map(|rung| (carried_name(rung), actions[rung as usize]))
    }
}

fn bit(rung: Rung) -> u8 {
    1 << rung as u8
}

/// What the actions of a rung are called between processes.
#[must_use]
pub fn carried_name(rung: Rung) -> &'static str {
    match rung {
        Rung::StopKeepAlive => "overload/stop_keep_alive",
        Rung::RefuseLow => "overload/refuse_low",
        Rung::Refuse => "overload/refuse",
        Rung::RefuseHigh => "overload/refuse_high",
        Rung::Reset => "overload/reset",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rung_includes_those_before_it() {
        let overload = Overload::default();
        assert!(!Rung::ALL.iter().any(|rung| overload.is_at(*rung)));
        overload.set(Some(Rung::Refuse), &OverloadPolicy::DEFAULT, false);
        assert_eq!(Rung::ALL.map(|rung| overload.is_at(rung)), [true, true, true, false, false]);
        assert_eq!(Priority::ALL.map(|priority| overload.refuses(priority)), [true, true, false]);
        overload.count(Rung::Refuse, 3);
        assert_eq!(overload.counts()[Rung::Refuse as usize], ("overload/refuse", 3));
        // The lower ones go first, even where their own rung is switched off.
        let policy = OverloadPolicy { max_memory: None, thresholds: [None, None, Some(50), None, None] };
        overload.set(Some(Rung::Refuse), &policy, false);
        assert_eq!(Priority::ALL.map(|priority| overload.refuses(priority)), [true, true, false]);
        overload.set(None, &OverloadPolicy::DEFAULT, false);
        assert!(!overload.is_at(Rung::StopKeepAlive) && !overload.are_descriptors_short());
    }
}
