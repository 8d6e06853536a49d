//! Opening a connection to an endpoint.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use proxy_bpf::abi::config::WEIR_MARK;
use proxy_bpf::abi::key::Addr;
use proxy_bpf::abi::value::{Facts, facts_flag, lane};
use proxy_bpf::maps::Maps;
use proxy_core::addr::{ClientAddr, EndpointAddr};
use proxy_core::id::{EndpointId, ServiceId};
use proxy_core::outcome::Reason;
use proxy_io::netns::Netns;
use proxy_io::sock::{self, Connecting, Family};
use proxy_io::{Driver, Socket};

/// What one attempt needs to know.
pub struct Target<'a> {
    /// Where to connect.
    pub address: EndpointAddr,
    /// Endpoint, for the kernel's statistics.
    pub endpoint: EndpointId,
    /// Service, for the kernel's statistics.
    pub service: ServiceId,
    /// For whom; shown beside the connection.
    pub client: ClientAddr,
    /// Time for the handshake.
    pub timeout: Duration,
    /// Time that sent bytes may stay unacknowledged.
    pub user_timeout: Duration,
    /// Bytes of the client are here already and will be sent as soon as the connection is open.
    pub has_early: bool,
    /// Network namespace to connect from, if it is not Weir's own.
    pub netns: Option<&'a Netns>,
    /// The target is an application in `netns`, which is to be shown the client as its peer; its cgroup, or 0.
    pub application: Option<u64>,
    /// Cookie of the client's network namespace: there may be the same address in another one.
    pub client_netns_cookie: u64,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint said no.
    #[error("refused")]
    Refused,
    /// It said nothing.
    #[error("timed out")]
    Timeout,
    /// The network has no way to it.
    #[error("unreachable: {0}")]
    Unreachable(#[source] io::Error),
    /// This process cannot open sockets.
    #[error("cannot open a socket: {0}")]
    Local(#[source] io::Error),
}

impl ConnectError {
    /// Reason that the connection ends with if this was its last attempt.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused => Reason::ConnectRefused,
            Self::Timeout => Reason::ConnectTimeout,
            Self::Unreachable(_) => Reason::ConnectUnreachable,
            Self::Local(_) => Reason::Internal,
        }
    }

    /// Tells whether the endpoint is to blame, and not this process.
    #[must_use]
    pub fn is_upstreams(&self) -> bool {
        !matches!(self, Self::Local(_))
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable => Self::Unreachable(error),
            _ => Self::Local(error),
        }
    }
}

/// Opens a connection; the kernel follows it from its SYN if `maps` are given.
///
/// Cancelling the future closes the socket.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(
    driver: &Driver,
    maps: Option<&Maps>,
    target: &Target<'_>,
) -> Result<Socket, ConnectError> {
    let address = target.address.0;
    let open = || sock::stream(Family::of(address));
    let opened = target.netns.map_or_else(open, |netns| netns.within(open)?);
    let fd = opened.map_err(ConnectError::Local)?;
    if let Some(maps) = maps {
        // Needs CAP_NET_ADMIN, which loading the programs needed too.
        sock::set_mark(&fd, WEIR_MARK).map_err(ConnectError::Local)?;
        let facts = upstream_facts(target);
        if let Err(error) = maps.facts.put(fd.as_fd(), &facts) {
            tracing::debug!(%error, "the kernel does not follow an upstream connection");
        }
    }
    sock::set_nodelay(&fd, true).map_err(ConnectError::Local)?;
    sock::set_user_timeout(&fd, target.user_timeout).map_err(ConnectError::Local)?;
    if target.has_early {
        sock::delay_handshake_ack(&fd).map_err(ConnectError::Local)?;
    }
    if target.application.is_some() {
        // The kernel programs know such connections by that.
        sock::bind_no_port(&fd).map_err(ConnectError::Local)?;
        sock::bind(&fd, SocketAddr::new(address.ip(), 0))?;
    }
    let is_done =
        sock::connect(&fd, address)? == Connecting::Done || sock::connect_progress(&fd)? == Connecting::Done;
    let mut socket = driver.socket(fd).map_err(ConnectError::Local)?;
    if is_done {
        return Ok(socket);
    }
    let writable = tokio::time::timeout(target.timeout, poll_fn(|cx| socket.poll_writable(cx)));
    writable.await.map_err(|_| ConnectError::Timeout)?.map_err(ConnectError::Local)?;
    sock::take_error(&socket.fd())?.map_or(Ok(socket), |error| Err(error.into()))
}

fn upstream_facts(target: &Target<'_>) -> Facts {
    Facts {
        netns_cookie: target.client_netns_cookie,
        opened_ns: proxy_io::clock::monotonic_ns(),
        asked: Addr::from(target.client.0),
        real: Addr::from(target.address.0),
        service: target.service.0,
        endpoint: target.endpoint.0,
        lane: lane::UPSTREAM,
        cgroup_id: target.application.unwrap_or(0),
        flags: if target.application.is_some() { facts_flag::TO_APPLICATION } else { 0 },
        ..Facts::default()
    }
}
