//! Values of maps.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::key::Addr;
use crate::layout;

/// Index of the IPv4 table of a service; IPv6 sockets that speak to v4-mapped addresses use it too.
pub const FAMILY_V4: u32 = 0;
/// Index of the IPv6 table of a service.
pub const FAMILY_V6: u32 = 1;

/// Who moves the bytes of a connection, as a number.
pub mod lane {
    /// Seen, but left untouched.
    pub const NONE: u32 = 0;
    /// The kernel connected the application to the endpoint.
    pub const DIRECT: u32 = 1;
    /// Application to worker.
    pub const PROXY: u32 = 2;
    /// Worker to endpoint.
    pub const UPSTREAM: u32 = 3;
    /// Worker to application, as the application's socket sees it.
    pub const INBOUND: u32 = 4;
}

/// How the kernel draws a slot, as a number.
pub mod policy {
    /// Weighted random (alias method).
    pub const RANDOM: u32 = 0;
    /// The less loaded of two weighted draws.
    pub const LEAST_REQUEST: u32 = 1;
    /// By hash of the source address.
    pub const MAGLEV: u32 = 2;
}

/// What a cgroup or a network namespace is as a scope, as bits. What is above it and below it counts, too.
pub mod scope {
    /// Its connections are caught.
    pub const CAUGHT: u8 = 1;
    /// They are refused when the proxy lane has no live listener, whatever their service says.
    pub const FAIL_CLOSED: u8 = 2;
}

/// What happens when the proxy lane has no live listener, as a number.
pub mod fail {
    /// The kernel connects to an endpoint itself.
    pub const OPEN: u32 = 0;
    /// The connection is refused.
    pub const CLOSED: u32 = 1;
}

/// What an address that applications connect to means.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AddressValue {
    /// Source address that the route to this address would give, or zeros; valid in Weir's own namespace.
    pub source_ip_be: [u32; 4],
    /// Service.
    pub service: u32,
}
layout!(AddressValue, 20, 4);

/// Head of a service: one write of it switches to a new table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ServiceValue {
    /// Generation of the tables in force.
    pub generation: u32,
    /// One of [`policy`].
    pub policy: u32,
    /// One of [`fail`].
    pub fail: u32,
    /// Lane per family, one of [`lane`].
    pub lane: [u32; 2],
    /// Length of the table per family; 0 means that nobody can serve.
    pub slot_count: [u32; 2],
}
layout!(ServiceValue, 28, 4);

/// One endpoint within a slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SlotEndpoint {
    /// Where it listens.
    pub address: Addr,
    /// Its number.
    pub id: u32,
    /// Its weight, at least 1.
    pub weight: u32,
}
layout!(SlotEndpoint, 28, 4);

/// Slot of a table by the alias method (Walker 1977): one lookup draws a weighted endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SlotValue {
    /// Taken if a random `u32` is below `threshold`, or if `threshold` is `u32::MAX`.
    pub primary: SlotEndpoint,
    /// Taken otherwise.
    pub alias: SlotEndpoint,
    /// Odds of `primary`, in 1/2^32.
    pub threshold: u32,
}
layout!(SlotValue, 60, 4);

/// What a worker learns of a connection that it accepted; or what the socket of an application learns of one that a worker
/// made: whose it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct OriginalDst {
    /// Cgroup of the application that connected.
    pub cgroup_id: u64,
    /// Its network namespace.
    pub netns_cookie: u64,
    /// Time of connect() on CLOCK_MONOTONIC, in nanoseconds; leftovers are swept by it.
    pub opened_ns: u64,
    /// What the application asked for, or the client.
    pub address: Addr,
    /// Service that the kernel found for it, or that the port is a part of; 0 for a probe of the node listener.
    pub service: u32,
}
layout!(OriginalDst, 48, 8);

/// Facts that ride with a socket (SK_STORAGE) from connect() to its close.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Facts {
    /// Cgroup of the task that called connect(); 0 for Weir's own sockets, but for those to an application, which have that of
    /// its pod.
    pub cgroup_id: u64,
    /// Network namespace of the application; for one of Weir's own sockets, that of the client that it serves.
    pub netns_cookie: u64,
    /// Cookie of the socket that speaks TCP (of the subflow, for MPTCP); 0 until the SYN.
    pub cookie: u64,
    /// Time of connect() on CLOCK_MONOTONIC, in nanoseconds.
    pub opened_ns: u64,
    /// Time at which the handshake was complete, or 0.
    pub established_ns: u64,
    /// The socket's own end; zeros until the SYN. For [`lane::INBOUND`], the client, where getpeername() shows the other end.
    pub source: Addr,
    /// What the application asked for; for [`lane::UPSTREAM`], the client that it is done for; for [`lane::INBOUND`], the
    /// socket's own end.
    pub asked: Addr,
    /// Where the connection really goes.
    pub real: Addr,
    /// Service, or 0.
    pub service: u32,
    /// Endpoint, or 0 where the kernel does not know it.
    pub endpoint: u32,
    /// One of [`lane`].
    pub lane: u32,
    /// Bits of [`facts_flag`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}
