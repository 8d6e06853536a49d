//! The control side: one task that owns what is in force and changes it, and the handle by which others ask.
//!
//! ```text
//!   file, SIGHUP, admin ──> config ──┐
//!   checks, attempts ──> health ─────┴─> snapshot n+1 ──> workers' mailboxes, then the kernel's maps
//! ```
//!
//! Nothing here runs on a worker's thread.

mod listen;
mod names;
mod overload;
mod publish;
mod pulse;
mod run;
mod supervisor;
mod watch;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use proxy_bpf::abi::record::Record;
use proxy_bpf::load::Kernel;
use proxy_bpf::maps::Maps;
use proxy_core::health::EndpointReport;
use proxy_core::id::Version;
use proxy_core::snapshot::Snapshot;
use proxy_io::{DriverCounters, DriverKind};
use tokio::sync::{mpsc, oneshot, watch as channel};

pub use self::listen::{Listeners, intercepted_count, open_intercepted};
pub use self::names::{Names, NamesFile};
pub use self::publish::Publisher;
pub use self::pulse::{HUNG, Pulse};
pub use self::run::{Control, End, Parts};
pub use self::supervisor::Supervisor;
use crate::connection::Shared;
use crate::pods::{NodeListenerStatus, PodsStatus};
use crate::worker::Worker;

/// Requests that may wait for the control task.
const REQUESTS: usize = 64;

/// Where the process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not everything is in force yet.
    Starting,
    /// Everything is in force.
    Ready,
    /// No new connections; open ones may end.
    Draining,
}

/// What the control side says of itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where the process stands.
    pub phase: Phase,
    /// The config file.
    pub config: PathBuf,
    /// Version that the last accepted change wanted.
    pub wanted: Version,
    /// Version in force in the kernel and on all workers.
    pub applied: Version,
    /// Reloads that succeeded.
    pub reloads: u64,
    /// Reloads that failed; the running config stayed in force.
    pub failures: u64,
    /// Why the last reload failed; gone after one that succeeds.
    pub last_error: Option<String>,
    /// Driver of the workers.
    pub driver: DriverKind,
    /// Why it is not io_uring, if that was wanted.
    pub driver_note: Option<String>,
    /// Number of workers.
    pub workers: usize,
    /// Cgroups and network namespaces that are scopes but do not exist (yet).
    pub missing_scopes: Vec<String>,
    /// Pods that scopes choose among.
    pub pods: PodsStatus,
    /// The node listeners that are open.
    pub node_listeners: Vec<NodeListenerStatus>,
    /// When the process began, for those who read dates ...
    pub started: SystemTime,
    /// ... and by the clock that nobody sets.
    pub began: Instant,
    /// Time that open connections get to end after SIGTERM.
    pub drain_timeout: Duration,
    /// A newer process prepares to take over from this one.
    pub is_handing_over: bool,
    /// Whether the control task lives.
    pub pulse: Pulse,
}

impl Status {
    /// How long the control task has been silent, if that is too long. Only while it is to be heard: it has ended when
    /// connections drain.
    #[must_use]
    pub fn hung(&self) -> Option<Duration> {
        (self.phase == Phase::Ready).then(|| self.pulse.silence()).filter(|silence| *silence >= HUNG)
    }
}

/// What others may ask of the control side.
pub(crate) enum Request {
    Health(oneshot::Sender<Vec<EndpointReport>>),
    Reload(oneshot::Sender<Result<Version, String>>),
    Drain(oneshot::Sender<()>),
}

/// The control side as others see it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    snapshot: channel::Receiver<Arc<Snapshot>>,
    status: channel::Receiver<Arc<Status>>,
    names: channel::Receiver<Arc<Names>>,
    kernel: Arc<Kernel>,
    maps: Arc<Maps>,
    shared: Arc<Shared>,
    workers: Arc<Vec<Worker>>,
}

impl Handle {
    /// The snapshot in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// What the control side says of itself.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.borrow())
    }

    /// Every name ever given out.
    #[must_use]
    pub fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names.borrow())
    }

    /// What is known about every endpoint's health; empty when the process is ending.
    pub async fn health(&self) -> Vec<EndpointReport> {
        let (answer, answered) = oneshot::channel();
        let _ = self.requests.send(Request::Health(answer)).await;
        answered.await.unwrap_or_default()
    }

    /// Reads the config file again.
    ///
    /// # Errors
    /// Everything that is wrong with it; it is not in force then.
    pub async fn reload(&self) -> Result<Version, String> {
        let (answer, answered) = oneshot::channel();
        let _ = self.requests.send(Request::Reload(answer)).await;
        answered.await.unwrap_or_else(|_| Err("the process is ending".to_owned()))
    }

    /// Begins to drain; the process ends when no connection is left or the time is over. While a newer process prepares to
    /// take over, that is awaited first: there is no gap then.
    pub async fn drain(&self) {
        let (answer, answered) = oneshot::channel();
        let _ = self.requests.send(Request::Drain(answer)).await;
        let _ = answered.await;
    }

    /// The same for somebody who does not wait for an answer; false if too many others wait for theirs.
    #[must_use]
    pub fn try_drain(&self) -> bool {
        self.requests.try_send(Request::Drain(oneshot::channel().0)).is_ok()
    }

    /// Reads the live statistics of every tracked socket; blocks for about a microsecond per connection.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn live(&self) -> io::Result<Vec<Record>> {
        proxy_bpf::events::read_live(self.kernel.open_live()?)
    }

    /// Maps of the kernel programs.
    #[must_use]
    pub fn maps(&self) -> &Arc<Maps> {
        &self.maps
    }

    /// What the workers share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What each worker's driver last said of itself.
    #[must_use]
    pub fn driver_counters(&self) -> Vec<DriverCounters> {
        let read = |worker: &Worker| *worker.counters.lock().unwrap_or_else(PoisonError::into_inner);
        self.workers.iter().map(read).collect()
    }
}
