//! The life of a tracked socket: SYN, handshake, close.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_SK_STORAGE_GET_F_CREATE,
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_SYN_SENT, bpf_sock,
    bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_setsockopt, bpf_sk_storage_delete,
    bpf_sk_storage_get, bpf_skc_to_mptcp_sock, bpf_skc_to_tcp_sock,
};
use aya_ebpf::programs::SockOpsContext;
use proxy_ebpf_common::counter::Counter;
use proxy_ebpf_common::key::{OriginalDstKey, TotalsKey};
use proxy_ebpf_common::map::RECORDS_BYTES;
use proxy_ebpf_common::record::{Record, Tcp};
use proxy_ebpf_common::value::{Facts, OriginalDst, REASON_COUNT, bucket_index, facts_flag, lane, reason};

use crate::counters::{add_load, count, histogram, totals};
use crate::flow::{self, ctx_u32};
use crate::maps::{FACTS, ORIGINAL_DST, RECORDS};

/// Offset of `sk_err` within `struct tcp_sock`, from the kernel's BTF; 0 where it is not known.
#[unsafe(no_mangle)]
static SK_ERR_OFFSET: Global<u32> = Global::new(0);

/// include/net/tcp_states.h
const TCP_ESTABLISHED: u32 = 1;
const TCP_FIN_WAIT2: u32 = 5;
const TCP_CLOSE_WAIT: u32 = 8;
const TCP_LAST_ACK: u32 = 9;
const TCP_CLOSING: u32 = 11;

/// include/uapi/linux/tcp.h, include/linux/socket.h
const SOL_TCP: i32 = 6;
const TCP_CONGESTION: i32 = 13;

/// Handles one sock_ops call.
#[inline(always)]
pub fn handle(ctx: &SockOpsContext) {
    let op = ctx_u32!(ctx.ops, bpf_sock_ops, op);
    // Most calls are of no interest, and the socket's storage is not looked up for them.
    let is_close = op == BPF_SOCK_OPS_STATE_CB && state_after(ctx) == BPF_TCP_CLOSE;
    let is_accept = op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;
    if op != BPF_SOCK_OPS_TCP_CONNECT_CB
        && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
        && !is_accept
        && !is_close
    {
        return;
    }
    // SAFETY: the context is live.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return;
    }
    if is_accept {
        return handle_accept(ctx, sk);
    }
    let stored = facts_of(sk, 0);
    if stored.is_null() {
        return;
    }
    // SAFETY: `stored` points to the storage of this socket, which is locked by the caller of the hook.
    let facts = unsafe { &mut *stored };
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        handle_syn(ctx, sk, facts);
    } else if op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        handle_established(facts);
    } else {
        handle_close(ctx, sk, facts);
    }
}

/// State that a STATE_CB tells of. Args are a union in the context, read at their place.
#[inline(always)]
fn state_after(ctx: &SockOpsContext) -> u32 {
    ctx_u32!(ctx.ops, bpf_sock_ops, __bindgen_anon_1[1])
}

#[inline(always)]
fn state_before(ctx: &SockOpsContext) -> u32 {
    ctx_u32!(ctx.ops, bpf_sock_ops, __bindgen_anon_1[0])
}

#[inline(always)]
fn facts_of(sk: *mut bpf_sock, flags: u64) -> *mut Facts {
    // SAFETY: the map outlives the program and `sk` is the socket of the context.
    unsafe {
        bpf_sk_storage_get((&raw const FACTS).cast_mut().cast(), sk.cast(), core::ptr::null_mut(), flags)
            .cast()
    }
}

