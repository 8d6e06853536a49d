//! Connections from outside to the applications of a network namespace: which ones a worker takes.

use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::programs::SkLookupContext;
use proxy_ebpf_common::key::ListenerKey;
use proxy_ebpf_common::value::{FAMILY_V4, FAMILY_V6};

use crate::connect::is_awake;
use crate::flow::{AF_INET, IPPROTO_TCP, ctx_u32};
use crate::maps::{INBOUND, LISTENERS};

/// The loopback interface is the first of every namespace (net/core/dev.c, LOOPBACK_IFINDEX).
const LOOPBACK_IFINDEX: u32 = 1;
/// First word of link-local addresses (fe80::/10, RFC 4291 2.5.6) and what of it counts.
const LINK_LOCAL_BE: u32 = u32::to_be(0xfe80_0000);
const LINK_LOCAL_MASK_BE: u32 = u32::to_be(0xffc0_0000);

/// Gives a connection to Weir's listener in its namespace, if that is what its port is for and a worker is alive. All others
/// are looked up as ever.
///
/// What comes by the loopback interface stays as it is, and what comes from the very address that it goes to: the worker's own
/// connections to the application, which are bound that way, and what the applications of a pod say to each other. (IPv4 tells
/// the interface that has the address and not the one of the packet, see ip_route_output_key_hash_rcu.) So does what needs an
/// interface to be answered.
#[inline(always)]
pub fn steer(ctx: &SkLookupContext) {
    let lookup = ctx.lookup;
    if ctx_u32!(lookup, bpf_sk_lookup, protocol) != IPPROTO_TCP
        || ctx_u32!(lookup, bpf_sk_lookup, ingress_ifindex) == LOOPBACK_IFINDEX
    {
        return;
    }
    let port = ctx_u32!(lookup, bpf_sk_lookup, local_port) as u16;
    // SAFETY: elements are replaced as a whole (BPF_F_NO_PREALLOC), never written in place.
    let Some(inbound) = (unsafe { INBOUND.get(&port) }) else { return };
    let family = if ctx_u32!(lookup, bpf_sk_lookup, family) == AF_INET { FAMILY_V4 } else { FAMILY_V6 };
    let is_own = if family == FAMILY_V4 {
        ctx_u32!(lookup, bpf_sk_lookup, remote_ip4) == ctx_u32!(lookup, bpf_sk_lookup, local_ip4)
    } else {
        let first = ctx_u32!(lookup, bpf_sk_lookup, local_ip6[0]);
        let differs = (ctx_u32!(lookup, bpf_sk_lookup, remote_ip6[0]) ^ first)
            | (ctx_u32!(lookup, bpf_sk_lookup, remote_ip6[1])
                ^ ctx_u32!(lookup, bpf_sk_lookup, local_ip6[1]))
            | (ctx_u32!(lookup, bpf_sk_lookup, remote_ip6[2])
                ^ ctx_u32!(lookup, bpf_sk_lookup, local_ip6[2]))
            | (ctx_u32!(lookup, bpf_sk_lookup, remote_ip6[3])
                ^ ctx_u32!(lookup, bpf_sk_lookup, local_ip6[3]));
        differs == 0 || first & LINK_LOCAL_MASK_BE == LINK_LOCAL_BE
    };
    if is_own {
        return;
    }
    // SAFETY: a plain helper call.
    if !is_awake(inbound.owner, unsafe { bpf_ktime_get_ns() }) {
        return;
    }
    let key = ListenerKey { netns_cookie: inbound.netns_cookie, family, index: 0 };
    // Without a listener, or where another program has chosen a socket before, the application gets the connection.
    let _ = LISTENERS.redirect_sk_lookup(ctx, key, 0);
}
