//! Headers of the PROXY protocol: read from those who connect to a listener that expects one, written to endpoints whose
//! service asks for one.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::time::Duration;

use proxy_core::addr::{ClientAddr, OriginalDst};
use proxy_core::outcome::Reason;
use proxy_core::proxy_protocol::{self, Encoded, Header};
use proxy_core::service::Service;
use proxy_io::Chunk;

use super::Local;
use super::l4::Downstream;
use crate::forward::wire::Wire;
use crate::tls::Stream;

/// Time for a header. A proxy sends it at once; the specification asks for 3 s at least, so that it may be lost once (2.).
const HEADER_TIME: Duration = Duration::from_secs(5);

/// Reads the header that a connection begins with; what came behind it goes with the stream.
///
/// # Errors
/// Why the connection is over. One without a byte is no mistake: load balancers look that way whether a port is open.
pub(super) async fn receive(local: &Local, fd: OwnedFd) -> Result<(Header, Downstream), Reason> {
    let socket = local.driver.accepted(fd).map_err(|_| Reason::Internal)?;
    let mut down = Wire::new(Stream::Plain(socket), Chunk::default());
    match tokio::time::timeout(HEADER_TIME, read(&mut down)).await.unwrap_or(Err(Reason::ProxyHeaderTimeout))
    {
        Ok(header) => Ok((header, Downstream::Stream(down.stream, down.chunk))),
        Err(Reason::Fin) => Err(Reason::Fin),
        Err(reason) => {
            down.stream.abort();
            Err(reason)
        }
    }
}

async fn read(down: &mut Wire) -> Result<Header, Reason> {
    loop {
        down.chunk.flatten();
        match proxy_protocol::parse(&down.chunk) {
            Ok(Some((header, len))) => {
                down.chunk.advance(len);
                return Ok(header);
            }
            Ok(None) => {}
            Err(fault) => {
                tracing::debug!(%fault, "a connection to a listener that expects a PROXY header");
                return Err(Reason::ProxyHeader);
            }
        }
        match poll_fn(|cx| down.poll_more(cx, &())).await {
            Ok(true) => {}
            Ok(false) if down.chunk.is_empty() => return Err(Reason::Fin),
            Ok(false) => return Err(Reason::ProxyHeader),
            Err(_) => return Err(Reason::DownstreamReset),
        }
    }
}

/// What the endpoints of a service are told of a client, if they want to know.
pub(super) fn header(service: &Service, client: ClientAddr, original_dst: OriginalDst) -> Option<Header> {
    service.proxy_protocol?;
    Some(Header::Proxied { source: client.0, destination: original_dst.0 })
}

/// The same as it is sent.
pub(super) fn encode(service: &Service, header: Option<Header>) -> Option<Encoded> {
    Some(proxy_protocol::encode(service.proxy_protocol?, &header?))
}
