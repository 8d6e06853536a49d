//! A worker's post: it serves until it has drained, and begins again if it fails.

use std::cell::{Cell, RefCell};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proxy_bpf::abi::config::HEARTBEAT_NS;
use proxy_core::outcome::Reason;
use proxy_core::overload::Rung;
use proxy_core::pool::PoolLimits;
use proxy_core::snapshot::Snapshot;
use proxy_io::splice::PipePool;
use proxy_io::{Driver, DriverCounters, DriverKind, DriverOptions, heap};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet};

use super::Command;
use super::restart::Restarts;
use crate::bug;
use crate::connection::moving::{self, Exit, Parcel};
use crate::connection::{Handed, Local, Parking, Routes, Shared, TICK};
use crate::listener::{self, ListenerName, Listening};
use crate::stats::conn::BudgetGuard;
use crate::upstream::pool::UpstreamPool;

/// Pipes per worker: streams beyond this are copied. Two descriptors and up to 1 MiB of kernel memory each.
const PIPES: usize = 128;

/// What a worker has for as long as its thread lives; everything else is made anew after a failure.
pub(super) struct Post {
    index: usize,
    kind: DriverKind,
    busy_poll: Duration,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    handed: mpsc::Receiver<Handed>,
    shown: Arc<Mutex<DriverCounters>>,
    /// The last one that came.
    snapshot: Arc<Snapshot>,
    /// What is accepted from, but while `is_held`.
    listening: Vec<Listening>,
    is_held: bool,
    /// The way to a newer process, for what still comes here.
    exit: Option<Exit>,
    /// When a drain is over.
    deadline: Option<Instant>,
}

/// What a command means beside what the post remembers of it.
enum News {
    Nothing,
    Snapshot(Arc<Snapshot>),
    Accept(Vec<Listening>),
    Unlisten(ListenerName),
    ResetEndpoint(proxy_core::id::EndpointId),
    Resume(Box<(Parcel, BudgetGuard)>),
    Leave(Exit),
    Weigh(oneshot::Sender<u32>),
    ResetHeaviest,
    Drain,
}

impl Post {
    pub(super) fn new(
        index: usize,
        (kind, busy_poll): (DriverKind, Duration),
        shared: Arc<Shared>,
        snapshot: Arc<Snapshot>,
        commands: mpsc::Receiver<Command>,
        handed: mpsc::Receiver<Handed>,
        shown: Arc<Mutex<DriverCounters>>,
    ) -> Self {
        let (listening, is_held, exit, deadline) = (Vec::new(), false, None, None);
        Self {
            index,
            kind,
            busy_poll,
            shared,
            commands,
            handed,
            shown,
            snapshot,
            listening,
            is_held,
            exit,
            deadline,
        }
    }

