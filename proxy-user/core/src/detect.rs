//! The protocol that a client speaks, by the first bytes that it sends.
//!
//! What is decided stays: more bytes never change an answer other than [`Detected::NeedMore`].

mod client_hello;

pub use self::client_hello::ClientHello;

/// Bytes that are looked at. A ClientHello with a post-quantum key share takes 1.2 to 1.8 KiB, the longest that browsers
/// send is below 4 KiB, and no server takes a request line of 16 KiB.
pub const DETECT_BYTES: usize = 16 << 10;
/// What an HTTP/2 client says first (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method that is believed; the longest registered one is UPDATEREDIRECTREF.
const METHOD_BYTES: usize = 32;
/// What follows the target in a request line; the minor version is the HTTP engine's business.
const HTTP1_VERSION: &[u8] = b"HTTP/1.";

/// What the first bytes of a client look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Not told yet: ask again with more bytes, the old ones included.
    NeedMore,
    /// A request line of HTTP/1.0 or 1.1.
    Http1,
    /// The preface of HTTP/2 with prior knowledge.
    Http2,
    /// A complete ClientHello.
    Tls(ClientHello),
    /// None of these.
    Opaque,
}

/// Tells the protocol by everything that a client has sent so far; only the first [`DETECT_BYTES`] count.
///
/// Costs nothing to speak of unless it is TLS: then one copy of the hello, once it is complete.
#[must_use]
pub fn detect(bytes: &[u8]) -> Detected {
    let is_cut = bytes.len() >= DETECT_BYTES;
    let bytes = &bytes[..bytes.len().min(DETECT_BYTES)];
    let detected = match bytes.first() {
        None => Detected::NeedMore,
        Some(&client_hello::HANDSHAKE_RECORD) => client_hello::detect(bytes),
        Some(_) => detect_http(bytes),
    };
    if is_cut && detected == Detected::NeedMore { Detected::Opaque } else { detected }
}

fn detect_http(bytes: &[u8]) -> Detected {
    if bytes.starts_with(HTTP2_PREFACE) {
        Detected::Http2
    } else if HTTP2_PREFACE.starts_with(bytes) {
        Detected::NeedMore
    } else {
        detect_http1(bytes)
    }
}

/// Reads a request line up to its version: line protocols that have a GET of their own do not have that.
fn detect_http1(bytes: &[u8]) -> Detected {
    let Some(method_bytes) = bytes.iter().position(|byte| !is_token(*byte)) else {
        return if bytes.len() > METHOD_BYTES { Detected::Opaque } else { Detected::NeedMore };
    };
    let is_method = (1..=METHOD_BYTES).contains(&method_bytes) && bytes[method_bytes] == b' ';
    if !is_method {
        return Detected::Opaque;
    }
    let rest = &bytes[method_bytes + 1..];
    let Some(target_bytes) = rest.iter().position(|byte| *byte <= b' ' || *byte == 0x7f) else {
        return Detected::NeedMore;
    };
    if target_bytes == 0 || rest[target_bytes] != b' ' {
        return Detected::Opaque;
    }
    let version = &rest[target_bytes + 1..];
    if version.starts_with(HTTP1_VERSION) {
        Detected::Http1
    } else if HTTP1_VERSION.starts_with(version) {
        Detected::NeedMore
    } else {
        Detected::Opaque
    }
}

/// `tchar` of RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
