//! Following pods: which of them scopes mean, and the network namespaces of the scopes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::snapshot::{Scope, Snapshot, Treatment};
use tokio::task::JoinError;

use super::{Control, Parts, Phase};
use crate::listener::LONGEST_WAIT;
use crate::pods::{KubeletError, ListedPod, Probed, Surroundings, Wanted, kubelet};

/// Longest time that a start waits for the kubelet. Afterwards pods with labels are followed as they become known.
const KUBELET_SETTLE_TIME: Duration = Duration::from_secs(2);

/// What became of a question to the kubelet.
pub(super) type KubeletAnswer = Result<Vec<ListedPod>, KubeletError>;

impl Control {
    async fn follow_pods(&mut self, snapshot: &Snapshot) {
        let Parts { publisher, shared, maps, workers, kernel, is_taking_over, .. } = &self.parts;
        let may_steer = !is_taking_over;
        let named = publisher.namespaces().map(|(path, cookie)| Wanted {
            name: path.to_owned(),
            file: path.into(),
            cookie,
            known_as: vec![Scope::Netns(path.to_owned())],
            cgroup_id: 0,
        });
        // What has a name in the config is called by it.
        let wanted = self.parts.found(snapshot).chain(named);
        let status = &self.parts.status;
        let (may_probe, is_handing_over) = (status.phase == Phase::Ready, status.is_handing_over);
        let around =
            Surroundings { snapshot, shared, maps, workers, kernel, may_steer, may_probe, is_handing_over };
        self.pods.follow(wanted, around).await;
        self.show_node_listeners();
    }

    /// Takes note of a namespace that reaches the node listener, or does not.
    pub(super) fn handle_probe(&mut self, probed: &Probed) {
        if let Some((netns_cookie, listener)) = self.pods.handle_probe(probed, &self.parts.maps) {
            self.reset_waiting(netns_cookie, listener);
        }
        self.show_node_listeners();
    }

    fn show_node_listeners(&mut self) {
        let node_listeners = self.pods.node_listeners();
        if node_listeners != self.parts.status.node_listeners {
            self.parts.status.node_listeners = node_listeners;
            self.show_status();
        }
    }

    /// Serves the namespaces that the kernel programs told of.
    pub(super) async fn handle_newcomers(&mut self) {
        self.parts.find_newcomers();
        let snapshot = Arc::clone(&self.snapshot);
        self.follow_pods(&snapshot).await;
    }

    /// Makes namespaces known while workers drain: connections of new ones have been accepted and wait for that, so long at most.
    pub async fn keep_knowing_newcomers(&mut self) {
        let begun = Instant::now();
        let mut next_look = begun;
        while begun.elapsed() < LONGEST_WAIT {
            let looks = Instant::now() >= next_look;
            if looks {
                next_look += super::SWEEP_INTERVAL;
            }
            self.know_newcomers(looks);
            tokio::time::sleep(super::RECORDS_INTERVAL).await;
        }
    }

    /// Makes the namespaces known that the kernel programs told of, and with `looks` those in the cgroups, without serving them.
    pub(super) fn know_newcomers(&mut self, looks: bool) {
        self.parts.find_newcomers();
        if looks {
            let treated = self.parts.selection.treated(&self.snapshot);
            self.parts.find_namespaces(&self.snapshot, &treated);
        }
        self.pods.know(self.parts.found(&self.snapshot), &self.parts.shared);
    }

    /// Looks for pods that scopes mean, and for namespaces in the cgroups of the scopes.
    pub(super) async fn look_for_pods(&mut self) {
        let snapshot = Arc::clone(&self.snapshot);
        self.parts.selection.look(Instant::now(), &snapshot);
        self.follow_selection(&snapshot).await;
    }

    async fn follow_selection(&mut self, snapshot: &Snapshot) {
        let Parts { selection, publisher, .. } = &mut self.parts;
        let treated = selection.treated(snapshot);
        let failed = publisher.set_pods(&treated).err().map(|error| error.to_string());
        if let Some(error) = failed.as_ref().filter(|_| failed != self.pods_error) {
            tracing::warn!(%error, "not every pod is followed as the scopes say; it is tried again");
        }
        self.pods_error = failed;
        self.parts.find_namespaces(snapshot, &treated);
        self.follow_pods(snapshot).await;
        let status = self.parts.selection.status();
        if status != self.parts.status.pods {
            self.parts.status.pods = status;
            self.show_status();
        }
    }

    /// Asks the kubelet for the labels of pods if it is time to, without waiting for the answer.
    pub(super) fn ask_kubelet(&mut self) {
        if self.parts.selection.poll_due(Instant::now()) {
            let config = self.parts.source.config().kubelet.clone();
            self.kubelet.spawn(async move { kubelet::ask(&config).await });
        }
    }

    pub(super) async fn handle_kubelet(&mut self, answer: Result<KubeletAnswer, JoinError>) {
        let interval = self.parts.source.config().kubelet.interval;
        let answer = answer.unwrap_or_else(|error| Err(KubeletError::Bug(error)));
        self.parts.selection.handle_answer(Instant::now(), interval, answer);
        let snapshot = Arc::clone(&self.snapshot);
        self.follow_selection(&snapshot).await;
    }

    /// Waits a moment for the first answer of the kubelet, so that pods which were caught before are not let go meanwhile.
    pub(super) async fn settle_kubelet(&mut self) {
        self.ask_kubelet();
        let answered = tokio::time::timeout(KUBELET_SETTLE_TIME, self.kubelet.join_next()).await;
        // Otherwise nobody needs it, or it takes its time.
        if let Ok(Some(answer)) = answered {
            self.handle_kubelet(answer).await;
        }
    }
}

impl Parts {
    /// Takes up what the kernel programs told of.
    fn find_newcomers(&mut self) {
        while let Some(newcomer) = self.newcomers.poll_event() {
            self.finder.handle_newcomer(newcomer.netns_cookie, newcomer.process);
        }
    }

    /// Looks for namespaces in the cgroups of the scopes and of the pods that they mean.
    fn find_namespaces(&mut self, snapshot: &Snapshot, treated: &BTreeSet<(Treatment, String)>) {
        let named = snapshot.intercept.scopes.iter().filter_map(|scope| match scope {
            Scope::Cgroup(path) => Some(path.as_str()),
            Scope::Netns(_) | Scope::Pods(_) => None,
        });
        let pods = treated.iter().filter(|(treatment, _)| *treatment == Treatment::Caught);
        self.finder.look(Instant::now(), named.chain(pods.map(|(_, path)| path.as_str())));
    }

    /// The namespaces that were found.
    fn found(&self, snapshot: &Snapshot) -> impl Iterator<Item = Wanted> {
        self.finder.wanted(|cgroup| self.selection.known_as(cgroup, snapshot))
    }
}
