//! A connection to an endpoint for one request: one that rests, or a new one.

use std::time::Instant;

use proxy_core::id::EndpointId;
use proxy_core::outcome::Reason;
use proxy_core::service::Endpoint;
use proxy_io::Chunk;

use super::Client;
use super::plan::Plan;
use crate::connection::endpoint::{self, Counted, Wanted, count, pick};
use crate::forward::wire::Wire;
use crate::tls::Stream;
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
    _counted: Counted,
}

impl Upstream {
    /// Gives the connection back for the next request.
    pub(super) fn keep(self, client: &Client<'_>, sent_bytes: u64) {
        let Self { wire, key, .. } = self;
        let kept =
            Kept { stream: wire.stream, sent_bytes: self.sent_bytes + sent_bytes, since: Instant::now() };
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
    let acquired = acquire_of(client, plan, endpoint).await;
    if acquired.is_err() {
        tried.push(endpoint.id);
    }
    let (stream, key, is_reused, sent_bytes, counted) = acquired?;
    let wire = Wire::new(stream, Chunk::default());
    Ok(Upstream { wire, index, is_reused, sent_bytes, key, _counted: counted })
}

async fn acquire_of(
    client: &Client<'_>,
    plan: &Plan,
    endpoint: &Endpoint,
) -> Result<(Stream, Key, bool, u64, Counted), Reason> {
    let limits = &plan.service.limits;
    let counted = count(&endpoint.load, limits.max_connections_per_endpoint).ok_or(Reason::Limit)?;
    client.conn.set_endpoint(endpoint.id);
    let netns = endpoint::netns(client.local, client.accepted);
    let key = Key { endpoint: endpoint.id, netns_cookie: netns.map_or(0, |netns| netns.cookie()) };
    if let Some(kept) = client.local.pool.checkout(key) {
        return Ok((kept.stream, key, true, kept.sent_bytes, counted));
    }
    let wants = Wanted { accepted: client.accepted, service: &plan.service, has_early: true };
    let connecting = endpoint::connect(client.local, &wants, endpoint, &plan.stats);
    let socket = Box::pin(connecting).await?;
    Ok((Stream::Plain(socket), key, false, 0, counted))
}
