//! Every metric, declared once: name, help, labels, and where its value comes from.
//!
//! Connections of the lanes `none`, `direct` and `upstream` are counted by the kernel; those of the lanes `proxy` and
//! `inbound` by the workers, who also know the connections of explicit listeners and why they ended. Times and retransmits of all lanes
//! are the kernel's.

mod application;
mod http;
mod overload;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;
use proxy_bpf::abi::counter::Counter;
use proxy_bpf::abi::key::TotalsKey;
use proxy_bpf::abi::value::{HistogramValue, TotalsValue, lane};
use proxy_core::health::EndpointReport;
use proxy_core::id::{EndpointId, ServiceId, Version};
use proxy_core::load::adaptive::AdaptiveReading;
use proxy_core::outcome::Reason;
use proxy_io::DriverCounters;

use super::application::ApplicationsReading;
use super::carried::Values;
use super::conn::ServiceStats;
use super::http::HttpReading;
use super::kernel::KernelReading;
use super::label::{self, MOST_ENDPOINTS, Names};
use super::overload::OverloadReading;
use super::process::ProcessReading;
use super::table::{Histogram, Table};
use crate::record::kernel::{lane_name, reason_name};

/// Everything that one scrape shows.
#[derive(Debug)]
pub struct Reading {
    /// Names of services in force, and of endpoints if they are few enough.
    pub names: Names,
    /// What the kernel counted.
    pub kernel: KernelReading,
    /// What the workers counted; `None` is what belongs to no service.
    pub proxied: Vec<(Option<ServiceId>, Arc<ServiceStats>)>,
    /// Those of them that are ports of applications.
    pub inbound: HashSet<ServiceId>,
    /// What they counted of HTTP.
    pub http: HttpReading,
    /// Limits that follow services: where each stands, and what is under way.
    pub adaptive: Vec<(ServiceId, AdaptiveReading, u32)>,
    /// What applications have done.
    pub applications: ApplicationsReading,
    /// Health of every endpoint.
    pub health: Vec<EndpointReport>,
    /// What processes before this one have counted of it.
    pub carried_health: Vec<(ServiceId, Values)>,
    /// What each worker's driver says of itself.
    pub drivers: Vec<DriverCounters>,
    /// Pods that the config chooses among.
    pub pods: PodsReading,
    /// Where configuration stands.
    pub config: ConfigReading,
    /// Whether the process takes connections.
    pub is_ready: bool,
    /// Whether the control task has been silent for too long.
    pub is_control_hung: bool,
    /// How often each worker has failed and begun again.
    pub restarts: Vec<u64>,
    /// Bugs that were caught.
    pub panics: u64,
    /// Proxied connections that descriptors allow: now and at most.
    pub descriptors: (u64, u64),
    /// How full it is, and what was done about it.
    pub overload: OverloadReading,
    /// Records that the access log lost.
    pub access_log_dropped: u64,
    /// Connections that were taken over from an older process, and the longest time that one stood still for it.
    pub moved: (u64, Duration),
    /// Certificates in force.
    pub tls: TlsReading,
    /// What the process uses.
    pub process: ProcessReading,
}

/// Files of certificates and keys; as many as the config names.
#[derive(Clone, Debug, Default)]
pub struct TlsReading {
    /// File of each chain, and when it ends, in seconds since 1970.
    pub certificates: Vec<(String, i64)>,
    /// Files that can no longer be used, while what was read from them before stays in force.
    pub bad_files: BTreeSet<String>,
}

/// Pods of this node, and the kubelet's word for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct PodsReading {
    /// Pods that the config means, those that it does not mean, and those of which not enough is known; if it chooses.
    pub counts: Option<[u64; 3]>,
    /// Answers of the kubelet.
    pub answers: u64,
    /// Questions that it did not answer.
    pub failures: u64,
    /// Whether new namespaces are sent to the node listener of each family that is open: IPv4, IPv6.
    pub node_listeners: [Option<bool>; 2],
}

