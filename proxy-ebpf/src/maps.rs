//! Every map. Sizes and their reasons are in `proxy_ebpf_common::map`, where userspace needs them too.
//!
//! Hash maps are not preallocated unless the packet path inserts into them: a small node should not pay for a large one.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SockHash};
use proxy_ebpf_common::config::{LISTENER_COUNT_MAX, Settings, WORKER_MAX};
use proxy_ebpf_common::counter::COUNTER_COUNT;
use proxy_ebpf_common::key::{Addr, ExcludedNet, ListenerKey, OriginalDstKey, SlotKey, TotalsKey};
use proxy_ebpf_common::map;
use proxy_ebpf_common::value::{
    AddressValue, Facts, HistogramValue, InboundValue, NetnsValue, NodeListenerValue, OriginalDst,
    ServiceValue, SlotValue, TotalsValue,
};

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
pub static SCOPE_CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(map::SCOPE_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static SCOPE_NETNS: HashMap<u64, u8> = HashMap::with_max_entries(map::SCOPE_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static NETNS: HashMap<u64, NetnsValue> = HashMap::with_max_entries(map::NETNS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static EXCLUDED_PORTS: HashMap<u16, u8> =
    HashMap::with_max_entries(map::EXCLUDED_PORT_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static EXCLUDED_NETS: LpmTrie<ExcludedNet, u8> = LpmTrie::with_max_entries(map::EXCLUDED_NET_MAX, 0);
#[map]
pub static ADDRESSES: HashMap<Addr, AddressValue> =
    HashMap::with_max_entries(map::ADDRESS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static SERVICES: HashMap<u32, ServiceValue> =
    HashMap::with_max_entries(map::SERVICE_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static SLOTS: HashMap<SlotKey, SlotValue> = HashMap::with_max_entries(map::SLOT_MAX, BPF_F_NO_PREALLOC);
/// Room for Weir's own namespace, both families of all others, and the node listeners.
#[map]
pub static LISTENERS: SockHash<ListenerKey> =
    SockHash::with_max_entries(2 * (LISTENER_COUNT_MAX + map::NETNS_MAX + 1), 0);
/// One for each family.
#[map]
pub static NODE_LISTENERS: HashMap<u32, NodeListenerValue> = HashMap::with_max_entries(2, BPF_F_NO_PREALLOC);
#[map]
pub static HEARTBEATS: Array<u64> = Array::with_max_entries(WORKER_MAX, 0);
/// A plain hash, not LRU: an entry may only go when its connection was accepted or is known to be dead.
#[map]
pub static ORIGINAL_DST: HashMap<OriginalDstKey, OriginalDst> =
    HashMap::with_max_entries(map::ORIGINAL_DST_MAX, 0);
#[btf_map]
pub static FACTS: SkStorage<Facts> = SkStorage::new();
#[map]
pub static LOADS: HashMap<u32, i64> = HashMap::with_max_entries(map::LOAD_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static TOTALS: PerCpuHashMap<TotalsKey, TotalsValue> =
    PerCpuHashMap::with_max_entries(map::TOTALS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static HISTOGRAMS: PerCpuHashMap<TotalsKey, HistogramValue> =
    PerCpuHashMap::with_max_entries(map::HISTOGRAM_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static ZERO_HISTOGRAM: Array<HistogramValue> = Array::with_max_entries(1, 0);
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);
/// Stands for a map of the same shape that each namespace with such ports has: userspace puts that one in its place in the
/// program of the namespace.
#[map]
pub static INBOUND: HashMap<u16, InboundValue> =
    HashMap::with_max_entries(map::INBOUND_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static NEWCOMERS: RingBuf = RingBuf::with_byte_size(map::NEWCOMERS_BYTES, 0);
/// An evicted entry costs one more event.
#[map]
pub static TOLD: LruHashMap<u64, u64> = LruHashMap::with_max_entries(map::NETNS_MAX, 0);
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(map::RECORDS_BYTES, 0);
