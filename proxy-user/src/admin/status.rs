//! Where the process stands.

use std::net::SocketAddr;

use proxy_io::DriverKind;
use serde::{Deserialize, Serialize};

use super::source::Source;
use crate::bug;
use crate::control::Phase;
use crate::pods::NodeListenerStatus;

/// `/status`. Times in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct StatusPage {
    pub(super) phase: String,
    pub(super) pid: u32,
    pub(super) version: String,
    pub(super) uptime_seconds: f64,
    pub(super) config: String,
    pub(super) wanted_version: u64,
    pub(super) applied_version: u64,
    pub(super) reloads: u64,
    pub(super) reload_failures: u64,
    pub(super) last_error: Option<String>,
    pub(super) driver: String,
    pub(super) driver_note: Option<String>,
    pub(super) workers: usize,
    /// How often workers have failed and begun again.
    pub(super) worker_restarts: u64,
    /// Bugs that were caught.
    pub(super) panics: u64,
    /// How long the control task has been silent, if that is too long.
    pub(super) control_hung_seconds: Option<f64>,
    pub(super) services: usize,
    pub(super) endpoints: usize,
    pub(super) usable_endpoints: usize,
    pub(super) proxied_connections: u64,
    pub(super) proxied_connections_max: u64,
    pub(super) access_log_dropped: u64,
    pub(super) missing_scopes: Vec<String>,
    /// Pods that scopes mean, if any choose among pods.
    pub(super) chosen_pods: Option<usize>,
    /// Pods of which not enough is known to choose.
    pub(super) unknown_pods: usize,
    /// Why the kubelet does not tell the labels of pods.
    pub(super) kubelet_error: Option<String>,
    /// Listeners on addresses of the node.
    pub(super) node_listeners: Vec<NodeListenerPage>,
    pub(super) drain_timeout_seconds: f64,
}

/// A listener on an address of the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NodeListenerPage {
    pub(super) address: SocketAddr,
    /// The first connections of new namespaces go there.
    pub(super) is_reached: bool,
    /// The namespace that does not reach it, and why.
    pub(super) missed_by: Option<String>,
}

pub(super) fn status(source: &impl Source) -> StatusPage {
    let (status, snapshot, shared) = (source.status(), source.snapshot(), source.shared());
    StatusPage {
        phase: phase(status.phase).to_owned(),
        pid: std::process::id(),
        version: crate::VERSION.to_owned(),
        uptime_seconds: status.began.elapsed().as_secs_f64(),
        config: status.config.display().to_string(),
        wanted_version: status.wanted.0,
        applied_version: status.applied.0,
        reloads: status.reloads,
        reload_failures: status.failures,
        last_error: status.last_error.clone(),
        driver: match status.driver {
            DriverKind::Ring => "ring",
            DriverKind::Epoll => "epoll",
        }
        .to_owned(),
        driver_note: status.driver_note.clone(),
        workers: status.workers,
        worker_restarts: shared.peers.failures().iter().sum(),
        panics: bug::panics(),
        control_hung_seconds: status.hung().map(|silence| silence.as_secs_f64()),
        services: snapshot.services().len(),
        endpoints: snapshot.services().map(|service| service.endpoints.len()).sum(),
        usable_endpoints: snapshot.services().map(|service| service.usable().len()).sum(),
        proxied_connections: shared.budget.open(),
        proxied_connections_max: shared.budget.most(),
        access_log_dropped: shared.access.dropped(),
        missing_scopes: status.missing_scopes.clone(),
        chosen_pods: status.pods.is_choosing.then(|| status.pods.chosen.len()),
        unknown_pods: status.pods.unknown,
        kubelet_error: status.pods.error.clone(),
        node_listeners: status.node_listeners.iter().map(node_listener).collect(),
        drain_timeout_seconds: status.drain_timeout.as_secs_f64(),
    }
}

fn node_listener(status: &NodeListenerStatus) -> NodeListenerPage {
    let NodeListenerStatus { address, is_reached, missed_by } = status;
    let missed_by = missed_by.as_ref().map(|(netns, error)| format!("{netns}: {error}"));
    NodeListenerPage { address: *address, is_reached: *is_reached, missed_by }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Draining => "draining",
    }
}
