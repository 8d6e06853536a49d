//! Where all parts meet: from a configuration to a running node, and back to a clean machine.
//!
//! ```text
//!   lock ─> config ─> programs loaded ─> workers ─> listeners ─> maps filled ─> attached ─> ready
//!   drained <─ connections end <─ programs detached <─ SIGTERM, SIGINT, POST /drain
//! ```
//!
//! With a newer process to take over, it gets the lock, listeners and programs instead of their removal; see
//! [`crate::takeover`].

mod carry;
mod control_task;
mod lock;
mod upgrade;
mod workers;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, anyhow};
use proxy_bpf::abi::config::Settings;
use proxy_bpf::apply::Applier;
use proxy_bpf::attach::{self, Attached, Pins};
use proxy_bpf::bpffs;
use proxy_bpf::cgroup::Hierarchy;
use proxy_bpf::load::{self, Kernel, LoadOptions};
use proxy_bpf::probe;
use proxy_core::id::Version;
use proxy_core::snapshot::{Intercept, Snapshot};
use proxy_io::{limit, sock};
use tokio::sync::{mpsc, oneshot};

use crate::admin;
use crate::config::{Config, IoChoice, LogLevel, Source};
use crate::connection::{Namespaces, Shared};
use crate::control::{
    self, Control, End, Handle, NamesFile, Parts, Phase, Publisher, Pulse, Status, Supervisor,
};
use crate::pods::{Finder, PodsStatus, Selection};
use crate::record::access::{self, AccessSink};
use crate::record::kernel as kernel_records;
use crate::stats::carried::Counts;
use crate::stats::conn::{ConnStats, DescriptorBudget};
use crate::stats::overload::Overload;
use crate::takeover::{self, Ask, Giver, SocketName, Successor, Taking};
use crate::tls::TlsCell;
use crate::worker::{Command, Worker};

pub use self::lock::{AlreadyRunning, RUN_DIR, RunLock};
use self::upgrade::{Signals, Start};
use self::workers::{give_to_workers, start_workers};

/// What connections say about endpoints and the control task has not heard yet; more is dropped.
const ATTEMPTS: usize = 16_384;

/// What a newer process may have asked and nobody answered yet: it asks one thing after the other.
const ASKS: usize = 4;

/// Name of the admin socket, where the configuration names no other.
const ADMIN_SOCKET: &str = "admin.sock";

/// Name of the file that notes that Weir has mounted bpffs.
const MOUNTED: &str = "bpffs";

/// Time that the access log gets for its last lines.
const ACCESS_LOG_TIME: Duration = Duration::from_secs(2);

/// What the command line decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// Driver of the workers, if not the one that the file says.
    pub io: Option<IoChoice>,
    /// Level of the log, if not the one that the file says.
    pub log_level: Option<LogLevel>,
    /// Other sizes for maps.
    pub map_sizes: Vec<(String, u32)>,
    /// Take over from the Weir that runs, if one does.
    pub takeover: bool,
    /// After another one has taken over, stay until told to end, or until there is no Weir any more.
    pub stay: bool,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// What keeps it from starting, with what to do about it.
pub fn run(source: Source, options: Options) -> anyhow::Result<()> {
    let mut start = Start::begin(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("weir-control")
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    let is_first = start.taking.is_none();
    let result = runtime.block_on(serve(source, options, &mut start));
    runtime.shutdown_timeout(Duration::from_secs(1));
    // What an earlier process has left attached still uses the rest.
    if result.is_err()
        && is_first
        && let Some(lock) = start.lock.take()
        && Pins::existing().is_none_or(|pins| pins.attached().is_empty())
        && let Err(error) = remove_all(lock)
    {
        tracing::warn!("a start that failed leaves something behind: {error:#}");
    }
    result
}

/// Removes what a Weir that is no longer running left attached.
///
/// # Errors
/// If a Weir is running, or a pin cannot be removed.
pub fn detach() -> anyhow::Result<Vec<&'static str>> {
    remove_all(RunLock::take()?)
}

