//! Constants and run-time settings that both sides must agree on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::key::Addr;
use crate::layout;

/// SO_MARK of Weir's own sockets: the kernel programs leave them alone. ASCII "Weir".
pub const WEIR_MARK: u32 = 0x5765_6972;

/// Fewest listeners of the proxy lane per family. Each has room for one ephemeral port range of clients (28,000 by
/// default).
pub const LISTENER_COUNT_MIN: u32 = 8;

/// Most of them: the hosts of one /24.
pub const LISTENER_COUNT_MAX: u32 = 254;

/// Most workers.
pub const WORKER_MAX: u32 = 1024;

/// Time between two signs of life of a worker.
pub const HEARTBEAT_NS: u64 = 250_000_000;

/// Age of the last one at which a worker counts as hung: a process that was stopped, or so short of CPU time that
/// connections are better off without it. Several beats, because a busy machine may delay one.
pub const HUNG_NS: u64 = 8 * HEARTBEAT_NS;

/// Lowest port of the listeners: above the default ephemeral range (32768-60999), so that no client is given it.
pub const LISTENER_PORT: u16 = 61500;

/// IPv4 network of the listeners: `127.87.0.1` and up, all on one port. 87 is ASCII "W".
pub const LISTENER_NET_V4: [u8; 3] = [127, 87, 0];

/// Address of a listener below [`LISTENER_COUNT_MAX`]: IPv4 counts addresses up on one port; IPv6 has only `::1`, so it counts ports up.
#[must_use]
#[inline(always)]
pub const fn listener(is_v4: bool, index: u32) -> Addr {
    let index = index % LISTENER_COUNT_MAX;
    if is_v4 {
        let [a, b, c] = LISTENER_NET_V4;
        Addr::v4(u32::from_ne_bytes([a, b, c, 1 + index as u8]), LISTENER_PORT.to_be())
    } else {
        Addr { ip_be: [0, 0, 0, u32::to_be(1)], port_be: (LISTENER_PORT + index as u16).to_be(), pad: 0 }
    }
}

/// Settings that may change while the programs run: the only element of [`SETTINGS`](crate::map::SETTINGS).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    /// Network namespace that Weir runs in.
    pub home_netns_cookie: u64,
    /// Bit n is set if a scope is a cgroup at depth n below the root; the programs look at no other depth.
    pub scope_depths: u32,
    /// Number of scopes that are network namespaces.
    pub scope_netns_count: u32,
    /// Number of excluded ports.
    pub excluded_port_count: u32,
    /// Number of excluded networks.
    pub excluded_net_count: u32,
    /// Listeners of the proxy lane per family; 0 before they are open.
    pub listener_count: u32,
    /// Workers; listener n is that of worker n modulo this.
    pub worker_count: u32,
}
layout!(Settings, 32, 8);

/// Deepest cgroup that can be a scope. systemd and kubelets stay below 8.
pub const SCOPE_DEPTH_MAX: u32 = 15;