/// Where configuration stands.
#[derive(Clone, Copy, Debug)]
pub struct ConfigReading {
    /// Version that the last accepted change wanted.
    pub wanted: Version,
    /// Version in force.
    pub applied: Version,
    /// Reloads that succeeded.
    pub reloads: u64,
    /// Reloads that failed.
    pub failures: u64,
    /// Whether the last reload succeeded, or there was none.
    pub is_last_good: bool,
}

/// Prints a reading in the OpenMetrics text format.
#[must_use]
pub fn render(reading: Reading) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(reading));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("a String takes every byte");
    text
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut table = Table::new(encoder);
        self.connections(&mut table)?;
        self.http(&mut table)?;
        self.applications(&mut table)?;
        self.times(&mut table)?;
        self.endpoints(&mut table)?;
        self.interception(&mut table)?;
        self.pods(&mut table)?;
        self.configuration(&mut table)?;
        self.certificates(&mut table)?;
        self.drivers(&mut table)?;
        self.failures(&mut table)?;
        self.overload(&mut table)?;
        self.process(&mut table)
    }
}

/// Figures of connections, wherever they were counted.
#[derive(Default)]
struct Flow {
    opened: u64,
    active: u64,
    closed: BTreeMap<&'static str, u64>,
    sent_bytes: u64,
    received_bytes: u64,
}

impl Flow {
    fn add_kernel(&mut self, totals: &TotalsValue) {
        self.opened += totals.opened;
        self.active += active(totals);
        for (reason, count) in (0..).zip(totals.closed).filter(|(_, count)| *count > 0) {
            *self.closed.entry(reason_name(reason)).or_default() += count;
        }
        self.sent_bytes += totals.sent_bytes;
        self.received_bytes += totals.received_bytes;
    }

    fn add_worker(&mut self, stats: &ServiceStats) {
        let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        self.opened += read(&stats.opened);
        self.active += stats.active();
        for (reason, count) in Reason::ALL.iter().zip(&stats.closed) {
            if read(count) > 0 {
                *self.closed.entry(reason.as_str()).or_default() += read(count);
            }
        }
        self.sent_bytes += read(&stats.sent_bytes);
        self.received_bytes += read(&stats.received_bytes);
    }
}

/// Open connections; CPUs are read one after the other, so for an instant more may have ended than begun.
fn active(totals: &TotalsValue) -> u64 {
    totals.opened.saturating_sub(totals.closed.iter().sum())
}

impl Reading {
    fn connections(&self, table: &mut Table<'_>) -> fmt::Result {
        let mut flows: BTreeMap<[&str; 2], Flow> = BTreeMap::new();
        for (key, totals) in self.shown_totals().filter(|(key, _)| key.lane != lane::PROXY) {
            let labels = [self.names.service(ServiceId(key.service)), lane_name(key.lane)];
            flows.entry(labels).or_default().add_kernel(totals);
        }
        for (id, stats) in &self.proxied {
            if id.is_none_or(|id| self.names.knows(id) || stats.active() > 0) {
                let lane = if id.is_some_and(|id| self.inbound.contains(&id)) { "inbound" } else { "proxy" };
                let labels = [id.map_or(label::UNKNOWN, |id| self.names.service(id)), lane];
                flows.entry(labels).or_default().add_worker(stats);
            }
        }
        let of = |figure: fn(&Flow) -> u64| flows.iter().map(move |(labels, flow)| (*labels, figure(flow)));
        let keys = ["service", "lane"];
        let (name, help) = ("weir_connections_opened", "Connections that began");
        table.counter(name, help, keys, of(|flow| flow.opened))?;
        let reasons = flows.iter().flat_map(|([service, lane], flow)| {
            flow.closed.iter().map(|(reason, count)| ([*service, *lane, *reason], *count))
        });
        let (name, help) = ("weir_connections_closed", "Connections that ended, by reason");
        table.counter(name, help, ["service", "lane", "reason"], reasons)?;
        table.gauge("weir_connections_active", "Connections open now", keys, of(|flow| flow.active))?;
        let (name, help) =
            ("weir_bytes_sent", "Bytes from clients to servers; in the lane direct, over closed connections");
        table.counter(name, help, keys, of(|flow| flow.sent_bytes))?;
        let (name, help) = (
            "weir_bytes_received",
            "Bytes from servers to clients; in the lane direct, over closed connections",
        );
        table.counter(name, help, keys, of(|flow| flow.received_bytes))?;
        self.attempts(table)
    }

