//! The end of Weir's own process, seen before its sockets are closed.

use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_pidns_info;
use aya_ebpf::helpers::generated::bpf_get_ns_current_pid_tgid;
use proxy_ebpf_common::config::WORKER_MAX;

use crate::maps::{HEARTBEATS, SETTINGS};

/// The process that loaded this, as it knows itself; all 0 if nobody said.
#[unsafe(no_mangle)]
static OWNER_PID: Global<u32> = Global::new(0);
/// Device and inode of its pid namespace.
#[unsafe(no_mangle)]
static OWNER_PIDNS_DEV: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static OWNER_PIDNS_INO: Global<u64> = Global::new(0);

/// Takes back every sign of life when the first thread of the process ends.
///
/// A process that is killed keeps its listeners until the last of its threads has let go of them. Who connects meanwhile would
/// wait for somebody who never accepts, or be on the way when the listener goes.
#[inline(always)]
pub fn handle() {
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the helper writes to `ids`, which is as large as it is told (Linux 5.7).
    let result = unsafe {
        bpf_get_ns_current_pid_tgid(
            OWNER_PIDNS_DEV.load(),
            OWNER_PIDNS_INO.load(),
            &raw mut ids,
            size_of::<bpf_pidns_info>() as u32,
        )
    };
    let owner = OWNER_PID.load();
    if result != 0 || ids.tgid != owner || ids.pid != owner {
        return;
    }
    let worker_count = SETTINGS.get(0).map_or(0, |settings| settings.worker_count);
    for worker in 0..WORKER_MAX {
        if worker >= worker_count {
            return;
        }
        let Some(beat) = HEARTBEATS.get_ptr_mut(worker) else { return };
        // SAFETY: `beat` points to an aligned word of the map; its worker writes no other one, and never again.
        unsafe { beat.write_volatile(0) };
    }
}
