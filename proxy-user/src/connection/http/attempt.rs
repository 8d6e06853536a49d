//! A connection to an endpoint for one request: one that rests, or a new one.

use std::sync::Arc;
use std::time::Instant;

use proxy_core::id::EndpointId;
use proxy_core::outcome::Reason;
use proxy_io::Chunk;
use proxy_io::netns::Netns;

use super::Client;
use super::plan::Plan;
use crate::connection::endpoint::{self, Counted, Wanted, count, pick};
use crate::forward::wire::Wire;
use crate::tls;
use crate::upstream::pool::{Kept, Key};

/// A connection for one request.
pub(super) struct Upstream {
    pub(super) wire: Wire,
    /// Index of the endpoint in the plan's service.
    pub(super) index: usize,
    /// It was used before: its endpoint may be closing it at this moment.
    pub(super) is_reused: bool,
    /// Plain bytes that were sent on it before.
    pub(super) sent_bytes: u64,
    key: Key,
    tls: Option<Arc<tls::Client>>,
    _counted: Counted,
}

impl Upstream {
    /// Gives the connection back for the next request.
    pub(super) fn keep(self, client: &Client<'_>, sent_bytes: u64) {
        let Self { wire, key, tls, .. } = self;
        let sent_bytes = self.sent_bytes + sent_bytes;
        let kept = Kept { stream: wire.stream, sent_bytes, tls, since: Instant::now() };
        client.local.pool.put(key, kept);
    }
}

/// Finds a connection for a request to an endpoint that was not tried yet.
///
/// # Errors
/// Why there is none; the endpoint, if one was tried, is among the tried ones then.
pub(super) async fn acquire(
    client: &Client<'_>,
    plan: &Plan,
    tried: &mut Vec<EndpointId>,
) -> Result<Upstream, Reason> {
    let index = pick(client.local, client.accepted, &plan.service, tried).ok_or(Reason::NoEndpoint)?;
    let endpoint = &plan.service.endpoints[index];
    let acquired = acquire_of(client, plan, index).await;
    if acquired.is_err() {
        tried.push(endpoint.id);
    }
    acquired
}

async fn acquire_of(client: &Client<'_>, plan: &Plan, index: usize) -> Result<Upstream, Reason> {
    let endpoint = &plan.service.endpoints[index];
    let limits = &plan.service.limits;
    let counted = count(&endpoint.load, limits.max_connections_per_endpoint).ok_or(Reason::Limit)?;
    client.conn.set_endpoint(endpoint.id);
    let netns = endpoint::netns(client.local, client.accepted);
    let tls = endpoint::tls_client(client.local, &plan.service);
    let key = Key::new(endpoint.id, netns.map_or(0, Netns::cookie), tls.as_ref());
    let kept = client.local.pool.checkout(key);
    let (is_reused, sent_bytes) = (kept.is_some(), kept.as_ref().map_or(0, |kept| kept.sent_bytes));
    let stream = match kept {
        Some(kept) => kept.stream,
        None => {
            let wants = Wanted { accepted: client.accepted, service: &plan.service, has_early: true };
            // Boxed: most requests find a connection that rests.
            Box::pin(endpoint::open(client.local, &wants, endpoint, &plan.stats)).await?
        }
    };
    let wire = Wire::new(stream, Chunk::default());
    Ok(Upstream { wire, index, is_reused, sent_bytes, key, tls, _counted: counted })
}
