//! Telling userspace of network namespaces that it does not serve yet.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_ktime_get_ns};
use aya_ebpf::programs::SockContext;
use proxy_ebpf_common::map::TELL_AGAIN_NS;
use proxy_ebpf_common::newcomer::Newcomer;

use crate::maps::{NETNS, NEWCOMERS, SETTINGS, TOLD};
use crate::policy;

/// Handles a new socket: an application makes its first one well before it connects, mostly to ask for a name.
#[inline(always)]
pub fn handle_socket(ctx: &SockContext) {
    let Some(settings) = SETTINGS.get(0) else { return };
    // SAFETY: the helper takes the context (Linux 5.7).
    let netns_cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: the element is only compared with nothing; its bytes are not used.
    let is_known =
        netns_cookie == settings.home_netns_cookie || unsafe { NETNS.get(&netns_cookie) }.is_some();
    if !is_known && policy::is_in_scope(settings, netns_cookie) {
        // SAFETY: a plain helper call.
        tell(netns_cookie, unsafe { bpf_ktime_get_ns() });
    }
}

/// Tells of a namespace; once in a while for each.
#[inline(always)]
pub fn tell(netns_cookie: u64, now_ns: u64) {
    // SAFETY: the value is one aligned word.
    let told_ns = unsafe { TOLD.get(&netns_cookie) }.map_or(0, |ns| *ns);
    if now_ns.wrapping_sub(told_ns) < TELL_AGAIN_NS {
        return;
    }
    if TOLD.insert(&netns_cookie, &now_ns, 0).is_err() {
        return;
    }
    // SAFETY: a plain helper call.
    let process = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    let newcomer = Newcomer { netns_cookie, process, pad: 0 };
    // Where there is no room, a look at the scopes' cgroups finds it a second later.
    let _ = NEWCOMERS.output::<Newcomer>(newcomer, 0);
}
