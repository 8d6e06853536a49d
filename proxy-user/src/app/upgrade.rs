//! The live upgrade as this process begins and ends in it; what is said between the two is in [`crate::takeover`].

use std::ffi::OsString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use proxy_bpf::attach;
use proxy_bpf::load::{self, LoadOptions};
use proxy_io::{limit, unix};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{AlreadyRunning, Node, Options, RUN_DIR, RunLock, control_task};
use crate::admin;
use crate::control::End;
use crate::stats::carried::Counts;
use crate::takeover::{
    self, Begun, HandedOver, NamedSockets, Outcome, SocketName, Sockets, Successor, Taking,
};

/// Longest wait for a Weir that is starting or ending: a drain of the usual length, and then some.
const LATER_TIME: Duration = Duration::from_secs(60);
/// Pause before it is asked again.
const LATER_PAUSE: Duration = Duration::from_millis(200);
/// Makes a process take over.
const TAKEOVER: &str = "--takeover";
/// Time between two looks for whether there is a Weir.
const STAY_INTERVAL: Duration = Duration::from_secs(1);

/// What a process begins with.
pub(super) struct Start {
    /// Gone when a newer process has it.
    pub(super) lock: Option<RunLock>,
    /// The process to take over from.
    pub(super) taking: Option<Taking>,
    /// What it handed over and nobody has taken yet.
    pub(super) sockets: Sockets,
}

impl Start {
    /// Takes the lock, or begins to take over from the process that has it.
    pub(super) fn begin(options: &Options) -> anyhow::Result<Self> {
        let deadline = Instant::now() + LATER_TIME;
        loop {
            let running = match RunLock::take() {
                Ok(lock) => return Ok(Self { lock: Some(lock), taking: None, sockets: Sockets::default() }),
                Err(error) if options.takeover && error.is::<AlreadyRunning>() => error,
                Err(error) => return Err(error),
            };
            // Before as many descriptors come as the other has listeners.
            limit::raise_nofile().context("cannot read RLIMIT_NOFILE")?;
            let begun = takeover::begin(&Path::new(RUN_DIR).join(takeover::SOCKET));
            match begun.with_context(|| format!("cannot take over: {running}"))? {
                Begun::Taking(taking, mut sockets) => {
                    let lock = sockets.take(&SocketName::Lock).context("cannot take over: no lock came")?;
                    tracing::info!(process = taking.process(), version = taking.version(), "taking over");
                    return Ok(Self { lock: Some(RunLock::shared(lock)), taking: Some(taking), sockets });
                }
                Begun::Later(reason) if Instant::now() >= deadline => {
                    bail!("cannot take over: {running}: {reason}");
                }
                Begun::Later(reason) => {
                    tracing::debug!(reason, "asking again in a moment");
                    std::thread::sleep(LATER_PAUSE);
                }
            }
        }
    }

    /// The socket on which newer processes ask, and what they get beside listeners.
    pub(super) fn takeover_socket(
        &mut self,
        admin: &admin::Opened,
    ) -> anyhow::Result<(UnixListener, NamedSockets)> {
        let socket = match self.sockets.take(&SocketName::Takeover) {
            Some(socket) => std::os::unix::net::UnixListener::from(socket),
            None => unix::listen_private(&Path::new(RUN_DIR).join(takeover::SOCKET))?,
        };
        socket.set_nonblocking(true)?;
        let mut fixed = admin.copies()?;
        fixed.push((SocketName::Takeover, Arc::new(socket.try_clone()?.into())));
        if let Some(lock) = &self.lock {
            fixed.push((SocketName::Lock, Arc::new(lock.copy()?)));
        }
        Ok((UnixListener::from_std(socket)?, fixed))
    }
}

/// Refuses where the pinned maps of the other cannot be used: it lives on them, so they cannot be made anew.
pub(super) fn check_maps(taking: &Taking, options: &LoadOptions) -> anyhow::Result<()> {
    ensure!(
        taking.pins() == options.pins,
        "cannot take over: the maps of process {} are pinned in {}",
        taking.process(),
        taking.pins().display()
    );
    let others = load::other_sizes(&options.pins, &options.map_sizes)?;
    ensure!(
        others.is_empty(),
        "cannot take over with other sizes of {}; end process {} first",
        others.join(", "),
        taking.process()
    );
    Ok(())
}

