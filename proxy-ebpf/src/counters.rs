//! Per-CPU counters and totals.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use proxy_ebpf_common::counter::Counter;
use proxy_ebpf_common::key::TotalsKey;
use proxy_ebpf_common::value::{HistogramValue, TotalsValue};

use crate::maps::{COUNTERS, HISTOGRAMS, LOADS, TOTALS};

/// Adds one to a counter.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a per-CPU element, and programs on one CPU do not interrupt each other within this addition's read and
        // write in a way that could tear it; a lost increment would be the worst.
        unsafe { *value += 1 };
    }
}

/// Changes the number of open connections that an endpoint has in the direct lane, all CPUs together.
#[inline(always)]
pub fn add_load(endpoint: u32, delta: i64) {
    let value = LOADS.get_ptr_mut(endpoint).or_else(|| {
        let _ = LOADS.insert(endpoint, 0i64, 1 /* BPF_NOEXIST */);
        LOADS.get_ptr_mut(endpoint)
    });
    if let Some(value) = value {
        // SAFETY: `value` is a live map element; fetch_add is missing for this target, xadd exists.
        unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(value, delta) };
    }
}

/// Number of open connections that an endpoint has in the direct lane.
#[inline(always)]
pub fn load(endpoint: u32) -> u64 {
    // SAFETY: an 8-byte read of a live map element.
    LOADS.get_ptr(endpoint).map_or(0, |value| unsafe { *value }.max(0) as u64)
}

/// Finds this CPU's totals of a key, making them if need be.
#[inline(always)]
pub fn totals(key: &TotalsKey) -> Option<*mut TotalsValue> {
    if let Some(value) = TOTALS.get_ptr_mut(key) {
        return Some(value);
    }
    let zero = TotalsValue {
        opened: 0,
        closed: [0; proxy_ebpf_common::value::REASON_COUNT],
        sent_bytes: 0,
        received_bytes: 0,
        retransmits: 0,
    };
    let _ = TOTALS.insert(key, &zero, 1 /* BPF_NOEXIST */);
    let value = TOTALS.get_ptr_mut(key);
    if value.is_none() {
        count(Counter::TotalsDropped);
    }
    value
}

/// Finds this CPU's histograms of a service and lane, making them if need be.
#[inline(always)]
pub fn histogram(service: u32, lane: u32) -> Option<*mut HistogramValue> {
    let key = TotalsKey { service, endpoint: 0, lane };
    if let Some(value) = HISTOGRAMS.get_ptr_mut(&key) {
        return Some(value);
    }
    // 336 bytes do not fit the stack beside the rest: a per-CPU element that nobody writes serves as the zeros.
    let zero = crate::maps::ZERO_HISTOGRAM.get_ptr(0)?;
    // SAFETY: `zero` points to a live array element.
    let _ = HISTOGRAMS.insert(&key, unsafe { &*zero }, 1 /* BPF_NOEXIST */);
    let value = HISTOGRAMS.get_ptr_mut(&key);
    if value.is_none() {
        count(Counter::TotalsDropped);
    }
    value
}
