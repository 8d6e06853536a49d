//! One typed handle per map.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proxy_ebpf_common::config::Settings;
use proxy_ebpf_common::key::{Addr, ListenerKey, OriginalDstKey, SlotKey, TotalsKey};
use proxy_ebpf_common::map;
use proxy_ebpf_common::value::{
    AddressValue, Facts, HistogramValue, NetnsValue, NodeListenerValue, OriginalDst, ServiceValue, SlotValue,
    TotalsValue,
};
use proxy_io::bpf::RawMap;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Elements written with one system call; a bounded piece keeps the kernel's copy buffers small.
const BATCH_LEN: usize = 4096;

/// A hash or array map, typed.
#[derive(Debug)]
pub struct Table<K, V> {
    raw: RawMap,
    types: PhantomData<(K, V)>,
}

impl<K, V> Table<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { raw: RawMap::new(fd, size_of::<K>(), size_of::<V>(), None)?, types: PhantomData })
    }

    /// Reads a value.
    ///
    /// # Errors
    /// What bpf(2) says; so for all functions here.
    pub fn lookup(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::new_zeroed();
        Ok(self.raw.lookup(key.as_bytes(), value.as_mut_bytes())?.then_some(value))
    }

    /// Reads and removes a value.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn take(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::new_zeroed();
        Ok(self.raw.take(key.as_bytes(), value.as_mut_bytes())?.then_some(value))
    }

    /// Writes a value.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn put(&self, key: &K, value: &V) -> io::Result<()> {
        self.raw.update(key.as_bytes(), value.as_bytes())
    }

    /// Writes many values, thousands per system call.
    ///
    /// # Errors
    /// What bpf(2) says; some may have been written then.
    ///
    /// # Panics
    /// If there are not as many keys as values.
    pub fn put_all(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        assert_eq!(keys.len(), values.len());
        keys.chunks(BATCH_LEN)
            .zip(values.chunks(BATCH_LEN))
            .try_for_each(|(keys, values)| self.raw.update_batch(keys.as_bytes(), values.as_bytes()))
    }

    /// Removes a key; false if it was not there.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn remove(&self, key: &K) -> io::Result<bool> {
        self.raw.delete(key.as_bytes())
    }

    /// Lists the keys. Keys that come or go meanwhile may be missed or, in a hash, seen twice.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn keys(&self) -> io::Result<Vec<K>> {
        keys(&self.raw)
    }
}

impl<K, V> AsFd for Table<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

/// A per-CPU map, typed.
#[derive(Debug)]
pub struct PerCpu<K, V> {
    raw: RawMap,
    types: PhantomData<(K, V)>,
}

impl<K, V> PerCpu<K, V>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Immutable,
{
    fn new(fd: OwnedFd, cpu_count: usize) -> io::Result<Self> {
        let raw = RawMap::new(fd, size_of::<K>(), size_of::<V>(), Some(cpu_count))?;
        Ok(Self { raw, types: PhantomData })
    }

    /// Reads the values of all CPUs.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn lookup(&self, key: &K) -> io::Result<Option<Vec<V>>> {
        let mut bytes = vec![0; self.raw.value_size()];
        if !self.raw.lookup(key.as_bytes(), &mut bytes)? {
            return Ok(None);
        }
        let stride = size_of::<V>().next_multiple_of(8);
        Ok(Some(
            bytes
                .chunks_exact(stride)
                .filter_map(|one| V::read_from_prefix(one).ok())
                .map(|(v, _)| v)
                .collect(),
        ))
    }

    /// Lists the keys.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn keys(&self) -> io::Result<Vec<K>> {
        keys(&self.raw)
    }
}

impl<K, V> AsFd for PerCpu<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

fn keys<K: FromBytes + IntoBytes + Immutable>(raw: &RawMap) -> io::Result<Vec<K>> {
    let mut found: Vec<K> = Vec::new();
    loop {
        let mut next = K::new_zeroed();
        let last = found.last().map(IntoBytes::as_bytes);
        if !raw.next_key(last, next.as_mut_bytes())? {
            return Ok(found);
        }
        found.push(next);
    }
}

/// The map of listening sockets: keys as usual, values are sockets.
#[derive(Debug)]
pub struct Listeners(RawMap);