/// Removes everything that outlives processes; says which hooks were attached.
fn remove_all(lock: RunLock) -> anyhow::Result<Vec<&'static str>> {
    let mut attached = Vec::new();
    if let Some(pins) = Pins::existing() {
        pins.refuse_foreign().context("cannot remove /sys/fs/bpf/weir")?;
        attached = pins.attached();
        pins.remove().context("cannot remove the pins below /sys/fs/bpf/weir")?;
    }
    let released = bpffs::release(&Path::new(RUN_DIR).join(MOUNTED));
    for file in ["names.json", "names.new", takeover::SOCKET, ADMIN_SOCKET] {
        let _ = std::fs::remove_file(Path::new(RUN_DIR).join(file));
    }
    lock.remove();
    released.context("cannot unmount /sys/fs/bpf, which weir has mounted")?;
    Ok(attached)
}

async fn serve(source: Source, options: Options, start: &mut Start) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut node = Node::build(source, options, start).await?;
    let opened = admin::open(&node.admin, &mut start.sockets).await;
    let opened = opened.context("cannot serve the admin interface")?;
    let (socket, fixed) = start.takeover_socket(&opened)?;
    let admin = match start.taking.take() {
        None => {
            let admin = opened.serve(node.handle.clone());
            node.control.start().await.map_err(|error| anyhow!("{error}"))?;
            node.attach()?;
            admin
        }
        Some(taking) => {
            node.control.start().await.map_err(|error| anyhow!("{error}"))?;
            node.take_over(taking, opened, &mut start.lock, &mut signals).await?
        }
    };
    let giver = Giver::start(socket, node.asks.clone(), fixed, node.pins.maps());
    let (drain_time, successor) = loop {
        match node.run(&mut signals).await? {
            End::Drain(time) => break (time, None),
            End::HandOver(mut successor) => {
                if node.hand_over(&mut successor, &admin, &mut start.lock).await {
                    break (node.handle.status().drain_timeout, Some(successor));
                }
            }
        }
    };
    drop(giver);
    node.control.set_draining();
    node.control.close_listeners();
    tracing::info!(seconds = drain_time.as_secs_f64(), "draining: no new connections are taken");
    match &successor {
        // What is pinned and locked is the other's.
        Some(successor) => {
            start.lock = None;
            node.supervisor.handed_over(successor.process());
        }
        None => {
            node.supervisor.stopping();
            node.pins.clone().remove().context("cannot detach")?;
            if let Err(error) = bpffs::release(&Path::new(RUN_DIR).join(MOUNTED)) {
                tracing::warn!(%error, "cannot unmount /sys/fs/bpf, which weir has mounted");
            }
            let _ = std::fs::remove_file(Path::new(RUN_DIR).join(takeover::SOCKET));
        }
    }
    node.end(admin, drain_time, successor, &mut signals).await?;
    if let Some(lock) = start.lock.take() {
        lock.remove();
    }
    Ok(())
}

async fn tell_to_drain(workers: &[Worker], time: Duration) {
    for worker in workers {
        let _ = worker.mailbox.send(Command::Drain(time)).await;
    }
}

