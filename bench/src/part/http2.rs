//! What frames of HTTP/2 cost before a codec sees them.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, anyhow};
use proxy_core::http2::FrameMeter;

use super::Run;

/// Calls of gRPC: HEADERS, DATA, an update of each window and a PING, as they are received together.
const CALLS: usize = 20;

/// Follows a piece of 100 frames; what it costs is that of all.
pub(super) fn frames() -> Result<Run> {
    let call = [(1, 4, 30), (0, 1, 12), (8, 0, 4), (8, 0, 4), (6, 0, 8)];
    let bytes: Vec<u8> = call.repeat(CALLS).into_iter().flat_map(frame).collect();
    let now = Instant::now();
    let mut meter = FrameMeter::of_server(now);
    meter.follow(&bytes, now).map_err(|flood| anyhow!("a flood: {flood:?}"))?;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            (0..CALLS).for_each(|_| meter.handle_sent(black_box(512)));
            black_box(meter.follow(black_box(&bytes), now)).ok();
        }
    }))
}

fn frame((kind, flags, payload_bytes): (u8, u8, u8)) -> Vec<u8> {
    let head = [0, 0, payload_bytes, kind, flags, 0, 0, 0, 1];
    [head.as_slice(), &vec![0; payload_bytes.into()]].concat()
}