    /// Serves until it has drained. `tell_begun` hears once whether there is a driver; without one there is no worker.
    ///
    /// # Errors
    /// The first time, if there is no runtime or no driver.
    pub(super) fn hold(mut self, tell_begun: impl FnOnce(io::Result<()>)) -> io::Result<()> {
        let mut made = match self.make() {
            Ok(made) => Some(made),
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                tell_begun(Err(error));
                return Err(copy);
            }
        };
        tell_begun(Ok(()));
        let mut restarts = Restarts::default();
        loop {
            let began = Instant::now();
            let served = catch_unwind(AssertUnwindSafe(|| {
                let (runtime, local) = made.take().map_or_else(|| self.make(), Ok)?;
                self.serve(runtime, local);
                io::Result::Ok(())
            }));
            let error = match served {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => format!("no driver: {error}"),
                Err(payload) => bug::text(&*payload).to_owned(),
            };
            let pause = restarts.handle_failure(began.elapsed());
            let restart = self.shared.peers.handle_failure(self.index);
            tracing::error!(
                worker = self.index,
                error,
                restart,
                pause = ?pause,
                "a worker failed: its connections are lost, it begins again"
            );
            if !pause.is_zero() && self.rest(pause) {
                return Ok(());
            }
            self.shared.peers.set_away(self.index, false);
        }
    }

    /// Makes what one run is made of.
    fn make(&self) -> io::Result<(Runtime, Rc<Local>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let driver = Driver::new(
            self.kind,
            DriverOptions { busy_poll: self.busy_poll, ..DriverOptions::new(self.kind) },
        )?;
        drop(entered);
        let local = Rc::new(Local {
            index: self.index,
            driver,
            shared: Arc::clone(&self.shared),
            routes: RefCell::new(Routes::new(Arc::clone(&self.snapshot), self.index)),
            open: Rc::default(),
            parking: Parking::new(Arc::clone(&self.shared.stats.http.parked)),
            pipes: PipePool::new(PIPES),
            pool: UpstreamPool::new(PoolLimits::DEFAULT),
            http2: Rc::default(),
            turns: Rc::default(),
            rng: RefCell::new(SmallRng::from_os_rng()),
            copies: Rc::default(),
            is_draining: Cell::new(self.deadline.is_some()),
            exit: RefCell::default(),
        });
        Ok((runtime, local))
    }

    /// Serves until it has drained; a failure unwinds, so that whatever is dropped on the way is cut and not ended.
    fn serve(&mut self, runtime: Runtime, local: Rc<Local>) {
        // What is left is dropped within the runtime, the driver with it.
        let _entered = runtime.enter();
        LocalSet::new().block_on(&runtime, self.run(local));
    }

    async fn run(&mut self, local: Rc<Local>) {
        let driver = local.driver.clone();
        let mut driving = tokio::task::spawn_local(async move { driver.run().await });
        let turns = Rc::clone(&local.turns);
        tokio::task::spawn_local(async move { turns.run().await });
        let mut attending = tokio::task::spawn_local(Parking::attend(Rc::clone(&local)));
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut beats = tokio::time::interval(Duration::from_nanos(HEARTBEAT_NS));
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let accept = |listening: Listening| {
            let name = listening.name();
            (name, tokio::task::spawn_local(listener::serve(Rc::clone(&local), listening)).abort_handle())
        };
        let mut accepting: Vec<(ListenerName, AbortHandle)> = Vec::new();
        if !self.is_held {
            accepting.extend(self.listening.iter().cloned().map(&accept));
        }
        let leave = |exit| drop(tokio::task::spawn_local(moving::leave(Rc::clone(&local), exit)));
        self.exit.clone().into_iter().for_each(leave);
        loop {
            tokio::select! {
                biased;
                // The driver ends only by an error or a bug, and without it nothing here can go on.
                end = &mut driving => resume_unwind(why_ended(end)),
                // Nor without who wakes connections that rest.
                end = &mut attending => resume_unwind(why_ended(end.map(|never| match never {}))),
                command = self.commands.recv() => match command.map(|command| self.handle_command(command)) {
                    Some(News::Nothing) => {}
                    Some(News::Snapshot(snapshot)) => local.routes.borrow_mut().handle_snapshot(snapshot),
                    Some(News::Accept(listening)) => accepting.extend(listening.into_iter().map(&accept)),
                    Some(News::Unlisten(name)) => {
                        accepting.retain(|(other, task)| if *other == name { task.abort(); false } else { true });
                    }
                    Some(News::ResetEndpoint(endpoint)) => {
                        local.open.kill_endpoint(endpoint);
                        local.pool.drop_endpoint(endpoint);
                        local.http2.drop_endpoint(endpoint);
                    }
                    Some(News::Resume(moved)) => {
                        let (parcel, budget) = *moved;
                        tokio::task::spawn_local(moving::serve(Rc::clone(&local), parcel, budget));
                    }
                    Some(News::Leave(exit)) => leave(exit),
                    Some(News::Weigh(answer)) => {
                        tokio::task::spawn_local(weigh(Rc::clone(&local), answer));
                    }
                    Some(News::ResetHeaviest) => reset_heaviest(&local),
                    Some(News::Drain) => {
                        accepting.drain(..).for_each(|(_, task)| task.abort());
                        local.is_draining.set(true);
                        local.open.kill_rested(Reason::Drained);
                    }
                    // The owner is gone: the process is ending.
                    None => return,
                },
                Some(Handed { fd, accepted }) = self.handed.recv() => listener::start(&local, fd, accepted),
                () = local.open.wait_empty(), if self.deadline.is_some() => return,
                () = until(self.deadline) => {
                    local.open.kill_all(Reason::Drained);
                    // A connection ends in its own task; the last look is a second away at most.
                    tokio::time::timeout(TICK, local.open.wait_empty()).await.ok();
                    return;
                }
                _ = beats.tick() => beat(&local.shared, self.index, proxy_io::clock::monotonic_ns()),
                _ = ticks.tick() => {
                    bug::point("worker", self.index);
                    local.open.handle_tick();
                    local.turns.handle_tick();
                    if self.deadline.is_some() {
                        local.open.kill_rested(Reason::Drained);
                    } else if local.shared.overload.is_at(Rung::StopKeepAlive) {
                        let ended = local.open.kill_idle(Reason::Overload);
                        local.shared.overload.count(Rung::StopKeepAlive, ended);
                    }
                    local.pool.sweep();
                    local.http2.sweep();
                    // Each thread has its own heap, and what is kept there counts as in use.
                    if Rung::ALL.iter().any(|rung| local.shared.overload.is_at(*rung)) {
                        heap::give_back();
                    } else {
                        heap::give_back_unused();
                    }
                    *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = local.driver.counters();
                }
            }
        }
    }

    /// Remembers what a command changes, and says what is to be done at once.
    fn handle_command(&mut self, command: Command) -> News {
        match command {
            Command::Snapshot(snapshot) => {
                self.snapshot = Arc::clone(&snapshot);
                News::Snapshot(snapshot)
            }
            Command::Hold => {
                self.is_held = true;
                News::Nothing
            }
            Command::Release => {
                self.is_held = false;
                News::Accept(self.listening.clone())
            }
            Command::Listen(listening) => {
                self.listening.push(listening.clone());
                if self.is_held { News::Nothing } else { News::Accept(vec![listening]) }
            }
            Command::Unlisten(name) => {
                self.listening.retain(|listening| listening.name() != name);
                News::Unlisten(name)
            }
            Command::ResetEndpoint(endpoint) => News::ResetEndpoint(endpoint),
            Command::Resume(moved) => News::Resume(moved),
            Command::Leave(exit) => {
                self.exit = Some(exit.clone());
                News::Leave(exit)
            }
            Command::Weigh(answer) => News::Weigh(answer),
            Command::ResetHeaviest => News::ResetHeaviest,
            Command::Drain(time) => {
                self.listening.clear();
                self.deadline = Some(Instant::now() + time);
                News::Drain
            }
        }
    }

    /// Does nothing for a while but remember what it is told; true if there is nothing left to do.
    fn rest(&mut self, pause: Duration) -> bool {
        self.shared.peers.set_away(self.index, true);
        beat(&self.shared, self.index, 0);
        // Whoever was handed over would wait: they learn at once that nobody answers.
        while let Ok(Handed { fd, accepted }) = self.handed.try_recv() {
            listener::refuse(&self.shared, &fd, accepted.client, Reason::Internal);
        }
        let deadline = Instant::now() + pause;
        loop {
            match self.commands.try_recv() {
                Ok(command) => {
                    if let News::Resume(moved) = self.handle_command(command) {
                        moving::refuse(&self.shared, &moved.0);
                    }
                }
                Err(mpsc::error::TryRecvError::Disconnected) => return true,
                Err(mpsc::error::TryRecvError::Empty) if self.deadline.is_some() => return true,
                Err(mpsc::error::TryRecvError::Empty) if Instant::now() >= deadline => return false,
                Err(mpsc::error::TryRecvError::Empty) => std::thread::sleep(REST_LOOK.min(pause)),
            }
        }
    }
}

