//! Any bytes of a client are frames of HTTP/2 or break a rule: the same however they come in pieces, and what the codec would be
//! told of them is never a panic.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use proxy_core::http2::{FrameMeter, PREFACE_BYTES};

fuzz_target!(|input: (u8, &[u8])| {
    let (piece_bytes, frames) = input;
    let now = Instant::now();
    let begin = [&[0; PREFACE_BYTES], [0, 0, 0, 4, 0, 0, 0, 0, 0].as_slice()].concat();
    let mut at_once = FrameMeter::of_client(now);
    at_once.follow(&begin, now).expect("settings are right");
    let mut in_pieces = at_once.clone();
    let whole = at_once.follow(frames, now);
    let pieces = frames.chunks(usize::from(piece_bytes).max(1));
    let split = pieces.map(|piece| in_pieces.follow(piece, now)).find(Result::is_err).unwrap_or(Ok(()));
    assert_eq!(split, whole);
    let _ = (at_once.breach(), in_pieces.breach());
});
