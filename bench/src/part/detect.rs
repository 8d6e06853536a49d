//! Telling what a client speaks, by what it says first.

use std::hint::black_box;

use anyhow::{Result, ensure};
use proxy_core::detect::{Detected, detect};

use super::Run;

/// With a post-quantum key share, a name and two protocols inside.
const HELLO: &[u8] = include_bytes!("../../../proxy-user/core/src/detect/hellos/rustls.bin");
/// What clients begin with that do not speak TLS: HTTP/1.1, HTTP/2, Redis.
const PLAIN: [(&[u8], Detected); 3] = [
    (b"GET /products/4711?colour=blue HTTP/1.1\r\nHost: shop.example\r\n\r\n", Detected::Http1),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0", Detected::Http2),
    (b"*2\r\n$3\r\nGET\r\n$4\r\nname\r\n", Detected::Opaque),
];

/// A whole ClientHello, to its name.
pub(super) fn client_hello() -> Result<Run> {
    ensure!(matches!(detect(HELLO), Detected::Tls(hello) if hello.sni.is_some()), "no ClientHello");
    Ok(Box::new(|times| {
        for _ in 0..times {
            black_box(detect(black_box(HELLO)));
        }
    }))
}

/// One after the other.
pub(super) fn plain() -> Result<Run> {
    for (bytes, expected) in PLAIN {
        ensure!(detect(bytes) == expected, "not {expected:?}");
    }
    Ok(Box::new(|times| {
        for ((bytes, _), _) in PLAIN.iter().cycle().zip(0..times) {
            black_box(detect(black_box(bytes)));
        }
    }))
}
