//! The control task: everything that changes what is in force happens here, one thing after the other.

mod applications;
mod handover;
mod overload;
mod pods;
mod reset;
mod sweep;
mod tls;

use std::io;
use std::os::fd::AsFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_bpf::abi::value::lane;
use proxy_bpf::events::{KernelLog, Newcomers, Records};
use proxy_bpf::load::Kernel;
use proxy_bpf::maps::Maps;
use proxy_core::health::{Check, Tracker};
use proxy_core::id::{EndpointId, Registry, Version};
use proxy_core::loss::Losses;
use proxy_core::outcome::Attempt;
use proxy_core::snapshot::Snapshot;
use proxy_io::{heap, watch};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;

use super::listen::Listeners;
use super::names::{Names, NamesFile};
use super::overload::Watchman;
use super::publish::Publisher;
use super::supervisor::Supervisor;
use super::watch::{FileWatch, LOOK_INTERVAL};
use super::{Handle, Phase, REQUESTS, Request, Status};
use crate::config::Source;
use crate::connection::Shared;
use crate::health;
use crate::pods::{Finder, Pods, Selection};
use crate::record::cgroup::CgroupNames;
use crate::record::kernel as kernel_records;
use crate::takeover::{Ask, NamedSockets, SocketName, Sockets, Successor};
use crate::tls::TlsWatch;
use crate::worker::Worker;

/// Time between two looks at everything that has no event of its own.
const SWEEP_INTERVAL: Duration = LOOK_INTERVAL;
/// Time between two looks at the records of closed connections; a quarter-full ring buffer wakes us before.
const RECORDS_INTERVAL: Duration = Duration::from_millis(100);
/// Checks under way at once: enough for 100,000 endpoints every 10 s at 25 ms each, few enough for the descriptors.
const MOST_CHECKS: usize = 256;
/// Events taken from a queue before others get their turn.
const TURN_EVENTS: usize = 1024;

/// What the control task is made of.
pub struct Parts {
    /// The config file and what it said.
    pub source: Source,
    /// Programs and maps.
    pub kernel: Arc<Kernel>,
    /// Maps.
    pub maps: Arc<Maps>,
    /// Records of closed connections.
    pub records: Records,
    /// Network namespaces that want to be served.
    pub newcomers: Newcomers,
    /// Pods that scopes choose among.
    pub selection: Selection,
    /// Finds network namespaces by their cgroups, too.
    pub finder: Finder,
    /// Log of the kernel programs.
    pub log: KernelLog,
    /// Numbers given out so far, and where they are kept.
    pub names: (NamesFile, Registry),
    /// Puts snapshots into force.
    pub publisher: Publisher,
    /// The workers.
    pub workers: Arc<Vec<Worker>>,
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// What connections say about endpoints.
    pub attempts: mpsc::Receiver<(EndpointId, Attempt)>,
    /// The status to begin with.
    pub status: Status,
    /// The empty snapshot that the workers began with.
    pub snapshot: Arc<Snapshot>,
    /// Listeners of the proxy lane in Weir's own network namespace.
    pub home: NamedSockets,
    /// Sockets that were taken over, for those who will ask for them.
    pub taken_over: Sockets,
    /// Another process still has everything; see [`Control::take_over`].
    pub is_taking_over: bool,
    /// What newer processes want.
    pub asks: mpsc::Receiver<Ask>,
    /// Whoever watches over this process.
    pub supervisor: Supervisor,
}

/// Why the control task stopped.
pub enum End {
    /// Somebody asked to drain; open connections get this time.
    Drain(Duration),
    /// A newer process is ready to take over.
    HandOver(Successor),
}

/// The control task.
pub struct Control {
    parts: Parts,
    snapshot: Arc<Snapshot>,
    tracker: Tracker,
    losses: Losses,
    listeners: Listeners,
    pods: Pods,
    watchman: Watchman,
    watch: FileWatch,
    tls_watch: TlsWatch,
    requests: mpsc::Receiver<Request>,
    checks: JoinSet<(EndpointId, Result<(), String>)>,
    waiting_checks: std::collections::VecDeque<Check>,
    /// The question that is under way, if one is.
    kubelet: JoinSet<pods::KubeletAnswer>,
    /// Why not every chosen pod is a scope; said once.
    pods_error: Option<String>,
    sweeps: u64,
    /// Names of cgroups that are applications.
    cgroups: CgroupNames,
    alarms: kernel_records::Alarms,
    snapshot_out: channel::Sender<Arc<Snapshot>>,
    status_out: channel::Sender<Arc<Status>>,
    names_out: channel::Sender<Arc<Names>>,
    drain: Option<Duration>,
    successor: Option<Successor>,
}

