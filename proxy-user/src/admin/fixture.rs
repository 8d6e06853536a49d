//! A node that exists in tests only: fixed answers, and a note of what was asked of it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use proxy_bpf::abi::counter::Counter;
use proxy_bpf::abi::record::{Record, Tcp};
use proxy_bpf::abi::value::{Facts, lane};
use proxy_core::health::EndpointReport;
use proxy_core::id::{EndpointId, Registry, Version};
use proxy_core::snapshot::Snapshot;
use proxy_io::{DriverCounters, DriverKind};

use super::connections::{self, ConnectionsPage, Filter};
use super::source::Source;
use crate::connection::{Peers, Shared};
use crate::control::{Names, Phase, Pulse, Status};
use crate::pods::PodsStatus;
use crate::record::cgroup::Application;
use crate::record::pod::PodName;
use crate::stats::kernel::{KernelReader, KernelReading};

const CONFIG: &str = r#"
listeners: [{address: "127.0.0.1:15432", service: shop/db}]
intercept: {scopes: [{cgroup: /app.slice}], exclude: {ports: [53]}}
services:
  - name: shop/web
    addresses: ["10.96.0.10:80"]
    endpoints: [{address: "10.1.0.5:8080", weight: 2}, {address: "10.1.0.6:8080"}]
    health: {interval: 2s, tcp: {}}
  - name: shop/db
    addresses: ["10.96.0.11:5432", "[fd00::10]:5432"]
    endpoints: [{address: "10.1.0.9:5432", zone: a}]
    balance: {policy: round_robin}
"#;

/// What a test puts in the place of the control handle.
#[derive(Clone)]
pub(super) struct FakeNode(Arc<Inner>);

struct Inner {
    snapshot: Arc<Snapshot>,
    names: Arc<Names>,
    shared: Shared,
    phase: Mutex<Phase>,
    reload_answer: Mutex<Result<Version, String>>,
    drains: AtomicU32,
}

impl FakeNode {
    pub(super) fn new() -> Self {
        let (snapshot, names) = built();
        Self(Arc::new(Inner {
            snapshot: Arc::new(snapshot),
            names: Arc::new(names),
            shared: Shared::alone(Peers::new(1).0),
            phase: Mutex::new(Phase::Ready),
            reload_answer: Mutex::new(Ok(Version(4))),
            drains: AtomicU32::new(0),
        }))
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    pub(super) fn set_reload_answer(&self, answer: Result<Version, String>) {
        *self.0.reload_answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    pub(super) fn drain_count(&self) -> u32 {
        self.0.drains.load(Ordering::Relaxed)
    }
}

impl Source for FakeNode {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.snapshot)
    }

    fn status(&self) -> Arc<Status> {
        Arc::new(Status {
            phase: *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner),
            config: "/etc/weir/weir.yaml".into(),
            wanted: Version(3),
            applied: Version(3),
            reloads: 1,
            failures: 0,
            last_error: None,
            driver: DriverKind::Epoll,
            driver_note: Some("io_uring is off".to_owned()),
            workers: 2,
            missing_scopes: vec!["/gone.slice".to_owned()],
            pods: PodsStatus::default(),
            node_listeners: Vec::new(),
            started: SystemTime::UNIX_EPOCH,
            began: Instant::now(),
            drain_timeout: Duration::from_secs(30),
            is_handing_over: false,
            pulse: Pulse::new(),
        })
    }

    fn names(&self) -> Arc<Names> {
        Arc::clone(&self.0.names)
    }

    async fn health(&self) -> Vec<EndpointReport> {
        let web = self.0.snapshot.services().find(|service| &*service.name == "shop/web").unwrap();
        let report = EndpointReport {
            service: web.id,
            endpoint: web.endpoints[1].id,
            state: web.endpoints[1].state,
            last_check: Some(std::time::Instant::now()),
            last_error: Some("connection refused".to_owned()),
            ejected_until: None,
            ejections_total: 2,
            checks_total: 9,
            failures_total: 4,
        };
        vec![report]
    }

    async fn reload(&self) -> Result<Version, String> {
        self.0.reload_answer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn drain(&self) {
        self.0.drains.fetch_add(1, Ordering::Relaxed);
    }

    fn shared(&self) -> &Shared {
        &self.0.shared
    }

    fn driver_counters(&self) -> Vec<DriverCounters> {
        vec![DriverCounters { sockets: 6, ..DriverCounters::default() }]
    }

    fn live(&self) -> io::Result<Vec<Record>> {
        Ok(live())
    }

    fn read_kernel(&self, _: &mut KernelReader) -> io::Result<KernelReading> {
        Ok(KernelReading { counters: vec![(Counter::Direct, 41)], ..KernelReading::default() })
    }

    fn direct_loads(&self) -> io::Result<HashMap<EndpointId, u64>> {
        Ok([(EndpointId(1), 17)].into())
    }

    fn is_served(&self, _netns_cookie: u64) -> io::Result<bool> {
        Ok(false)
    }
}

fn built() -> (Snapshot, Names) {
    let config = crate::config::parse("weir.yaml", CONFIG).map_err(|errors| errors.to_string()).unwrap();
    let mut registry = Registry::default();
    let snapshot = config.snapshot(&mut registry, Version(3), None);
    (snapshot, Names::from(&registry))
}

pub(super) fn names() -> Names {
    built().1
}

/// A direct, a proxied and an untouched connection; the proxied one has two records.
pub(super) fn live() -> Vec<Record> {
    const SECOND: u64 = 1_000_000_000;
    let facts = |lane, second: u64, source: &str, asked: &str, real: &str| Facts {
        cgroup_id: 77,
        opened_ns: second * SECOND,
        source: address(source),
        asked: address(asked),
        real: address(real),
        lane,
        ..Facts::default()
    };
    let tcp = |rtt_us, min_rtt_us| Tcp {
        sent_bytes: 1 << 20,
        now_ns: 10 * SECOND,
        rtt_us,
        min_rtt_us,
        state: 1,
        ..Tcp::default()
    };
    let direct = facts(lane::DIRECT, 1, "10.0.0.1:40000", "10.96.0.10:80", "10.1.0.5:8080");
    let proxied = facts(lane::PROXY, 8, "10.0.0.1:40001", "10.96.0.11:5432", "127.87.0.1:61500");
    let upstream = facts(lane::UPSTREAM, 8, "10.0.0.1:50000", "10.0.0.1:40001", "10.1.0.9:5432");
    let untouched = facts(lane::NONE, 9, "10.0.0.1:40002", "93.184.216.34:443", "93.184.216.34:443");
    vec![
        Record { facts: Facts { service: 1, endpoint: 1, ..direct }, tcp: tcp(300, u32::MAX) },
        Record { facts: Facts { service: 2, endpoint: 3, cgroup_id: 0, ..upstream }, tcp: tcp(900, 800) },
        Record { facts: Facts { service: 2, ..proxied }, tcp: tcp(20, 10) },
        Record { facts: untouched, tcp: tcp(30, 10) },
    ]
}

/// The application of those connections.
pub(super) fn application(cgroup_id: u64) -> Option<Application> {
    let pod = PodName { namespace: "shop".to_owned(), name: "web-7d9f".to_owned() };
    (cgroup_id == 77).then(|| Application { cgroup: "/app.slice".into(), pod: Some(pod.into()) })
}

pub(super) fn page() -> ConnectionsPage {
    let filter = Filter::parse("").unwrap();
    connections::page(&live(), &names(), &filter, application)
}

fn address(text: &str) -> proxy_bpf::abi::key::Addr {
    text.parse::<std::net::SocketAddr>().unwrap().into()
}
