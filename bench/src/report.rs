//! What the load generator tells the comparison, as one line of JSON.

use serde::{Deserialize, Serialize};

use crate::histogram::Quantiles;

/// Processor use during one measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Length of the measurement.
    pub elapsed_ns: u64,
    /// Processor time of the proxy: all threads of all its processes.
    pub watched_ns: u64,
    /// Processor time of the load generator.
    pub own_ns: u64,
    /// Processor time of everything that belongs to the bench: proxy, load generator, backend.
    pub bench_ns: u64,
    /// Processor time of everything that is no part of the bench, in processors (0.5 is half of one).
    pub strangers_share: f64,
    /// How busy each processor was, 0 to 1.
    pub core_busy_share: Vec<f64>,
}

/// How an open loop kept to its timetable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Messages per second that were due.
    pub wanted: u32,
    /// How late they were sent.
    pub late: Quantiles,
    /// Latency that one in a hundred exceeded in a usual part of the measurement.
    pub usual_p99_ns: u64,
}

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Operations that were finished; for bulk, MiB that arrived.
    pub ops: f64,
    /// Operations that failed.
    pub failures: u64,
    /// Processor use meanwhile.
    pub usage: Usage,
    /// Time of single operations, where there are such.
    pub latency: Option<Quantiles>,
    /// Memory of the proxy before and with the connections of an idle measurement, in bytes.
    pub memory: Option<(u64, u64)>,
    /// Where messages were sent at a fixed rate: how well. Latencies count from the due time then.
    pub pace: Option<Pace>,
}

impl Sample {
    /// Processor time of the proxy per operation, in microseconds.
    #[must_use]
    pub fn proxy_us(&self) -> f64 {
        self.usage.watched_ns as f64 / 1e3 / self.ops.max(1.0)
    }

    /// Processor time of the load generator per operation, in microseconds.
    #[must_use]
    pub fn client_us(&self) -> f64 {
        self.usage.own_ns as f64 / 1e3 / self.ops.max(1.0)
    }

    /// How busy the proxy kept its processor, 1 being all the time; none without a proxy.
    #[must_use]
    pub fn proxy_busy(&self) -> Option<f64> {
        (self.usage.watched_ns > 0).then(|| self.share(self.usage.watched_ns))
    }

    /// How busy load generator and backend kept theirs.
    #[must_use]
    pub fn load_busy(&self) -> f64 {
        self.share(self.usage.bench_ns.saturating_sub(self.usage.watched_ns))
    }

    fn share(&self, ns: u64) -> f64 {
        ns as f64 / self.usage.elapsed_ns.max(1) as f64
    }

    /// Operations per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.ops * 1e9 / self.usage.elapsed_ns.max(1) as f64
    }
}
