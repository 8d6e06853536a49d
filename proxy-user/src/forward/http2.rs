//! HTTP/2 (RFC 9113) by the crate `h2`, on streams of the worker's driver.

mod head;
mod io;
mod tunnel;

use std::rc::Rc;
use std::time::Duration;

use h2::{client, server};

pub use self::head::{
    Asked, check_size, edit_response, of_http1, of_http2, response_of_http1, set_https, trailers,
    write_request, write_response, write_trailers,
};
pub use self::io::{H2Io, Meter};
pub use self::tunnel::{Opening, Tunnel, set_opened, set_switched};
use crate::tls::Stream;
use crate::upstream::http2::{Heard, Held, MOST_STREAMS as MOST_ENDPOINT_STREAMS, Pinger, SendRequest};
use proxy_core::http::HttpLimits;
use proxy_core::http2::HeadBounds;

/// Bytes that a peer may send ahead on one stream. What RFC 9113, 6.9.2 begins with: enough for one round trip on a node,
/// and a slow reader of many streams holds no more.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// Bytes that a client may send ahead on all streams of a connection together: the most that one connection can make Weir hold.
const WINDOW_BYTES: u32 = 1 << 20;
/// The same of an endpoint: never less than all its streams together may, else answers that some clients do not read would hold up
/// those of all others on the same connection.
const ENDPOINT_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * MOST_ENDPOINT_STREAMS;
/// Bytes of one stream that wait to be sent: as much as its window, so that flow control reaches from end to end.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Streams that a client may have at a time: what nginx and Go allow, more or less (128, 250).
const MOST_STREAMS: u32 = 250;
/// Streams that a client reset before they were taken up; one more ends the connection (CVE-2023-44487).
const MOST_PENDING_RESETS: usize = 20;
/// Streams that are remembered after they were reset, so that what was on its way is understood, and how long.
const REMEMBERED_RESETS: usize = 64;
const REMEMBERED_TIME: Duration = Duration::from_secs(5);
/// Streams that an endpoint may have before its settings are known (RFC 9113, 6.5.2: no less than 100 is recommended).
const FIRST_STREAMS: usize = 100;

/// A client's connection.
pub type ServerConnection = server::Connection<H2Io, Held>;
/// An endpoint's connection.
type ClientConnection = client::Connection<H2Io, Held>;

/// A connection to an endpoint that was begun.
pub struct Begun {
    /// Begins requests.
    pub sender: SendRequest,
    /// To be driven by somebody.
    pub connection: ClientConnection,
    /// Asks the endpoint whether it is still there, if the limits say so.
    pub pinger: Option<Pinger>,
    /// What the endpoint has said.
    pub heard: Rc<Heard>,
}

/// Begins a client's connection.
///
/// # Errors
/// If what it says first is not HTTP/2, or the connection died.
pub async fn accept(io: H2Io, limits: &HttpLimits) -> Result<ServerConnection, h2::Error> {
    server::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(MOST_STREAMS)
        .enable_connect_protocol()
        .max_header_list_size(HeadBounds::new(limits.head_bytes).codec_bytes)
        .max_pending_accept_reset_streams(MOST_PENDING_RESETS)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBERED_TIME)
        .handshake(io)
        .await
}

/// Begins a connection to an endpoint.
///
/// # Errors
/// If the connection died.
pub async fn connect(stream: Stream, limits: &HttpLimits) -> Result<Begun, h2::Error> {
    let bounds = HeadBounds::new(limits.head_bytes);
    let io = H2Io::of_endpoint(stream, bounds);
    let heard = io.heard();
    let (sender, mut connection) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(ENDPOINT_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .initial_max_send_streams(FIRST_STREAMS)
        .max_header_list_size(bounds.codec_bytes)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBERED_TIME)
        .handshake(io)
        .await?;
    let pings = limits.pings;
    let pinger = pings.endpoints.map(|interval| Pinger::new(Rc::clone(&heard), interval, pings.timeout));
    let pinger = pinger.map(|pinger| pinger.by(connection.ping_pong()));
    Ok(Begun { sender, connection, pinger, heard })
}