    fn attempts(&self, table: &mut Table<'_>) -> fmt::Result {
        let shown = || {
            let known = self.proxied.iter().filter_map(|(id, stats)| Some(((*id)?, stats)));
            known.filter(|(id, _)| self.names.knows(*id))
        };
        let failures = shown().map(|(id, stats)| ([self.names.service(id)], &stats.connect_failures));
        let (name, help) = ("weir_connect_failures", "Attempts to connect to an endpoint that failed");
        table.counter(name, help, ["service"], failures.map(|(l, c)| (l, c.load(Ordering::Relaxed))))?;
        let retried = shown().map(|(id, stats)| ([self.names.service(id)], &stats.retried));
        let (name, help) =
            ("weir_connect_retries", "Connections given to another endpoint after a failed attempt");
        table.counter(name, help, ["service"], retried.map(|(l, c)| (l, c.load(Ordering::Relaxed))))
    }

    /// Totals of what is in force or still open; the others were idle for so long that they have left the config.
    fn shown_totals(&self) -> impl Iterator<Item = (&TotalsKey, &TotalsValue)> {
        let is_shown = |key: &TotalsKey, totals: &TotalsValue| {
            key.service == 0 || self.names.knows(ServiceId(key.service)) || active(totals) > 0
        };
        self.kernel.totals.iter().map(|(key, totals)| (key, totals)).filter(move |(k, t)| is_shown(k, t))
    }

    fn times(&self, table: &mut Table<'_>) -> fmt::Result {
        let mut retransmits: BTreeMap<[&str; 2], u64> = BTreeMap::new();
        for (key, totals) in self.shown_totals() {
            let labels = [self.names.service(ServiceId(key.service)), lane_name(key.lane)];
            *retransmits.entry(labels).or_default() += totals.retransmits;
        }
        let (name, help) = ("weir_retransmits", "TCP segments sent again, over closed connections");
        table.counter(name, help, ["service", "lane"], retransmits)?;
        let mut times: BTreeMap<[&str; 2], (Histogram, Histogram)> = BTreeMap::new();
        let is_shown = |key: &TotalsKey| key.service == 0 || self.names.knows(ServiceId(key.service));
        for (key, HistogramValue { connect, connect_us, rtt, rtt_us }) in &self.kernel.histograms {
            if is_shown(key) {
                let labels = [self.names.service(ServiceId(key.service)), lane_name(key.lane)];
                let entry = times.entry(labels).or_default();
                entry.0.add(connect, *connect_us);
                entry.1.add(rtt, *rtt_us);
            }
        }
        let (name, help) = ("weir_connect_duration", "Time from connect() to the complete handshake");
        table.seconds_histogram(name, help, ["service", "lane"], times.iter().map(|(l, t)| (*l, &t.0)))?;
        let (name, help) = ("weir_rtt", "Smoothed round-trip time of connections at their close");
        table.seconds_histogram(name, help, ["service", "lane"], times.iter().map(|(l, t)| (*l, &t.1)))
    }

