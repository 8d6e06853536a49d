//! Writing families of samples: the few shapes that this process needs, over prometheus-client's encoder.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use proxy_bpf::abi::value::{BUCKET_COUNT, bucket_bound_us};

use super::http::{BOUNDS_US, HttpTotals};

const MICROS_PER_SECOND: f64 = 1e6;

/// Where families are written.
pub(super) struct Table<'a> {
    encoder: DescriptorEncoder<'a>,
}

/// Times in the kernel's buckets.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: [u64; BUCKET_COUNT],
    sum_us: u64,
}

/// Times in buckets of some kind.
pub(super) trait Times {
    /// Counts by upper bound in microseconds, the last of which has none; and the sum of the times.
    fn buckets(&self) -> (Vec<(Option<u64>, u64)>, u64);
}

impl Times for Histogram {
    fn buckets(&self) -> (Vec<(Option<u64>, u64)>, u64) {
        let counts = self.counts.iter().enumerate();
        (counts.map(|(index, count)| (bucket_bound_us(index), *count)).collect(), self.sum_us)
    }
}

impl Times for HttpTotals {
    fn buckets(&self) -> (Vec<(Option<u64>, u64)>, u64) {
        let bounds = BOUNDS_US.into_iter().map(Some).chain([None]);
        (bounds.zip(self.durations).collect(), self.duration_us)
    }
}

impl Histogram {
    pub(super) fn add(&mut self, counts: &[u64; BUCKET_COUNT], sum_us: u64) {
        for (sum, count) in self.counts.iter_mut().zip(counts) {
            *sum += count;
        }
        self.sum_us += sum_us;
    }
}

fn encode(times: &impl Times, mut encoder: MetricEncoder<'_>) -> fmt::Result {
    let (buckets, sum_us) = times.buckets();
    let seconds = |us: u64| us as f64 / MICROS_PER_SECOND;
    let bound = |us: Option<u64>| us.map_or(f64::INFINITY, seconds);
    let buckets: Vec<(f64, u64)> = buckets.into_iter().map(|(us, count)| (bound(us), count)).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    encoder.encode_histogram::<NoLabelSet>(seconds(sum_us), count, &buckets, None)
}

impl<'a> Table<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self { encoder }
    }

    /// Writes a counter; `_total` is appended to the name.
    pub(super) fn counter<'r, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        keys: [&'static str; N],
        rows: impl IntoIterator<Item = ([&'r str; N], u64)>,
    ) -> fmt::Result {
        self.family(name, help, None, MetricType::Counter, keys, rows, |mut encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    pub(super) fn gauge<'r, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        keys: [&'static str; N],
        rows: impl IntoIterator<Item = ([&'r str; N], u64)>,
    ) -> fmt::Result {
        self.family(name, help, None, MetricType::Gauge, keys, rows, |mut encoder, value| {
            encoder.encode_gauge(&value)
        })
    }

    /// Writes a histogram of times; `_seconds` is appended to the name.
    pub(super) fn seconds_histogram<'r, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        keys: [&'static str; N],
        rows: impl IntoIterator<Item = ([&'r str; N], &'r (impl Times + 'r))>,
    ) -> fmt::Result {
        let unit = Some(Unit::Seconds);
        self.family(name, help, unit, MetricType::Histogram, keys, rows, |encoder, times| {
            encode(times, encoder)
        })
    }

    pub(super) fn seconds_counter(&mut self, name: &str, help: &str, seconds: f64) -> fmt::Result {
        self.family(name, help, None, MetricType::Counter, [], [([], seconds)], |mut encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    pub(super) fn seconds_gauge(&mut self, name: &str, help: &str, seconds: f64) -> fmt::Result {
        self.fractions(name, help, [], [([], seconds)])
    }

    /// Writes a gauge of numbers that are not whole.
    pub(super) fn fractions<'r, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        keys: [&'static str; N],
        rows: impl IntoIterator<Item = ([&'r str; N], f64)>,
    ) -> fmt::Result {
        self.family(name, help, None, MetricType::Gauge, keys, rows, |mut encoder, value| {
            encoder.encode_gauge(&value)
        })
    }

    /// Writes a family, or nothing if it has no rows. Rows must differ in their labels.
    #[expect(clippy::too_many_arguments, reason = "a declaration of a metric, called from five places above")]
    fn family<'r, const N: usize, T>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        keys: [&'static str; N],
        rows: impl IntoIterator<Item = ([&'r str; N], T)>,
        write: impl Fn(MetricEncoder<'_>, T) -> fmt::Result,
    ) -> fmt::Result {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        if N == 0 {
            // Without labels there is one row, and it is written without braces.
            return rows.next().map_or(Ok(()), |(_, value)| write(encoder, value));
        }
        for (values, value) in rows {
            let labels: [(&str, &str); N] = std::array::from_fn(|index| (keys[index], values[index]));
            write(encoder.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}
