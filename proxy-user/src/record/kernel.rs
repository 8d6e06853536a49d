//! What the kernel's records of connections mean here.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy_bpf::abi::counter::Counter;
use proxy_bpf::abi::map::TELL_AGAIN_NS;
use proxy_bpf::abi::record::Record;
use proxy_bpf::abi::value::{facts_flag, lane, reason};
use proxy_bpf::maps::Maps;
use proxy_core::addr::{ClientAddr, EndpointAddr, OriginalDst};
use proxy_core::id::EndpointId;
use proxy_core::outcome::Attempt;

use super::access::AccessRecord;

/// Word for a lane of the kernel.
#[must_use]
pub fn lane_name(lane: u32) -> &'static str {
    match lane {
        lane::NONE => "none",
        lane::DIRECT => "direct",
        lane::PROXY => "proxy",
        lane::UPSTREAM => "upstream",
        lane::INBOUND => "inbound",
        _ => "unknown",
    }
}

/// Word for a reason of the kernel.
#[must_use]
pub fn reason_name(reason: u32) -> &'static str {
    match reason {
        reason::OPEN => "open",
        reason::FIN => "fin",
        reason::RESET => "reset",
        reason::ABORTED => "aborted",
        reason::REFUSED => "refused",
        reason::TIMEOUT => "timeout",
        reason::UNREACHABLE => "unreachable",
        reason::ABANDONED => "abandoned",
        reason::DESTROYED => "destroyed",
        _ => "other",
    }
}

/// What a closed connection of the direct lane says about its endpoint; the proxy lane's workers tell for themselves.
#[must_use]
pub fn attempt(record: &Record) -> Option<(EndpointId, Attempt)> {
    let (facts, tcp) = (&record.facts, &record.tcp);
    if facts.lane != lane::DIRECT || facts.endpoint == 0 {
        return None;
    }
    let attempt = match tcp.reason {
        reason::REFUSED | reason::TIMEOUT | reason::UNREACHABLE if facts.established_ns == 0 => Attempt::Bad,
        reason::RESET if tcp.received_bytes == 0 => Attempt::Bad,
        _ if tcp.received_bytes > 0 => Attempt::Good,
        _ => return None,
    };
    Some((EndpointId(facts.endpoint), attempt))
}

/// Turns a closed connection into a line of the access log.
#[must_use]
pub fn access(record: &Record, service: Option<Arc<str>>) -> AccessRecord {
    let facts = &record.facts;
    AccessRecord {
        client: ClientAddr(SocketAddr::from(facts.source)),
        original_dst: OriginalDst(SocketAddr::from(facts.asked)),
        endpoint: (facts.lane != lane::NONE).then(|| EndpointAddr(SocketAddr::from(facts.real))),
        service,
        lane: lane_name(facts.lane),
        cgroup_id: facts.cgroup_id,
        sent_bytes: record.tcp.sent_bytes,
        received_bytes: record.tcp.received_bytes,
        duration: Duration::from_nanos(record.tcp.now_ns.saturating_sub(facts.opened_ns)),
        reason: reason_name(record.tcp.reason),
    }
}

/// Counters whose first increment an operator should hear of.
const ALARMS: [(Counter, &str); 7] = [
    (Counter::PassedMapFull, "connections passed untouched: the map ORIGINAL_DST is full (see --map-size)"),
    (Counter::PassedNoMemory, "connections passed untouched: the kernel has no memory for their facts"),
    (
        Counter::PassedInconsistent,
        "connections passed untouched: the kernel's maps contradict each other; please report this",
    ),
    (
        Counter::LostOriginalDst,
        "connections were redirected and then lost: the map ORIGINAL_DST is full (see --map-size)",
    ),
    (
        Counter::TotalsDropped,
        "connections are not counted: the map TOTALS or HISTOGRAMS is full (see --map-size)",
    ),
    (
        Counter::ClientNotShown,
        "applications are not shown the clients of some connections: the map ORIGINAL_DST is full (see --map-size)",
    ),
    (Counter::SourceNotKept, "connections come from another source address than without Weir: bind failed"),
];

/// Says once of each condition that it was met; the metrics tell how often.
#[derive(Debug, Default)]
pub struct Alarms {
    said: [bool; ALARMS.len()],
}

impl Alarms {
    /// Looks at the kernel's counters.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn check(&mut self, maps: &Maps) -> io::Result<()> {
        let counters = proxy_bpf::counters::read(maps)?;
        for ((alarm, text), said) in ALARMS.iter().zip(&mut self.said) {
            let count = counters.iter().find(|(counter, _)| counter == alarm).map_or(0, |(_, count)| *count);
            if count > 0 && !*said {
                *said = true;
                tracing::warn!(count, "{text}");
            }
        }
        Ok(())
    }
}

/// Removes original destinations that nobody took for so long that their connections must be dead.
///
/// # Errors
/// What bpf(2) says.
pub fn sweep_leftovers(maps: &Maps, age: Duration) -> io::Result<usize> {
    let now_ns = proxy_io::clock::monotonic_ns();
    let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
    let mut count = 0;
    for key in maps.original_dst.keys()? {
        let opened_ns = maps.original_dst.lookup(&key)?.map(|value| value.opened_ns);
        if opened_ns.is_some_and(|opened_ns| now_ns.saturating_sub(opened_ns) > age_ns) {
            count += usize::from(maps.original_dst.remove(&key)?);
        }
    }
    Ok(count)
}

/// Forgets which namespaces the programs have told of, where that holds nothing back any more: most are gone.
///
/// # Errors
/// What bpf(2) says.
pub fn sweep_told(maps: &Maps) -> io::Result<()> {
    let now_ns = proxy_io::clock::monotonic_ns();
    for cookie in maps.told.keys()? {
        let told_ns = maps.told.lookup(&cookie)?;
        if told_ns.is_some_and(|told_ns| now_ns.saturating_sub(told_ns) > TELL_AGAIN_NS) {
            maps.told.remove(&cookie)?;
        }
    }
    Ok(())
}

/// Writes the number of connections that are really open in the direct lane over what was counted.
///
/// A connection that opens or closes meanwhile may be counted wrong by one until the next time.
///
/// # Errors
/// What bpf(2) says.
pub fn recount_loads(maps: &Maps, live: &[Record]) -> io::Result<()> {
    let mut open: HashMap<u32, i64> = HashMap::new();
    for record in live.iter().filter(|record| record.facts.flags & facts_flag::LOADED != 0) {
        *open.entry(record.facts.endpoint).or_default() += 1;
    }
    for endpoint in maps.loads.keys()? {
        let counted = maps.loads.lookup(&endpoint)?;
        match open.get(&endpoint) {
            Some(count) if counted != Some(*count) => maps.loads.put(&endpoint, count)?,
            None if counted.is_some_and(|count| count != 0) => {
                maps.loads.remove(&endpoint)?;
            }
            _ => {}
        }
    }
    Ok(())
}
