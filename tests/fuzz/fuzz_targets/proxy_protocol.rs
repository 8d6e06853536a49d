//! Any bytes are a PROXY header, the beginning of one, or none: the same however they are split, and what is read is written
//! and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_core::proxy_protocol::{Fault, Header, MOST_BYTES, Version, encode, parse};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    let mut decided: Option<Result<Option<(Header, usize)>, Fault>> = None;
    for len in 0..=bytes.len().min(MOST_BYTES) {
        let now = parse(&bytes[..len]);
        match decided {
            Some(before) => assert_eq!(now, before, "{len}"),
            None if now != Ok(None) => decided = Some(now),
            None => {}
        }
    }
    assert_eq!(decided.unwrap_or(Ok(None)), whole);
    if let Ok(Some((header, len))) = whole {
        assert!(len <= bytes.len().min(MOST_BYTES));
        for version in [Version::V1, Version::V2] {
            let encoded = encode(version, &header);
            assert_eq!(parse(&encoded), Ok(Some((header, encoded.len()))));
        }
    }
});
