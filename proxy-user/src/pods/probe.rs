//! Finding out whether a network namespace reaches the node listener, by a connection from it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use proxy_bpf::abi::config::WEIR_MARK;
use proxy_bpf::abi::key::{Addr, OriginalDstKey};
use proxy_bpf::abi::value::OriginalDst;
use proxy_bpf::maps::Maps;
use proxy_io::clock::monotonic_ns;
use proxy_io::sock::{self, Family};
use tokio::net::TcpStream;

use crate::connection::Namespace;

/// Time for one: a cable that was just plugged in may lose the first SYN and the second, which follows after a second; the third one does
/// so 2 s later (RFC 6298, 2.1 and 5.5).
const TIME: Duration = Duration::from_millis(3500);

/// Connects to the listener as an application would whose connection was sent there.
///
/// The original destination that is left for it has no service. If it is gone afterwards a worker has found it: the connection arrived,
/// and from the very address that it left from, which no translation of addresses on its way would have kept.
///
/// # Errors
/// Why it was not found, in words for an operator.
pub(super) async fn probe(namespace: &Namespace, maps: &Maps, listener: Addr) -> Result<(), String> {
    let begun = namespace.netns.within(|| begin(namespace, maps, listener)).and_then(|begun| begun);
    let (socket, key) = begun.map_err(|error| error.to_string())?;
    let ended = tokio::time::timeout(TIME, end(socket)).await;
    match (maps.original_dst.take(&key), ended) {
        (Ok(None), _) => Ok(()),
        (Err(error), _) | (Ok(Some(_)), Ok(Err(error))) => Err(error.to_string()),
        (Ok(Some(_)), Ok(Ok(()))) => Err("it comes from another address there".to_owned()),
        (Ok(Some(_)), Err(_)) => Err(format!("no answer in {} s", TIME.as_secs_f32())),
    }
}

fn begin(namespace: &Namespace, maps: &Maps, listener: Addr) -> io::Result<(OwnedFd, OriginalDstKey)> {
    let to = SocketAddr::from(listener);
    let from = sock::route_source(to).ok_or_else(|| io::Error::from(io::ErrorKind::NetworkUnreachable))?;
    let socket = sock::stream(Family::of(to))?;
    sock::set_mark(&socket, WEIR_MARK)?;
    // The port must be known before the SYN leaves: its answer may be faster than this thread.
    sock::bind(&socket, SocketAddr::new(from, 0))?;
    let netns_cookie = namespace.netns.cookie();
    let key = OriginalDstKey::to_listener(netns_cookie, Addr::from(sock::local_addr(&socket)?), listener);
    let value =
        OriginalDst { cgroup_id: 0, netns_cookie, opened_ns: monotonic_ns(), address: listener, service: 0 };
    maps.original_dst.put(&key, &value)?;
    if let Err(error) = sock::connect(&socket, to) {
        let _ = maps.original_dst.remove(&key);
        return Err(error);
    }
    Ok((socket, key))
}

/// Waits until the other side closes the connection, which says nothing before.
async fn end(socket: OwnedFd) -> io::Result<()> {
    let stream = TcpStream::from_std(socket.into())?;
    stream.readable().await?;
    match stream.try_read(&mut [0]) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}