impl Control {
    /// Makes the task and the handle to it.
    #[must_use]
    pub fn new(mut parts: Parts) -> (Self, Handle) {
        let is_of_pods = |name: &SocketName| matches!(name, SocketName::Pod { .. } | SocketName::Node { .. });
        let of_pods = parts.taken_over.split(is_of_pods);
        let of_config = std::mem::take(&mut parts.taken_over);
        let (requests_in, requests) = mpsc::channel(REQUESTS);
        let (snapshot_out, snapshot) = channel::channel(Arc::clone(&parts.snapshot));
        let (status_out, status) = channel::channel(Arc::new(parts.status.clone()));
        let (names_out, names) = channel::channel(Arc::new(Names::from(&parts.names.1)));
        let handle = Handle {
            requests: requests_in,
            snapshot,
            status,
            names,
            kernel: Arc::clone(&parts.kernel),
            maps: Arc::clone(&parts.maps),
            shared: Arc::clone(&parts.shared),
            workers: Arc::clone(&parts.workers),
        };
        let control = Self {
            snapshot: Arc::clone(&parts.snapshot),
            tracker: Tracker::new(SmallRng::from_os_rng()),
            losses: Losses::new(),
            listeners: Listeners::new(of_config),
            pods: Pods::new(of_pods),
            watchman: Watchman::new(parts.source.config().overload),
            watch: FileWatch::new(parts.source.path()),
            tls_watch: TlsWatch::default(),
            requests,
            checks: JoinSet::new(),
            waiting_checks: std::collections::VecDeque::new(),
            kubelet: JoinSet::new(),
            pods_error: None,
            sweeps: 0,
            cgroups: CgroupNames::default(),
            alarms: kernel_records::Alarms::default(),
            snapshot_out,
            status_out,
            names_out,
            drain: None,
            successor: None,
            parts,
        };
        (control, handle)
    }

    /// Puts the first configuration into force.
    ///
    /// # Errors
    /// What could not be opened or written.
    pub async fn start(&mut self) -> Result<(), String> {
        self.publish_config().await?;
        self.settle_kubelet().await;
        Ok(())
    }

    /// Says that everything is in force and attached.
    pub fn set_ready(&mut self) {
        // To start, and to read a configuration, takes more than to go on.
        heap::give_back();
        // Who is ready knows whether anything is short, and shows it. There is no stream yet to reset.
        self.watchman.look(Instant::now(), &self.parts.shared.overload);
        self.parts.status.phase = Phase::Ready;
        self.show_status();
        self.parts.supervisor.ready();
    }

    /// Serves until somebody asks to drain or is ready to take over. It may be called again after that.
    ///
    /// # Errors
    /// If the kernel's queues cannot be watched.
    pub async fn run(&mut self, reload: &mut tokio::signal::unix::Signal) -> io::Result<End> {
        let records = watch::readable(self.parts.records.as_fd().try_clone_to_owned()?)?;
        let newcomers = watch::readable(self.parts.newcomers.as_fd().try_clone_to_owned()?)?;
        let log = watch::readable(self.parts.log.as_fd().try_clone_to_owned()?)?;
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut look = tokio::time::interval(RECORDS_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            self.parts.status.pulse.beat();
            if let Some(successor) = self.successor.take() {
                return Ok(End::HandOver(successor));
            }
            if let Some(time) = self.drain
                && !self.parts.status.is_handing_over
            {
                return Ok(End::Drain(time));
            }
            let due = self.next_due();
            tokio::select! {
                Some(request) = self.requests.recv() => self.handle_request(request).await,
                Some(ask) = self.parts.asks.recv() => self.handle_ask(ask),
                Some(()) = reload.recv() => {
                    self.parts.shared.access.reopen();
                    let _ = self.reload().await;
                }
                Some(attempt) = self.parts.attempts.recv() => {
                    self.handle_attempts(attempt);
                    self.publish_health().await;
                }
                Some(done) = self.checks.join_next() => {
                    self.handle_check(done);
                    self.publish_health().await;
                }
                Some(answer) = self.kubelet.join_next() => self.handle_kubelet(answer).await,
                Some(probed) = self.pods.next_probe() => self.handle_probe(&probed),
                ready = records.readable() => {
                    ready?.clear_ready();
                    self.handle_records();
                    self.publish_health().await;
                }
                _ = look.tick() => {
                    self.handle_overload().await;
                    if self.parts.selection.has_news() {
                        self.look_for_pods().await;
                    }
                    self.handle_records();
                    self.publish_health().await;
                }
                ready = newcomers.readable() => {
                    ready?.clear_ready();
                    self.handle_newcomers().await;
                }
                ready = log.readable() => {
                    ready?.clear_ready();
                    self.parts.log.flush();
                }
                () = until(due) => self.handle_due().await,
                _ = sweep.tick() => self.handle_sweep().await,
            }
        }
    }