/// Time between two looks into the mailbox of a worker that rests: its commands come at the pace of config and health.
const REST_LOOK: Duration = Duration::from_millis(20);

/// What a driver's task ended with, as a panic.
fn why_ended(end: Result<io::Result<()>, tokio::task::JoinError>) -> Box<dyn std::any::Any + Send> {
    match end.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(Ok(())) => Box::new("the driver ended"),
        Ok(Err(error)) => Box::new(format!("the driver ended: {error}")),
        Err(Ok(panic)) => panic,
        Err(Err(error)) => Box::new(error.to_string()),
    }
}

/// Asks all connections what they hold, and tells of the heaviest one.
async fn weigh(local: Rc<Local>, answer: oneshot::Sender<u32>) {
    local.open.begin_weighing();
    // Behind those that were woken: once for connections, once more for requests that share one.
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let _ = answer.send(local.open.heaviest().map_or(0, |(_, bytes)| bytes));
}

fn reset_heaviest(local: &Local) {
    if let Some((conn, bytes)) = local.open.heaviest() {
        local.shared.overload.count(Rung::Reset, 1);
        tracing::warn!(worker = local.index, bytes, "overload: the heaviest stream is reset");
        conn.kill(Reason::Overload);
    }
}

/// Gives the kernel programs a sign of life: they send nothing to a worker that has given none of late.
fn beat(shared: &Shared, index: usize, now_ns: u64) {
    let (Some(maps), Ok(worker)) = (&shared.maps, u32::try_from(index)) else { return };
    if let Err(error) = maps.heartbeats.put(&worker, &now_ns) {
        tracing::warn!(worker, %error, "cannot give a sign of life");
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
