//! Sharing the connections of one listener among all workers: the worker that accepts keeps a connection, or hands it
//! over to the one with the fewest.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Accepted;

/// Connections that may wait for a worker to take them over; what does not fit stays with who accepted it.
const QUEUE_LEN: usize = 256;
/// Connections that the accepting worker may have more than the least loaded one: handing over wakes another thread,
/// which is worth it for a difference that lasts.
const SLACK: usize = 4;

/// An accepted connection on its way to another worker.
pub struct Handed {
    pub(crate) fd: OwnedFd,
    pub(crate) accepted: Accepted,
}

/// All workers.
pub struct Peers(Vec<Peer>);

struct Peer {
    load: Arc<Load>,
    queue: mpsc::Sender<Handed>,
    /// It rests after a failure.
    is_away: AtomicBool,
    failures: AtomicU64,
}

/// Connections of a worker, in a cache line of their own: each worker writes its own at every connection.
#[derive(Default)]
#[repr(align(64))]
struct Load(AtomicUsize);

/// Counts a connection of a worker for as long as it lives.
pub(crate) struct LoadGuard(Arc<Load>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Peers {
    /// Makes the places of so many workers, and what each receives.
    #[must_use]
    pub fn new(count: usize) -> (Self, Vec<mpsc::Receiver<Handed>>) {
        let make = |_| {
            let (queue, handed) = mpsc::channel(QUEUE_LEN);
            let (is_away, failures) = (AtomicBool::new(false), AtomicU64::new(0));
            (Peer { load: Arc::default(), queue, is_away, failures }, handed)
        };
        let (peers, handed) = (0..count).map(make).unzip();
        (Self(peers), handed)
    }

    /// Counts a connection of a worker.
    pub(crate) fn count(&self, index: usize) -> LoadGuard {
        let load = &self.0[index].load;
        load.0.fetch_add(1, Ordering::Relaxed);
        LoadGuard(Arc::clone(load))
    }

    /// Takes note of a worker's failure; says how many it has had.
    pub(crate) fn handle_failure(&self, index: usize) -> u64 {
        self.0[index].failures.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Says whether a worker rests: nothing is handed over to it then.
    pub(crate) fn set_away(&self, index: usize, is_away: bool) {
        self.0[index].is_away.store(is_away, Ordering::Relaxed);
    }

    /// How often each worker has failed and begun again.
    #[must_use]
    pub fn failures(&self) -> Vec<u64> {
        self.0.iter().map(|peer| peer.failures.load(Ordering::Relaxed)).collect()
    }

    /// Hands a connection over if another worker than `own` has clearly fewer; gives it back if it is to stay.
    #[must_use]
    pub(crate) fn hand(&self, own: usize, mut handed: Handed) -> Option<Handed> {
        let load = |index: usize| self.0[index].load.0.load(Ordering::Relaxed);
        let here = (0..self.0.len()).filter(|index| !self.0[*index].is_away.load(Ordering::Relaxed));
        let least = here.min_by_key(|index| load(*index)).unwrap_or(own);
        if load(own) <= load(least) + SLACK {
            return Some(handed);
        }
        // At once, so that the next one of a burst goes elsewhere.
        handed.accepted.load = self.count(least);
        match self.0[least].queue.try_send(handed) {
            Ok(()) => None,
            Err(TrySendError::Full(mut handed) | TrySendError::Closed(mut handed)) => {
                handed.accepted.load = self.count(own);
                Some(handed)
            }
        }
    }
}
