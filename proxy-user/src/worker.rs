//! One thread per core: a runtime, a driver, and the connections that live and die there.
//!
//! A worker shares nothing that is written often with other workers. What it must know comes through its mailbox.
//!
//! ```text
//!   begun ──> serving ──> drained
//!     ^          └─ failed: connections are reset ──> rests ─┐
//!     └──────────────────────────────────────────────────────┘
//! ```
//!
//! What outlives a failure is its post ([`Post`]): mailbox and listening sockets. Whoever waits in those is served later;
//! while the worker rests, the kernel programs send new connections to other workers.

mod post;
mod restart;

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use proxy_core::id::EndpointId;
use proxy_core::snapshot::Snapshot;
use proxy_io::{DriverCounters, DriverKind};
use tokio::sync::{mpsc, oneshot};

use self::post::Post;
use crate::connection::moving::{Exit, Parcel};
use crate::connection::{Handed, Shared};
use crate::listener::{ListenerName, Listening};
use crate::stats::conn::BudgetGuard;

/// Commands that may wait for a worker; they come at the pace of config and health, not of traffic.
const MAILBOX_LEN: usize = 1024;

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
    /// Say how many bytes the heaviest stream holds.
    Weigh(oneshot::Sender<u32>),
    /// Reset it.
    ResetHeaviest,
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

/// Starts a worker; `waiting` is its driver, and the time for which it looks for more before it sleeps.
///
/// # Errors
/// If the thread cannot be made, or the driver is not available: asked for before the thread goes on.
pub fn spawn(
    index: usize,
    handed: mpsc::Receiver<Handed>,
    waiting: (DriverKind, Duration),
    snapshot: Arc<Snapshot>,
    shared: Arc<Shared>,
) -> io::Result<Worker> {
    let (mailbox, commands) = mpsc::channel(MAILBOX_LEN);
    let counters = Arc::new(Mutex::new(DriverCounters::default()));
    let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
    let post = Post::new(index, waiting, shared, snapshot, commands, handed, Arc::clone(&counters));
    let thread = std::thread::Builder::new()
        .name(format!("weir-worker-{index}"))
        .spawn(move || post.hold(|begun| drop(ready.send(begun))))?;
    is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("worker ended before it began")))?;
    Ok(Worker { mailbox, counters, thread })
}
