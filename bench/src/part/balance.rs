//! Picking an endpoint for a connection: one of 100, weights 1 to 4, the client another one each time.

use std::hint::black_box;

use anyhow::Result;
use proxy_core::addr::ClientAddr;
use proxy_core::balance::Balancer;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::{Run, fixture};

/// Endpoints of the service.
const ENDPOINTS: u32 = 100;
/// Clients before they come again: a prime, so that they do not march in step with the endpoints.
const CLIENTS: u32 = 9973;
/// Any number will do, as long as it stays.
const SEED: u64 = 42;

pub(super) fn round_robin() -> Result<Run> {
    pick("round_robin", |index| index % 4 + 1)
}

/// Weights whose common cycle is too long to be written out: turns come from a heap.
pub(super) fn round_robin_long() -> Result<Run> {
    pick("round_robin", |index| index + 1000)
}

pub(super) fn random() -> Result<Run> {
    pick("random", |index| index % 4 + 1)
}

pub(super) fn least_request() -> Result<Run> {
    pick("least_request", |index| index % 4 + 1)
}

pub(super) fn maglev() -> Result<Run> {
    pick("maglev", |index| index % 4 + 1)
}

pub(super) fn ring_hash() -> Result<Run> {
    pick("ring_hash", |index| index % 4 + 1)
}

fn pick(policy: &str, weight: impl Fn(u32) -> u32) -> Result<Run> {
    let service = fixture::service(policy, (0..ENDPOINTS).map(weight))?;
    for (index, endpoint) in service.endpoints.iter().enumerate() {
        // some are busier than others, or the least loaded of two would always be the first
        for _ in 0..index % 7 {
            let _ = endpoint.load.try_acquire(u32::MAX);
        }
    }
    let mut balancer = Balancer::new(&service, SmallRng::seed_from_u64(SEED));
    let mut client = 0;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            client = (client + 1) % CLIENTS;
            let address = ClientAddr((fixture::host([10, 2, 0, 0], client), 40_000).into());
            let _ = black_box(balancer.pick(&service, black_box(address), &[], || 0));
        }
    }))
}
