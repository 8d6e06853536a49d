//! What a request asks for beside its rule: a connection that rests, and another try when one failed.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use proxy_core::id::EndpointId;
use proxy_core::load::{Load, RequestLimits};
use proxy_core::pool::{Pool, PoolLimits};
use proxy_core::retry::{Failure, Kind, Retries, RetryOn, RetryPolicy};
use proxy_user::upstream::pool::{Kept, Key};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::Run;

/// Endpoints that connections rest for.
const ENDPOINTS: u32 = 100;
/// Connections for each.
const RESTING: usize = 10;
/// Requests of the service that are under way.
const REQUESTS: usize = 100;
/// Any number will do, as long as it stays.
const SEED: u64 = 42;

/// In place of a connection, as large as one: what the kernel does with it is no part of this.
type Conn = [u8; size_of::<Kept>()];

/// Takes a connection for each endpoint in turn, and puts it back.
pub(super) fn pool() -> Result<Run> {
    let limits = PoolLimits::DEFAULT;
    let (now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(SEED));
    let key = |index| Key::new(EndpointId(index), 0, None);
    let mut pool = Pool::<Key, Conn>::new(limits);
    for index in 0..ENDPOINTS {
        for _ in 0..RESTING {
            let is_kept = pool.put(key(index), [0; _], limits.begin(now, &mut rng), now).is_none();
            ensure!(is_kept, "the pool is full");
        }
    }
    let mut index = 0;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            index = (index + 1) % ENDPOINTS;
            if let Some((conn, life)) = pool.checkout(black_box(&key(index)), now, |_| true) {
                black_box(pool.put(key(index), black_box(conn), life, now));
            }
        }
    }))
}

/// Decides on failures of all kinds, and asks the budget where a retry is charged.
pub(super) fn retry() -> Result<Run> {
    let failures = [
        Failure::Connect,
        Failure::ResetBeforeSend { is_reused: true },
        Failure::ResetAfterSend { is_reused: false },
        Failure::PerTryTimeout,
        Failure::Status(503),
    ];
    let statuses = vec![(500, 504)];
    let on = RetryOn { connect_failure: true, reset: true, timeout: true, statuses, ..RetryOn::default() };
    let policy = RetryPolicy { on, ..RetryPolicy::default() };
    let load = Arc::new(Load::default());
    let limits = RequestLimits::default();
    let requests: Option<Vec<_>> =
        (0..REQUESTS).map(|_| Load::try_request(Arc::clone(&load), limits)).collect();
    let requests = requests.context("requests have no bound")?;
    let mut rng = SmallRng::seed_from_u64(SEED);
    Ok(Box::new(move |times| {
        black_box(&requests);
        let (kind, left) = (Kind { is_idempotent: true, is_replayable: true }, Duration::from_secs(1));
        for (failure, _) in failures.iter().cycle().zip(0..times) {
            let mut retries = black_box(Retries::default());
            let retry = retries.handle_failure(black_box(*failure), kind, &policy, Some(left), &mut rng);
            if black_box(retry).is_ok_and(|retry| retry.is_charged) {
                drop(black_box(Load::try_retry(&*load, policy.budget(), limits)));
            }
        }
    }))
}