    /// Shows that no new connections are taken.
    pub fn set_draining(&mut self) {
        // Nobody answers from now on: let those who ask know at once.
        self.requests.close();
        self.parts.asks.close();
        while self.parts.asks.try_recv().is_ok() {}
        self.parts.status.phase = Phase::Draining;
        self.show_status();
    }

    async fn handle_request(&mut self, request: Request) {
        match request {
            Request::Health(answer) => {
                let _ = answer.send(self.tracker.report().collect());
            }
            Request::Reload(answer) => {
                let result = self.reload().await;
                let _ = answer.send(result);
            }
            Request::Drain(answer) => {
                self.drain = Some(self.parts.status.drain_timeout);
                let _ = answer.send(());
            }
        }
    }

    /// Reads the config file again; what is in force stays so if anything is wrong with it.
    async fn reload(&mut self) -> Result<Version, String> {
        if self.parts.status.is_handing_over {
            return Err("a newer process takes over and reads the configuration itself".to_owned());
        }
        self.parts.supervisor.reloading();
        self.watch.handle_read();
        // No file content panics, and if one does, what is in force goes on.
        let source = AssertUnwindSafe(&mut self.parts.source);
        let read = || catch_unwind(|| { source }.reload().map_err(|errors| errors.to_string()));
        let loaded = tokio::task::block_in_place(read);
        let result =
            match loaded.unwrap_or_else(|_| Err("reading the file failed by a bug of Weir".to_owned())) {
                Ok(way) => {
                    tracing::debug!(?way, "configuration read");
                    self.publish_config().await
                }
                Err(error) => Err(error),
            };
        match &result {
            Ok(version) => {
                self.parts.status.reloads += 1;
                self.parts.status.last_error = None;
                tracing::info!(%version, "configuration reloaded");
            }
            Err(error) => {
                self.parts.status.failures += 1;
                self.parts.status.last_error = Some(error.clone());
                tracing::warn!("configuration not reloaded, the running one stays in force:\n{error}");
            }
        }
        self.show_status();
        heap::give_back();
        self.parts.supervisor.ready();
        result
    }

    /// Puts into force what the config file says.
    async fn publish_config(&mut self) -> Result<Version, String> {
        let version = Version(self.snapshot.version.0 + 1);
        let Parts { source, shared, names: (_, registry), .. } = &mut self.parts;
        let mut next = source.config().snapshot(registry, version, Some(&self.snapshot));
        let drain_timeout = source.config().drain_timeout;
        let old_tls = shared.tls.current();
        let tls = tls::load(&old_tls, &next)?;
        self.save_names();
        let registry = &self.parts.names.1;
        if !self.names_out.borrow().is_all_of(registry) {
            self.names_out.send_replace(Arc::new(Names::from(registry)));
        }
        self.parts.status.wanted = version;
        self.tracker.handle_snapshot(Instant::now(), &next);
        let changed = self.tracker.poll_changed(&next);
        let knows_next = changed.is_empty();
        if !knows_next {
            next = next.with_services(changed);
            next.version = version;
        }
        // A worker that has not heard of the change yet goes by what was.
        self.parts.shared.tls.set(Arc::new(tls.with_old(&old_tls)));
        let result = self.publish(next).await;
        self.parts.shared.tls.set(if result.is_ok() { tls } else { old_tls });
        if result.is_err() || !knows_next {
            // Health goes by what is in force.
            self.tracker.handle_snapshot(Instant::now(), &self.snapshot);
        }
        result?;
        self.parts.status.drain_timeout = drain_timeout;
        self.watchman.set_policy(self.parts.source.config().overload);
        Ok(version)
    }

    /// Writes down what was named; not before everything is ours.
    fn save_names(&mut self) {
        let Parts { names: (file, registry), is_taking_over, .. } = &mut self.parts;
        if !*is_taking_over && let Err(error) = file.save(registry) {
            tracing::warn!(%error, "cannot save the names of services; statistics would lose them in a restart");
        }
    }