    fn endpoints(&self, table: &mut Table<'_>) -> fmt::Result {
        let mut states: BTreeMap<[&str; 2], u64> = BTreeMap::new();
        let mut checks: BTreeMap<[&str; 2], u64> = BTreeMap::new();
        let mut ejections: BTreeMap<[&str; 1], u64> = BTreeMap::new();
        for report in &self.health {
            let service = self.names.service(report.service);
            *states.entry([service, label::state(report.state)]).or_default() += 1;
            *ejections.entry([service]).or_default() += report.ejections_total;
            let good = report.checks_total.saturating_sub(report.failures_total);
            for (result, count) in [("good", good), ("bad", report.failures_total)] {
                if report.checks_total > 0 {
                    *checks.entry([service, result]).or_default() += count;
                }
            }
        }
        for (service, values) in self.carried_health.iter().filter(|(id, _)| self.names.knows(*id)) {
            let service = self.names.service(*service);
            let [all, bad, ejected] =
                ["checks", "failures", "ejections"].map(|name| values.get(name).copied().unwrap_or(0));
            *ejections.entry([service]).or_default() += ejected;
            if all > 0 {
                *checks.entry([service, "good"]).or_default() += all.saturating_sub(bad);
                *checks.entry([service, "bad"]).or_default() += bad;
            }
        }
        table.gauge("weir_endpoints", "Endpoints by state of health", ["service", "state"], states)?;
        let (name, help) = ("weir_endpoint_ejections", "Ejections of endpoints after failed connections");
        table.counter(name, help, ["service"], ejections)?;
        table.counter("weir_health_checks", "Active health checks", ["service", "result"], checks)?;
        self.single_endpoints(table)
    }

    /// Series of single endpoints, as long as they are few enough to be looked at.
    fn single_endpoints(&self, table: &mut Table<'_>) -> fmt::Result {
        let is_shown = self.health.len() <= MOST_ENDPOINTS;
        let left_out = if is_shown { 0 } else { self.health.len() as u64 };
        let (name, help) =
            ("weir_series_dropped", "Endpoints without series of their own: the node has too many");
        table.gauge(name, help, [], [([], left_out)])?;
        if !is_shown {
            return Ok(());
        }
        let healthy = self.health.iter().filter_map(|report| {
            let labels = [self.names.service(report.service), self.names.endpoint(report.endpoint)?];
            Some((labels, u64::from(label::state(report.state) == "healthy")))
        });
        let (name, help) = ("weir_endpoint_healthy", "Whether an endpoint is believed to serve");
        table.gauge(name, help, ["service", "endpoint"], healthy)?;
        let mut flows: BTreeMap<[&str; 3], (u64, u64)> = BTreeMap::new();
        for (key, totals) in self.shown_totals() {
            if let Some(endpoint) = self.names.endpoint(EndpointId(key.endpoint)) {
                let labels = [self.names.service(ServiceId(key.service)), endpoint, lane_name(key.lane)];
                let flow = flows.entry(labels).or_default();
                *flow = (flow.0 + totals.opened, flow.1 + active(totals));
            }
        }
        let keys = ["service", "endpoint", "lane"];
        let (name, help) =
            ("weir_endpoint_connections_opened", "Connections that were opened to an endpoint");
        table.counter(name, help, keys, flows.iter().map(|(labels, flow)| (*labels, flow.0)))?;
        let (name, help) = ("weir_endpoint_connections_active", "Connections open to an endpoint now");
        table.gauge(name, help, keys, flows.iter().map(|(labels, flow)| (*labels, flow.1)))
    }

    fn interception(&self, table: &mut Table<'_>) -> fmt::Result {
        let rows = |wanted: bool| {
            let of_kind = move |(counter, _): &&(Counter, u64)| is_verdict(*counter) == wanted;
            self.kernel.counters.iter().filter(of_kind).map(|(counter, count)| ([counter.as_str()], *count))
        };
        let (name, help) =
            ("weir_kernel_verdicts", "Connections that the kernel programs looked at, by what they did");
        table.counter(name, help, ["verdict"], rows(true))?;
        let (name, help) = ("weir_kernel_losses", "What the kernel programs could not keep or record");
        table.counter(name, help, ["what"], rows(false))?;
        let fill = || self.kernel.maps.iter();
        let (name, help) = ("weir_map_entries", "Entries of the kernel programs' maps");
        table.gauge(name, help, ["map"], fill().map(|map| ([map.name], map.entries)))?;
        let (name, help) = ("weir_map_max_entries", "Most entries of the kernel programs' maps");
        table.gauge(name, help, ["map"], fill().map(|map| ([map.name], map.most)))
    }

