//! The workers as a process begins: on which driver, how many, and with which listeners.

use std::io;
use std::sync::Arc;

use anyhow::anyhow;
use proxy_core::snapshot::Snapshot;
use proxy_io::DriverKind;

use crate::config::{Config, IoChoice, Workers};
use crate::connection::{Peers, Shared};
use crate::listener::Listening;
use crate::takeover::{NamedSockets, SocketName};
use crate::worker::{self, Command, Worker};

/// A choice of driver, with a note if it is not the one that was hoped for.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) kind: DriverKind,
    pub(super) note: Option<String>,
    /// The other one will do as well.
    is_free: bool,
}

fn choose_driver(choice: IoChoice) -> anyhow::Result<Chosen> {
    let is_free = choice == IoChoice::Auto;
    if choice == IoChoice::Epoll {
        return Ok(Chosen { kind: DriverKind::Epoll, note: None, is_free });
    }
    match proxy_io::driver::probe::ring() {
        Ok(_) => Ok(Chosen { kind: DriverKind::Ring, note: None, is_free }),
        Err(error) if !is_free => Err(anyhow!(
            "io_uring was asked for and is not available: {error}; use `io: auto` or `io: epoll`"
        )),
        Err(error) => Ok(Chosen { kind: DriverKind::Epoll, note: Some(error.to_string()), is_free }),
    }
}

/// Starts as many workers as the config says. A ring takes locked memory (before 5.12, and where memory is short): with too
/// little of it for all workers, all of them use epoll if that is left to us.
pub(super) fn start_workers(
    config: &Config,
    choice: IoChoice,
    snapshot: &Arc<Snapshot>,
    shared: impl Fn(Peers) -> Arc<Shared>,
) -> anyhow::Result<(Vec<Worker>, Arc<Shared>, Chosen)> {
    let mut chosen = choose_driver(choice)?;
    loop {
        let (peers, handed) = Peers::new(worker_count(config));
        let shared = shared(peers);
        let start = |(index, handed)| {
            let waiting = (chosen.kind, config.busy_poll.unwrap_or_default());
            worker::spawn(index, handed, waiting, Arc::clone(snapshot), Arc::clone(&shared))
        };
        // Those that have begun end when their mailboxes are dropped.
        let started: io::Result<Vec<Worker>> = handed.into_iter().enumerate().map(start).collect();
        let is_short =
            |error: &io::Error| chosen.kind == DriverKind::Ring && error.kind() == io::ErrorKind::OutOfMemory;
        const HINT: &str = "rings take locked memory: raise LimitMEMLOCK (ulimit -l) or give CAP_IPC_LOCK";
        match started {
            Ok(workers) => return Ok((workers, shared, chosen)),
            Err(error) if is_short(&error) && chosen.is_free => {
                let note = format!("too little memory for a ring in each worker ({error}); {HINT}");
                tracing::warn!("{note}; workers use epoll");
                chosen = Chosen { kind: DriverKind::Epoll, note: Some(note), is_free: false };
            }
            Err(error) if is_short(&error) => {
                return Err(anyhow!("cannot start a worker: {error}; {HINT}, or use `io: epoll`"));
            }
            Err(error) => return Err(anyhow!("cannot start a worker: {error}")),
        }
    }
}

/// Gives each listener of the proxy lane to its worker, and keeps hold of it for a newer process.
pub(super) async fn give_to_workers(
    workers: &[Worker],
    listeners: Vec<(SocketName, Listening)>,
    is_taking_over: bool,
) -> anyhow::Result<NamedSockets> {
    let ended = |_| anyhow!("a worker ended before it began");
    if is_taking_over {
        for worker in workers {
            worker.mailbox.send(Command::Hold).await.map_err(ended)?;
        }
    }
    let mut home = Vec::new();
    for (index, (name, listening)) in listeners.into_iter().enumerate() {
        home.push((name, Arc::clone(&listening.socket)));
        workers[index % workers.len()].mailbox.send(Command::Listen(listening)).await.map_err(ended)?;
    }
    Ok(home)
}

fn worker_count(config: &Config) -> usize {
    match config.workers {
        Workers::Count(count) => usize::from(count),
        Workers::Auto => std::thread::available_parallelism().map_or(1, usize::from),
    }
}
