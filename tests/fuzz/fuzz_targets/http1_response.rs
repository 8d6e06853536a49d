//! Any bytes are an answer's head or none; what goes on of one is read again as the same answer.
#![no_main]

mod words;

use libfuzzer_sys::fuzz_target;
use proxy_user::forward::http1::{Framing, ResponseEdits, ResponseHead, Scan, slots};

/// Most bytes and fields of a head here.
const BOUND: (usize, usize) = (1 << 16, 200);
/// Methods on which the length of a body depends.
const METHODS: [&str; 3] = ["GET", "HEAD", "CONNECT"];

/// Reads a head and writes it as it goes on: status, framing, protocol that it switches to, and what was written.
fn through(head: &[u8], method: &str) -> Option<(u16, Framing, Option<Vec<u8>>, Vec<u8>)> {
    let mut slots = slots();
    let head = ResponseHead::parse(head, &mut slots).ok()?;
    let (status, body) = (head.status, head.body(method));
    let upgrade = head.upgrade.filter(|_| status == 101).map(<[u8]>::to_vec);
    let mut out = Vec::new();
    head.write(&mut out, body, &ResponseEdits::default());
    Some((status, body, upgrade, out))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (method, bytes) = (METHODS[usize::from(input.0) % METHODS.len()], words::spell(input.1));
    let Ok(Some(end)) = Scan::default().find(&bytes, BOUND.0, BOUND.1) else { return };
    let Some((status, body, upgrade, out)) = through(&bytes[..end], method) else { return };
    assert_eq!(Scan::default().find(&out, usize::MAX, BOUND.1 + 4), Ok(Some(out.len())), "it is one head");
    let again = through(&out, method).expect("what goes on is an answer");
    assert_eq!(again, (status, body, upgrade, out));
});
