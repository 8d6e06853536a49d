//! Latency of an endpoint as all workers observe it: a peak-sensitive average that forgets ("peak EWMA", as Finagle and
//! linkerd balance by).
//!
//! An answer that is slower than the average is believed at once, a faster one little by little; and the average itself fades
//! with time, so that an endpoint which was slow is tried again.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Load;

/// Time after which an observation counts for about a third (1/e). As Finagle and linkerd have it: some seconds of slowness
/// are remembered, a minute is forgotten.
const FADE_MS: f64 = 10_000.0;
/// Bits that an average in nanoseconds loses: what is left of 39 bits, nine minutes, fits into 32.
const UNIT_BITS: u32 = 7;
const NS_PER_MS: u64 = 1_000_000;

/// An average and the time of its last change, in one word so that workers never see one without the other.
///
/// The upper half is the time in milliseconds, which wraps around; the lower half the average in units of 2^7 ns, at least 1.
/// Zero is no observation yet.
#[derive(Debug, Default)]
pub(super) struct Latency(AtomicU64);

impl Load {
    /// Takes note of how long the endpoint took: for HTTP from the request's last early byte to the head of its answer, for a
    /// stream of bytes from SYN to handshake.
    ///
    /// To be called for every try that was answered or timed out, whatever the status: what answers quickly but badly is
    /// passive health's to eject. `now_ns` is any clock that all workers share and that does not go back.
    pub fn record_latency(&self, latency_ns: u64, now_ns: u64) {
        self.latency.observe(latency_ns, now_ns);
    }

    /// Average latency in nanoseconds as it counts now; none before the first observation.
    #[must_use]
    pub fn latency_ns(&self, now_ns: u64) -> Option<f64> {
        self.latency.estimate_ns(now_ns)
    }
}

impl Latency {
    fn observe(&self, latency_ns: u64, now_ns: u64) {
        let seen = u32::try_from((latency_ns >> UNIT_BITS).max(1)).unwrap_or(u32::MAX);
        let now = stamp(now_ns);
        let next = |word: u64| {
            let (average, since) = unpack(word);
            // A worker may come with a time from just before another's.
            let age = age_ms(now, since);
            let latest = if word != 0 && age == 0 { since } else { now };
            let next = if seen >= average {
                seen
            } else {
                let weight = fade(age);
                mean(average, seen, weight)
            };
            Some(u64::from(latest) << 32 | u64::from(next.max(1)))
        };
        // It never refuses.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn estimate_ns(&self, now_ns: u64) -> Option<f64> {
        let word = self.0.load(Ordering::Relaxed);
        let (average, since) = unpack(word);
        let unit_ns = f64::from(1u32 << UNIT_BITS);
        (word != 0).then(|| f64::from(average) * unit_ns * fade(age_ms(stamp(now_ns), since)))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it wraps around, and ages are told by differences")]
fn stamp(now_ns: u64) -> u32 {
    (now_ns / NS_PER_MS) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
fn unpack(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// Age of a time; what lies ahead is as good as now.
fn age_ms(now: u32, since: u32) -> u32 {
    let age = now.wrapping_sub(since);
    if age > u32::MAX / 2 { 0 } else { age }
}

/// Weighted mean, which lies between the two.
#[expect(clippy::cast_possible_truncation, reason = "both are whole numbers of 32 bits")]
fn mean(average: u32, seen: u32, weight: f64) -> u32 {
    (f64::from(average) * weight + f64::from(seen) * (1.0 - weight)).round() as u32
}

fn fade(age_ms: u32) -> f64 {
    (-f64::from(age_ms) / FADE_MS).exp()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = NS_PER_MS;
    const SECOND: u64 = 1000 * MS;

    fn ms(latency: &Latency, now_ns: u64) -> f64 {
        latency.estimate_ns(now_ns).unwrap() / MS as f64
    }

    #[test]
    fn peaks_are_believed_at_once_and_forgotten_slowly() {
        let (latency, mut now) = (Latency::default(), 1_000_000 * SECOND);
        assert_eq!(latency.estimate_ns(now), None);
        latency.observe(2 * MS, now);
        assert!((ms(&latency, now) - 2.0).abs() < 0.01);
        now += MS;
        latency.observe(50 * MS, now);
        assert!((ms(&latency, now) - 50.0).abs() < 0.01, "at once");
        for _ in 0..100 {
            now += 10 * MS;
            latency.observe(2 * MS, now);
        }
        let later = ms(&latency, now);
        assert!((44.0..48.0).contains(&later), "after a second of good answers {later} ms");
        for _ in 0..6000 {
            now += 10 * MS;
            latency.observe(2 * MS, now);
        }
        assert!((ms(&latency, now) - 2.0).abs() < 0.3, "after a minute");
    }

    #[test]
    fn an_endpoint_that_nobody_asks_is_worth_a_try_after_some_time() {
        let latency = Latency::default();
        latency.observe(100 * MS, SECOND);
        let after = |seconds: u64| ms(&latency, (1 + seconds) * SECOND);
        assert!((after(10) - 36.8).abs() < 0.1, "{}", after(10));
        assert!(after(60) < 0.3);
        assert!(after(86_400) < 1e-9);
    }

    #[test]
    fn the_rate_of_observations_does_not_change_how_fast_it_fades() {
        let after_a_second = |step_us: u64| {
            let (latency, mut now) = (Latency::default(), 0);
            latency.observe(100 * MS, now);
            while now < SECOND {
                now += step_us * 1000;
                latency.observe(MS, now);
            }
            ms(&latency, now)
        };
        let slow = after_a_second(10_000);
        for step_us in [50, 333, 1000, 3000] {
            assert!((after_a_second(step_us) - slow).abs() < 1.0, "every {step_us} µs");
        }
    }

    #[test]
    fn clocks_wrap_around_and_workers_come_a_little_late() {
        let wrap_ns = (u64::from(u32::MAX) + 1) * MS;
        let latency = Latency::default();
        latency.observe(10 * MS, wrap_ns - MS);
        assert!((ms(&latency, wrap_ns + 5 * MS) - 10.0).abs() < 0.1);
        latency.observe(MS, wrap_ns - 3 * MS);
        assert!((ms(&latency, wrap_ns) - 10.0).abs() < 0.1, "from before the last one: no time has passed");
    }

    proptest! {
        #[test]
        fn the_average_stays_between_what_was_seen(seen in prop::collection::vec((any::<u64>(), 0u64..100 * SECOND), 1..50)) {
            let (latency, mut now) = (Latency::default(), 0u64);
            let unit = |ns: u64| (ns >> UNIT_BITS).clamp(1, u64::from(u32::MAX));
            let (least, most) =
                seen.iter().fold((u64::MAX, 0), |(least, most), (ns, _)| (least.min(unit(*ns)), most.max(unit(*ns))));
            for (ns, step) in seen {
                now += step;
                latency.observe(ns, now);
                let (average, _) = unpack(latency.0.load(Ordering::Relaxed));
                prop_assert!((least..=most).contains(&u64::from(average)));
            }
        }
    }
}
