//! Overload: what a node gives up, step by step, when memory or descriptors run out.
//!
//! ```text
//!   calm ──> stop_keep_alive ──> refuse… ──> reset       up at once, as soon as the pressure is there
//!    ^             │  ^             │ ^       │
//!    └─────────────┘  └─────────────┘ └───────┘          down only after it was clearly less for a while
//! ```
//!
//! Each rung includes those before it, but for what the config switches off. The pressure is the share in use of whatever is the scarcest.

use std::time::{Duration, Instant};

use crate::priority::Priority;

/// How far below its threshold the pressure must be before a rung is left, in parts of [`Pressure::WHOLE`]: what the rung itself
/// gives back must not end it at once.
const BAND: u16 = 500;
/// For how long: a burst that pauses for a moment is not over.
const HOLD: Duration = Duration::from_secs(2);

/// A rung of the ladder: what is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rung {
    /// Connections end after their answers, those at rest end, and no more to endpoints are kept for later.
    StopKeepAlive,
    /// New requests of low priority are refused.
    RefuseLow,
    /// All new requests are refused but those of high priority; where it is descriptors that run out, new connections to listeners,
    /// too.
    Refuse,
    /// New requests of high priority are refused as well.
    RefuseHigh,
    /// The stream that holds most bytes is reset, one after the other.
    Reset,
}

impl Rung {
    /// Every rung, from the first to the last.
    pub const ALL: [Self; 5] =
        [Self::StopKeepAlive, Self::RefuseLow, Self::Refuse, Self::RefuseHigh, Self::Reset];

    /// Word for the config, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StopKeepAlive => "stop_keep_alive",
            Self::RefuseLow => "refuse_low",
            Self::Refuse => "refuse",
            Self::RefuseHigh => "refuse_high",
            Self::Reset => "reset",
        }
    }

    /// The rung that refuses new requests of a priority, and of those above it; lower ones are refused by it, too.
    #[must_use]
    pub fn refusing(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::RefuseLow,
            Priority::Default => Self::Refuse,
            Priority::High => Self::RefuseHigh,
        }
    }

    /// Place on the ladder: 1 is the first, and 0 means that none is in force.
    #[must_use]
    pub fn level(self) -> u8 {
        self as u8 + 1
    }

    /// The rung at a level; none at 0.
    #[must_use]
    pub fn at(level: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|rung| rung.level() == level)
    }
}

/// What the config says about overload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverloadPolicy {
    /// Bytes that the process may have. What its cgroups may have, or else the machine's memory, if absent.
    pub max_memory: Option<u64>,
    /// Percent of memory or descriptors from which on each rung is in force, in the order of [`Rung::ALL`]; never if absent.
    pub thresholds: [Option<u8>; Rung::ALL.len()],
}

impl OverloadPolicy {
    /// What holds where the config says nothing.
    ///
    /// Four fifths are more than a node that does its work has in use, and leave time for what follows: connections that rest are
    /// given up first, for they cost clients one handshake, and then what matters less. The kernel kills at 100, so the last rung leaves a little to act in.
    pub const DEFAULT: Self =
        Self { max_memory: None, thresholds: [Some(80), Some(85), Some(90), Some(95), Some(97)] };

    /// Tells whether a rung's part is given up while another one is in force: not what is switched off.
    #[must_use]
    pub fn includes(&self, in_force: Option<Rung>, rung: Rung) -> bool {
        in_force >= Some(rung) && self.threshold(rung).is_some()
    }

    /// The percentage of a rung.
    #[must_use]
    pub fn threshold(&self, rung: Rung) -> Option<u8> {
        self.thresholds[rung as usize]
    }
}

/// Share of something that is in use, in parts of [`Pressure::WHOLE`]; more if its bound was lowered meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pressure(u16);

impl Pressure {
    /// All of it.
    pub const WHOLE: u16 = 10_000;

    /// So much of so much; what has no bound is never short.
    #[must_use]
    pub fn of(used: u64, bound: u64) -> Self {
        if bound == 0 {
            return Self(0);
        }
        let parts = u128::from(used) * u128::from(Self::WHOLE) / u128::from(bound);
        Self(u16::try_from(parts).unwrap_or(u16::MAX))
    }

    /// In parts of [`Pressure::WHOLE`].
    #[must_use]
    pub fn parts(self) -> u16 {
        self.0
    }

    /// In whole percent, rounded down.
    #[must_use]
    pub fn percent(self) -> u16 {
        self.0 / (Self::WHOLE / 100)
    }
}

/// Where the node stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ladder {
    level: u8,
    /// Since when the pressure has been clearly below that.
    calm_since: Option<Instant>,
}

impl Ladder {
    /// The rung in force.
    #[must_use]
    pub fn rung(&self) -> Option<Rung> {
        Rung::at(self.level)
    }

    /// Takes note of the pressure now; says whether another rung is in force from now on. To be called every second at least.
    pub fn handle_pressure(&mut self, now: Instant, pressure: Pressure, policy: &OverloadPolicy) -> bool {
        let enters = reached(policy, pressure.parts());
        // What is switched off by a new config ends at once.
        let most = reached(policy, u16::MAX);
        let stays = reached(policy, pressure.parts().saturating_add(BAND));
        let before = self.level;
        if enters > self.level || self.level > most {
            self.level = enters.max(stays.min(self.level));
            self.calm_since = None;
        } else if stays >= self.level {
            self.calm_since = None;
        } else if now.duration_since(*self.calm_since.get_or_insert(now)) >= HOLD {
            self.level = stays;
            self.calm_since = None;
        }
        self.level != before
    }
}

