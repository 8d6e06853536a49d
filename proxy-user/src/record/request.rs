//! What the access log says of an HTTP request.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::addr::{ClientAddr, EndpointAddr, OriginalDst};
use proxy_core::grpc::Status;
use proxy_core::outcome::RequestReason;

/// Bytes of a text of a peer that are kept: any host and nearly every user agent. A head may have 64 KiB, and thousands of
/// records may wait.
const MOST_BYTES: usize = 256;
/// Bytes of a path that are kept.
const MOST_PATH_BYTES: usize = 1024;
/// Stands where a text was cut off.
const CUT: &str = "…";

/// One request that is over. What is absent has no field in its line.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// The application's end of the connection.
    pub client: ClientAddr,
    /// What it connected to.
    pub original_dst: OriginalDst,
    /// Who answered, or was tried last.
    pub endpoint: Option<EndpointAddr>,
    /// Name of the service that it went to.
    pub service: Option<Arc<str>>,
    /// Cgroup of the application; 0 if it is not known.
    pub cgroup_id: u64,
    /// The rule that it went by: name of the route, and index there.
    pub rule: Option<(Arc<str>, usize)>,
    /// Version that the client speaks, as `1.1`; `unknown` before its head was read.
    pub version: &'static str,
    /// Method.
    pub method: Option<Text>,
    /// Host, as the client wrote it.
    pub host: Option<Text>,
    /// Path with the query, as the client wrote it.
    pub path: Option<Text>,
    /// Status that the client got.
    pub status: Option<u16>,
    /// How it ended in the words of gRPC, if it was a call.
    pub grpc: Option<Status>,
    /// Its `x-request-id`, whoever made it.
    pub request_id: Option<Text>,
    /// Trace that it belongs to.
    pub trace_id: Option<Text>,
    /// What the client calls itself.
    pub user_agent: Option<Text>,
    /// TLS with the client, if it speaks that.
    pub tls: Option<TlsFacts>,
    /// Tries made of it, the first included.
    pub tries: u32,
    /// Bytes of its body that went to the endpoint.
    pub sent_bytes: u64,
    /// Bytes of the answer's body that came from the endpoint.
    pub received_bytes: u64,
    /// From the first byte of its head to the first byte of the answer that the client got.
    pub first_byte: Option<Duration>,
    /// From the first byte of its head to its end.
    pub duration: Duration,
    /// Why it ended.
    pub reason: RequestReason,
}

/// What the log says of a TLS session.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// As `1.3`.
    pub version: &'static str,
    /// Name that the client asked for.
    pub sni: Option<Text>,
}

/// A text as a peer sent it, bounded: what is longer is cut off, and what is not UTF-8 is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Box<str>);

impl Text {
    /// Takes a text from what a peer sent.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self::bounded(bytes, MOST_BYTES)
    }

    /// Takes a path, which may be longer than other texts.
    #[must_use]
    pub fn path(bytes: &[u8]) -> Self {
        Self::bounded(bytes, MOST_PATH_BYTES)
    }

    fn bounded(bytes: &[u8], most: usize) -> Self {
        if bytes.len() <= most {
            return Self(Cow::into_owned(String::from_utf8_lossy(bytes)).into());
        }
        let kept = &bytes[..most];
        // A character that the cut goes through is left out; other broken ones are replaced as everywhere.
        let whole = match str::from_utf8(kept) {
            Err(error) if error.error_len().is_none() => &kept[..error.valid_up_to()],
            _ => kept,
        };
        Self([&*String::from_utf8_lossy(whole), CUT].concat().into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let of = |text: &str| Text::new(text.as_bytes()).as_str().to_owned();
        let longest = "x".repeat(256);
        assert_eq!(of(&longest), longest);
        assert_eq!(of(&format!("{longest}y")), format!("{longest}…"));
        let before = "x".repeat(254);
        assert_eq!(of(&format!("{before}☃☃")), format!("{before}…"));
        assert_eq!(Text::new(b"a\xffb").as_str(), "a\u{fffd}b");
        let broken = [&[0xff][..], &[b'x'; 2000]].concat();
        assert_eq!(Text::path(&broken).as_str().chars().count(), 1 + 1023 + 1);
    }
}
