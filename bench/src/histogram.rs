//! Latencies, counted in buckets that grow with the value.

use serde::{Deserialize, Serialize};

/// Buckets per power of two: a value is known to within 1/32 of itself.
const SUB_BUCKETS: u64 = 32;
/// Covers 64-bit values.
const BUCKETS: usize = 60 * 32;

/// Counts of values, by default all zero.
#[derive(Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

/// What a report says of a histogram, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half of the operations were faster.
    pub p50_ns: u64,
    /// One in a hundred was slower.
    pub p99_ns: u64,
    /// One in a thousand was slower.
    pub p999_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    /// Counts one value; O(1).
    pub fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// The figures that are reported; none if nothing was counted.
    #[must_use]
    pub fn quantiles(&self) -> Option<Quantiles> {
        (self.total > 0).then(|| Quantiles {
            p50_ns: self.quantile(500),
            p99_ns: self.quantile(990),
            p999_ns: self.quantile(999),
        })
    }

    /// Upper bound of the bucket that the given share of values, in thousandths, does not exceed.
    fn quantile(&self, permille: u64) -> u64 {
        let wanted = (self.total * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in (0_u64..).zip(&self.counts) {
            seen += count;
            if seen >= wanted {
                return upper(index);
            }
        }
        u64::MAX
    }
}

/// Values below `2 * SUB_BUCKETS` have a bucket each; above, the five bits after the first one count.
fn bucket(value: u64) -> usize {
    let shift = (63 - (value | 1).leading_zeros()).saturating_sub(SUB_BUCKETS.trailing_zeros());
    let index = u64::from(shift) * SUB_BUCKETS + (value >> shift);
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

fn upper(index: u64) -> u64 {
    if index < 2 * SUB_BUCKETS {
        return index;
    }
    let shift = index / SUB_BUCKETS - 1;
    ((index % SUB_BUCKETS + SUB_BUCKETS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_that_is_near_it() {
        for value in (0..200).chain([1_000, 65_535, 65_536, 1_234_567, 10_000_000_000]) {
            let bound = upper(bucket(value) as u64);
            assert!(bound >= value && bound - value <= value / SUB_BUCKETS, "{value}: {bound}");
        }
    }

    #[test]
    fn quantiles_of_a_known_spread_are_found() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|value| histogram.record(value));
        let found = histogram.quantiles().unwrap();
        assert!((5_000..=5_160).contains(&found.p50_ns), "{found:?}");
        assert!((9_900..=10_220).contains(&found.p99_ns), "{found:?}");
        histogram.clear();
        assert_eq!(histogram.quantiles(), None);
    }
}
