//! What the kernel tells of one connection: when it ends (ring buffer) and when somebody asks (iterator).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout;
use crate::value::Facts;

/// A connection with its counters: the last word at its close, or a live reading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Record {
    /// What was known since connect().
    pub facts: Facts,
    /// Counters of the kernel.
    pub tcp: Tcp,
}
layout!(Record, 176, 8);

/// The kernel's counters of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Tcp {
    /// Bytes that the other side acknowledged.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Time of the reading on CLOCK_MONOTONIC, in nanoseconds.
    pub now_ns: u64,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: u32,
    /// Lowest round-trip time in microseconds; `u32::MAX` if none was measured.
    pub min_rtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// TCP state (include/net/tcp_states.h).
    pub state: u32,
    /// One of [`crate::value::reason`].
    pub reason: u32,
    /// errno of the socket at its close, or 0.
    pub error: u32,
    /// Zero.
    pub pad: [u32; 2],
}
layout!(Tcp, 56, 8);
