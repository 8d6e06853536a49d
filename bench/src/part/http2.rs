//! What frames of HTTP/2 cost before a codec sees them.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, anyhow};
use proxy_core::http2::{FrameMeter, PREFACE_BYTES};

use super::Run;

/// Calls of gRPC: HEADERS, DATA, an update of each window and a PING, as they are received together.
const CALLS: usize = 20;
/// Where the head of a frame names its stream (RFC 9113, 4.1).
const STREAM_AT: usize = 5;

/// Streams of all; a client uses each once.
type Stream = u32;

/// Follows a client's piece of 100 frames; what it costs is that of all, and of naming their streams.
pub(super) fn frames() -> Result<Run> {
    let call = [(1, 4, 1, 30), (0, 1, 1, 12), (8, 0, 1, 4), (8, 0, 0, 4), (6, 0, 0, 8)];
    let (mut bytes, mut places) = (Vec::new(), Vec::new());
    for frame in call.repeat(CALLS) {
        if frame.2 != 0 {
            places.push(bytes.len() + STREAM_AT);
        }
        bytes.extend(of_frame(frame));
    }
    let now = Instant::now();
    let mut meter = FrameMeter::of_client(now);
    let begin = [vec![0; PREFACE_BYTES], of_frame((4, 0, 0, 0))].concat();
    meter.follow(&begin, now).map_err(|fault| anyhow!("a fault: {fault:?}"))?;
    let mut stream: Stream = 1;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            for of_call in places.chunks(3) {
                of_call.iter().for_each(|at| {
                    bytes[*at..][..size_of::<Stream>()].copy_from_slice(&stream.to_be_bytes())
                });
                stream += 2;
            }
            (0..CALLS).for_each(|_| meter.handle_sent(black_box(512)));
            black_box(meter.follow(black_box(&bytes), now)).ok();
        }
    }))
}

fn of_frame((kind, flags, stream, payload_bytes): (u8, u8, u8, u8)) -> Vec<u8> {
    let head = [0, 0, payload_bytes, kind, flags, 0, 0, 0, stream];
    [head.as_slice(), &vec![1; payload_bytes.into()]].concat()
}
