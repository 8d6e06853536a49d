//! One snapshot to workers and maps: new destinations are made usable, then traffic is pointed at them, then the old
//! ones are retired.

use std::collections::BTreeSet;
use std::sync::Arc;

use proxy_bpf::apply::{Applier, ApplyError};
use proxy_bpf::maps::Maps;
use proxy_core::intercept::Planner;
use proxy_core::snapshot::{Snapshot, Treatment};

use crate::worker::{Command, Worker};

/// Puts snapshots into force.
pub struct Publisher {
    maps: Arc<Maps>,
    planner: Planner,
    applier: Applier,
}

impl Publisher {
    /// Begins with empty maps.
    #[must_use]
    pub fn new(maps: Arc<Maps>, applier: Applier) -> Self {
        Self { maps, planner: Planner::new(), applier }
    }

    /// Puts a snapshot into force. The workers learn first: they must know a service before its first connection comes.
    ///
    /// # Errors
    /// The map operation that failed; `old` is in force again then, on the workers at once and in the kernel as far as
    /// the failure allows (the next publication repairs the rest).
    pub async fn publish(
        &mut self,
        workers: &[Worker],
        old: &Arc<Snapshot>,
        new: &Arc<Snapshot>,
    ) -> Result<(), ApplyError> {
        tell(workers, new).await;
        let plan = self.planner.plan(new);
        match self.applier.apply(&self.maps, &plan.ops) {
            Ok(()) => {
                self.planner.commit(plan);
                Ok(())
            }
            Err(error) => {
                self.planner.abandon(plan);
                self.restore(old);
                tell(workers, old).await;
                Err(error)
            }
        }
    }

    fn restore(&mut self, old: &Snapshot) {
        let plan = self.planner.plan(old);
        match self.applier.apply(&self.maps, &plan.ops) {
            Ok(()) => self.planner.commit(plan),
            Err(error) => {
                tracing::error!(%error, "the kernel's maps hold parts of a configuration that failed");
                self.planner.abandon(plan);
            }
        }
    }

    /// Does what had to wait; see [`Applier::sweep`].
    ///
    /// # Errors
    /// The map operation that failed.
    pub fn sweep(&mut self) -> Result<(), ApplyError> {
        self.applier.sweep(&self.maps)
    }

    /// Treats the cgroups of these pods so, and those of no others; see [`Applier::set_pods`].
    ///
    /// # Errors
    /// The first map operation that failed.
    pub fn set_pods(&mut self, pods: &BTreeSet<(Treatment, String)>) -> Result<(), ApplyError> {
        self.applier.set_pods(&self.maps, pods)
    }

    /// Names the cgroups and network namespaces that are scopes and do not exist (yet).
    #[must_use]
    pub fn missing_scopes(&self) -> Vec<String> {
        self.applier.missing_scopes().into_iter().map(str::to_owned).collect()
    }

    /// Network namespaces that are scopes and exist: the file that names each, and its cookie.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, u64)> {
        self.applier.namespaces()
    }
}

async fn tell(workers: &[Worker], snapshot: &Arc<Snapshot>) {
    for worker in workers {
        let _ = worker.mailbox.send(Command::Snapshot(Arc::clone(snapshot))).await;
    }
}
