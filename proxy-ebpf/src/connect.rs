//! connect() of IPv4 and IPv6, and getpeername(): whose connection is it, which lane, which backend.

use aya_ebpf::bindings::{bpf_sock, sockaddr};
use aya_ebpf::helpers::generated::{
    bpf_bind, bpf_get_current_cgroup_id, bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_map_lookup_elem,
    bpf_sk_release,
};
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use proxy_ebpf_common::config::{HUNG_NS, Settings, WEIR_MARK, listener};
use proxy_ebpf_common::counter::Counter;
use proxy_ebpf_common::key::{Addr, ListenerKey, OriginalDstKey};
use proxy_ebpf_common::value::{
    AddressValue, FAMILY_V4, FAMILY_V6, Facts, OriginalDst, ServiceValue, facts_flag, fail, lane, scope,
};

use crate::balance;
use crate::counters::count;
use crate::error::Skip;
use crate::maps::{
    ADDRESSES, FACTS, HEARTBEATS, LISTENERS, NETNS, NODE_LISTENERS, ORIGINAL_DST, SERVICES, SETTINGS,
};
use crate::{flow, newcomer, policy};

/// What to do with a connect().
pub enum Answer {
    /// Connect there instead.
    Go(Addr),
    /// Leave it as it is, and follow it.
    Watch,
    /// Let it fail with ECONNREFUSED.
    Refuse,
}

/// Decides about one connect().
#[inline(always)]
pub fn decide(ctx: &SockAddrContext, asked: &Addr) -> Result<Answer, Skip> {
    if !flow::is_tcp(ctx) {
        return Err(Skip::NotTcp);
    }
    let sk = flow::sock(ctx);
    if sk.is_null() || flow::mark(sk) == WEIR_MARK {
        return Err(Skip::Own);
    }
    let settings = SETTINGS.get(0).ok_or(Skip::OutOfScope)?;
    let netns_cookie = flow::netns_cookie(ctx);
    let scope = policy::scope_of(settings, netns_cookie);
    if scope & scope::CAUGHT == 0 {
        return Err(Skip::OutOfScope);
    }
    let mut facts = Facts {
        // SAFETY: plain helper calls.
        cgroup_id: unsafe { bpf_get_current_cgroup_id() },
        netns_cookie,
        cookie: 0,
        // SAFETY: as above.
        opened_ns: unsafe { bpf_ktime_get_ns() },
        established_ns: 0,
        source: Addr { ip_be: [0; 4], port_be: 0, pad: 0 },
        asked: *asked,
        real: *asked,
        service: 0,
        endpoint: 0,
        lane: lane::NONE,
        flags: 0,
        pad: 0,
    };
    let answer = if policy::is_excluded(settings, asked) {
        count(Counter::Excluded);
        Answer::Watch
    } else {
        // SAFETY: elements are replaced as a whole (BPF_F_NO_PREALLOC), never written in place.
        match unsafe { ADDRESSES.get(asked) } {
            None => {
                count(Counter::Untouched);
                Answer::Watch
            }
            Some(_) if flow::is_bound_to_device(sk) => return Err(Skip::BoundToDevice),
            Some(address) => route(ctx, sk, settings, address, scope, &mut facts)?,
        }
    };
    if !matches!(answer, Answer::Refuse) {
        store(ctx, &facts)?;
    }
    Ok(answer)
}

/// Chooses the lane and the target of a connection to a service.
#[inline(always)]
fn route(
    ctx: &SockAddrContext,
    sk: *mut bpf_sock,
    settings: &Settings,
    address: &AddressValue,
    scope: u8,
    facts: &mut Facts,
) -> Result<Answer, Skip> {
    // SAFETY: as for ADDRESSES.
    let service = unsafe { SERVICES.get(&address.service) }.ok_or(Skip::Inconsistent)?;
    let is_v4 = facts.asked.is_v4_mapped();
    let (family, wanted_lane, slot_count) = if is_v4 {
        (FAMILY_V4, service.lane[0], service.slot_count[0])
    } else {
        (FAMILY_V6, service.lane[1], service.slot_count[1])
    };
    let Place { listeners, routed_ip_be } = place(settings, facts.netns_cookie, address, is_v4);
    facts.service = address.service;

    if wanted_lane == lane::PROXY {
        let (target, verdict) = if listeners.count == 0 {
            newcomer::tell(facts.netns_cookie, facts.opened_ns);
            (node_listener(family, facts.opened_ns), Counter::Node)
        } else {
            (live_listener(&listeners, facts, family, is_v4), Counter::Proxy)
        };
        if let Some(target) = target {
            reserve(ctx, facts)?;
            facts.lane = lane::PROXY;
            facts.real = target;
            count(verdict);
            keep_source(ctx, sk, &routed_ip_be);
            return Ok(Answer::Go(target));
        }
        if service.fail == fail::CLOSED || scope & scope::FAIL_CLOSED != 0 {
            count(Counter::RefusedFailClosed);
            return Ok(Answer::Refuse);
        }
        facts.flags |= facts_flag::FAIL_OPEN;
    }
    direct(ctx, sk, service, family, slot_count, &routed_ip_be, facts)
}

