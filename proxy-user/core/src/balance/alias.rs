//! Weighted random choice in constant time (Vose 1991), for workers and for the kernel.

use rand::RngCore;
use rand::rngs::SmallRng;

/// One slot of an alias table: two candidates and the odds between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AliasSlot {
    /// Candidate that this slot belongs to.
    pub primary: u32,
    /// Odds of the primary in units of 2^-32; `u32::MAX` means always.
    pub threshold: u32,
    /// Candidate that gets the rest.
    pub alias: u32,
}

impl AliasSlot {
    /// Decides between the two candidates by a uniform random number. The BPF program has the same rule.
    #[must_use]
    pub fn choose(self, random: u32) -> u32 {
        if random < self.threshold || self.threshold == u32::MAX { self.primary } else { self.alias }
    }
}

/// Builds the table: a uniformly drawn slot, then [`AliasSlot::choose`], gives candidate `i` with the share
/// `weights[i] / sum`.
///
/// One slot per weight, primaries in order; empty if all weights are 0. Integers throughout, so a share is off by
/// 2^-32 per slot at most and a candidate of weight 0 is never chosen. O(n).
///
/// # Panics
/// From 2^32 weights on.
#[must_use]
pub fn table(weights: &[u32]) -> Vec<AliasSlot> {
    // A slot is full at `total`; a weight fills `weight * count` of the `total * count` that there are.
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    if total == 0 {
        return Vec::new();
    }
    let count = u32::try_from(weights.len()).expect("endpoints are numbered by u32");
    let mut fill: Vec<u64> = weights.iter().map(|w| u64::from(*w) * u64::from(count)).collect();
    let mut slots: Vec<AliasSlot> =
        (0..count).map(|i| AliasSlot { primary: i, threshold: u32::MAX, alias: i }).collect();
    let (mut small, mut large): (Vec<u32>, Vec<u32>) = (0..count).partition(|i| fill[*i as usize] < total);
    while let Some(short) = small.pop() {
        let donor = *large.last().expect("what one slot lacks, another has too much");
        let rest = fill[short as usize];
        slots[short as usize] = AliasSlot { primary: short, threshold: fraction(rest, total), alias: donor };
        fill[donor as usize] -= total - rest;
        if fill[donor as usize] < total {
            large.pop();
            small.push(donor);
        }
    }
    slots
}

/// An alias table with the weights behind it, for draws that must avoid some candidates.
#[derive(Debug)]
pub(super) struct Draws {
    weights: Vec<u32>,
    slots: Vec<AliasSlot>,
}

/// Draws before the exact but slow way: with half of the weight to be avoided, one pick in 256 gets there.
const MOST_REDRAWS: u32 = 8;

impl Draws {
    pub(super) fn new(weights: Vec<u32>) -> Self {
        let slots = table(&weights);
        Self { weights, slots }
    }

    /// Draws a candidate that is not to be avoided, each with its share among those; `None` if there is none.
    ///
    /// O(1) unless most of the weight is to be avoided, then O(n).
    pub(super) fn draw(&self, rng: &mut SmallRng, is_avoided: impl Fn(usize) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        for _ in 0..MOST_REDRAWS {
            let (high, low) = halves(rng.next_u64());
            let slot = self.slots[super::scaled(high, self.slots.len())];
            let candidate = slot.choose(low) as usize;
            if !is_avoided(candidate) {
                return Some(candidate);
            }
        }
        self.draw_exactly(rng, is_avoided)
    }

    fn draw_exactly(&self, rng: &mut SmallRng, is_avoided: impl Fn(usize) -> bool) -> Option<usize> {
        let weights = || (0..self.weights.len()).filter(|i| !is_avoided(*i)).map(|i| (i, self.weights[i]));
        let total: u64 = weights().map(|(_, w)| u64::from(w)).sum();
        let mut left = rng.next_u64().checked_rem(total)?;
        for (candidate, weight) in weights() {
            match left.checked_sub(u64::from(weight)) {
                Some(rest) => left = rest,
                None => return Some(candidate),
            }
        }
        None
    }
}

/// Gives `part / whole` in units of 2^-32, rounded down.
#[expect(clippy::cast_possible_truncation, reason = "part < whole, so the quotient is below 2^32")]
fn fraction(part: u64, whole: u64) -> u32 {
    ((u128::from(part) << 32) / u128::from(whole)) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
fn halves(random: u64) -> (u32, u32) {
    ((random >> 32) as u32, random as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    proptest! {
        #[test]
        fn every_share_is_exact_to_the_rounding(weights in prop::collection::vec(weight(), 0..60)) {
            let slots = table(&weights);
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            prop_assert_eq!(slots.len(), if total == 0 { 0 } else { weights.len() });
            let mut shares = vec![0u128; weights.len()];
            for slot in &slots {
                let primary = if slot.threshold == u32::MAX { 1 << 32 } else { u128::from(slot.threshold) };
                shares[slot.primary as usize] += primary;
                shares[slot.alias as usize] += (1 << 32) - primary;
            }
            for (share, weight) in shares.iter().zip(&weights) {
                if *weight == 0 {
                    prop_assert_eq!(*share, 0);
                    continue;
                }
                let wanted = (u128::from(*weight) * slots.len() as u128).checked_shl(32).unwrap() / u128::from(total);
                prop_assert!(share.abs_diff(wanted) <= slots.len() as u128, "{share} instead of {wanted}");
            }
        }

        #[test]
        fn avoided_candidates_are_never_drawn_while_another_has_weight(
            weights in prop::collection::vec(weight(), 1..12),
            avoided in prop::collection::vec(any::<bool>(), 12),
            seed in any::<u64>(),
        ) {
            let draws = Draws::new(weights.clone());
            let mut rng = SmallRng::seed_from_u64(seed);
            let is_possible = (0..weights.len()).any(|i| weights[i] > 0 && !avoided[i]);
            for _ in 0..20 {
                let drawn = draws.draw(&mut rng, |i| avoided[i]);
                prop_assert_eq!(drawn.is_some(), is_possible);
                prop_assert!(drawn.is_none_or(|i| weights[i] > 0 && !avoided[i]));
            }
        }
    }

    #[test]
    fn the_slow_way_keeps_the_shares_too() {
        let draws = Draws::new(vec![1_000_000, 1, 3]);
        let mut rng = SmallRng::seed_from_u64(7);
        let light = (0..4000).filter(|_| draws.draw(&mut rng, |i| i == 0) == Some(1)).count();
        assert!((850..1150).contains(&light), "{light} of 4000 instead of a quarter");
    }

    fn weight() -> impl Strategy<Value = u32> {
        prop_oneof![Just(0), 1..10u32, 1..1000u32, any::<u32>()]
    }
}
