//! Weighted round robin, smooth and fair: in any stretch of as many picks as the weights add up to, every endpoint
//! has exactly its weight.

use rand::RngCore;
use rand::rngs::SmallRng;

use crate::service::Cursor;

/// Longest cycle that is written out: 16 KiB per service and worker.
const LONGEST_CYCLE: u64 = 4096;

/// Whose turn it is.
#[derive(Debug)]
pub(super) enum RoundRobin {
    /// One cycle, written out; the place in it is shared by all workers, so that their turns interlock.
    Shared(Vec<u32>),
    /// Weights whose cycle is too long to write out: every worker keeps turns of its own.
    Own(Schedule),
}

impl RoundRobin {
    /// Takes endpoints in order, with weight 0 for those that have no turn.
    pub(super) fn new(weights: &[u32], rng: &mut SmallRng) -> Self {
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        let reduced: Vec<u32> = weights.iter().map(|weight| weight / divisor).collect();
        let cycle: u64 = reduced.iter().map(|weight| u64::from(*weight)).sum();
        if cycle > LONGEST_CYCLE {
            return Self::Own(Schedule::new(weights, rng));
        }
        let mut schedule = Schedule::at_start(&reduced);
        let turns = (0..cycle).filter_map(|_| schedule.pick(|_| false));
        Self::Shared(turns.filter_map(|endpoint| u32::try_from(endpoint).ok()).collect())
    }

    /// Gives the endpoint whose turn it is and that is not to be avoided; `None` if there is none.
    ///
    /// O(1) if the first is not to be avoided and the cycle is shared; else O(log n) or O(cycle).
    pub(super) fn pick(&mut self, cursor: &Cursor, is_avoided: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::Shared(turns) => {
                let place =
                    |cursor: u32| turns.get(cursor as usize % turns.len().max(1)).map(|e| *e as usize);
                let mut tries = (0..turns.len()).filter_map(|_| place(cursor.advance()));
                tries.find(|endpoint| !is_avoided(*endpoint))
            }
            Self::Own(schedule) => schedule.pick(is_avoided),
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Endpoints in a heap by the time of their next turn (earliest deadline first).
///
/// In each cycle an endpoint of weight `w` has its turns at the times 1/w, 2/w, … 1. Times are kept as integers, so
/// nothing drifts however long it runs.
#[derive(Debug)]
pub(super) struct Schedule {
    heap: Vec<Turn>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    endpoint: usize,
    weight: u32,
    cycle: u64,
    /// Turns already had in this cycle, less than `weight`.
    taken_count: u32,
    /// Who goes first at the same time; differs from worker to worker.
    rank: usize,
}

impl Schedule {
    /// Takes endpoints in order, with weight 0 for those that have no turn.
    ///
    /// Begins at a random place of the cycle: workers must not march in step, and an endpoint must not gain from
    /// every rebuild.
    pub(super) fn new(weights: &[u32], rng: &mut SmallRng) -> Self {
        let serving: Vec<(usize, u32)> =
            weights.iter().copied().enumerate().filter(|(_, weight)| *weight > 0).collect();
        let rotation = super::scaled(rng.next_u32(), serving.len());
        Self::with(&serving, rotation, rng.next_u32())
    }

    /// As [`Schedule::new`], at the beginning of the cycle.
    fn at_start(weights: &[u32]) -> Self {
        let serving: Vec<(usize, u32)> =
            weights.iter().copied().enumerate().filter(|(_, weight)| *weight > 0).collect();
        Self::with(&serving, 0, 0)
    }

    fn with(serving: &[(usize, u32)], rotation: usize, start: u32) -> Self {
        let turns = serving.iter().enumerate().map(|(position, (endpoint, weight))| Turn {
            endpoint: *endpoint,
            weight: *weight,
            cycle: 0,
            taken_count: share(*weight, start),
            rank: (position + rotation) % serving.len(),
        });
        let mut schedule = Self { heap: turns.collect() };
        for position in (0..schedule.heap.len() / 2).rev() {
            schedule.sift_down(position);
        }
        schedule
    }

    /// Gives the endpoint whose turn it is and that is not to be avoided; `None` if there is none.
    ///
    /// O(log n) if the first is not to be avoided, else O(n).
    pub(super) fn pick(&mut self, is_avoided: impl Fn(usize) -> bool) -> Option<usize> {
        let mut position = 0;
        if is_avoided(self.heap.first()?.endpoint) {
            let others = (0..self.heap.len()).filter(|p| !is_avoided(self.heap[*p].endpoint));
            position = others.reduce(|a, b| if self.heap[b].is_before(&self.heap[a]) { b } else { a })?;
        }
        self.heap[position].advance();
        let picked = self.heap[position].endpoint;
        self.sift_down(position);
        Some(picked)
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let children = 2 * position + 1..(2 * position + 3).min(self.heap.len());
            let Some(first) =
                children.reduce(|a, b| if self.heap[b].is_before(&self.heap[a]) { b } else { a })
            else {
                return;
            };
            if !self.heap[first].is_before(&self.heap[position]) {
                return;
            }
            self.heap.swap(first, position);
            position = first;
        }
    }
}

impl Turn {
    fn is_before(&self, other: &Self) -> bool {
        let time = |turn: &Self, of: &Self| (u64::from(turn.taken_count) + 1) * u64::from(of.weight);
        (self.cycle, time(self, other), self.rank) < (other.cycle, time(other, self), other.rank)
    }