    fn pods(&self, table: &mut Table<'_>) -> fmt::Result {
        let PodsReading { counts, answers, failures, node_listeners } = self.pods;
        let states = [["chosen"], ["other"], ["unknown"]];
        let pods = counts.into_iter().flat_map(|counts| states.into_iter().zip(counts));
        let (name, help) = ("weir_pods", "Pods of this node, by whether the config means them");
        table.gauge(name, help, ["state"], pods)?;
        let results = [(["good"], answers), (["bad"], failures)].into_iter().filter(|(_, count)| *count > 0);
        table.counter("weir_kubelet_requests", "Questions to the kubelet", ["result"], results)?;
        let open = [["ipv4"], ["ipv6"]].into_iter().zip(node_listeners);
        let reached = open.filter_map(|(family, is_reached)| Some((family, u64::from(is_reached?))));
        let (name, help) = (
            "weir_node_listener_reached",
            "Whether the first connections of new namespaces go to the node listener",
        );
        table.gauge(name, help, ["family"], reached)
    }

    fn configuration(&self, table: &mut Table<'_>) -> fmt::Result {
        let ConfigReading { wanted, applied, reloads, failures, is_last_good } = self.config;
        let versions = [(["wanted"], wanted.0), (["applied"], applied.0)];
        table.gauge("weir_config_version", "Version of the snapshot", ["state"], versions)?;
        table.counter("weir_config_reloads", "Reloads that succeeded", [], [([], reloads)])?;
        let (name, help) =
            ("weir_config_reload_failures", "Reloads that failed; the running config stayed in force");
        table.counter(name, help, [], [([], failures)])?;
        let (name, help) = ("weir_config_last_reload_successful", "Whether the last reload succeeded");
        table.gauge(name, help, [], [([], u64::from(is_last_good))])?;
        let (name, help) = ("weir_ready", "Whether everything is in force and connections are taken");
        table.gauge(name, help, [], [([], u64::from(self.is_ready))])?;
        let version = [([env!("CARGO_PKG_VERSION")], 1)];
        table.gauge("weir_build_info", "Version of this program", ["version"], version)
    }

    fn certificates(&self, table: &mut Table<'_>) -> fmt::Result {
        let TlsReading { certificates, bad_files } = &self.tls;
        let ends = certificates.iter().map(|(file, end)| ([file.as_str()], u64::try_from(*end).unwrap_or(0)));
        let (name, help) =
            ("weir_tls_certificate_expiry_seconds", "When the first certificate of a chain ends, since 1970");
        table.gauge(name, help, ["file"], ends)?;
        let (name, help) =
            ("weir_tls_file_bad", "Files that cannot be used; what they held before stays in force");
        table.gauge(name, help, ["file"], bad_files.iter().map(|file| ([file.as_str()], 1)))
    }

    fn drivers(&self, table: &mut Table<'_>) -> fmt::Result {
        let workers: Vec<String> = (0..self.drivers.len()).map(|index| index.to_string()).collect();
        let of = |figure: fn(&DriverCounters) -> u64| {
            workers.iter().zip(&self.drivers).map(move |(worker, one)| ([worker.as_str()], figure(one)))
        };
        let keys = ["worker"];
        table.gauge("weir_driver_sockets", "Sockets on a worker", keys, of(|d| d.sockets))?;
        table.gauge("weir_driver_buffers", "Receive buffers of a worker", keys, of(|d| d.buffers))?;
        let (name, help) = ("weir_driver_buffers_leased", "Receive buffers on loan");
        table.gauge(name, help, keys, of(|d| d.buffers_leased))?;
        let (name, help) = ("weir_driver_starvations", "How often a socket found no receive buffer");
        table.counter(name, help, keys, of(|d| d.starvations))?;
        let (name, help) =
            ("weir_driver_held_bytes", "Bytes held because their receiver is slower than their sender");
        table.gauge(name, help, keys, of(|d| d.held_bytes))?;
        let (name, help) = ("weir_driver_submissions", "Operations handed to the kernel");
        table.counter(name, help, keys, of(|d| d.submissions))?;
        let (name, help) = ("weir_driver_completions", "Operations that the kernel answered");
        table.counter(name, help, keys, of(|d| d.completions))?;
        table.counter("weir_driver_enters", "Calls of io_uring_enter", keys, of(|d| d.enters))
    }

