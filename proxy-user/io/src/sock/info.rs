//! TCP_INFO: what the kernel knows about one connection.

use std::io;
use std::os::fd::AsFd;

use crate::sys;

/// State of a TCP connection, as the kernel numbers them (include/net/tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    /// A state that this list does not know.
    Other(u8),
}

/// What TCP_INFO says; fields that an older kernel does not fill are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    pub state: TcpState,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: u32,
    /// Mean deviation of the round-trip time in microseconds.
    pub rttvar_us: u32,
    /// Smallest round-trip time of the last five minutes, in microseconds; `u32::MAX` before the first sample.
    pub min_rtt_us: u32,
    /// Segments sent again, over the connection's life.
    pub retransmits: u32,
    /// Congestion window in segments.
    pub congestion_window: u32,
    /// Payload bytes that the peer has acknowledged.
    pub bytes_acked: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Payload bytes sent, repeats included.
    pub bytes_sent: u64,
    /// Payload bytes accepted from us that have not been sent yet.
    pub unsent_bytes: u32,
}

/// Length of the kernel's `struct tcp_info` that we read; fields of kernel 4.19 end at 216.
const TCP_INFO_BYTES: usize = 232;

/// Reads TCP_INFO.
///
/// # Errors
/// As getsockopt(2), for descriptors that are not TCP sockets.
pub fn tcp_info(fd: &impl AsFd) -> io::Result<TcpInfo> {
    let mut raw = [0; TCP_INFO_BYTES];
    sys::option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, &mut raw)?;
    Ok(decode(&raw))
}

/// Offsets are those of `struct tcp_info` in include/uapi/linux/tcp.h, which only ever grows at its end.
fn decode(raw: &[u8; TCP_INFO_BYTES]) -> TcpInfo {
    TcpInfo {
        state: state(raw[0]),
        rtt_us: u32_at(raw, 68),
        rttvar_us: u32_at(raw, 72),
        congestion_window: u32_at(raw, 80),
        retransmits: u32_at(raw, 100),
        bytes_acked: u64_at(raw, 120),
        bytes_received: u64_at(raw, 128),
        unsent_bytes: u32_at(raw, 144),
        min_rtt_us: u32_at(raw, 148),
        bytes_sent: u64_at(raw, 200),
    }
}

fn state(raw: u8) -> TcpState {
    match raw {
        1 => TcpState::Established,
        2 => TcpState::SynSent,
        3 | 12 => TcpState::SynReceived,
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        6 => TcpState::TimeWait,
        7 => TcpState::Closed,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        10 => TcpState::Listen,
        11 => TcpState::Closing,
        other => TcpState::Other(other),
    }
}

fn u32_at(raw: &[u8; TCP_INFO_BYTES], offset: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&raw[offset..offset + 4]);
    u32::from_ne_bytes(bytes)
}

fn u64_at(raw: &[u8; TCP_INFO_BYTES], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&raw[offset..offset + 8]);
    u64::from_ne_bytes(bytes)
}
