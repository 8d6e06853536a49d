//! The hooks: attribute, one call, one match from answer to verdict.

use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::helpers::generated::bpf_set_retval;
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, raw_tracepoint, sk_lookup, sock_ops};
use aya_ebpf::programs::{
    RawTracePointContext, SkLookupContext, SockAddrContext, SockContext, SockOpsContext,
};
use proxy_ebpf_common::counter::Counter;

use crate::connect::{self, Answer};
use crate::counters::count;
use crate::error::Skip;
use crate::{exit, flow, inbound, newcomer, sock_ops};

/// Verdict of a cgroup hook: go on.
const ALLOW: i32 = 1;
/// Verdict of a cgroup hook: the system call fails (EPERM unless bpf_set_retval says otherwise).
const DENY: i32 = 0;
/// include/uapi/asm-generic/errno.h
const ECONNREFUSED: i32 = 111;

#[cgroup_sock_addr(connect4)]
pub fn weir_connect4(ctx: SockAddrContext) -> i32 {
    let asked = flow::asked_v4(&ctx);
    match connect::decide(&ctx, &asked) {
        Ok(Answer::Go(target)) => {
            flow::set_target_v4(&ctx, &target);
            ALLOW
        }
        answer => verdict(answer),
    }
}

#[cgroup_sock_addr(connect6)]
pub fn weir_connect6(ctx: SockAddrContext) -> i32 {
    let asked = flow::asked_v6(&ctx);
    match connect::decide(&ctx, &asked) {
        Ok(Answer::Go(target)) => {
            flow::set_target_v6(&ctx, &target);
            ALLOW
        }
        answer => verdict(answer),
    }
}

#[inline(always)]
fn verdict(answer: Result<Answer, Skip>) -> i32 {
    match answer {
        Ok(Answer::Refuse) => {
            // SAFETY: a plain helper call; available to cgroup hooks since Linux 5.18.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            DENY
        }
        Ok(Answer::Go(_) | Answer::Watch) | Err(Skip::NotTcp | Skip::Own | Skip::OutOfScope) => ALLOW,
        Err(Skip::BoundToDevice) => pass(Counter::PassedBoundToDevice),
        Err(Skip::MapFull) => pass(Counter::PassedMapFull),
        Err(Skip::NoMemory) => pass(Counter::PassedNoMemory),
        Err(Skip::Inconsistent) => pass(Counter::PassedInconsistent),
    }
}

#[inline(always)]
fn pass(counter: Counter) -> i32 {
    count(counter);
    ALLOW
}

#[cgroup_sock_addr(getpeername4)]
pub fn weir_getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = connect::peer(&ctx) {
        flow::set_target_v4(&ctx, &peer);
    }
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
pub fn weir_getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = connect::peer(&ctx) {
        flow::set_target_v6(&ctx, &peer);
    }
    ALLOW
}

#[cgroup_sock(sock_create)]
pub fn weir_sock_create(ctx: SockContext) -> i32 {
    newcomer::handle_socket(&ctx);
    ALLOW
}

#[sock_ops]
pub fn weir_sock_ops(ctx: SockOpsContext) -> u32 {
    sock_ops::handle(&ctx);
    1
}

#[sk_lookup]
pub fn weir_sk_lookup(ctx: SkLookupContext) -> u32 {
    inbound::steer(&ctx);
    SK_PASS
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn weir_exit(_: RawTracePointContext) -> i32 {
    exit::handle();
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Several helpers (bpf_sk_storage_get from iterators, bpf_skc_to_tcp_sock) are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