impl Listeners {
    /// Shows a listening socket to the kernel programs; it vanishes from the map when the socket dies.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn put(&self, key: &ListenerKey, socket: BorrowedFd<'_>) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        self.0.update(key.as_bytes(), &socket.as_raw_fd().to_ne_bytes())
    }

    /// Hides a listening socket from the kernel programs.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn remove(&self, key: &ListenerKey) -> io::Result<bool> {
        self.0.delete(key.as_bytes())
    }

    /// Lists the keys of those that live.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn keys(&self) -> io::Result<Vec<ListenerKey>> {
        keys(&self.0)
    }
}

impl AsFd for Listeners {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The storage of tracked sockets.
#[derive(Debug)]
pub struct FactsMap(RawMap);

impl FactsMap {
    /// Makes the kernel follow a socket of ours: call it before connect().
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn put(&self, socket: BorrowedFd<'_>, facts: &Facts) -> io::Result<()> {
        self.0.update_socket(socket, facts.as_bytes())
    }
}

impl AsFd for FactsMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// All maps of the kernel programs.
#[derive(Debug)]
pub struct Maps {
    /// Run-time settings.
    pub settings: Table<u32, Settings>,
    /// Cgroups in scope.
    pub scope_cgroups: Table<u64, u8>,
    /// Namespaces in scope.
    pub scope_netns: Table<u64, u8>,
    /// Namespaces other than the home in which Weir listens.
    pub netns: Table<u64, NetnsValue>,
    /// When the programs last told of a namespace without listeners.
    pub told: Table<u64, u64>,
    /// Ports never touched, host order.
    pub excluded_ports: Table<u16, u8>,
    /// Networks never touched: prefix length in bits (of 128), then the address.
    pub excluded_nets: Table<[u32; 5], u8>,
    /// Addresses of services.
    pub addresses: Table<Addr, AddressValue>,
    /// Heads of services.
    pub services: Table<u32, ServiceValue>,
    /// Tables of services.
    pub slots: Table<SlotKey, SlotValue>,
    /// Live listeners of the proxy lane.
    pub listeners: Listeners,
    /// Node listeners that namespaces without listeners are sent to, by family.
    pub node_listeners: Table<u32, NodeListenerValue>,
    /// Signs of life of the workers.
    pub heartbeats: Table<u32, u64>,
    /// Original destinations of redirected connections.
    pub original_dst: Table<OriginalDstKey, OriginalDst>,
    /// Facts of tracked sockets.
    pub facts: FactsMap,
    /// Direct-lane connections per endpoint.
    pub loads: Table<u32, i64>,
    /// Totals of connections.
    pub totals: PerCpu<TotalsKey, TotalsValue>,
    /// Histograms of times.
    pub histograms: PerCpu<TotalsKey, HistogramValue>,
    /// Counters, indexed by [`Counter`](proxy_ebpf_common::counter::Counter).
    pub counters: PerCpu<u32, u64>,
}

impl Maps {
    /// Wraps the maps that `open` gives by name.
    ///
    /// # Errors
    /// `NotFound` if one is missing, `InvalidInput` if one has other sizes than the ABI crate says.
    pub fn new(mut open: impl FnMut(&str) -> io::Result<OwnedFd>, cpu_count: usize) -> io::Result<Self> {
        Ok(Self {
            settings: Table::new(open(map::SETTINGS)?)?,
            scope_cgroups: Table::new(open(map::SCOPE_CGROUPS)?)?,
            scope_netns: Table::new(open(map::SCOPE_NETNS)?)?,
            netns: Table::new(open(map::NETNS)?)?,
            told: Table::new(open(map::TOLD)?)?,
            excluded_ports: Table::new(open(map::EXCLUDED_PORTS)?)?,
            excluded_nets: Table::new(open(map::EXCLUDED_NETS)?)?,
            addresses: Table::new(open(map::ADDRESSES)?)?,
            services: Table::new(open(map::SERVICES)?)?,
            slots: Table::new(open(map::SLOTS)?)?,
            listeners: Listeners(RawMap::new(open(map::LISTENERS)?, size_of::<ListenerKey>(), 4, None)?),
            node_listeners: Table::new(open(map::NODE_LISTENERS)?)?,
            heartbeats: Table::new(open(map::HEARTBEATS)?)?,
            original_dst: Table::new(open(map::ORIGINAL_DST)?)?,
            facts: FactsMap(RawMap::new(open(map::FACTS)?, 4, size_of::<Facts>(), None)?),
            loads: Table::new(open(map::LOADS)?)?,
            totals: PerCpu::new(open(map::TOTALS)?, cpu_count)?,
            histograms: PerCpu::new(open(map::HISTOGRAMS)?, cpu_count)?,
            counters: PerCpu::new(open(map::COUNTERS)?, cpu_count)?,
        })
    }
}
