//! Maglev's lookup table: the same client, the same endpoint, on every node and in both lanes (Eisenbud et al.,
//! NSDI 2016, section 3.4).

use crate::addr::EndpointAddr;

/// Lengths that a table may have: primes, so that every step width visits every slot; each about twice the last.
pub const TABLE_LENS: [u32; 10] = [101, 251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_537];

/// Slots per endpoint that keep shares of equal weights within about one percent of each other (the paper's figure).
const SLOTS_PER_ENDPOINT: usize = 100;

const EMPTY: u32 = u32::MAX;

/// Builds the table: each slot holds the position of an endpoint in `endpoints`, in proportion to the weights.
///
/// An endpoint of weight 0 gets no slot, but it counts for the length of the table. So pass sick endpoints with weight
/// 0 instead of leaving them out: with the length stays where all others are. The order of `endpoints` does not
/// matter. Every endpoint with a weight has at least one slot while there are slots for all. Empty if there is no
/// weight at all.
///
/// About `len * ln(len)` steps for equal weights.
///
/// # Panics
/// From 2^32 endpoints on.
#[must_use]
pub fn table(endpoints: &[(EndpointAddr, u32)]) -> Vec<u32> {
    let Some(heaviest) = endpoints.iter().map(|(_, weight)| *weight).max().filter(|w| *w > 0) else {
        return Vec::new();
    };
    let len = table_len(endpoints.len());
    let mut slots = vec![EMPTY; len as usize];
    let mut claims = claims(endpoints, heaviest, len);
    let mut left = len;
    // Ends after `len` rounds, since the heaviest endpoint takes a slot in each.
    loop {
        for claim in &mut claims {
            if !claim.is_turn(heaviest) {
                continue;
            }
            claim.take_next(&mut slots);
            left -= 1;
            if left == 0 {
                return slots;
            }
        }
    }
}

/// Gives the slot of a client by its [`source_hash`](super::source_hash). The BPF program has the same rule.
#[must_use]
pub fn slot(source_hash: u32, table_len: usize) -> usize {
    super::scaled(source_hash, table_len)
}

/// Length of the table for a number of endpoints, sick ones included.
fn table_len(endpoint_count: usize) -> u32 {
    let wanted = endpoint_count.saturating_mul(SLOTS_PER_ENDPOINT);
    let largest = TABLE_LENS[TABLE_LENS.len() - 1];
    TABLE_LENS.into_iter().find(|len| *len as usize >= wanted).unwrap_or(largest)
}

/// One endpoint's walk through the table.
struct Claim {
    endpoint: u32,
    weight: u32,
    /// Weight saved up for the next turn, which costs the heaviest weight.
    credit: u64,
    position: u32,
    step: u32,
    len: u32,
}

/// Makes the walks in the order of the addresses, so that the order in the config does not matter.
fn claims(endpoints: &[(EndpointAddr, u32)], heaviest: u32, len: u32) -> Vec<Claim> {
    let mut sorted: Vec<_> = (0u32..).zip(endpoints).filter(|(_, (_, weight))| *weight > 0).collect();
    sorted.sort_unstable_by_key(|(_, (address, _))| *address);
    assert!(endpoints.len() < EMPTY as usize, "endpoints are numbered by u32");
    let claim = |(endpoint, (address, weight)): (u32, &(EndpointAddr, u32))| {
        let hash = xxhash_rust::xxh3::xxh3_64(&super::address_bytes(*address));
        Claim {
            endpoint,
            weight: *weight,
            credit: u64::from(heaviest - *weight), // So that everyone has a turn in the first round.
            position: remainder(hash & u64::from(u32::MAX), len),
            step: remainder(hash >> 32, len - 1) + 1,
            len,
        }
    };
    sorted.into_iter().map(claim).collect()
}

impl Claim {
    fn is_turn(&mut self, heaviest: u32) -> bool {
        self.credit += u64::from(self.weight);
        if self.credit < u64::from(heaviest) {
            return false;
        }
        self.credit -= u64::from(heaviest);
        true
    }

    fn take_next(&mut self, slots: &mut [u32]) {
        while slots[self.position as usize] != EMPTY {
            self.position = (self.position + self.step) % self.len;
        }
        slots[self.position as usize] = self.endpoint;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder of a u32")]
fn remainder(value: u64, divisor: u32) -> u32 {
    (value % u64::from(divisor)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(0..10u32, 1..30), salt in 0..1000u32) {
            let endpoints = endpoints(&weights, salt);
            let slots = table(&endpoints);
            let total: u32 = weights.iter().sum();
            if total == 0 {
                prop_assert!(slots.is_empty());
                return Ok(());
            }
            prop_assert!(slots.len() >= 100 * weights.len());
            for (position, weight) in (0u32..).zip(&weights) {
                let count = slots.iter().filter(|s| **s == position).count();
                let wanted = slots.len() * *weight as usize / total as usize;
                prop_assert!(count.abs_diff(wanted) <= 2 + wanted / 100, "{count} slots instead of {wanted}");
                prop_assert_eq!(count == 0, *weight == 0);
            }
        }

        #[test]
        fn few_others_move_when_an_endpoint_falls_sick(count in 2..60usize, leaver in any::<prop::sample::Index>()) {
            let leaver = leaver.index(count);
            let before = endpoints(&vec![1; count], 0);
            let mut after = before.clone();
            after[leaver].1 = 0;
            let (before, after) = (table(&before), table(&after));
            prop_assert_eq!(before.len(), after.len());
            let moved = before.iter().zip(&after).filter(|(b, a)| a != b).count();
            prop_assert!(after.iter().all(|slot| *slot as usize != leaver));
            prop_assert!(moved <= 2 * before.len() / count + before.len() / 50, "{moved} of {}", before.len());
        }

        #[test]
        fn order_does_not_matter(count in 1..30usize) {
            let forward = endpoints(&vec![3; count], 5);
            let backward: Vec<_> = forward.iter().rev().copied().collect();
            let (a, b) = (table(&forward), table(&backward));
            prop_assert!(a.iter().zip(&b).all(|(a, b)| forward[*a as usize] == backward[*b as usize]));
        }
    }

    #[test]
    fn extreme_weights_and_numbers_end() {
        let slots = table(&endpoints(&[u32::MAX, 1, u32::MAX], 0));
        assert_eq!(slots.iter().filter(|s| **s == 1).count(), 1);
        assert_eq!(table(&endpoints(&vec![1; 70_000], 0)).len(), 65_537);
        assert_eq!(table(&endpoints(&[1, 0, 0], 0)).len(), 509);
        assert!(table(&[]).is_empty());
    }

    #[test]
    fn all_lengths_are_prime() {
        for len in TABLE_LENS {
            assert!((2..len).take_while(|d| d * d <= len).all(|d| len % d != 0), "{len}");
        }
    }

    fn endpoints(weights: &[u32], salt: u32) -> Vec<(EndpointAddr, u32)> {
        (0..).zip(weights).map(|(n, w)| (EndpointAddr(fixture::v4(salt * 100_000 + n, 80)), *w)).collect()
    }
}