/// The highest level whose threshold is reached.
fn reached(policy: &OverloadPolicy, parts: u16) -> u8 {
    let is_reached = |rung: &Rung| {
        let threshold = policy.threshold(*rung).map(|percent| u16::from(percent) * (Pressure::WHOLE / 100));
        threshold.is_some_and(|threshold| parts >= threshold)
    };
    Rung::ALL.into_iter().filter(is_reached).map(Rung::level).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOOK: Duration = Duration::from_millis(100);
    const POLICY: OverloadPolicy = OverloadPolicy::DEFAULT;

    /// A ladder in simulated time.
    struct Node {
        ladder: Ladder,
        now: Instant,
        changes: u32,
    }

    impl Node {
        #[expect(clippy::disallowed_methods, reason = "any instant to count from")]
        fn new() -> Self {
            Self { ladder: Ladder::default(), now: Instant::now(), changes: 0 }
        }

        /// Looks for so long at one pressure; gives the rung in force then.
        fn at(&mut self, percent: u64, time: Duration) -> Option<Rung> {
            let looks = time.as_nanos().div_ceil(LOOK.as_nanos()).max(1);
            for _ in 0..looks {
                self.now += LOOK;
                let pressure = Pressure::of(percent, 100);
                self.changes += u32::from(self.ladder.handle_pressure(self.now, pressure, &POLICY));
            }
            self.ladder.rung()
        }
    }

    #[test]
    fn rungs_are_entered_at_once_and_left_one_after_the_other_when_it_is_clearly_better() {
        let mut node = Node::new();
        assert_eq!(node.at(79, HOLD * 9), None);
        assert_eq!(node.at(80, LOOK), Some(Rung::StopKeepAlive));
        assert_eq!(node.at(98, LOOK), Some(Rung::Reset), "several at once");
        assert_eq!(node.at(93, HOLD * 9), Some(Rung::Reset), "not clearly below 97");
        assert_eq!(node.at(91, HOLD - LOOK), Some(Rung::Reset), "not for long enough");
        assert_eq!(node.at(91, LOOK * 3), Some(Rung::RefuseHigh));
        assert_eq!(node.at(89, HOLD + LOOK * 2), Some(Rung::Refuse));
        assert_eq!(node.at(10, HOLD + LOOK), None, "all of them");
        assert_eq!(node.changes, 5);
    }

    #[test]
    fn pressure_about_a_threshold_does_not_flap() {
        let mut node = Node::new();
        for _ in 0..1000 {
            node.at(91, LOOK);
            node.at(86, LOOK);
        }
        assert_eq!((node.ladder.rung(), node.changes), (Some(Rung::Refuse), 1));
        for _ in 0..1000 {
            // Clearly less, but never for long.
            node.at(60, HOLD / 2);
            node.at(90, LOOK);
        }
        assert_eq!((node.ladder.rung(), node.changes), (Some(Rung::Refuse), 1));
    }

    #[test]
    fn a_rung_that_is_switched_off_is_passed_over_and_left_at_once() {
        let mut node = Node::new();
        assert_eq!(node.at(99, LOOK), Some(Rung::Reset));
        let off = OverloadPolicy { thresholds: [Some(80), None, None, None, None], ..POLICY };
        assert!(node.ladder.handle_pressure(node.now, Pressure::of(99, 100), &off));
        assert_eq!(node.ladder.rung(), Some(Rung::StopKeepAlive));
        let last = OverloadPolicy { thresholds: [None, None, None, None, Some(97)], ..POLICY };
        assert_eq!(
            Rung::ALL.map(|rung| last.includes(Some(Rung::Reset), rung)),
            [false, false, false, false, true]
        );
        let refusing = Rung::ALL.map(|rung| POLICY.includes(Some(Rung::Refuse), rung));
        assert_eq!(refusing, [true, true, true, false, false]);
        let off = OverloadPolicy { thresholds: [None; 5], ..POLICY };
        assert!(node.ladder.handle_pressure(node.now, Pressure::of(99, 100), &off));
        assert!(!node.ladder.handle_pressure(node.now, Pressure::of(500, 100), &off));
        assert_eq!(node.ladder.rung(), None);
    }

    #[test]
    fn pressure_is_a_share_and_what_has_no_bound_is_never_short() {
        assert_eq!(Pressure::of(1 << 60, 0), Pressure::default());
        assert_eq!(Pressure::of(905, 1000).percent(), 90);
        assert_eq!(Pressure::of(u64::MAX, u64::MAX).parts(), Pressure::WHOLE);
        assert_eq!(Pressure::of(u64::MAX, 1).parts(), u16::MAX, "no overflow");
    }

    proptest! {
        /// Whatever the pressure does: what it asks for is in force at once, and no rung is left sooner than after a hold below its band.
        #[test]
        fn the_ladder_is_never_below_what_the_pressure_asks_for(
            looks in proptest::collection::vec((0_u64..120, 0_u64..1500), 1..200),
        ) {
            let mut node = Node::new();
            for (percent, millis) in looks {
                node.now += Duration::from_millis(millis);
                let (before, pressure) = (node.ladder.level, Pressure::of(percent, 100));
                node.ladder.handle_pressure(node.now, pressure, &POLICY);
                prop_assert!(node.ladder.level >= reached(&POLICY, pressure.parts()));
                let stays = reached(&POLICY, pressure.parts().saturating_add(BAND));
                prop_assert!(node.ladder.level >= before.min(stays));
            }
        }
    }
}