/// A SYN is about to leave: source address and port are known now.
#[inline(always)]
fn handle_syn(ctx: &SockOpsContext, sk: *mut bpf_sock, facts: &mut Facts) {
    let (source, target) = flow::ends(ctx);
    // SAFETY: the helper takes the context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    facts.source = source;
    facts.cookie = cookie;
    if facts.lane == lane::UPSTREAM || facts.lane == lane::NONE {
        facts.real = target;
    }
    if facts.lane == lane::PROXY {
        let key = OriginalDstKey::to_listener(facts.netns_cookie, source, target);
        let value = OriginalDst {
            cgroup_id: facts.cgroup_id,
            netns_cookie: facts.netns_cookie,
            opened_ns: facts.opened_ns,
            address: facts.asked,
            service: facts.service,
        };
        let _ = ORIGINAL_DST.remove(&OriginalDstKey::reservation(cookie));
        if ORIGINAL_DST.insert(&key, &value, 0).is_err() {
            count(Counter::LostOriginalDst);
        }
        use_cubic(ctx);
    }
    if facts.flags & facts_flag::TO_APPLICATION != 0 {
        announce(facts);
        use_cubic(ctx);
    }
    if facts.lane == lane::PROXY || facts.lane == lane::DIRECT {
        show_to_mptcp(sk, facts);
    }
    if facts.lane == lane::DIRECT {
        add_load(facts.endpoint, 1);
        facts.flags |= facts_flag::LOADED;
    }
    facts.flags |= facts_flag::OPENED;
    if let Some(totals) = totals(&totals_key(facts)) {
        // SAFETY: a live per-CPU element.
        unsafe { (*totals).opened += 1 };
    }
    let flags = ctx_u32!(ctx.ops, bpf_sock_ops, bpf_sock_ops_cb_flags);
    // Other programs' flags stay: they are OR-ed, not replaced.
    let _ = ctx.set_cb_flags((flags | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}

/// Tells the socket that an application is about to accept whose connection it is.
#[inline(always)]
fn announce(facts: &Facts) {
    let key = OriginalDstKey::to_application(facts.netns_cookie, facts.source, facts.real);
    let value = OriginalDst {
        cgroup_id: facts.cgroup_id,
        netns_cookie: facts.netns_cookie,
        opened_ns: facts.opened_ns,
        address: facts.asked,
        service: facts.service,
    };
    if ORIGINAL_DST.insert(&key, &value, 0).is_err() {
        count(Counter::ClientNotShown);
    }
}

/// A socket has accepted a connection: if it is one that a worker made for a client, that client is its peer.
///
/// The application cannot have asked before: its accept() waits for the lock that is held here.
#[inline(always)]
fn handle_accept(ctx: &SockOpsContext, sk: *mut bpf_sock) {
    let (own, other) = flow::ends(ctx);
    // Workers connect to an application from its own address. Others are not looked up.
    if own.ip_be != other.ip_be {
        return;
    }
    // SAFETY: the helper takes the context.
    let netns_cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let key = OriginalDstKey::to_application(netns_cookie, other, own);
    // SAFETY: elements of a preallocated map; only this socket's handshake uses this one.
    let Some(client) = (unsafe { ORIGINAL_DST.get(&key) }).copied() else { return };
    let _ = ORIGINAL_DST.remove(&key);
    use_cubic(ctx);
    let stored = facts_of(sk, BPF_SK_STORAGE_GET_F_CREATE.into());
    if stored.is_null() {
        return count(Counter::ClientNotShown);
    }
    let facts = Facts {
        cgroup_id: client.cgroup_id,
        netns_cookie,
        // SAFETY: the helper takes the context.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        opened_ns: client.opened_ns,
        // SAFETY: a plain helper call.
        established_ns: unsafe { bpf_ktime_get_ns() },
        source: client.address,
        asked: own,
        real: own,
        service: client.service,
        endpoint: 0,
        lane: lane::INBOUND,
        // It is never counted: the worker counts its connection.
        flags: 0,
        pad: 0,
    };
    // SAFETY: `stored` points to the storage of this socket, which is locked by the caller of the hook.
    unsafe { *stored = facts };
}

/// Local hops do not want bbr: it paces loopback to a fraction of what cubic gives.
#[inline(always)]
fn use_cubic(ctx: &SockOpsContext) {
    let mut name = *b"cubic\0";
    // SAFETY: the helper takes the context and a buffer on the stack with its size. A kernel without cubic says ENOENT,
    // and the connection keeps its default.
    unsafe { bpf_setsockopt(ctx.as_ptr(), SOL_TCP, TCP_CONGESTION, name.as_mut_ptr().cast::<c_void>(), 6) };
}

/// Gives the MPTCP socket above a subflow the same facts: getpeername() asks that one.
#[inline(always)]
fn show_to_mptcp(sk: *mut bpf_sock, facts: &Facts) {
    // SAFETY: `sk` is the socket of the context; the helper answers null for anything but a subflow (Linux 5.19).
    let mptcp = unsafe { bpf_skc_to_mptcp_sock(sk.cast()) };
    if mptcp.is_null() {
        return;
    }
    let shown = facts_of(mptcp.cast(), BPF_SK_STORAGE_GET_F_CREATE.into());
    if !shown.is_null() {
        // SAFETY: `shown` points to the storage of the MPTCP socket. Its flags stay 0: it is never counted.
        unsafe { *shown = Facts { flags: 0, cookie: 0, ..*facts } };
    }
}

/// The handshake is complete.
#[inline(always)]
fn handle_established(facts: &mut Facts) {
    // SAFETY: a plain helper call.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    facts.established_ns = now_ns;
    let us = micros(now_ns.wrapping_sub(facts.opened_ns));
    if let Some(histogram) = histogram(facts.service, facts.lane) {
        let bucket = bucket_index(us);
        if bucket < proxy_ebpf_common::value::BUCKET_COUNT {
            // SAFETY: a live per-CPU element, and the index is in bounds.
            unsafe {
                (*histogram).connect[bucket] += 1;
                (*histogram).connect_us += u64::from(us);
            }
        }
    }
}

/// The connection is over, or was never established.
#[inline(always)]
fn handle_close(ctx: &SockOpsContext, sk: *mut bpf_sock, facts: &mut Facts) {
    let ops = ctx.ops;
    let error = socket_error(sk);
    let mut record = Record {
        facts: *facts,
        tcp: Tcp {
            // SAFETY: 8-byte fields of the context.
            sent_bytes: unsafe { core::ptr::read_volatile(&raw const (*ops).bytes_acked) },
            // SAFETY: as above.
            received_bytes: unsafe { core::ptr::read_volatile(&raw const (*ops).bytes_received) },
            // SAFETY: a plain helper call.
            now_ns: unsafe { bpf_ktime_get_ns() },
            // Stored shifted by 3 (include/linux/tcp.h).
            rtt_us: ctx_u32!(ops, bpf_sock_ops, srtt_us) >> 3,
            min_rtt_us: ctx_u32!(ops, bpf_sock_ops, rtt_min),
            retransmits: ctx_u32!(ops, bpf_sock_ops, total_retrans),
            state: BPF_TCP_CLOSE,
            reason: close_reason(state_before(ctx), error),
            error,
            pad: [0; 2],
        },
    };
    if facts.established_ns != 0 {
        let (sent, received) = sequence_numbers(state_before(ctx), error);
        record.tcp.sent_bytes = record.tcp.sent_bytes.saturating_sub(sent);
        record.tcp.received_bytes = record.tcp.received_bytes.saturating_sub(received);
    }
    add_totals(&record);
    if facts.flags & facts_flag::LOADED != 0 {
        add_load(facts.endpoint, -1);
    }
    // Workers tell of their own connections.
    if facts.lane == lane::DIRECT || facts.lane == lane::NONE {
        tell(&record);
    }
    // SAFETY: `sk` is the socket of the context. A socket that connects again starts anew.
    unsafe { bpf_sk_storage_delete((&raw const FACTS).cast_mut().cast(), sk.cast()) };
}

/// Puts a record into the ring buffer. Its reader looks ten times a second; only a buffer that fills up wakes it, because
/// a wake-up for every connection costs more than the rest of this program.
#[inline(always)]
fn tell(record: &Record) {
    let waiting_bytes = RECORDS.query(BPF_RB_AVAIL_DATA.into());
    let flags =
        if waiting_bytes > u64::from(RECORDS_BYTES / 4) { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    match RECORDS.reserve::<Record>(0) {
        Some(mut entry) => {
            entry.write(*record);
            entry.submit(flags.into());
        }
        None => count(Counter::RecordsDropped),
    }
}

#[inline(always)]
fn add_totals(record: &Record) {
    let facts = &record.facts;
    if facts.flags & facts_flag::OPENED == 0 {
        return;
    }
    if let Some(totals) = totals(&totals_key(facts)) {
        let reason = record.tcp.reason as usize;
        // SAFETY: a live per-CPU element; the index is checked.
        unsafe {
            if reason < REASON_COUNT {
                (*totals).closed[reason] += 1;
            }
            (*totals).sent_bytes += record.tcp.sent_bytes;
            (*totals).received_bytes += record.tcp.received_bytes;
            (*totals).retransmits += u64::from(record.tcp.retransmits);
        }
    }
    if facts.established_ns == 0 {
        return;
    }
    if let Some(histogram) = histogram(facts.service, facts.lane) {
        let bucket = bucket_index(record.tcp.rtt_us);
        if bucket < proxy_ebpf_common::value::BUCKET_COUNT {
            // SAFETY: a live per-CPU element, and the index is in bounds.
            unsafe {
                (*histogram).rtt[bucket] += 1;
                (*histogram).rtt_us += u64::from(record.tcp.rtt_us);
            }
        }
    }
}

#[inline(always)]
fn totals_key(facts: &Facts) -> TotalsKey {
    TotalsKey { service: facts.service, endpoint: facts.endpoint, lane: facts.lane }
}

/// Reads `sk->sk_err`: at the close it holds what ended the connection.
#[inline(always)]
fn socket_error(sk: *mut bpf_sock) -> u32 {
    let offset = SK_ERR_OFFSET.load() as usize;
    if offset == 0 {
        return 0;
    }
    // SAFETY: the helper takes the socket of the context.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast()) }.cast::<u8>();
    if tcp.is_null() {
        return 0;
    }
    // SAFETY: the verifier checks the read against the kernel's BTF; the offset is constant once loaded.
    unsafe { core::ptr::read_volatile(tcp.add(offset).cast::<u32>()) }
}

/// How many of the bytes that the kernel counted (acknowledged, received) are no data: SYN and FIN take a sequence number
/// each (RFC 9293, 3.4), and `bytes_acked` and `bytes_received` are differences of sequence numbers.
///
/// For an established connection in, or coming from, a state with a socket error or 0.
#[inline(always)]
pub fn sequence_numbers(state: u32, error: u32) -> (u64, u64) {
    let is_fin_acked =
        state == TCP_FIN_WAIT2 || (error == 0 && (state == TCP_LAST_ACK || state == TCP_CLOSING));
    let is_fin_received = state == TCP_CLOSE_WAIT
        || state == TCP_LAST_ACK
        || state == TCP_CLOSING
        || (error == 0 && state == TCP_FIN_WAIT2);
    (1 + is_fin_acked as u64, is_fin_received as u64)
}

/// Turns the socket's error and last state into a reason. errno values: include/uapi/asm-generic/errno.h
#[inline(always)]
fn close_reason(state_before: u32, error: u32) -> u32 {
    match error {
        0 if state_before == BPF_TCP_SYN_SENT => reason::ABANDONED,
        // ESTABLISHED or CLOSE_WAIT to CLOSE without an error: closed with a reset of our own. A close in
        // order goes through FIN_WAIT2, CLOSING, LAST_ACK or TIME_WAIT.
        0 if state_before == TCP_ESTABLISHED || state_before == TCP_CLOSE_WAIT => reason::ABORTED,
        0 => reason::FIN,
        // EPIPE stands for a reset after the other side's FIN (tcp_reset in net/ipv4/tcp_input.c).
        104 | 32 => reason::RESET,
        111 => reason::REFUSED,
        110 => reason::TIMEOUT,
        // EHOSTUNREACH, ENETUNREACH, EHOSTDOWN
        113 | 101 | 112 => reason::UNREACHABLE,
        // ECONNABORTED: SOCK_DESTROY (tcp_abort in net/ipv4/tcp.c)
        103 => reason::DESTROYED,
        _ => reason::OTHER,
    }
}

#[inline(always)]
fn micros(ns: u64) -> u32 {
    let us = ns / 1000;
    if us > u32::MAX as u64 { u32::MAX } else { us as u32 }
}
