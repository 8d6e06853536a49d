//! HTTP/2 (RFC 9113) on streams of the worker's driver.
//!
//! ```text
//!   stream of bytes <──> [driver: receives, sends] ── frames ──> Conn { streams, windows, tables of fields }
//!                                                                  ^
//!                         Stream, Sender: who asks and answers ────┘  each wakes the other
//! ```
//!
//! All of a connection's state is in one [`conn::Conn`]; whoever has a stream works on it there. Frames are written as they are
//! said, into one buffer that the driver sends; of bodies only as much as windows and that buffer have room for, so that flow
//! control reaches from end to end.

mod client;
mod conn;
mod error;
mod io;
mod receive;
mod send;
mod server;
mod settings;
mod stream;
mod streams;
mod window;

pub use self::client::{Begun, Driving, Sender, connect};
pub use self::conn::Conn;
pub use self::error::{End, Error};
pub use self::server::{ServerConnection, accept};
pub use self::stream::{Piece, Stream};

/// Bytes that a peer may send ahead on one stream. Enough for one round trip on a node, and a slow reader of many streams holds no
/// more.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// Bytes that a client may send ahead on all streams of a connection together: the most that one connection can make Weir hold.
const WINDOW_BYTES: u32 = 1 << 20;
/// The same of an endpoint: never less than all its streams together may, else answers that some clients do not read would hold up
/// those of all others on the same connection.
const ENDPOINT_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * MOST_ENDPOINT_STREAMS;
/// Requests at a time on one connection to an endpoint, also where it allows more: what their answers may be ahead by adds up.
const MOST_ENDPOINT_STREAMS: u32 = 1 << 10;
/// Streams that a client may have at a time: what nginx and Go allow, more or less (128, 250).
const MOST_STREAMS: u32 = 250;
/// Streams that an endpoint may have before its settings are known (RFC 9113, 6.5.2: no less than 100 is recommended).
const FIRST_STREAMS: u32 = 100;
/// Bytes that are collected before bodies wait.
const COLLECTED_BYTES: usize = 64 << 10;
/// Bytes that are collected before nothing more is received: answers to frames that cost their peer next to nothing.
const MOST_COLLECTED_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests;
