//! Any bytes are a request's head or none; what goes on of one is read again as the same request.
#![no_main]

mod words;

use libfuzzer_sys::fuzz_target;
use proxy_user::forward::http1::{Framing, RequestEdits, RequestHead, Scan, slots};

/// Most bytes and fields of a head here.
const BOUND: (usize, usize) = (1 << 16, 200);

#[derive(Debug, PartialEq)]
struct Meaning {
    method: String,
    target: String,
    host: String,
    framing: Framing,
    upgrade: Option<String>,
}

/// Reads a head and writes it as it goes on.
fn through(head: &[u8]) -> Option<(Meaning, Vec<u8>)> {
    let mut slots = slots();
    let head = RequestHead::parse(head, &mut slots).ok()?;
    let meaning = Meaning {
        method: head.method.to_owned(),
        target: head.target.path_and_query.to_owned(),
        host: head.host.to_owned(),
        framing: head.framing,
        upgrade: head.upgrade.map(str::to_owned),
    };
    let mut out = Vec::new();
    head.write(&mut out, &RequestEdits::default());
    Some((meaning, out))
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = words::spell(bytes);
    let Ok(Some(end)) = Scan::default().find(&bytes, BOUND.0, BOUND.1) else { return };
    let Some((meaning, out)) = through(&bytes[..end]) else { return };
    assert_eq!(Scan::default().find(&out, usize::MAX, BOUND.1 + 4), Ok(Some(out.len())), "it is one head");
    let (again, out_again) = through(&out).expect("what goes on is a request");
    assert_eq!(again, meaning);
    assert_eq!(out_again, out, "nothing is left to be taken out");
});
