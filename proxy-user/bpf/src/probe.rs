//! What this kernel offers, asked of the kernel itself rather than of its version number.

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};

use crate::btf;

/// Something that the kernel programs need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is, in the kernel's words.
    pub name: String,
    /// First kernel that has it.
    pub since: &'static str,
    /// What Weir does with it.
    pub purpose: &'static str,
    /// Whether this kernel has it; an error is what the kernel said instead of an answer.
    pub state: Result<bool, String>,
}

/// Asks the kernel for every program type, map type and helper that Weir uses.
#[must_use]
pub fn kernel_features() -> Vec<Feature> {
    let mut features = vec![Feature {
        name: "BTF of the kernel".to_owned(),
        since: "5.4",
        purpose: "offsets of socket fields",
        state: Ok(std::path::Path::new(btf::VMLINUX).exists()),
    }];
    features.extend(PROGRAMS.map(|(kind, name, since, purpose)| Feature {
        name: format!("program type {name}"),
        since,
        purpose,
        state: is_program_supported(kind).map_err(|error| error.to_string()),
    }));
    features.extend(MAPS.map(|(kind, name, since, purpose)| Feature {
        name: format!("map type {name}"),
        since,
        purpose,
        state: is_map_supported(kind).map_err(|error| error.to_string()),
    }));
    features.extend(HELPERS.map(|(kind, helper, name, since, purpose)| Feature {
        name: format!("helper {name}"),
        since,
        purpose,
        state: is_helper_supported(kind, helper).map_err(|error| error.to_string()),
    }));
    features
}

type Row<T> = (T, &'static str, &'static str, &'static str);

/// Iterators (5.8) are not here: they cannot be probed without a target, and loading the object tells.
const PROGRAMS: [Row<ProgramType>; 5] = [
    (ProgramType::CgroupSockAddr, "cgroup_sock_addr", "4.17", "catching connect()"),
    (ProgramType::CgroupSock, "cgroup_sock", "4.10", "noticing pods by their first socket"),
    (ProgramType::SockOps, "sock_ops", "4.13", "following connections"),
    (ProgramType::SkLookup, "sk_lookup", "5.9", "taking connections to applications"),
    (ProgramType::RawTracePoint, "raw_tracepoint", "4.17", "noticing that Weir was killed"),
];

const MAPS: [Row<MapType>; 7] = [
    (MapType::Hash, "hash", "3.19", "services and endpoints"),
    (MapType::PerCpuHash, "percpu_hash", "4.6", "totals"),
    (MapType::PerCpuArray, "percpu_array", "4.6", "counters"),
    (MapType::LpmTrie, "lpm_trie", "4.11", "excluded networks"),
    (MapType::SockHash, "sockhash", "4.18", "liveness of listeners"),
    (MapType::SkStorage, "sk_storage", "5.2", "facts of sockets"),
    (MapType::RingBuf, "ringbuf", "5.8", "records of closed connections"),
];

const HELPERS: [(ProgramType, BpfHelper, &str, &str, &str); 9] = [
    (
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_set_retval,
        "bpf_set_retval in connect",
        "5.18",
        "ECONNREFUSED instead of EPERM",
    ),
    (
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_get_netns_cookie,
        "bpf_get_netns_cookie in connect",
        "5.7",
        "telling namespaces apart",
    ),
    (
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_get_current_ancestor_cgroup_id,
        "bpf_get_current_ancestor_cgroup_id in connect",
        "5.7",
        "scopes",
    ),
    (
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_bind,
        "bpf_bind in connect",
        "4.17",
        "keeping the application's own address",
    ),
    (
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_sk_storage_get,
        "bpf_sk_storage_get in connect",
        "5.8",
        "facts of sockets",
    ),
    (
        ProgramType::SockOps,
        BpfHelper::BPF_FUNC_sk_storage_get,
        "bpf_sk_storage_get in sock_ops",
        "5.2",
        "facts of sockets",
    ),
    (
        ProgramType::SockOps,
        BpfHelper::BPF_FUNC_skc_to_tcp_sock,
        "bpf_skc_to_tcp_sock in sock_ops",
        "5.9",
        "reasons of closed connections",
    ),
    (
        ProgramType::SockOps,
        BpfHelper::BPF_FUNC_skc_to_mptcp_sock,
        "bpf_skc_to_mptcp_sock in sock_ops",
        "5.19",
        "MPTCP",
    ),
    (
        ProgramType::RawTracePoint,
        BpfHelper::BPF_FUNC_get_ns_current_pid_tgid,
        "bpf_get_ns_current_pid_tgid in raw_tracepoint",
        "5.7",
        "noticing that Weir was killed",
    ),
];
