//! What the kernel counted, read when somebody asks.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use proxy_bpf::abi::counter::Counter;
use proxy_bpf::abi::key::TotalsKey;
use proxy_bpf::abi::map;
use proxy_bpf::abi::value::{HistogramValue, TotalsValue};
use proxy_bpf::counters;
use proxy_bpf::maps::Maps;
use proxy_core::id::Version;

/// One reading of everything that the kernel programs count.
#[derive(Clone, Debug, Default)]
pub struct KernelReading {
    /// Counters of the programs.
    pub counters: Vec<(Counter, u64)>,
    /// Totals of connections.
    pub totals: Vec<(TotalsKey, TotalsValue)>,
    /// Histograms of times; the endpoint is always 0.
    pub histograms: Vec<(TotalsKey, HistogramValue)>,
    /// How full the maps are.
    pub maps: Vec<MapFill>,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// Name of the map.
    pub name: &'static str,
    /// Entries now.
    pub entries: u64,
    /// Most entries.
    pub most: u64,
}

/// Reads the kernel, remembering what is expensive to count.
///
/// A key costs a system call (0.3 µs): the tables of 100,000 endpoints would take half of every scrape, though they change
/// with the snapshot only.
#[derive(Debug, Default)]
pub struct KernelReader {
    slots: Option<(Version, u64)>,
}

impl KernelReader {
    /// Reads everything; blocks for about a microsecond per service and endpoint in use.
    ///
    /// `version` is that of the snapshot in force.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn read(&mut self, maps: &Maps, version: Version) -> io::Result<KernelReading> {
        let totals = counters::totals(maps)?;
        let histograms = counters::histograms(maps)?;
        let slots = match self.slots {
            Some((counted, count)) if counted == version => count,
            _ => maps.slots.keys()?.len() as u64,
        };
        self.slots = Some((version, slots));
        let fill = |name, entries: usize, map: &dyn AsFd, most: u32| MapFill {
            name,
            entries: entries as u64,
            most: max_entries(map).unwrap_or_else(|| most.into()),
        };
        let maps_fill = vec![
            fill(map::ADDRESSES, maps.addresses.keys()?.len(), &maps.addresses, map::ADDRESS_MAX),
            fill(map::SERVICES, maps.services.keys()?.len(), &maps.services, map::SERVICE_MAX),
            MapFill { entries: slots, ..fill(map::SLOTS, 0, &maps.slots, map::SLOT_MAX) },
            fill(map::SCOPE_CGROUPS, maps.scope_cgroups.keys()?.len(), &maps.scope_cgroups, map::SCOPE_MAX),
            fill(map::SCOPE_NETNS, maps.scope_netns.keys()?.len(), &maps.scope_netns, map::SCOPE_MAX),
            fill(map::NETNS, maps.netns.keys()?.len(), &maps.netns, map::NETNS_MAX),
            fill(map::LISTENERS, maps.listeners.keys()?.len(), &maps.listeners, 2 * map::NETNS_MAX),
            fill(map::TOLD, maps.told.keys()?.len(), &maps.told, map::NETNS_MAX),
            fill(
                map::ORIGINAL_DST,
                maps.original_dst.keys()?.len(),
                &maps.original_dst,
                map::ORIGINAL_DST_MAX,
            ),
            fill(map::LOADS, maps.loads.keys()?.len(), &maps.loads, map::LOAD_MAX),
            fill(map::TOTALS, totals.len(), &maps.totals, map::TOTALS_MAX),
            fill(map::HISTOGRAMS, histograms.len(), &maps.histograms, map::HISTOGRAM_MAX),
        ];
        Ok(KernelReading { counters: counters::read(maps)?, totals, histograms, maps: maps_fill })
    }
}

/// Size that a map was made with, which the command line may have changed.
fn max_entries(map: &dyn AsFd) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("max_entries:")?.trim().parse().ok())
}
