//! Sockets before and beside the driver: open, bind, connect, options, statistics, destruction.

mod diag;
mod info;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use libc::c_int;

pub use self::diag::{SockDiag, destroy};
pub use self::info::{TcpInfo, TcpState, tcp_info};
use crate::sys;

/// Address family of a stream socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The family that `addr` is written in; a mapped IPv4 address counts as IPv6.
    #[must_use]
    pub fn of(addr: SocketAddr) -> Family {
        if addr.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn raw(self) -> c_int {
        match self {
            Family::V4 => libc::AF_INET,
            Family::V6 => libc::AF_INET6,
        }
    }
}

/// How a non-blocking `connect` began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connecting {
    /// Connected already.
    Done,
    /// Wait until the socket is writable, then ask [`take_error`].
    InProgress,
}

/// Opens a non-blocking, close-on-exec TCP listener with SO_REUSEADDR.
///
/// `v6only` matters for IPv6 addresses only. `reuse_port` sets SO_REUSEPORT. `backlog` is cut by the kernel to
/// `net.core.somaxconn`.
///
/// # Errors
/// Whatever socket, bind or listen answer, such as `AddrInUse` or `PermissionDenied` for a low port.
pub fn listen(addr: SocketAddr, backlog: u32, v6only: bool, reuse_port: bool) -> io::Result<OwnedFd> {
    let fd = stream(Family::of(addr))?;
    sys::set_option_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if reuse_port {
        sys::set_option_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if addr.is_ipv6() {
        sys::set_option_int(fd.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, c_int::from(v6only))?;
    }
    sys::bind(fd.as_fd(), addr)?;
    sys::listen(fd.as_fd(), c_int::try_from(backlog).unwrap_or(c_int::MAX))?;
    Ok(fd)
}

/// Accepts one connection as a close-on-exec socket, for [`Driver::accept`](crate::Driver::accept); `None` when none
/// is waiting.
pub(crate) fn accept(
    listener: &impl AsFd,
    is_nonblocking: bool,
) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
    loop {
        match sys::accept(listener.as_fd(), is_nonblocking) {
            Ok(accepted) => return Ok(Some(accepted)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if is_lost_connection(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Says how far a connect is that was in progress.
///
/// On loopback the handshake is over when connect(2) returns, so that asking saves a round through the driver.
///
/// # Errors
/// What the connect failed with, or the poll.
pub fn connect_progress(fd: &impl AsFd) -> io::Result<Connecting> {
    let events = sys::pending(fd.as_fd(), libc::POLLOUT)?;
    if events & (libc::POLLERR | libc::POLLHUP) != 0 {
        return take_error(fd)?.map_or(Ok(Connecting::Done), Err);
    }
    Ok(if events == 0 { Connecting::InProgress } else { Connecting::Done })
}

/// Receives what has arrived, up to the size of `into`, without waiting on any socket; `None` when nothing has.
///
/// Some(0) is the end of the stream, which shows again in every later receive.
///
/// # Errors
/// What the connection died of. It shows only once.
pub fn recv_now(fd: &impl AsFd, into: &mut [u8]) -> io::Result<Option<usize>> {
    match sys::recv(fd.as_fd(), into, libc::MSG_DONTWAIT) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends what there is room for without waiting on any socket, and says how much that was. With `follows` it stays until more
/// is sent, so that both go in one packet, or for 200 ms.
///
/// # Errors
/// What the connection died of; `WouldBlock` if there is no room.
pub fn send_now(fd: &impl AsFd, bytes: &[u8], follows: bool) -> io::Result<usize> {
    let more = if follows { libc::MSG_MORE } else { 0 };
    sys::send(fd.as_fd(), bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | more)
}

/// Bytes that were sent but are not acknowledged by the peer yet (SIOCOUTQ).
///
/// # Errors
/// If the descriptor is no TCP socket.
pub fn unsent_bytes(fd: &impl AsFd) -> io::Result<usize> {
    sys::out_queue_bytes(fd.as_fd())
}

/// Bytes of kernel memory that a socket's queues hold (SO_MEMINFO, since 4.12).
///
/// # Errors
/// As getsockopt(2).
pub fn queued_memory(fd: &impl AsFd) -> io::Result<u64> {
    // Places in the kernel's list: include/uapi/linux/sock_diag.h.
    const RECEIVED: usize = 0;
    const SENDING: usize = 5;
    let mut raw = [0; 9 * size_of::<u32>()];
    sys::option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, &mut raw)?;
    let (words, _) = raw.as_chunks::<4>();
    Ok([RECEIVED, SENDING].iter().map(|place| u64::from(u32::from_ne_bytes(words[*place]))).sum())
}

/// Says whether `error` means that the process or the machine has no descriptors left (EMFILE, ENFILE).
///
/// The listener stays readable then, so whoever sees this must pause and not try again at once.
#[must_use]
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Opens a non-blocking, close-on-exec TCP socket.
///
/// # Errors
/// As socket(2): descriptors or memory ran out, or the family is switched off.
pub fn stream(family: Family) -> io::Result<OwnedFd> {
    sys::socket(family.raw(), libc::SOCK_STREAM, libc::IPPROTO_TCP)
}

/// Begins to connect a non-blocking socket.
///
/// # Errors
/// What the kernel knows at once: no route, refused by a hook, no source port left, refused on loopback.
pub fn connect(fd: &impl AsFd, addr: SocketAddr) -> io::Result<Connecting> {
    match sys::connect(fd.as_fd(), addr) {
        Ok(()) => Ok(Connecting::Done),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(Connecting::InProgress),
        Err(error) => Err(error),
    }
}

/// Takes the socket's pending error (SO_ERROR): why a connect failed, or `None` if it did not.
///
/// # Errors
/// If the option cannot be read.
pub fn take_error(fd: &impl AsFd) -> io::Result<Option<io::Error>> {
    let mut value = [0; 4];
    sys::option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR, &mut value)?;
    let errno = c_int::from_ne_bytes(value);
    Ok((errno != 0).then(|| io::Error::from_raw_os_error(errno)))
}

/// Binds to a source address; port 0 lets the kernel choose.
///
/// # Errors
/// As bind(2).
pub fn bind(fd: &impl AsFd, addr: SocketAddr) -> io::Result<()> {
    sys::bind(fd.as_fd(), addr)
}

/// Makes a later [`bind`] with port 0 choose the port only at connect, so that ports are shared between
/// different destinations (IP_BIND_ADDRESS_NO_PORT; it works for IPv6 too).
///
/// # Errors
/// As setsockopt(2).
pub fn bind_no_port(fd: &impl AsFd) -> io::Result<()> {
    sys::set_option_int(fd.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Sets the firewall mark (SO_MARK); needs CAP_NET_ADMIN or CAP_NET_RAW.
///
/// # Errors
/// `PermissionDenied` without the capability.
pub fn set_mark(fd: &impl AsFd, mark: u32) -> io::Result<()> {
    sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, &mark.to_ne_bytes())
}

/// Sends small writes at once (TCP_NODELAY).
///
/// # Errors
/// As setsockopt(2).
pub fn set_nodelay(fd: &impl AsFd, wanted: bool) -> io::Result<()> {
    sys::set_option_int(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, c_int::from(wanted))
}

/// Lets the acknowledgement that ends a later connect's handshake wait for the first bytes, so that they go in one
/// packet (TCP_QUICKACK off, tcp(7)).
///
/// Only for who has bytes to send at once: without any, the acknowledgement leaves after up to 200 ms.
///
/// # Errors
/// As setsockopt(2).
pub fn delay_handshake_ack(fd: &impl AsFd) -> io::Result<()> {
    sys::set_option_int(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0)
}

/// Gives up a connection when sent data stays unacknowledged for `timeout` (TCP_USER_TIMEOUT, whole
/// milliseconds, rounded up); zero restores the system's default.
///
/// # Errors
/// As setsockopt(2).
pub fn set_user_timeout(fd: &impl AsFd, timeout: Duration) -> io::Result<()> {
    let millis = timeout.as_nanos().div_ceil(1_000_000);
    let millis = c_int::try_from(millis).unwrap_or(c_int::MAX);
    sys::set_option_int(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, millis)
}

/// Makes a listener accept a connection only with its first byte, or after about `time` without one (TCP_DEFER_ACCEPT, whole
/// seconds, rounded up); zero accepts at once. The kernel ignores a client's bare acknowledgment meanwhile, and asks for it again when
/// the time is over (tcp(7)).
///
/// # Errors
/// As setsockopt(2).
pub fn set_defer_accept(fd: &impl AsFd, time: Duration) -> io::Result<()> {
    let seconds = c_int::try_from(time.as_millis().div_ceil(1000)).unwrap_or(c_int::MAX);
    sys::set_option_int(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Switches keepalive on: first probe after `idle`, then every `interval`, dead after `count` unanswered.
///
/// Durations are rounded up to whole seconds, at least one; the kernel's most is 32767 s and 127 probes.
///
/// # Errors
/// `InvalidInput` above those bounds.
pub fn set_keepalive(fd: &impl AsFd, idle: Duration, interval: Duration, count: u32) -> io::Result<()> {
    let fd = fd.as_fd();
    let count = c_int::try_from(count).unwrap_or(c_int::MAX);
    sys::set_option_int(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, whole_seconds(idle))?;
    sys::set_option_int(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, whole_seconds(interval))?;
    sys::set_option_int(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, count)?;
    sys::set_option_int(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)
}

/// Chooses the congestion control by name, such as `cubic`.
///
/// # Errors
/// `NotFound` if the kernel does not have it, `PermissionDenied` if it is not in the allowed list.
pub fn set_congestion(fd: &impl AsFd, name: &str) -> io::Result<()> {
    sys::set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_bytes())
}

/// Makes the next close send RST and drop what is unsent (SO_LINGER with zero seconds).
///
/// # Errors
/// As setsockopt(2).
pub fn set_linger_reset(fd: &impl AsFd) -> io::Result<()> {
    let mut linger = [0; 8];
    linger[..4].copy_from_slice(&1_i32.to_ne_bytes());
    sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// The socket's cookie: unique on this machine until reboot, in every namespace.
///
/// # Errors
/// As getsockopt(2).
pub fn cookie(fd: &impl AsFd) -> io::Result<u64> {
    cookie_option(fd, libc::SO_COOKIE)
}

/// The cookie of the network namespace that this thread is in now.
///
/// # Errors
/// If no socket can be opened, or the kernel is older than 5.14.
pub fn netns_cookie() -> io::Result<u64> {
    /// SO_NETNS_COOKIE of asm-generic/socket.h, kernel 5.14; libc does not name it on every target.
    const SO_NETNS_COOKIE: c_int = 71;
    let probe = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
        .or_else(|_| sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0))?;
    cookie_option(&probe, SO_NETNS_COOKIE)
}

/// Address that a connection to `address` would be sent from; `None` if there is no route.
///
/// Asks in this thread's network namespace, by a UDP connect(), which sends nothing.
#[must_use]
pub fn route_source(address: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(address).ok()?;
    socket.local_addr().ok().map(|local| local.ip()).filter(|ip| !ip.is_unspecified())
}

/// The address that the socket is bound to.
///
/// # Errors
/// As getsockname(2).
pub fn local_addr(fd: &impl AsFd) -> io::Result<SocketAddr> {
    sys::local_addr(fd.as_fd())
}

/// The address of the socket's peer.
///
/// # Errors
/// `NotConnected` before the connect and after a reset.
pub fn peer_addr(fd: &impl AsFd) -> io::Result<SocketAddr> {
    sys::peer_addr(fd.as_fd())
}

/// Says whether accept failed because of one connection, which accept(2) says to treat like EAGAIN.
fn is_lost_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ENETDOWN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
        )
    )
}

fn whole_seconds(duration: Duration) -> c_int {
    let seconds = duration.as_nanos().div_ceil(1_000_000_000).max(1);
    c_int::try_from(seconds).unwrap_or(c_int::MAX)
}

fn cookie_option(fd: &impl AsFd, name: c_int) -> io::Result<u64> {
    let mut value = [0; 8];
    let len = sys::option(fd.as_fd(), libc::SOL_SOCKET, name, &mut value)?;
    if len != value.len() {
        return Err(io::Error::other(format!(
            "descriptor {}: cookie of {len} bytes",
            fd.as_fd().as_raw_fd()
        )));
    }
    Ok(u64::from_ne_bytes(value))
}

#[cfg(test)]
mod tests;
