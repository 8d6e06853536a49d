//! What gRPC says on top of HTTP/2 (the specification's "PROTOCOL-HTTP2.md"): its statuses, its deadlines, its messages, and the
//! question whether a server serves.
//!
//! Nothing here knows HTTP/2: names and values of headers come in, and bytes of bodies.

mod health;
mod messages;
mod status;
mod text;
mod timeout;
pub mod web;

pub use self::health::{CHECK_PATH, CheckAnswerError, MOST_CHECK_BYTES, Serving, decode_check, encode_check};
pub use self::messages::{MessageError, Messages, PREFIX_BYTES};
pub use self::status::{Status, StatusSet};
pub use self::text::{decode_message, encode_message};
pub use self::timeout::{TimeoutText, format_timeout, parse_timeout};

/// Tells by its content type whether a request or an answer is gRPC: `application/grpc`, with a format (`+proto`) and
/// parameters or without. gRPC-Web, which has another framing of its own, is none ([`web`]).
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    kind(content_type).is_some_and(str::is_empty)
}

/// What stands between `application/grpc` and a format or parameters; none if the content type begins with something else.
fn kind(content_type: &[u8]) -> Option<&str> {
    const NAME: &[u8] = b"application/grpc";
    let (name, rest) = content_type.split_at_checked(NAME.len())?;
    let end = rest.iter().position(|b| matches!(b, b'+' | b';' | b' ' | b'\t')).unwrap_or(rest.len());
    if name.eq_ignore_ascii_case(NAME) { std::str::from_utf8(&rest[..end]).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_grpc_by_their_whole_name() {
        for yes in
            ["application/grpc", "application/grpc+proto", "Application/gRPC; v=1", "application/grpc ;x"]
        {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in
            ["", "application/grp", "application/grpc-web", "application/grpc-web+proto", "application/json"]
        {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }
}