    fn failures(&self, table: &mut Table<'_>) -> fmt::Result {
        let workers: Vec<String> = (0..self.restarts.len()).map(|index| index.to_string()).collect();
        let restarts = workers.iter().zip(&self.restarts).map(|(worker, count)| ([worker.as_str()], *count));
        let (name, help) = ("weir_worker_restarts", "How often a worker has failed and begun again");
        table.counter(name, help, ["worker"], restarts)?;
        table.counter("weir_panics", "Bugs of Weir that were caught", [], [([], self.panics)])?;
        let (name, help) =
            ("weir_control_hung", "Whether the control task is silent: config and health stay as they were");
        table.gauge(name, help, [], [([], u64::from(self.is_control_hung))])
    }

    fn process(&self, table: &mut Table<'_>) -> fmt::Result {
        let (open, most) = self.descriptors;
        let (name, help) =
            ("weir_proxied_connections_max", "Proxied connections that RLIMIT_NOFILE has room for");
        table.gauge(name, help, [], [([], most)])?;
        let (name, help) = ("weir_proxied_connections", "Proxied connections that hold descriptors now");
        table.gauge(name, help, [], [([], open)])?;
        let (name, help) = ("weir_access_log_dropped", "Connections and requests that the access log lost");
        table.counter(name, help, [], [([], self.access_log_dropped)])?;
        let (moved, pause) = self.moved;
        let (name, help) =
            ("weir_takeover_connections", "Connections that this process has taken over from an older one");
        table.gauge(name, help, [], [([], moved)])?;
        let (name, help) =
            ("weir_takeover_pause_seconds", "Longest time that one of them stood still to be taken over");
        table.seconds_gauge(name, help, pause.as_secs_f64())?;
        let ProcessReading { resident_bytes, cpu_seconds, open_fds, max_fds, start_seconds } = self.process;
        let (name, help) = ("process_resident_memory_bytes", "Memory in RAM");
        table.gauge(name, help, [], [([], resident_bytes)])?;
        table.seconds_counter("process_cpu_seconds", "Time on CPUs, user and system", cpu_seconds)?;
        table.gauge("process_open_fds", "Open descriptors", [], [([], open_fds)])?;
        table.gauge("process_max_fds", "Most open descriptors", [], [([], max_fds)])?;
        table.seconds_gauge("process_start_time_seconds", "Begin of the process since 1970", start_seconds)
    }
}

/// Tells a verdict on a connection from a loss beside it.
fn is_verdict(counter: Counter) -> bool {
    match counter {
        Counter::Direct
        | Counter::Proxy
        | Counter::Node
        | Counter::Untouched
        | Counter::Excluded
        | Counter::PassedBoundToDevice
        | Counter::FailOpen
        | Counter::RefusedNoEndpoint
        | Counter::RefusedFailClosed
        | Counter::PassedMapFull
        | Counter::PassedNoMemory
        | Counter::PassedInconsistent => true,
        Counter::LostOriginalDst
        | Counter::RecordsDropped
        | Counter::TotalsDropped
        | Counter::SourceNotKept
        | Counter::ClientNotShown => false,
    }
}

#[cfg(test)]
mod tests;
