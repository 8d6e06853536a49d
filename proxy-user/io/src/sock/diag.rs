//! Destroying a TCP socket of any process in this network namespace, by its cookie (sock_diag(7)).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use crate::sys;

/// SOCK_DESTROY of linux/sock_diag.h; needs CONFIG_INET_DIAG_DESTROY and CAP_NET_ADMIN.
const SOCK_DESTROY: u16 = 21;
/// struct nlmsghdr (16) + struct inet_diag_req_v2 (56).
const REQUEST_BYTES: usize = 72;
/// struct nlmsghdr (16) + the errno of struct nlmsgerr (4); the rest of an answer repeats the request.
const ANSWER_BYTES: usize = 20;
const NLMSG_ERROR: u16 = 2;

/// A netlink socket to sock_diag in the network namespace in which it was opened.
#[derive(Debug)]
pub struct SockDiag {
    netlink: OwnedFd,
}

impl SockDiag {
    /// Opens a netlink socket in this thread's network namespace; it stays in that namespace.
    ///
    /// # Errors
    /// If the kernel has no sock_diag.
    pub fn open() -> io::Result<SockDiag> {
        let netlink = sys::socket(libc::AF_NETLINK, libc::SOCK_DGRAM, libc::NETLINK_SOCK_DIAG)?;
        Ok(SockDiag { netlink })
    }

    /// Resets the TCP connection `local` -> `remote` if its cookie is `cookie`; `false` if there is none.
    ///
    /// Addresses are those of the side to destroy. They find the socket, the cookie makes sure that it is the
    /// one meant and not a successor. Its owner sees ECONNABORTED, its peer an RST.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN, `Unsupported` without CONFIG_INET_DIAG_DESTROY,
    /// `InvalidInput` if one address is IPv4 and the other is not.
    pub fn destroy(&self, local: SocketAddr, remote: SocketAddr, cookie: u64) -> io::Result<bool> {
        let request = encode(local, remote, cookie)?;
        sys::send(self.netlink.as_fd(), &request, 0)?;
        // The kernel answers within send(2), so a non-blocking receive finds it.
        let mut answer = [0; 256];
        let len = sys::recv(self.netlink.as_fd(), &mut answer, 0)?;
        match decode(&answer[..len])? {
            0 => Ok(true),
            // ESTALE: found by address, but with another cookie.
            libc::ENOENT | libc::ESTALE => Ok(false),
            libc::EOPNOTSUPP => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY)",
            )),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// [`SockDiag::destroy`] on a netlink socket opened for this one call.
///
/// # Errors
/// As [`SockDiag::open`] and [`SockDiag::destroy`].
pub fn destroy(local: SocketAddr, remote: SocketAddr, cookie: u64) -> io::Result<bool> {
    SockDiag::open()?.destroy(local, remote, cookie)
}

fn encode(local: SocketAddr, remote: SocketAddr, cookie: u64) -> io::Result<[u8; REQUEST_BYTES]> {
    // A mapped IPv6 socket sits in the kernel's table under its IPv4 addresses.
    let (source, destination) = (local.ip().to_canonical(), remote.ip().to_canonical());
    let family = match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => libc::AF_INET,
        (IpAddr::V6(_), IpAddr::V6(_)) => libc::AF_INET6,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "addresses of different families")),
    };
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).expect("netlink flags are 16 bits");
    let mut request = [0; REQUEST_BYTES];
    request[0..4].copy_from_slice(&72_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DESTROY.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request[16] = u8::try_from(family).expect("families are small");
    request[17] = u8::try_from(libc::IPPROTO_TCP).expect("TCP is protocol 6");
    request[20..24].copy_from_slice(&u32::MAX.to_ne_bytes()); // idiag_states: any
    request[24..26].copy_from_slice(&local.port().to_be_bytes());
    request[26..28].copy_from_slice(&remote.port().to_be_bytes());
    put_ip(&mut request[28..44], source);
    put_ip(&mut request[44..60], destination);
    // 60..64 is the interface: 0 finds sockets that are bound to none.
    let [low, high] = [cookie & u64::from(u32::MAX), cookie >> 32];
    request[64..68].copy_from_slice(&half(low).to_ne_bytes());
    request[68..72].copy_from_slice(&half(high).to_ne_bytes());
    Ok(request)
}

fn half(word: u64) -> u32 {
    u32::try_from(word).expect("masked or shifted to 32 bits")
}

fn put_ip(into: &mut [u8], ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => into[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => into.copy_from_slice(&ip.octets()),
    }
}

/// Returns the errno in an acknowledgement, 0 for success.
fn decode(answer: &[u8]) -> io::Result<i32> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "sock_diag answered with something else");
    let answer: &[u8; ANSWER_BYTES] = answer.first_chunk().ok_or_else(bad)?;
    if u16::from_ne_bytes([answer[4], answer[5]]) != NLMSG_ERROR {
        return Err(bad());
    }
    let errno = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    Ok(-errno)
}
