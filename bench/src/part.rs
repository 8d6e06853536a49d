//! Small parts of Weir, alone and without I/O: what a connection or a change goes through.
//!
//! `benches/parts.rs` takes their time, `count` counts their instructions. Everything that goes in is the same in every
//! run: seeds, addresses, sizes.

mod balance;
mod config;
mod detect;
mod fixture;
mod hpack;
mod http1;
mod overload;
mod rate;
mod record;
mod route;
mod snapshot;
mod upstream;

use anyhow::Result;

/// Does what a part is about as often as it is told; what comes out is not optimized away.
pub type Run = Box<dyn FnMut(u64)>;

/// One part.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its name on the command line and in results.
    pub name: &'static str,
    /// How often it is done when instructions are counted: often enough that rare turns (a longer way through a table)
    /// show with their share, seldom enough for a second in valgrind.
    pub times: u64,
    prepare: fn() -> Result<Run>,
}

/// All parts.
pub const PARTS: [Part; 26] = [
    Part { name: "balance/round-robin", times: 20_000, prepare: balance::round_robin },
    Part { name: "balance/round-robin-long", times: 20_000, prepare: balance::round_robin_long },
    Part { name: "balance/random", times: 20_000, prepare: balance::random },
    Part { name: "balance/least-request", times: 20_000, prepare: balance::least_request },
    Part { name: "balance/maglev", times: 20_000, prepare: balance::maglev },
    Part { name: "balance/ring-hash", times: 20_000, prepare: balance::ring_hash },
    Part { name: "detect/client-hello", times: 5_000, prepare: detect::client_hello },
    Part { name: "detect/plain", times: 20_000, prepare: detect::plain },
    Part { name: "http1/request-head", times: 5_000, prepare: http1::request_head },
    Part { name: "http1/response-head", times: 5_000, prepare: http1::response_head },
    Part { name: "http1/chunked-body", times: 5_000, prepare: http1::chunked_body },
    Part { name: "http2/hpack-decode", times: 20_000, prepare: hpack::decode },
    Part { name: "http2/hpack-encode", times: 20_000, prepare: hpack::encode },
    Part { name: "route/20-rules", times: 20_000, prepare: route::rules },
    Part { name: "route/10000-hosts", times: 20_000, prepare: route::hosts },
    Part { name: "pool/checkout-put", times: 20_000, prepare: upstream::pool },
    Part { name: "retry/decision", times: 20_000, prepare: upstream::retry },
    Part { name: "overload/admit", times: 20_000, prepare: overload::admit },
    Part { name: "overload/adaptive", times: 20_000, prepare: overload::adaptive },
    Part { name: "rate/client-and-all", times: 20_000, prepare: rate::client_and_all },
    Part { name: "snapshot/service-at", times: 20_000, prepare: snapshot::service_at },
    Part { name: "snapshot/one-of-10000", times: 5, prepare: snapshot::one_changed },
    Part { name: "plan/one-of-10000", times: 20, prepare: snapshot::plan_one_changed },
    Part { name: "config/100-services", times: 3, prepare: config::hundred_services },
    Part { name: "record/from-kernel", times: 20_000, prepare: record::from_kernel },
    Part { name: "record/access-line", times: 2_000, prepare: record::access_line },
];

impl Part {
    /// Finds one by its name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        PARTS.into_iter().find(|part| part.name == name)
    }

    /// Makes everything ready that does not count.
    ///
    /// # Errors
    /// If what it works on is wrong: a mistake in this module.
    pub fn prepare(self) -> Result<Run> {
        (self.prepare)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_and_is_found_by_its_name() {
        for part in PARTS {
            let mut run = Part::find(part.name).unwrap().prepare().unwrap();
            run(2);
        }
    }
}
