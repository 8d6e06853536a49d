//! Whose connections are looked at, and which destinations never are.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use aya_ebpf::maps::lpm_trie::Key;
use proxy_ebpf_common::config::{SCOPE_DEPTH_MAX, Settings};
use proxy_ebpf_common::key::Addr;
use proxy_ebpf_common::value::scope;

use crate::maps::{EXCLUDED_NETS, EXCLUDED_PORTS, SCOPE_CGROUPS, SCOPE_NETNS};

/// What the current task's network namespace, its cgroup and all above it are as scopes together: bits of [`scope`].
#[inline(always)]
pub fn scope_of(settings: &Settings, netns_cookie: u64) -> u8 {
    let mut bits = 0;
    if settings.scope_netns_count != 0 {
        // SAFETY: the value is one byte.
        bits |= unsafe { SCOPE_NETNS.get(&netns_cookie) }.copied().unwrap_or(0);
    }
    let depths = settings.scope_depths;
    let mut depth = 0;
    while depth <= SCOPE_DEPTH_MAX {
        if depths & (1 << depth) != 0 {
            // SAFETY: a plain helper call; 0 means that the task's cgroup is not that deep.
            let id = unsafe { bpf_get_current_ancestor_cgroup_id(depth as i32) };
            if id != 0 {
                // SAFETY: the value is one byte.
                bits |= unsafe { SCOPE_CGROUPS.get(&id) }.copied().unwrap_or(0);
            }
        }
        depth += 1;
    }
    bits
}

/// Tells whether the connections of the current task are looked at.
#[inline(always)]
pub fn is_in_scope(settings: &Settings, netns_cookie: u64) -> bool {
    scope_of(settings, netns_cookie) & scope::CAUGHT != 0
}

/// Tells whether a destination is never touched.
#[inline(always)]
pub fn is_excluded(settings: &Settings, asked: &Addr) -> bool {
    // SAFETY: the element is only compared with nothing.
    if settings.excluded_port_count != 0
        && unsafe { EXCLUDED_PORTS.get(&u16::from_be(asked.port_be)) }.is_some()
    {
        return true;
    }
    settings.excluded_net_count != 0 && EXCLUDED_NETS.get(&Key::new(128, asked.ip_be)).is_some()
}
