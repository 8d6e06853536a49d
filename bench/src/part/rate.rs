//! What a request asks where its rate is bounded.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use proxy_core::rate::{Per, RateLimit, RateLimits};

use super::Run;

/// Clients that come in turn: fewer than are remembered.
const CLIENTS: u32 = 10_000;
/// Between two requests: as fast as the bound on all of them allows.
const GAP_NS: u64 = 1_000;

/// Asks a bound of each client and one of all.
pub(super) fn client_and_all() -> Result<Run> {
    let limit = |per| RateLimit { requests: 1_000_000, interval: Duration::from_secs(1), burst: 100, per };
    let limits = RateLimits::new(&[limit(Per::All), limit(Per::Client)]);
    let (mut now_ns, mut index) = (0, 0);
    ensure!(limits.try_begin(Ipv4Addr::LOCALHOST.into(), now_ns).is_ok(), "nothing is used up");
    Ok(Box::new(move |times| {
        for _ in 0..times {
            (now_ns, index) = (now_ns + GAP_NS, (index + 1) % CLIENTS);
            let client = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + index));
            black_box(limits.try_begin(black_box(client), now_ns)).ok();
        }
    }))
}