/// What is particular about the network namespace of an application.
struct Place {
    listeners: Listeners,
    /// The address that its routes give a connection to a service; zeroes if that is not known.
    routed_ip_be: [u32; 4],
}

/// The listeners of a family in a network namespace.
struct Listeners {
    count: u32,
    /// Listener n is that of worker `first_worker + n % worker_count`.
    first_worker: u32,
    worker_count: u32,
}

#[inline(always)]
fn place(settings: &Settings, netns_cookie: u64, address: &AddressValue, is_v4: bool) -> Place {
    if netns_cookie == settings.home_netns_cookie {
        let Settings { listener_count, worker_count, .. } = *settings;
        let listeners = Listeners { count: listener_count, first_worker: 0, worker_count };
        return Place { listeners, routed_ip_be: address.source_ip_be };
    }
    // SAFETY: as for ADDRESSES.
    match unsafe { NETNS.get(&netns_cookie) } {
        Some(netns) => {
            let listeners = Listeners { count: 1, first_worker: netns.owner, worker_count: 1 };
            let routed_ip_be = if is_v4 { netns.source_ip_be[0] } else { netns.source_ip_be[1] };
            Place { listeners, routed_ip_be }
        }
        None => {
            let listeners = Listeners { count: 0, first_worker: 0, worker_count: 1 };
            Place { listeners, routed_ip_be: [0; 4] }
        }
    }
}

/// Sends a connection to an endpoint without any help from userspace.
#[inline(always)]
fn direct(
    ctx: &SockAddrContext,
    sk: *mut bpf_sock,
    service: &ServiceValue,
    family: u32,
    slot_count: u32,
    routed_ip_be: &[u32; 4],
    facts: &mut Facts,
) -> Result<Answer, Skip> {
    let source = balance::source_ip(sk, routed_ip_be);
    let picked = balance::pick(facts.service, service, family, slot_count, &source, facts.netns_cookie)?;
    let Some(endpoint) = picked else {
        count(Counter::RefusedNoEndpoint);
        debug!(ctx, "refused: service {} has no usable endpoint", facts.service);
        return Ok(Answer::Refuse);
    };
    count(if facts.flags & facts_flag::FAIL_OPEN != 0 { Counter::FailOpen } else { Counter::Direct });
    facts.lane = lane::DIRECT;
    facts.endpoint = endpoint.id;
    facts.real = endpoint.address;
    if endpoint.address.is_loopback() {
        keep_source(ctx, sk, routed_ip_be);
    }
    debug!(ctx, "service {} goes directly to endpoint {}", facts.service, endpoint.id);
    Ok(Answer::Go(endpoint.address))
}

/// Listeners that are tried, from a random one on: as many workers may hang, and the others still get connections.
const MOST_LISTENERS_TRIED: u32 = 4;

/// Finds a listener of the proxy lane whose worker is alive.
#[inline(always)]
fn live_listener(listeners: &Listeners, facts: &Facts, family: u32, is_v4: bool) -> Option<Addr> {
    // SAFETY: a plain helper call.
    let mut index = unsafe { bpf_get_prandom_u32() }.checked_rem(listeners.count)?;
    let mut tried = 0;
    while tried < MOST_LISTENERS_TRIED {
        let worker = listeners.first_worker + index.checked_rem(listeners.worker_count)?;
        let key = ListenerKey { netns_cookie: facts.netns_cookie, family, index };
        if is_awake(worker, facts.opened_ns) && is_open(&key) {
            return Some(listener(is_v4, index));
        }
        index = if index + 1 < listeners.count { index + 1 } else { 0 };
        tried += 1;
    }
    None
}

/// The node listener of a family, if namespaces without listeners reach it and its worker is alive.
#[inline(always)]
fn node_listener(family: u32, now_ns: u64) -> Option<Addr> {
    // SAFETY: as for ADDRESSES.
    let node = unsafe { NODE_LISTENERS.get(&family) }?;
    (is_awake(node.owner, now_ns) && is_open(&ListenerKey::node(family))).then_some(node.address)
}