    /// Publishes what health has changed, if anything.
    async fn publish_health(&mut self) {
        let changed = self.tracker.poll_changed(&self.snapshot);
        if changed.is_empty() {
            return;
        }
        for service in &changed {
            let usable = service.usable().len();
            tracing::info!(service = %service.name, usable, endpoints = service.endpoints.len(), "health changed");
        }
        let next = self.snapshot.with_services(changed);
        self.parts.status.wanted = next.version;
        match self.publish(next).await {
            Ok(()) => self.tracker.handle_snapshot(Instant::now(), &self.snapshot),
            Err(error) => tracing::error!(%error, "a change of health is not in force; it is tried again"),
        }
    }

    async fn publish(&mut self, next: Snapshot) -> Result<(), String> {
        let workers = Arc::clone(&self.parts.workers);
        self.listeners.open_new(&workers, &next).await.map_err(|error| error.to_string())?;
        let (old, new) = (Arc::clone(&self.snapshot), Arc::new(next));
        let published = self.parts.publisher.publish(&workers, &old, &new).await;
        if let Err(error) = published {
            self.listeners.settle(&workers, &old).await;
            return Err(error.to_string());
        }
        self.listeners.settle(&workers, &new).await;
        self.losses.handle_snapshot(Instant::now(), &old, &new);
        self.parts.status.applied = new.version;
        self.snapshot = Arc::clone(&new);
        self.snapshot_out.send_replace(new);
        if old.intercept.quotas != self.snapshot.intercept.quotas {
            self.parts.shared.stats.applications.set_quotas(&self.snapshot.intercept.quotas);
        }
        if old.intercept != self.snapshot.intercept || !is_same_inbound(&old, &self.snapshot) {
            self.look_for_pods().await;
        }
        self.show_status();
        Ok(())
    }

    fn handle_attempts(&mut self, first: (EndpointId, Attempt)) {
        let now = Instant::now();
        self.tracker.handle_attempt(now, first.0, first.1);
        for _ in 0..TURN_EVENTS {
            let Ok((endpoint, attempt)) = self.parts.attempts.try_recv() else { return };
            self.tracker.handle_attempt(now, endpoint, attempt);
        }
    }

    fn handle_check(&mut self, done: Result<(EndpointId, Result<(), String>), tokio::task::JoinError>) {
        match done {
            Ok((endpoint, result)) => self.tracker.handle_check(Instant::now(), endpoint, result),
            Err(error) => tracing::error!(%error, "a health check ended unexpectedly"),
        }
        self.start_checks();
    }

    fn start_checks(&mut self) {
        while self.checks.len() < MOST_CHECKS {
            let Some(check) = self.waiting_checks.pop_front() else { return };
            let tls = self.check_tls(&check);
            self.checks.spawn(async move { (check.endpoint, health::run_check(&check, tls.as_ref()).await) });
        }
    }

    /// Takes the records of closed connections: the access log and passive health of the direct lane live on them.
    fn handle_records(&mut self) {
        let now = Instant::now();
        let names = self.names_out.borrow().clone();
        while let Some(record) = self.parts.records.poll_event() {
            if let Some((endpoint, attempt)) = kernel_records::attempt(&record) {
                self.tracker.handle_attempt(now, endpoint, attempt);
            }
            self.parts.shared.stats.applications.handle_record(&record, self.parts.shared.netns_cookie);
            // A proxied connection is written down by its worker, which knows both sides.
            if record.facts.lane == lane::DIRECT || record.facts.lane == lane::NONE {
                let service = names.service(proxy_core::id::ServiceId(record.facts.service)).cloned();
                self.parts.shared.access.record(|| kernel_records::access(&record, service));
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let all = [self.tracker.next_due(), self.losses.next_due(), self.parts.selection.next_due()];
        all.into_iter().flatten().min()
    }

    async fn handle_due(&mut self) {
        let now = Instant::now();
        self.ask_kubelet();
        self.waiting_checks.extend(self.tracker.poll_due(now));
        self.start_checks();
        let lost = self.losses.poll_due(now);
        if !lost.is_empty() {
            self.reset(&lost).await;
        }
        // An ejection may have ended.
        self.publish_health().await;
    }

    fn show_status(&self) {
        self.status_out.send_replace(Arc::new(self.parts.status.clone()));
    }
}

/// A snapshot of changed health has the very same ports of applications; a new configuration makes them anew.
fn is_same_inbound(old: &Snapshot, new: &Snapshot) -> bool {
    old.inbound.len() == new.inbound.len()
        && old.inbound.iter().zip(&new.inbound).all(|(old, new)| Arc::ptr_eq(old, new))
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
