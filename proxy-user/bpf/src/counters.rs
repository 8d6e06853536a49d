//! Reading what the kernel programs counted.

use std::io;

use proxy_ebpf_common::counter::Counter;
use proxy_ebpf_common::key::TotalsKey;
use proxy_ebpf_common::value::{BUCKET_COUNT, HistogramValue, REASON_COUNT, TotalsValue};

use crate::maps::Maps;

/// Reads every counter, summed over CPUs.
///
/// # Errors
/// What bpf(2) says; so for all functions here.
pub fn read(maps: &Maps) -> io::Result<Vec<(Counter, u64)>> {
    let one = |counter: &Counter| {
        let values = maps.counters.lookup(&(*counter as u32))?.unwrap_or_default();
        Ok((*counter, values.iter().sum()))
    };
    Counter::ALL.iter().map(one).collect()
}

/// Reads the totals of every combination of service, endpoint and lane, summed over CPUs.
///
/// # Errors
/// What bpf(2) says.
pub fn totals(maps: &Maps) -> io::Result<Vec<(TotalsKey, TotalsValue)>> {
    let keys = maps.totals.keys()?;
    keys.into_iter()
        .map(|key| Ok((key, sum_totals(&maps.totals.lookup(&key)?.unwrap_or_default()))))
        .collect()
}

/// Reads the histograms of every combination of service and lane, summed over CPUs.
///
/// # Errors
/// What bpf(2) says.
pub fn histograms(maps: &Maps) -> io::Result<Vec<(TotalsKey, HistogramValue)>> {
    let keys = maps.histograms.keys()?;
    keys.into_iter()
        .map(|key| Ok((key, sum_histograms(&maps.histograms.lookup(&key)?.unwrap_or_default()))))
        .collect()
}

fn sum_totals(values: &[TotalsValue]) -> TotalsValue {
    values.iter().fold(TotalsValue::default(), |mut sum, one| {
        sum.opened += one.opened;
        for reason in 0..REASON_COUNT {
            sum.closed[reason] += one.closed[reason];
        }
        sum.sent_bytes += one.sent_bytes;
        sum.received_bytes += one.received_bytes;
        sum.retransmits += one.retransmits;
        sum
    })
}

fn sum_histograms(values: &[HistogramValue]) -> HistogramValue {
    values.iter().fold(HistogramValue::default(), |mut sum, one| {
        for bucket in 0..BUCKET_COUNT {
            sum.connect[bucket] += one.connect[bucket];
            sum.rtt[bucket] += one.rtt[bucket];
        }
        sum.connect_us += one.connect_us;
        sum.rtt_us += one.rtt_us;
        sum
    })
}
