//! HTTP/1.1 (RFC 9112) on bytes: reading heads strictly, knowing where a body ends, writing heads anew.
//!
//! Nothing here waits or touches a socket. Whatever two parsers could read differently, and request smuggling lives on,
//! is a [`Fault`]: bare line feeds, folded lines, spaces before a colon, both or several framings, odd chunk sizes.

mod body;
mod chunked;
mod fault;
mod field;
mod request;
mod response;
mod scan;

pub use self::body::{Body, Framing};
pub use self::chunked::{Chunked, is_forbidden_trailer};
pub use self::fault::Fault;
pub use self::field::{Fields, MOST_FIELDS, Slots, put, slots};
pub use self::request::{RequestEdits, RequestHead, Target, has_port, is_authority};
pub use self::response::{ResponseEdits, ResponseHead, put_status};
pub use self::scan::Scan;

#[cfg(test)]
mod tests;