/// Whether a worker has given a sign of life of late: one of a process that was stopped keeps its sockets.
#[inline(always)]
pub fn is_awake(worker: u32, now_ns: u64) -> bool {
    let beat_ns = HEARTBEATS.get(worker).copied().unwrap_or(0);
    // It may have come since the time was taken.
    now_ns.saturating_sub(beat_ns) < HUNG_NS
}

/// Whether a listener is there; a dead process's sockets are gone from the map.
#[inline(always)]
fn is_open(key: &ListenerKey) -> bool {
    // SAFETY: the map outlives the program; the helper takes a reference on the socket, which is given back at once.
    let sk =
        unsafe { bpf_map_lookup_elem((&raw const LISTENERS).cast_mut().cast(), (&raw const *key).cast()) };
    if sk.is_null() {
        return false;
    }
    // SAFETY: `sk` was just acquired.
    unsafe { bpf_sk_release(sk) };
    true
}

/// Makes sure that the original destination will find room once the source port is known.
#[inline(always)]
fn reserve(ctx: &SockAddrContext, facts: &Facts) -> Result<(), Skip> {
    let key = OriginalDstKey::reservation(flow::cookie(ctx));
    let value = OriginalDst {
        cgroup_id: facts.cgroup_id,
        netns_cookie: facts.netns_cookie,
        opened_ns: facts.opened_ns,
        address: facts.asked,
        service: facts.service,
    };
    ORIGINAL_DST.insert(&key, &value, 0).map_err(|_| {
        debug!(ctx, "passed untouched: the map of original destinations is full");
        Skip::MapFull
    })
}

/// Binds the socket to the address that the route to the original destination would have used.
///
/// The target is loopback, which any address of the machine may talk to; without this a connection that seems to go to
/// 10.96.0.10 would come from 127.0.0.1, and an application that announces its own address would announce that.
#[inline(always)]
fn keep_source(ctx: &SockAddrContext, sk: *mut bpf_sock, ip_be: &[u32; 4]) {
    let source = Addr { ip_be: *ip_be, port_be: 0, pad: 0 };
    if ip_be[0] | ip_be[1] | ip_be[2] | ip_be[3] == 0 || source.is_loopback() || flow::is_bound(sk) {
        return;
    }
    let result = if flow::is_v6_socket(sk) {
        let mut name = SockaddrIn6 { family: 10, port_be: 0, flow: 0, ip_be: *ip_be, scope: 0 };
        // SAFETY: the helper takes the context and an address on the stack with its size.
        unsafe {
            bpf_bind(ctx.sock_addr, (&raw mut name).cast::<sockaddr>(), size_of::<SockaddrIn6>() as i32)
        }
    } else {
        let mut name = SockaddrIn { family: 2, port_be: 0, ip_be: ip_be[3], zero: [0; 2] };
        // SAFETY: as above.
        unsafe { bpf_bind(ctx.sock_addr, (&raw mut name).cast::<sockaddr>(), size_of::<SockaddrIn>() as i32) }
    };
    if result != 0 {
        count(Counter::SourceNotKept);
    }
}

/// struct sockaddr_in of include/uapi/linux/in.h.
#[repr(C)]
struct SockaddrIn {
    family: u16,
    port_be: u16,
    ip_be: u32,
    zero: [u32; 2],
}

/// struct sockaddr_in6 of include/uapi/linux/in6.h.
#[repr(C)]
struct SockaddrIn6 {
    family: u16,
    port_be: u16,
    flow: u32,
    ip_be: [u32; 4],
    scope: u32,
}

/// Leaves the facts with the socket; a socket that connects again gets new ones.
#[inline(always)]
fn store(ctx: &SockAddrContext, facts: &Facts) -> Result<(), Skip> {
    // SAFETY: the context is a live sock_addr context.
    let stored = unsafe { FACTS.get_or_insert_ptr_mut(ctx, None) };
    if stored.is_null() {
        debug!(ctx, "passed untouched: no memory for the facts of the socket");
        return Err(Skip::NoMemory);
    }
    // SAFETY: `stored` points to the storage of this socket, which nobody else writes before its SYN.
    unsafe { *stored = *facts };
    Ok(())
}

/// Address that getpeername() must show: what the application asked for, if it was changed; or the client on whose behalf a
/// worker connected to the application. accept() asks in the same way for the address that it returns.
#[inline(always)]
pub fn peer(ctx: &SockAddrContext) -> Option<Addr> {
    // SAFETY: the context is a live sock_addr context.
    let stored = unsafe { FACTS.get_ptr_mut(ctx) };
    if stored.is_null() {
        return None;
    }
    // SAFETY: `stored` points to the storage of this socket.
    let facts = unsafe { &*stored };
    match facts.lane {
        lane::DIRECT | lane::PROXY => Some(facts.asked),
        lane::INBOUND => Some(facts.source),
        _ => None,
    }
}
