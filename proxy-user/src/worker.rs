//! One thread per core: a runtime, a driver, and the connections that live and die there.
//!
//! A worker shares nothing that is written often with other workers. What it must know comes through its mailbox.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use proxy_bpf::abi::config::HEARTBEAT_NS;
use proxy_core::id::EndpointId;
use proxy_core::outcome::Reason;
use proxy_core::pool::PoolLimits;
use proxy_core::snapshot::Snapshot;
use proxy_io::splice::PipePool;
use proxy_io::{Driver, DriverCounters, DriverKind, DriverOptions};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::connection::moving::{self, Exit, Parcel};
use crate::connection::{Handed, Local, Routes, Shared, TICK};
use crate::listener::{self, ListenerName, Listening};
use crate::stats::conn::BudgetGuard;
use crate::upstream::pool::UpstreamPool;

/// Commands that may wait for a worker; they come at the pace of config and health, not of traffic.
const MAILBOX_LEN: usize = 1024;
/// Pipes per worker: streams beyond this are copied. Two descriptors and up to 1 MiB of kernel memory each.
const PIPES: usize = 128;

/// What the control side tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Route new connections by this.
    Snapshot(Arc<Snapshot>),
    /// Accept from nothing until [`Command::Release`]: another process still does.
    Hold,
    /// Accept from what came meanwhile, and from what comes.
    Release,
    /// Accept from this socket, too.
    Listen(Listening),
    /// Stop accepting from this listener.
    Unlisten(ListenerName),
    /// End every connection to an endpoint.
    ResetEndpoint(EndpointId),
    /// Go on with a connection that another process had.
    Resume(Box<(Parcel, BudgetGuard)>),
    /// Let another process take the connections that it can go on with.
    Leave(Exit),
    /// Stop accepting, let connections end, and end them after this time.
    Drain(Duration),
}

/// A worker as its owner sees it.
pub struct Worker {
    /// Its mailbox.
    pub mailbox: mpsc::Sender<Command>,
    /// What its driver last said of itself; a second old at most.
    pub counters: Arc<Mutex<DriverCounters>>,
    /// Its thread; it ends after a drain.
    pub thread: JoinHandle<io::Result<()>>,
}

/// Starts a worker.
///
/// # Errors
/// If the thread cannot be made, or the driver is not available: asked for before the thread goes on.
pub fn spawn(
    index: usize,
    handed: mpsc::Receiver<Handed>,
    kind: DriverKind,
    snapshot: Arc<Snapshot>,
    shared: Arc<Shared>,
) -> io::Result<Worker> {
    let (mailbox, commands) = mpsc::channel(MAILBOX_LEN);
    let counters = Arc::new(Mutex::new(DriverCounters::default()));
    let shown = Arc::clone(&counters);
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("weir-worker-{index}")).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _entered = runtime.enter();
        let driver = match Driver::new(kind, DriverOptions::new(kind)) {
            Ok(driver) => driver,
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                let _ = ready.send(Err(error));
                return Err(copy);
            }
        };
        let local = Rc::new(Local {
            index,
            driver,
            shared,
            routes: RefCell::new(Routes::new(snapshot, index)),
            open: Rc::default(),
            pipes: PipePool::new(PIPES),
            pool: UpstreamPool::new(PoolLimits::DEFAULT),
            http2: Rc::default(),
            rng: RefCell::new(SmallRng::from_os_rng()),
            copies: Rc::default(),
            is_draining: Cell::new(false),
            exit: RefCell::default(),
        });
        let _ = ready.send(Ok(()));
        LocalSet::new().block_on(&runtime, run(local, commands, handed, shown))
    })?;
    is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("worker ended before it began")))?;
    Ok(Worker { mailbox, counters, thread })
}

async fn run(
    local: Rc<Local>,
    mut commands: mpsc::Receiver<Command>,
    mut handed: mpsc::Receiver<Handed>,
    shown: Arc<Mutex<DriverCounters>>,
) -> io::Result<()> {
    let driver = local.driver.clone();
    let mut driving = tokio::task::spawn_local(async move { driver.run().await });
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut beats = tokio::time::interval(Duration::from_nanos(HEARTBEAT_NS));
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut listeners: Vec<(ListenerName, tokio::task::AbortHandle)> = Vec::new();
    let mut held: Option<Vec<Listening>> = None;
    let listen = |listening: Listening| {
        let name = listening.name();
        (name, tokio::task::spawn_local(listener::serve(Rc::clone(&local), listening)).abort_handle())
    };
    let mut deadline: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            biased;
            // The driver ends only by an error, and without it nothing here can go on.
            result = &mut driving => return result.unwrap_or_else(|error| Err(io::Error::other(error))),
            command = commands.recv() => match command {
                Some(Command::Snapshot(snapshot)) => local.routes.borrow_mut().handle_snapshot(snapshot),
                Some(Command::Hold) => held = Some(Vec::new()),
                Some(Command::Release) => listeners.extend(held.take().into_iter().flatten().map(&listen)),
                Some(Command::Listen(listening)) => match &mut held {
                    Some(held) => held.push(listening),
                    None => listeners.push(listen(listening)),
                },
                Some(Command::Unlisten(name)) => {
                    held.iter_mut().for_each(|held| held.retain(|listening| listening.name() != name));
                    listeners.retain(|(other, task)| if *other == name { task.abort(); false } else { true });
                }
                Some(Command::ResetEndpoint(endpoint)) => {
                    local.open.kill_endpoint(endpoint);
                    local.pool.drop_endpoint(endpoint);
                    local.http2.drop_endpoint(endpoint);
                }
                Some(Command::Resume(moved)) => {
                    let (parcel, budget) = *moved;
                    tokio::task::spawn_local(moving::serve(Rc::clone(&local), parcel, budget));
                }
                Some(Command::Leave(exit)) => drop(tokio::task::spawn_local(moving::leave(Rc::clone(&local), exit))),
                Some(Command::Drain(time)) => {
                    listeners.drain(..).for_each(|(_, task)| task.abort());
                    local.is_draining.set(true);
                    local.open.kill_rested(Reason::Drained);
                    deadline = Some(tokio::time::Instant::now() + time);
                }
                // The owner is gone: the process is ending.
                None => return Ok(()),
            },
            Some(Handed { fd, accepted }) = handed.recv() => listener::start(&local, fd, accepted),
            () = local.open.wait_empty(), if deadline.is_some() => return Ok(()),
            () = until(deadline) => {
                local.open.kill_all(Reason::Drained);
                // A connection ends in its own task; the last look is a second away at most.
                tokio::time::timeout(TICK, local.open.wait_empty()).await.ok();
                return Ok(());
            }
            _ = beats.tick() => beat(&local),
            _ = ticks.tick() => {
                local.open.handle_tick();
                if deadline.is_some() {
                    local.open.kill_rested(Reason::Drained);
                }
                local.pool.sweep();
                local.http2.sweep();
                *shown.lock().unwrap_or_else(PoisonError::into_inner) = local.driver.counters();
            }
        }
    }
}

/// Gives the kernel programs a sign of life: they send nothing to a worker that hangs.
fn beat(local: &Local) {
    let (Some(maps), Ok(worker)) = (&local.shared.maps, u32::try_from(local.index)) else { return };
    if let Err(error) = maps.heartbeats.put(&worker, &proxy_io::clock::monotonic_ns()) {
        tracing::warn!(worker, %error, "cannot give a sign of life");
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
