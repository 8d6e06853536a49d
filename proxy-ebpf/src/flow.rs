//! Reading keys out of the kernel's contexts, and writing answers back; the only raw context accesses.

use core::ptr::write_volatile;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr, bpf_sock_ops};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::programs::{SockAddrContext, SockOpsContext};
use proxy_ebpf_common::key::Addr;

/// include/linux/socket.h
pub const AF_INET: u32 = 2;
/// include/uapi/linux/in.h
pub const IPPROTO_TCP: u32 = 6;
/// include/uapi/linux/in.h
const IPPROTO_MPTCP: u32 = 262;

/// Reads a `u32` field of a program context at a constant offset.
///
/// A plain `(*ctx).field` in two branches is merged by LLVM into one load from a computed address, which the verifier
/// refuses ("dereference of modified ctx ptr"); clang has `preserve_static_offset` against that, rustc has nothing.
macro_rules! ctx_u32 {
    ($pointer:expr, $type:ty, $field:ident $([$index:literal])?) => {{
        let pointer: *mut $type = $pointer;
        let value: u64;
        // SAFETY: the verifier checks the read; the offset is that of a 4-byte field.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({pointer} + {offset})",
                value = out(reg) value,
                pointer = in(reg) pointer,
                offset = const core::mem::offset_of!($type, $field) $(+ 4 * $index)?,
                options(pure, readonly, nostack, preserves_flags)
            )
        };
        value as u32
    }};
}

/// Tells whether a connect() speaks TCP, be it through MPTCP; UDP connects pass the same hooks.
#[inline(always)]
pub fn is_tcp(ctx: &SockAddrContext) -> bool {
    let protocol = ctx_u32!(ctx.sock_addr, bpf_sock_addr, protocol);
    protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
}

/// Socket of a connect(); never null in these hooks, but the verifier wants to see the check.
#[inline(always)]
pub fn sock(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: `ctx.sock_addr` is the context itself.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}

/// SO_MARK of a socket.
#[inline(always)]
pub fn mark(sk: *mut bpf_sock) -> u32 {
    ctx_u32!(sk, bpf_sock, mark)
}

/// Tells whether a socket is bound to a device (SO_BINDTODEVICE).
#[inline(always)]
pub fn is_bound_to_device(sk: *mut bpf_sock) -> bool {
    ctx_u32!(sk, bpf_sock, bound_dev_if) != 0
}

/// Tells whether an application has bound its socket already.
#[inline(always)]
pub fn is_bound(sk: *mut bpf_sock) -> bool {
    let ip_be = ctx_u32!(sk, bpf_sock, src_ip4)
        | ctx_u32!(sk, bpf_sock, src_ip6[0])
        | ctx_u32!(sk, bpf_sock, src_ip6[1])
        | ctx_u32!(sk, bpf_sock, src_ip6[2])
        | ctx_u32!(sk, bpf_sock, src_ip6[3]);
    ip_be != 0 || ctx_u32!(sk, bpf_sock, src_port) != 0
}

/// Address that a socket is bound to, v4-mapped for IPv4; zeros if none.
#[inline(always)]
pub fn bound_ip(sk: *mut bpf_sock) -> [u32; 4] {
    if ctx_u32!(sk, bpf_sock, family) == AF_INET {
        match ctx_u32!(sk, bpf_sock, src_ip4) {
            0 => [0; 4],
            ip_be => Addr::v4(ip_be, 0).ip_be,
        }
    } else {
        [
            ctx_u32!(sk, bpf_sock, src_ip6[0]),
            ctx_u32!(sk, bpf_sock, src_ip6[1]),
            ctx_u32!(sk, bpf_sock, src_ip6[2]),
            ctx_u32!(sk, bpf_sock, src_ip6[3]),
        ]
    }
}

/// Tells whether a socket is of IPv6, whatever address it speaks to.
#[inline(always)]
pub fn is_v6_socket(sk: *mut bpf_sock) -> bool {
    ctx_u32!(sk, bpf_sock, family) != AF_INET
}