layout!(Facts, 120, 8);

/// Bits of [`Facts::flags`].
pub mod facts_flag {
    /// The connection is counted in the load of its endpoint.
    pub const LOADED: u32 = 1;
    /// It was opened, as far as the totals know.
    pub const OPENED: u32 = 2;
    /// It takes the direct lane only because no worker was there.
    pub const FAIL_OPEN: u32 = 4;
    /// A worker's connection to an application, which is to be shown the client ([`Facts::asked`](super::Facts::asked)) as
    /// its peer.
    pub const TO_APPLICATION: u32 = 8;
}

/// Number of reasons in [`TotalsValue::closed`].
pub const REASON_COUNT: usize = 10;

/// Why a connection is over, as the kernel knows it: index into [`TotalsValue::closed`].
pub mod reason {
    /// Still open.
    pub const OPEN: u32 = 0;
    /// Both sides said FIN.
    pub const FIN: u32 = 1;
    /// The other side reset it.
    pub const RESET: u32 = 2;
    /// This side closed with data unread or asked for a reset.
    pub const ABORTED: u32 = 3;
    /// The handshake was answered with a reset.
    pub const REFUSED: u32 = 4;
    /// No answer in time.
    pub const TIMEOUT: u32 = 5;
    /// The network said that there is no way.
    pub const UNREACHABLE: u32 = 6;
    /// This side gave up before the handshake was complete.
    pub const ABANDONED: u32 = 7;
    /// Weir or an administrator destroyed the socket.
    pub const DESTROYED: u32 = 8;
    /// Any other error.
    pub const OTHER: u32 = 9;
}

/// A network namespace other than Weir's own in which Weir listens: one listener per family, of index 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NetnsValue {
    /// Addresses that connections leave it from by its own routes, IPv4 (v4-mapped) and IPv6, in network order; all
    /// zeroes where it has no route.
    pub source_ip_be: [[u32; 4]; 2],
    /// Worker that accepts there.
    pub owner: u32,
}
layout!(NetnsValue, 36, 4);

/// The node listener of a family: it takes the connections of namespaces in which Weir does not listen yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NodeListenerValue {
    /// Its address, one of the node's.
    pub address: Addr,
    /// Worker that accepts there.
    pub owner: u32,
}
layout!(NodeListenerValue, 24, 4);

/// Who takes the connections to a port of a network namespace that come from outside of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct InboundValue {
    /// The namespace: that of the listeners that take them.
    pub netns_cookie: u64,
    /// Worker that accepts there.
    pub owner: u32,
    /// Zero.
    pub pad: u32,
}
layout!(InboundValue, 16, 8);

/// Totals of one service, endpoint and lane on one CPU; they only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TotalsValue {
    /// Connections that sent a SYN.
    pub opened: u64,
    /// Connections that ended, by [`reason`].
    pub closed: [u64; REASON_COUNT],
    /// Bytes that the other side acknowledged, over closed connections.
    pub sent_bytes: u64,
    /// Bytes received, over closed connections.
    pub received_bytes: u64,
    /// Segments sent again, over closed connections.
    pub retransmits: u64,
}
layout!(TotalsValue, 112, 8);

/// Buckets of a time histogram: bucket i counts times of at most `2^(i+4)` µs (16 µs … 4.2 s), the last one all others.
pub const BUCKET_COUNT: usize = 20;

/// Histograms of one service and lane on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HistogramValue {
    /// From connect() to the complete handshake.
    pub connect: [u64; BUCKET_COUNT],
    /// Sum of the above in microseconds.
    pub connect_us: u64,
    /// Smoothed round-trip time at close.
    pub rtt: [u64; BUCKET_COUNT],
    /// Sum of the above in microseconds.
    pub rtt_us: u64,
}
layout!(HistogramValue, 336, 8);

/// Bucket of a time in microseconds.
#[must_use]
#[inline(always)]
pub const fn bucket_index(us: u32) -> usize {
    let bits = 32 - us.saturating_sub(1).leading_zeros();
    let index = bits.saturating_sub(4) as usize;
    if index < BUCKET_COUNT { index } else { BUCKET_COUNT - 1 }
}

/// Upper bound of a bucket in microseconds; `None` for the last.
#[must_use]
pub const fn bucket_bound_us(index: usize) -> Option<u64> {
    if index + 1 < BUCKET_COUNT { Some(16 << index) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_falls_below_the_bound_of_its_bucket_and_above_the_one_before() {
        for us in [0, 1, 15, 16, 17, 32, 33, 1000, 1_000_000, 4_194_304, 4_194_305, u32::MAX] {
            let index = bucket_index(us);
            assert!(bucket_bound_us(index).is_none_or(|bound| u64::from(us) <= bound), "{us}");
            assert!(
                index == 0 || bucket_bound_us(index - 1).is_some_and(|bound| u64::from(us) > bound),
                "{us}"
            );
        }
    }
}
