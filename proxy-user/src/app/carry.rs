//! After a hand-over: what the older process's connections and counters go through, at both ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Node;
use crate::connection::Shared;
use crate::connection::moving::{Exit, Identity, Parcel};
use crate::control::Handle;
use crate::stats::carried::{
    ACCESS_LOG_DROPPED, Counts, KUBELET_ANSWERS, KUBELET_FAILURES, Owner, RELOAD_FAILURES, RELOADS,
};
use crate::stats::conn::BudgetGuard;
use crate::takeover::{Arrivals, Arrive, Given, MOST_STOPPED, Successor};
use crate::worker::Command;

/// Time for the last counters to be said.
const LAST_WORD_TIME: Duration = Duration::from_secs(10);

/// Connections on their way to a newer process, and the counters of those that stay.
pub(super) struct Carrying {
    task: JoinHandle<()>,
    is_over: oneshot::Sender<()>,
}

impl Carrying {
    /// Says the last counters, once the process before this one has said its own or the deadline is over.
    pub(super) async fn end(self, predecessor: Option<oneshot::Receiver<()>>, deadline: Instant) {
        if let Some(ended) = predecessor {
            let _ = tokio::time::timeout_at(deadline, ended).await;
        }
        let _ = self.is_over.send(());
        let _ = tokio::time::timeout(LAST_WORD_TIME, self.task).await;
    }
}

impl Node {
    /// Begins to hand connections to a newer process, if that takes any.
    pub(super) async fn carry(&self, successor: &mut Successor) -> Option<Carrying> {
        let mut carrier = match successor.carrier() {
            Ok(carrier) => carrier?,
            Err(error) => {
                tracing::warn!(%error, "connections cannot be handed over; they end here");
                return None;
            }
        };
        let (exit, leavers) = Exit::new(MOST_STOPPED);
        let (is_over, over) = oneshot::channel();
        let (handle, health, permits) = (self.handle.clone(), self.health.clone(), Arc::clone(&exit.permits));
        let runtime = Runtime::current();
        let process = successor.process();
        let task = tokio::task::spawn_blocking(move || {
            let ended = carrier.run(&runtime, leavers, || counts(&handle, &health), over);
            // Those that wait for their turn go on where they are.
            permits.close();
            let Given { taken, left } = carrier.given();
            match ended {
                Ok(()) => tracing::info!(process, taken, left, "connections handed over"),
                Err(error) => {
                    let text = "the newer process takes no more connections; the others go on here";
                    tracing::warn!(process, %error, taken, left, "{text}");
                }
            }
        });
        for worker in self.workers.iter() {
            let _ = worker.mailbox.send(Command::Leave(exit.clone())).await;
        }
        Some(Carrying { task, is_over })
    }

    /// Takes what the older process still sends, on a thread of its own until that process ends.
    pub(super) fn receive(&mut self, arrivals: Arrivals) {
        let mailboxes = self.workers.iter().map(|worker| worker.mailbox.clone()).collect();
        let shared = Arc::clone(self.handle.shared());
        let mut harbor = Harbor { shared, mailboxes, next: 0, runtime: Runtime::current() };
        let (ended, has_ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("weir-takeover".to_owned()).spawn(move || {
            if let Err(error) = arrivals.run(&mut harbor) {
                tracing::warn!(%error, "the older process's connections do not come any more; they end there");
            }
            let _ = ended.send(());
        });
        match thread {
            Ok(_) => self.predecessor = Some(has_ended),
            Err(error) => {
                tracing::warn!(%error, "the older process's connections cannot be taken; they end there")
            }
        }
    }
}

/// Everything that this process has counted, and those before it.
pub(super) fn counts(handle: &Handle, health: &[Counts]) -> Vec<Counts> {
    let (shared, status) = (handle.shared(), handle.status());
    let process = [
        (RELOADS, status.reloads),
        (RELOAD_FAILURES, status.failures),
        (KUBELET_ANSWERS, status.pods.answers),
        (KUBELET_FAILURES, status.pods.failures),
        (ACCESS_LOG_DROPPED, shared.access.dropped()),
    ];
    let drivers = (0..).zip(handle.driver_counters());
    let mut own: Vec<Counts> = drivers.map(|(index, driver)| Counts::of_driver(index, &driver)).collect();
    let process = [&process[..], &shared.overload.counts()].concat();
    own.push(Counts::new(Owner::Process, &process));
    own.extend_from_slice(health);
    let mut all = shared.stats.export();
    all.extend(shared.stats.carried.export(own));
    all
}

/// Where an older process's connections come in.
struct Harbor {
    shared: Arc<Shared>,
    mailboxes: Vec<mpsc::Sender<Command>>,
    /// Worker that gets the next one.
    next: usize,
    runtime: Runtime,
}

impl Arrive for Harbor {
    type Place = (OwnedPermit<Command>, BudgetGuard);

    fn handle_counts(&mut self, counts: &Counts) {
        self.shared.stats.import(counts);
    }

    fn find_place(&mut self, identity: &Identity) -> Option<Self::Place> {
        // Of a namespace that is not served (any more) it counts as one of Weir's own.
        let share = self.shared.budget.find(identity.netns_cookie);
        let budget = share.as_ref().unwrap_or(&self.shared.home_share).try_acquire()?;
        let mailbox = self.mailboxes[self.next % self.mailboxes.len()].clone();
        self.next += 1;
        // Fails if the worker has ended: this process is ending, too.
        let place = self.runtime.block_on(mailbox.reserve_owned()).ok()?;
        Some((place, budget))
    }

    fn handle_arrival(&mut self, parcel: Parcel, (place, budget): Self::Place) {
        place.send(Command::Resume(Box::new((parcel, budget))));
    }
}