/// Destination of an IPv4 connect().
#[inline(always)]
pub fn asked_v4(ctx: &SockAddrContext) -> Addr {
    let sa = ctx.sock_addr;
    Addr::v4(ctx_u32!(sa, bpf_sock_addr, user_ip4), ctx_u32!(sa, bpf_sock_addr, user_port) as u16)
}

/// Destination of an IPv6 connect(). Word by word: the verifier refuses a 16-byte copy of the context.
#[inline(always)]
pub fn asked_v6(ctx: &SockAddrContext) -> Addr {
    let sa = ctx.sock_addr;
    Addr {
        ip_be: [
            ctx_u32!(sa, bpf_sock_addr, user_ip6[0]),
            ctx_u32!(sa, bpf_sock_addr, user_ip6[1]),
            ctx_u32!(sa, bpf_sock_addr, user_ip6[2]),
            ctx_u32!(sa, bpf_sock_addr, user_ip6[3]),
        ],
        port_be: ctx_u32!(sa, bpf_sock_addr, user_port) as u16,
        pad: 0,
    }
}

/// Writes an IPv4 address into the context.
#[inline(always)]
pub fn set_target_v4(ctx: &SockAddrContext, target: &Addr) {
    let sa = ctx.sock_addr;
    // SAFETY: fields of the context that these hooks may write; volatile, or LLVM merges the stores and the verifier
    // refuses them.
    unsafe {
        write_volatile(&raw mut (*sa).user_ip4, target.ip_be[3]);
        write_volatile(&raw mut (*sa).user_port, target.port_be.into());
    }
}

/// Writes an IPv6 or v4-mapped address into the context.
#[inline(always)]
pub fn set_target_v6(ctx: &SockAddrContext, target: &Addr) {
    let sa = ctx.sock_addr;
    // SAFETY: as for IPv4.
    unsafe {
        write_volatile(&raw mut (*sa).user_ip6[0], target.ip_be[0]);
        write_volatile(&raw mut (*sa).user_ip6[1], target.ip_be[1]);
        write_volatile(&raw mut (*sa).user_ip6[2], target.ip_be[2]);
        write_volatile(&raw mut (*sa).user_ip6[3], target.ip_be[3]);
        write_volatile(&raw mut (*sa).user_port, target.port_be.into());
    }
}

/// Cookie of the namespace that a socket lives in.
#[inline(always)]
pub fn netns_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// Cookie of the socket of a connect().
#[inline(always)]
pub fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Both ends of the connection of a sock_ops call: (own, other).
#[inline(always)]
pub fn ends(ctx: &SockOpsContext) -> (Addr, Addr) {
    let ops = ctx.ops;
    // local_port is in host order, remote_port in network order in the upper half of the word on little endian.
    let own_port_be = (ctx_u32!(ops, bpf_sock_ops, local_port) as u16).to_be();
    let other_port_be = (u32::from_be(ctx_u32!(ops, bpf_sock_ops, remote_port)) as u16).to_be();
    if ctx_u32!(ops, bpf_sock_ops, family) == AF_INET {
        (
            Addr::v4(ctx_u32!(ops, bpf_sock_ops, local_ip4), own_port_be),
            Addr::v4(ctx_u32!(ops, bpf_sock_ops, remote_ip4), other_port_be),
        )
    } else {
        (
            Addr {
                ip_be: [
                    ctx_u32!(ops, bpf_sock_ops, local_ip6[0]),
                    ctx_u32!(ops, bpf_sock_ops, local_ip6[1]),
                    ctx_u32!(ops, bpf_sock_ops, local_ip6[2]),
                    ctx_u32!(ops, bpf_sock_ops, local_ip6[3]),
                ],
                port_be: own_port_be,
                pad: 0,
            },
            Addr {
                ip_be: [
                    ctx_u32!(ops, bpf_sock_ops, remote_ip6[0]),
                    ctx_u32!(ops, bpf_sock_ops, remote_ip6[1]),
                    ctx_u32!(ops, bpf_sock_ops, remote_ip6[2]),
                    ctx_u32!(ops, bpf_sock_ops, remote_ip6[3]),
                ],
                port_be: other_port_be,
                pad: 0,
            },
        )
    }
}

pub(crate) use ctx_u32;