impl Node {
    /// Gets everything from the process that runs; nothing is changed before that says so.
    pub(super) async fn take_over(
        &mut self,
        taking: Taking,
        admin: admin::Opened,
        lock: &mut Option<RunLock>,
        signals: &mut Signals,
    ) -> anyhow::Result<admin::Server> {
        self.control.settle().await;
        let (kernel, socket) = (Arc::clone(&self.kernel), self.admin.socket.clone());
        let wait = tokio::task::spawn_blocking(move || {
            let programs: Vec<(&str, BorrowedFd<'_>)> =
                kernel.programs().map(|(hook, program)| (hook.name, program.as_fd())).collect();
            taking.ready(&programs, &socket).map(|handed_over| (taking, handed_over))
        });
        let (taking, HandedOver { late, counts }) = tokio::select! {
            taken = wait => taken?.context("the process that runs goes on")?,
            () = signals.end(false) => bail!("told to end before it had taken over"),
        };
        // Hooks that the other did not know.
        attach::attach(&self.kernel, &self.hierarchy.mount, &self.pins).context("cannot attach")?;
        self.control.take_over(late).await?;
        lock.as_mut().map_or(Ok(()), RunLock::announce).context("cannot write the process id")?;
        // Before anybody can ask for them.
        counts.iter().for_each(|counts| self.handle.shared().stats.import(counts));
        // Without their names these would not show.
        self.control.follow_applications();
        let server = admin.serve(self.handle.clone());
        tracing::info!(process = taking.process(), version = taking.version(), "took over");
        self.set_ready();
        if let Some(arrivals) = taking.serving() {
            self.receive(arrivals);
        }
        Ok(server)
    }

    /// Serves until somebody says that it is enough.
    pub(super) async fn run(&mut self, signals: &mut Signals) -> anyhow::Result<End> {
        let Signals { reload, terminate, interrupt, upgrade, is_told } = signals;
        let mut running = std::pin::pin!(control_task::run(&mut self.control, reload));
        loop {
            tokio::select! {
                end = &mut running => return Ok(end?),
                _ = terminate.recv() => {
                    let status = self.handle.status();
                    // What comes just now is awaited, so that there is no gap.
                    if !(status.is_handing_over && self.handle.try_drain()) {
                        return Ok(End::Drain(status.drain_timeout));
                    }
                    *is_told = true;
                }
                _ = interrupt.recv() => return Ok(End::Drain(Duration::ZERO)),
                _ = upgrade.recv() => start_newer(),
            }
        }
    }

    /// Hands everything over; false if that failed and this process goes on.
    pub(super) async fn hand_over(
        &mut self,
        successor: &mut Successor,
        admin: &admin::Server,
        lock: &mut Option<RunLock>,
    ) -> bool {
        // Who asks for counters waits for the one who has them all.
        tokio::select! {
            () = admin.pause() => {}
            // What was asked before gets its answer, which may need this.
            () = self.control.answer() => {}
        }
        self.control.hand_over(successor).await;
        self.health = Counts::of_health(&self.control.health());
        let switch = |programs: &[(String, OwnedFd)]| attach::hand_over(programs, &self.pins);
        let counts = || super::carry::counts(&self.handle, &self.health);
        let sockets = self.control.pod_sockets();
        let outcome = tokio::task::block_in_place(|| successor.hand_over(sockets, switch, counts));
        let Outcome::Failed(error) = outcome else {
            tracing::info!(process = successor.process(), "a newer process has taken over");
            return true;
        };
        if let Err(error) = attach::attach(&self.kernel, &self.hierarchy.mount, &self.pins) {
            tracing::error!(%error, "cannot put the kernel programs back");
        }
        if let Some(Err(error)) = lock.as_mut().map(RunLock::announce) {
            tracing::warn!(%error, "cannot write the process id");
        }
        admin.resume();
        self.control.resume().await;
        tracing::warn!(process = successor.process(), %error, "a takeover failed; this process goes on");
        false
    }
}

/// Starts the program that lies where ours lay, with our arguments, to take over from this process.
fn start_newer() {
    let mut arguments = std::env::args_os();
    let Some(program) = arguments.next().map(PathBuf::from) else { return };
    let mut arguments: Vec<OsString> = arguments.collect();
    if !arguments.iter().any(|argument| argument == TAKEOVER) {
        arguments.push(TAKEOVER.into());
    }
    // Standard output and error, the limits and the supervisor's socket are its, too.
    match Command::new(&program).args(&arguments).stdin(Stdio::null()).spawn() {
        Ok(mut newer) => {
            tracing::info!(process = newer.id(), program = %program.display(), "started a newer process");
            // Whoever starts a process has to hear of its end.
            let wait = move || match newer.wait() {
                Ok(status) if !status.success() => tracing::warn!(%status, "the newer process has ended"),
                _ => {}
            };
            let named = std::thread::Builder::new().name("weir-newer".to_owned());
            if let Err(error) = named.spawn(wait) {
                tracing::warn!(%error, "cannot wait for the newer process");
            }
        }
        Err(error) => tracing::warn!(program = %program.display(), %error, "cannot start a newer process"),
    }
}

/// Signals that are listened to.
pub(super) struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
    upgrade: Signal,
    /// A SIGTERM came that did not end everything at once.
    is_told: bool,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            reload: on(SignalKind::hangup())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            upgrade: on(SignalKind::user_defined2())?,
            is_told: false,
        })
    }

    /// Waits for SIGINT or a SIGTERM; with `is_one_free` for a second SIGTERM.
    pub(super) async fn end(&mut self, is_one_free: bool) {
        let Self { terminate, interrupt, is_told, .. } = self;
        let terminated = async {
            if is_one_free && !*is_told {
                terminate.recv().await;
                *is_told = true;
            }
            terminate.recv().await;
        };
        tokio::select! {
            () = terminated => {}
            _ = interrupt.recv() => {}
        }
    }

    /// Waits for SIGTERM or SIGINT; or for the end of every Weir, which is an error: a new one is needed.
    pub(super) async fn stay(&mut self) -> anyhow::Result<()> {
        tracing::info!("drained after a takeover; staying until told to end");
        while !self.is_told {
            tokio::select! {
                () = self.end(false) => return Ok(()),
                () = tokio::time::sleep(STAY_INTERVAL) => {}
            }
            if RunLock::is_free() {
                return Err(anyhow!("the Weir that had taken over has ended"));
            }
        }
        Ok(())
    }
}
