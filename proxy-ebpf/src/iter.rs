//! Live statistics: one pass over Weir's own socket storage, in all namespaces, tracked sockets only (Linux 5.9).

use core::ffi::c_void;

use aya_ebpf::Global;
use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_seq_write, bpf_skc_to_tcp_sock};
use proxy_ebpf_common::record::Tcp;
use proxy_ebpf_common::value::{Facts, reason};

use crate::sock_ops::sequence_numbers;

/// Offsets within `struct tcp_sock`, from the kernel's BTF: rustc has no CO-RE.
#[unsafe(no_mangle)]
static SRTT_US_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static RTT_MIN_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static BYTES_ACKED_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static BYTES_RECEIVED_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TOTAL_RETRANS_OFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static STATE_OFFSET: Global<u32> = Global::new(0);

/// struct bpf_iter__bpf_sk_storage_map of net/core/bpf_sk_storage.c: four 8-byte pointers.
#[repr(C)]
struct Context {
    /// Pointer to struct bpf_iter_meta, whose first field is the `seq_file` to write to.
    meta: *mut *mut seq_file,
    map: *mut c_void,
    sk: *mut c_void,
    value: *mut c_void,
}

/// Writes a [`Record`](proxy_ebpf_common::record::Record) for each tracked socket: its facts, then its counters.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
fn weir_iter(ctx: *mut Context) -> i32 {
    // SAFETY: fields of the iterator's context, as the kernel's BTF declares them.
    let (meta, sk, value) = unsafe { ((*ctx).meta, (*ctx).sk, (*ctx).value) };
    if sk.is_null() || value.is_null() {
        return 0;
    }
    // SAFETY: the helper answers null for a socket that is not TCP (an MPTCP socket shows through its subflow).
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk) }.cast::<u8>();
    if tcp.is_null() {
        return 0;
    }
    let state = u32::from(read::<u8>(tcp, STATE_OFFSET.load()));
    // As if it ended now by an error: a FIN of ours counts only if it was acknowledged, one of theirs if it came.
    let (sent, received) = sequence_numbers(state, 1);
    let counters = Tcp {
        sent_bytes: read::<u64>(tcp, BYTES_ACKED_OFFSET.load()).saturating_sub(sent),
        received_bytes: read::<u64>(tcp, BYTES_RECEIVED_OFFSET.load()).saturating_sub(received),
        // SAFETY: a plain helper call.
        now_ns: unsafe { bpf_ktime_get_ns() },
        rtt_us: read::<u32>(tcp, SRTT_US_OFFSET.load()) >> 3,
        min_rtt_us: read::<u32>(tcp, RTT_MIN_OFFSET.load()),
        retransmits: read::<u32>(tcp, TOTAL_RETRANS_OFFSET.load()),
        state,
        reason: reason::OPEN,
        error: 0,
        pad: [0; 2],
    };
    // SAFETY: `meta` is trusted by the verifier.
    let seq = unsafe { *meta };
    // SAFETY: `value` holds one Facts (the verifier knows the map's value size); `counters` is on the stack. Both are
    // written or none: the kernel drops a step whose output does not fit and repeats it with a larger buffer.
    unsafe {
        bpf_seq_write(seq, value, size_of::<Facts>() as u32);
        bpf_seq_write(seq, (&raw const counters).cast(), size_of::<Tcp>() as u32);
    }
    0
}

#[inline(always)]
fn read<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: the verifier checks the read against the kernel's BTF; the offset is constant once loaded.
    unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
}
