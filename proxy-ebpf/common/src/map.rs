//! Names of maps and programs, and the sizes of maps where both sides need them.

/// Settings; array of one [`Settings`](crate::config::Settings).
pub const SETTINGS: &str = "SETTINGS";
/// Cgroup id -> 1.
pub const SCOPE_CGROUPS: &str = "SCOPE_CGROUPS";
/// Cookie of a network namespace -> 1.
pub const SCOPE_NETNS: &str = "SCOPE_NETNS";
/// Cookie of a network namespace in which Weir listens -> [`NetnsValue`](crate::value::NetnsValue).
pub const NETNS: &str = "NETNS";
/// Port (host order) -> 1.
pub const EXCLUDED_PORTS: &str = "EXCLUDED_PORTS";
/// Network -> 1.
pub const EXCLUDED_NETS: &str = "EXCLUDED_NETS";
/// Service address -> [`AddressValue`](crate::value::AddressValue).
pub const ADDRESSES: &str = "ADDRESSES";
/// Service -> [`ServiceValue`](crate::value::ServiceValue).
pub const SERVICES: &str = "SERVICES";
/// [`SlotKey`](crate::key::SlotKey) -> [`SlotValue`](crate::value::SlotValue).
pub const SLOTS: &str = "SLOTS";
/// [`ListenerKey`](crate::key::ListenerKey) -> socket.
pub const LISTENERS: &str = "LISTENERS";
/// Family -> [`NodeListenerValue`](crate::value::NodeListenerValue), where namespaces without listeners reach it.
pub const NODE_LISTENERS: &str = "NODE_LISTENERS";
/// [`OriginalDstKey`](crate::key::OriginalDstKey) -> [`OriginalDst`](crate::value::OriginalDst).
pub const ORIGINAL_DST: &str = "ORIGINAL_DST";
/// Worker -> its last sign of life, in nanoseconds of CLOCK_MONOTONIC; array.
pub const HEARTBEATS: &str = "HEARTBEATS";
/// Socket -> [`Facts`](crate::value::Facts).
pub const FACTS: &str = "FACTS";
/// Endpoint -> open connections in the direct lane.
pub const LOADS: &str = "LOADS";
/// [`TotalsKey`](crate::key::TotalsKey) -> [`TotalsValue`](crate::value::TotalsValue), per CPU.
pub const TOTALS: &str = "TOTALS";
/// [`TotalsKey`](crate::key::TotalsKey) with endpoint 0 -> [`HistogramValue`](crate::value::HistogramValue), per CPU.
pub const HISTOGRAMS: &str = "HISTOGRAMS";
/// [`Counter`](crate::counter::Counter) -> count, per CPU.
pub const COUNTERS: &str = "COUNTERS";
/// Ring buffer of [`Record`](crate::record::Record)s of closed connections.
pub const RECORDS: &str = "RECORDS";
/// Port (host order) -> [`InboundValue`](crate::value::InboundValue); one for each network namespace.
pub const INBOUND: &str = "INBOUND";
/// Ring buffer of [`Newcomer`](crate::newcomer::Newcomer)s.
pub const NEWCOMERS: &str = "NEWCOMERS";
/// Cookie of a namespace -> when it was last told of, in nanoseconds of CLOCK_MONOTONIC.
pub const TOLD: &str = "TOLD";

/// Every map with its name, for outputs that list them.
pub const ALL: [&str; 21] = [
    SETTINGS,
    SCOPE_CGROUPS,
    SCOPE_NETNS,
    NETNS,
    EXCLUDED_PORTS,
    EXCLUDED_NETS,
    ADDRESSES,
    SERVICES,
    SLOTS,
    LISTENERS,
    NODE_LISTENERS,
    HEARTBEATS,
    ORIGINAL_DST,
    FACTS,
    LOADS,
    TOTALS,
    HISTOGRAMS,
    COUNTERS,
    RECORDS,
    NEWCOMERS,
    TOLD,
];

/// Most scopes of each kind.
pub const SCOPE_MAX: u32 = 4096;
/// Most namespaces in which Weir listens: twenty times the pods of a large node.
pub const NETNS_MAX: u32 = 4096;
/// Most ports of one namespace whose connections are taken; a pod has a handful.
pub const INBOUND_MAX: u32 = 256;
/// Bytes of the ring buffer of newcomers: a thousand pods at once.
pub const NEWCOMERS_BYTES: u32 = 32 << 10;
/// Time before a namespace is told of again.
pub const TELL_AGAIN_NS: u64 = 1_000_000_000;
/// Most excluded ports.
pub const EXCLUDED_PORT_MAX: u32 = 1024;
/// Most excluded networks.
pub const EXCLUDED_NET_MAX: u32 = 1024;
/// Most service addresses: the 100,000 services of a large cluster, twice (dual stack), rounded up.
pub const ADDRESS_MAX: u32 = 262_144;
/// Most services.
pub const SERVICE_MAX: u32 = 131_072;
/// Most slots: 100,000 endpoints, two generations, and room for Maglev tables.
pub const SLOT_MAX: u32 = 1_048_576;
/// Most redirected connections between their SYN and their accept, or their sweep.
pub const ORIGINAL_DST_MAX: u32 = 65_536;
/// Most endpoints with open connections in the direct lane.
pub const LOAD_MAX: u32 = 262_144;
/// Most combinations of service, endpoint and lane that are counted.
pub const TOTALS_MAX: u32 = 262_144;
/// Most combinations of service and lane with histograms.
pub const HISTOGRAM_MAX: u32 = 65_536;
/// Bytes of the ring buffer: 1 MiB holds about 5,700 closed connections.
pub const RECORDS_BYTES: u32 = 1 << 20;
