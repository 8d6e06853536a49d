//! The end of a connection, or of its task: what became of it, counted and written down.

use std::sync::Arc;
use std::time::Duration;

use proxy_core::addr::{ClientAddr, EndpointAddr, OriginalDst};
use proxy_core::id::EndpointId;
use proxy_core::outcome::Reason;
use proxy_core::service::Service;
use proxy_io::clock::monotonic_ns;

use super::http::Resting;
use super::{Accepted, Local};
use crate::forward::l4::Ending;
use crate::record::access::AccessRecord;
use crate::stats::application::Attending;
use crate::stats::conn::ServiceStats;

/// Tells of the end of a connection that came from a listener.
pub(super) fn tell(local: &Local, accepted: &Accepted, served: Served) {
    let Served { service, stats, endpoint, ending, is_told } = served;
    tell_end(
        local,
        End {
            client: accepted.client,
            original_dst: accepted.original_dst,
            lane: accepted.entry.lane(),
            cgroup_id: accepted.cgroup_id,
            attending: accepted.attending.as_ref(),
            service: service.as_ref().map(|service| Arc::clone(&service.name)),
            stats: &stats,
            endpoint: endpoint.map(|(_, address)| address),
            ending: &ending,
            duration: Duration::from_nanos(monotonic_ns().saturating_sub(accepted.began_ns)),
            is_told,
        },
    );
}

/// The end of a connection, with all that is told of it.
pub(super) struct End<'a> {
    pub(super) client: ClientAddr,
    pub(super) original_dst: OriginalDst,
    /// Word of the lane.
    pub(super) lane: &'static str,
    pub(super) cgroup_id: u64,
    pub(super) attending: Option<&'a Attending>,
    pub(super) service: Option<Arc<str>>,
    pub(super) stats: &'a ServiceStats,
    pub(super) endpoint: Option<EndpointAddr>,
    pub(super) ending: &'a Ending,
    pub(super) duration: Duration,
    /// Its requests were written down one by one.
    pub(super) is_told: bool,
}

/// Counts the end of a connection and writes it down.
pub(super) fn tell_end(local: &Local, end: End<'_>) {
    let End { ending, endpoint, .. } = end;
    end.stats.handle_end(ending.reason);
    if let Some(attending) = end.attending {
        attending.handle_end(ending.reason, ending.sent_bytes, ending.received_bytes);
    }
    tracing::debug!(
        client = %end.client,
        original_dst = %end.original_dst,
        service = end.service.as_deref(),
        endpoint = endpoint.map(tracing::field::display),
        sent_bytes = ending.sent_bytes,
        received_bytes = ending.received_bytes,
        reason = ending.reason.as_str(),
        "connection closed",
    );
    if end.is_told {
        return;
    }
    local.shared.access.record(|| AccessRecord {
        client: end.client,
        original_dst: end.original_dst,
        endpoint,
        service: end.service,
        lane: end.lane,
        cgroup_id: end.cgroup_id,
        sent_bytes: ending.sent_bytes,
        received_bytes: ending.received_bytes,
        duration: end.duration,
        reason: ending.reason.as_str(),
    });
}

/// What became of a connection's task.
pub(super) enum After {
    /// The connection is over.
    Over(Served),
    /// It rests, and needs no task until something happens to it.
    Rests(Box<Resting>),
}

impl From<Served> for After {
    fn from(served: Served) -> Self {
        Self::Over(served)
    }
}

/// What became of a connection.
pub(super) struct Served {
    pub(super) service: Option<Arc<Service>>,
    pub(super) stats: Arc<ServiceStats>,
    pub(super) endpoint: Option<(EndpointId, EndpointAddr)>,
    pub(super) ending: Ending,
    /// Its requests were written down one by one, with their bytes.
    pub(super) is_told: bool,
}

impl Served {
    /// A connection that never reached an endpoint.
    pub(super) fn nowhere(service: Option<Arc<Service>>, stats: Arc<ServiceStats>, reason: Reason) -> Self {
        Self { service, stats, endpoint: None, ending: Ending::of(reason), is_told: false }
    }
}