async fn wait_drained(workers: &[Worker]) {
    while !workers.iter().all(|worker| worker.thread.is_finished()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A node with everything in its place, not attached yet.
struct Node {
    control: Control,
    handle: Handle,
    workers: Arc<Vec<Worker>>,
    kernel: Arc<Kernel>,
    pins: Pins,
    hierarchy: Hierarchy,
    admin: admin::Addresses,
    access_thread: Option<JoinHandle<()>>,
    asks: mpsc::Sender<Ask>,
    may_stay: bool,
    /// What health has counted when a newer process took over.
    health: Vec<Counts>,
    /// Ends when the process has ended that this one has taken over from.
    predecessor: Option<oneshot::Receiver<()>>,
    supervisor: Supervisor,
}

impl Node {
    async fn build(source: Source, options: Options, start: &mut Start) -> anyhow::Result<Self> {
        let config = source.config();
        let nofile = limit::raise_nofile().context("cannot read RLIMIT_NOFILE")?;
        let hierarchy = Hierarchy::find()?;
        let (mut kernel, pins) = load_kernel(config, &options, start.taking.as_ref())?;
        let maps = Arc::clone(&kernel.maps);
        let (records, newcomers) = (kernel.take_records()?, kernel.take_newcomers()?);
        let log = kernel.take_log()?;
        let netns_cookie =
            sock::netns_cookie().context("this kernel has no network namespace cookies (5.14)")?;

        let (access, access_thread) = open_access_log(config)?;
        let (attempts_in, attempts) = mpsc::channel(ATTEMPTS);
        let budget = Arc::new(DescriptorBudget::new(nofile));
        let share = |peers| {
            Arc::new(Shared {
                maps: Some(Arc::clone(&maps)),
                netns_cookie,
                stats: ConnStats::default(),
                home_share: budget.share(0),
                budget: Arc::clone(&budget),
                attempts: attempts_in.clone(),
                access: access.clone(),
                peers,
                tls: TlsCell::default(),
                overload: Overload::default(),
                namespaces: Namespaces::default(),
            })
        };
        let snapshot = Arc::new(Snapshot::new(Version(0), Intercept::default(), Vec::new(), []));
        let choice = options.io.unwrap_or(config.io);
        let (workers, shared, driver) = start_workers(config, choice, &snapshot, share)?;
        let workers = Arc::new(workers);
        let listener_count = control::intercepted_count(workers.len());
        let listeners = control::open_intercepted(&maps, netns_cookie, listener_count, &mut start.sockets)?;
        let is_taking_over = start.taking.is_some();
        let home = give_to_workers(&workers, listeners, is_taking_over).await?;
        let is_followed = |name: &SocketName| {
            matches!(name, SocketName::Pod { .. } | SocketName::Node { .. } | SocketName::Listener(_))
        };
        let taken_over = start.sockets.split(is_followed);
        let (asks_in, asks) = mpsc::channel(ASKS);
        let settings = Settings {
            home_netns_cookie: netns_cookie,
            listener_count,
            worker_count: u32::try_from(workers.len()).context("too many workers")?,
            ..Settings::default()
        };
        let status = Status {
            phase: Phase::Starting,
            config: source.path().to_owned(),
            wanted: Version(0),
            applied: Version(0),
            reloads: 0,
            failures: 0,
            last_error: None,
            driver: driver.kind,
            driver_note: driver.note,
            workers: workers.len(),
            missing_scopes: Vec::new(),
            pods: PodsStatus::default(),
            node_listeners: Vec::new(),
            started: now(),
            began: Instant::now(),
            drain_timeout: config.drain_timeout,
            is_handing_over: false,
            pulse: Pulse::new(),
        };
        let kernel = Arc::new(kernel);
        let admin = admin::Addresses {
            admin: config.admin.address,
            socket: config.admin.socket.clone(),
            metrics: config.metrics,
        };
        let supervisor = Supervisor::from_environment();
        let (control, handle) = Control::new(Parts {
            source,
            kernel: Arc::clone(&kernel),
            maps: Arc::clone(&maps),
            records,
            newcomers,
            selection: Selection::new(&hierarchy),
            finder: Finder::new(&hierarchy).context("cannot look at network namespaces")?,
            log,
            names: NamesFile::load(&Path::new(RUN_DIR).join("names.json")),
            publisher: Publisher::new(maps, Applier::new(hierarchy.clone(), settings)),
            workers: Arc::clone(&workers),
            shared,
            attempts,
            status,
            snapshot,
            home,
            taken_over,
            is_taking_over,
            asks,
            supervisor: supervisor.clone(),
        });
        Ok(Self {
            control,
            handle,
            workers,
            kernel,
            pins,
            hierarchy,
            admin,
            access_thread,
            asks: asks_in,
            may_stay: options.stay,
            health: Vec::new(),
            predecessor: None,
            supervisor,
        })
    }

    /// Lets open connections end, and then everything that a successor has not taken over.
    async fn end(
        mut self,
        admin: admin::Server,
        drain_time: Duration,
        mut successor: Option<Successor>,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let admin_socket = successor.as_ref().map(|successor| successor.admin_socket().to_owned());
        let carrying = match &mut successor {
            Some(successor) => self.carry(successor).await,
            None => None,
        };
        let predecessor = self.predecessor.take();
        let drained = async {
            tell_to_drain(&self.workers, drain_time).await;
            if admin_socket.is_some() {
                let deadline = tokio::time::Instant::now() + drain_time;
                admin.stop(admin_socket.as_deref()).await;
                wait_drained(&self.workers).await;
                if let Some(carrying) = carrying {
                    carrying.end(predecessor, deadline).await;
                }
            } else {
                wait_drained(&self.workers).await;
                admin.stop(None).await;
            }
        };
        tokio::select! {
            () = drained => {}
            never = control_task::know_newcomers(&mut self.control) => match never {},
            // A second signal means now; what was replaced has had none yet.
            () = signals.end(successor.is_some()) => {}
        }
        self.handle.shared().access.close();
        if let Some(thread) = self.access_thread.take() {
            // It writes its last lines and ends; a disk that hangs must not keep the process.
            let _ =
                tokio::time::timeout(ACCESS_LOG_TIME, tokio::task::spawn_blocking(|| thread.join())).await;
        }
        if successor.is_none() {
            for file in ["names.json", "names.new"] {
                let _ = std::fs::remove_file(Path::new(RUN_DIR).join(file));
            }
        } else if self.may_stay {
            // A namespace lives as long as somebody has it.
            self.handle.shared().namespaces.clear();
            signals.stay().await?;
        }
        tracing::info!("stopped");
        Ok(())
    }

    /// Attaches the programs: from now on connections are caught.
    fn attach(&mut self) -> anyhow::Result<()> {
        self.sweep_waiting();
        let attached = attach::attach(&self.kernel, &self.hierarchy.mount, &self.pins)
            .context("cannot attach to the cgroup root")?;
        if let Attached::TookOver(count) = attached {
            tracing::info!(count, "took over what an earlier process had left attached");
        }
        if let Err(error) = self.pins.remove_other_abis() {
            tracing::warn!(%error, "cannot remove the maps of a process with another ABI");
        }
        self.set_ready();
        Ok(())
    }

    /// Forgets the connections that nobody had accepted yet when an earlier process was killed, and says how many.
    fn sweep_waiting(&self) {
        match kernel_records::sweep_leftovers(self.handle.maps(), Duration::ZERO) {
            Ok(0) => {}
            Ok(count) => {
                tracing::warn!(count, "connections were not accepted yet when an earlier process was killed");
            }
            Err(error) => tracing::warn!(%error, "cannot sweep the map of original destinations"),
        }
    }

    fn set_ready(&mut self) {
        self.control.set_ready();
        let status = self.handle.status();
        tracing::info!(
            version = %status.applied,
            services = self.handle.snapshot().services().len(),
            driver = ?status.driver,
            workers = status.workers,
            cgroup_root = %self.hierarchy.mount.display(),
            "ready",
        );
        for scope in &status.missing_scopes {
            tracing::warn!(%scope, "a scope does not exist yet; it is taken up when it does");
        }
    }
}

fn load_kernel(
    config: &Config,
    options: &Options,
    taking: Option<&Taking>,
) -> anyhow::Result<(Kernel, Pins)> {
    refuse_old_kernel()?;
    bpffs::ensure(&Path::new(RUN_DIR).join(MOUNTED)).context("cannot mount bpffs on /sys/fs/bpf")?;
    let pins = Pins::prepare().context("cannot prepare /sys/fs/bpf/weir")?;
    pins.refuse_foreign().context("cannot use /sys/fs/bpf/weir")?;
    let load_options = LoadOptions {
        pins: pins.maps(),
        log_level: match options.log_level.unwrap_or(config.log.level) {
            LogLevel::Debug | LogLevel::Trace => 4,
            _ => 3,
        },
        map_sizes: options.map_sizes.clone(),
    };
    match taking {
        Some(taking) => upgrade::check_maps(taking, &load_options)?,
        None => load::discard_other_sizes(&load_options.pins, &load_options.map_sizes)?,
    }
    let loaded = Kernel::load(&load_options);
    let kernel =
        loaded.context("cannot load the kernel programs; `weir doctor` says what this kernel lacks")?;
    Ok((kernel, pins))
}

/// Names everything that this kernel lacks at once, instead of the first thing that the verifier stumbles over.
fn refuse_old_kernel() -> anyhow::Result<()> {
    let features = probe::kernel_features();
    let lacks = features.iter().filter(|feature| feature.state == Ok(false));
    let lines: Vec<_> = lacks
        .map(|feature| {
            format!("\n  {} (Linux {}), needed for {}", feature.name, feature.since, feature.purpose)
        })
        .collect();
    if lines.is_empty() { Ok(()) } else { Err(anyhow!("this kernel lacks:{}", lines.concat())) }
}

fn open_access_log(config: &Config) -> anyhow::Result<(AccessSink, Option<JoinHandle<()>>)> {
    let Some(log) = &config.access_log else { return Ok((AccessSink::off(), None)) };
    let (sink, thread) = access::open(log).with_context(|| format!("cannot open {}", log.path.display()))?;
    Ok((sink, Some(thread)))
}

#[expect(clippy::disallowed_methods, reason = "a date for operators")]
fn now() -> SystemTime {
    SystemTime::now()
}
