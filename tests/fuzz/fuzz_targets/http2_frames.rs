//! Any bytes of a client, or of an endpoint, end a connection of HTTP/2 or do not: the same however they come in pieces, with the same
//! said in answer, and never a panic.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use proxy_core::http::HttpLimits;
use proxy_core::http2::frame;
use proxy_user::http2::Conn;

/// Both sides' first settings.
const SETTINGS: [u8; frame::HEAD_BYTES] = [0, 0, 0, frame::SETTINGS, 0, 0, 0, 0, 0];

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (piece_bytes, is_client, frames) = input;
    let now = Instant::now();
    let begin = || {
        let mut conn = match is_client {
            true => Conn::of_client(&HttpLimits::DEFAULT, now),
            false => Conn::of_endpoint(&HttpLimits::DEFAULT),
        };
        if is_client {
            conn.receive(frame::PREFACE, now);
        }
        conn.receive(&SETTINGS, now);
        assert_eq!(conn.end(), None, "settings are right");
        conn
    };
    let (mut at_once, mut in_pieces) = (begin(), begin());
    at_once.receive(frames, now);
    let pieces = frames.chunks(usize::from(piece_bytes).max(1));
    pieces.for_each(|piece| in_pieces.receive(piece, now));
    assert_eq!(in_pieces.end(), at_once.end());
    assert_eq!(in_pieces.take_out(), at_once.take_out());
});