    fn advance(&mut self) {
        self.taken_count += 1;
        if self.taken_count == self.weight {
            self.taken_count = 0;
            self.cycle += 1;
        }
    }
}

/// Gives the part of a weight's turns that is over at a time of the cycle, in units of 2^-32; less than the weight.
fn share(weight: u32, time: u32) -> u32 {
    ((u64::from(weight) * u64::from(time)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    proptest! {
        #[test]
        fn any_stretch_of_one_cycle_has_every_weight_exactly(
            weights in prop::collection::vec(0..12u32, 1..12), seed in any::<u64>(),
        ) {
            let total: u32 = weights.iter().sum();
            let mut schedule = Schedule::new(&weights, &mut SmallRng::seed_from_u64(seed));
            let picks: Vec<_> = (0..total * 3).map(|_| schedule.pick(|_| false).unwrap()).collect();
            for stretch in picks.windows((total as usize).max(1)) {
                for (endpoint, weight) in weights.iter().enumerate() {
                    let count = stretch.iter().filter(|p| **p == endpoint).count();
                    prop_assert_eq!(count, *weight as usize, "endpoint {} in {:?}", endpoint, stretch);
                }
            }
        }

        #[test]
        fn turns_are_spread_over_the_cycle(
            weights in prop::collection::vec(1..50u32, 1..8), seed in any::<u64>(),
        ) {
            let total: u32 = weights.iter().sum();
            let mut schedule = Schedule::new(&weights, &mut SmallRng::seed_from_u64(seed));
            let picks: Vec<_> = (0..total * 2).map(|_| schedule.pick(|_| false).unwrap()).collect();
            for (endpoint, weight) in weights.iter().enumerate() {
                let turns: Vec<_> = (0..picks.len()).filter(|i| picks[*i] == endpoint).collect();
                // Between two turns, 1/weight of a cycle passes, in which each other has its share and at most one.
                let longest = (total / weight) as usize + weights.len() + 1;
                prop_assert!(turns.windows(2).all(|pair| pair[1] - pair[0] <= longest));
            }
        }
    }

    #[test]
    fn an_avoided_endpoint_is_passed_over_and_the_others_stay_even() {
        let mut schedule = Schedule::new(&[1, 1, 1, 1], &mut SmallRng::seed_from_u64(1));
        let mut counts = [0; 4];
        for _ in 0..300 {
            counts[schedule.pick(|e| e == 2).unwrap()] += 1;
        }
        assert_eq!(counts, [100, 100, 0, 100]);
        assert_eq!(schedule.pick(|_| true), None);
    }

    #[test]
    fn workers_interlock_on_a_shared_cursor() {
        let mut rng = SmallRng::seed_from_u64(1);
        let cursor = Cursor::default();
        let mut workers =
            [RoundRobin::new(&[2, 0, 2, 2], &mut rng), RoundRobin::new(&[2, 0, 2, 2], &mut rng)];
        let picks: Vec<_> = (0..9).map(|i| workers[i * 7 % 2].pick(&cursor, |_| false).unwrap()).collect();
        assert_eq!(picks, [0, 2, 3, 0, 2, 3, 0, 2, 3]);
        assert_eq!(workers[0].pick(&cursor, |e| e == 0), Some(2));
        assert_eq!(workers[0].pick(&cursor, |_| true), None);
        assert_eq!(RoundRobin::new(&[0, 0], &mut rng).pick(&cursor, |_| false), None);
    }

    #[test]
    fn a_cycle_that_is_too_long_is_kept_per_worker() {
        let mut long = RoundRobin::new(&[65_535, 65_534], &mut SmallRng::seed_from_u64(1));
        let cursor = Cursor::default();
        let first = (0..1000).filter(|_| long.pick(&cursor, |_| false) == Some(0)).count();
        assert!(matches!(long, RoundRobin::Own(_)) && (499..=501).contains(&first), "{first}");
    }

    #[test]
    fn workers_begin_at_different_endpoints() {
        let first = |seed| Schedule::new(&[1; 8], &mut SmallRng::seed_from_u64(seed)).pick(|_| false);
        assert_eq!((0..100).map(first).collect::<HashSet<_>>().len(), 8);
    }

    #[test]
    fn the_heaviest_weights_do_not_overflow() {
        let mut schedule = Schedule::new(&[u32::MAX, u32::MAX - 1, 1], &mut SmallRng::seed_from_u64(1));
        let heavy = (0..1000).filter(|_| schedule.pick(|_| false) == Some(0)).count();
        assert!((499..=501).contains(&heavy), "{heavy}");
    }
}
