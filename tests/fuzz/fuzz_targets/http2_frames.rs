//! Any bytes of a client, or of an endpoint with requests under way, end a connection of HTTP/2 or do not: the same however they come in
//! pieces, with the same said in answer, which is not much more than they are, and never a panic.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use proxy_core::http::HttpLimits;
use proxy_core::http2::{FieldList, frame};
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
        } else {
            for (method, has_ended) in [("GET", true), ("HEAD", true), ("POST", false)] {
                let request = FieldList::of_request(method, None, "/");
                conn.begin(&request, &[], has_ended).expect("there is room for it");
            }
        }
        conn.receive(&SETTINGS, now);
        assert_eq!(conn.end(), None, "settings are right");
        conn.take_out();
        conn
    };
    let (mut at_once, mut in_pieces) = (begin(), begin());
    at_once.receive(frames, now);
    let pieces = frames.chunks(usize::from(piece_bytes).max(1));
    pieces.for_each(|piece| in_pieces.receive(piece, now));
    assert_eq!(in_pieces.end(), at_once.end());
    let out = at_once.take_out();
    assert_eq!(in_pieces.take_out(), out);
    // RST_STREAM has 13 bytes, and what it answers 9 at least; GOAWAY has 17.
    assert!(out.len() <= 2 * frames.len() + 17, "{} bytes in answer to {}", out.len(), frames.len());
});
