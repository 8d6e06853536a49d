//! Any bytes are told to be some protocol; what was told of a beginning stays when more bytes come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_core::detect::{Detected, detect};

fuzz_target!(|input: (&[u8], u16)| {
    let (bytes, end) = input;
    let early = detect(&bytes[..usize::from(end).min(bytes.len())]);
    let all = detect(bytes);
    assert!(early == Detected::NeedMore || early == all);
    if let Detected::Tls(hello) = all {
        assert!(hello.sni.is_none_or(|name| name.is_ascii() && !name.is_empty()));
    }
});
