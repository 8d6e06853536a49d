//! A connection to an endpoint for one request: one that rests, or a new one.

use std::sync::Arc;

use proxy_core::id::EndpointId;
use proxy_core::load::Load;
use proxy_core::outcome::{Reason, RequestReason};
use proxy_core::pool::Life;
use proxy_core::retry::proof::{End, Evidence};
use proxy_io::netns::Netns;
use proxy_io::{Chunk, sock};

use super::Client;
use super::plan::Plan;
use crate::connection::boxed;
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
    sent_bytes: u64,
    key: Key,
    life: Life,
    tls: Option<Arc<tls::Client>>,
    _counted: Counted,
}

impl Upstream {
    /// Gives the connection back for the next request; so many bytes were sent for this one.
    pub(super) fn keep(self, client: &Client<'_>, sent_bytes: u64) {
        let Self { wire, key, tls, life, .. } = self;
        let sent_bytes = self.sent_bytes + sent_bytes;
        client.local.pool.put(key, Kept { stream: wire.stream, sent_bytes, tls, life });
    }

    /// Tells whether it is proven that no server had the request, whose head is so long, although the connection ended.
    pub(super) fn is_unseen(&self, head_bytes: u64, end: End) -> bool {
        // Inside TLS positions are of another stream, which nobody counts.
        if self.tls.is_some() {
            return false;
        }
        let Ok(info) = sock::tcp_info(&self.wire.stream.fd()) else { return false };
        let evidence = Evidence {
            is_ended_before_send: false,
            sent_before: self.sent_bytes,
            sent_after: info.bytes_sent,
            acked: info.bytes_acked,
            head_end: self.sent_bytes + head_bytes,
            end,
        };
        evidence.is_unseen()
    }
}

/// Finds a connection for a request: to an endpoint that was not tried yet, or to any if all were.
///
/// # Errors
/// Why there is none, and the endpoint if it was one's fault.
pub(super) async fn acquire(
    client: &Client<'_>,
    plan: &Plan,
    tried: &[EndpointId],
    is_fresh: bool,
) -> Result<Upstream, (RequestReason, Option<EndpointId>)> {
    let mut full: Vec<EndpointId> = Vec::new();
    loop {
        let pick =
            |avoided: &[EndpointId]| pick(client.local, client.accepted.client, &plan.service, avoided);
        let index = if full.is_empty() { pick(tried) } else { pick(&[tried, &full].concat()) };
        let index = index.or_else(|| if tried.is_empty() { None } else { pick(&full) });
        let Some(index) = index else {
            let reason = if full.is_empty() { RequestReason::NoEndpoint } else { RequestReason::Limit };
            return Err((reason, None));
        };
        let endpoint = &plan.service.endpoints[index];
        match count(&endpoint.load, plan.service.limits.max_connections_per_endpoint) {
            Some(counted) => {
                let acquired = acquire_of(client, plan, index, counted, is_fresh).await;
                return acquired.map_err(|reason| (reason, Some(endpoint.id)));
            }
            None => full.push(endpoint.id),
        }
    }
}

async fn acquire_of(
    client: &Client<'_>,
    plan: &Plan,
    index: usize,
    counted: Counted,
    is_fresh: bool,
) -> Result<Upstream, RequestReason> {
    let endpoint = &plan.service.endpoints[index];
    client.conn.set_endpoint(endpoint.id);
    let of_client = client.accepted.netns.as_ref();
    let netns = endpoint::netns(client.local, of_client);
    let tls = endpoint::tls_client(client.local, &plan.service);
    let key = Key::new(endpoint.id, netns.map_or(0, Netns::cookie), tls.as_ref());
    if !is_fresh && let Some(Kept { stream, sent_bytes, life, .. }) = client.local.pool.checkout(key) {
        let wire = Wire::new(stream, Chunk::default());
        return Ok(Upstream { wire, index, is_reused: true, sent_bytes, key, life, tls, _counted: counted });
    }
    let limits = plan.service.limits.requests();
    let _pending = Load::try_pending(&*plan.service.load, limits).ok_or(RequestReason::PendingLimit)?;
    let wants =
        Wanted { client: client.accepted.client, netns: of_client, service: &plan.service, has_early: true };
    // Boxed: most requests find a connection that rests.
    let opening = boxed(|| endpoint::open(client.local, &wants, endpoint, &plan.stats));
    let stream = opening.await.map_err(of_connect)?;
    let life = client.local.pool.begin(&mut client.local.rng.borrow_mut());
    let wire = Wire::new(stream, Chunk::default());
    Ok(Upstream { wire, index, is_reused: false, sent_bytes: 0, key, life, tls, _counted: counted })
}

/// What a connection that could not be made is called for a request.
fn of_connect(reason: Reason) -> RequestReason {
    match reason {
        Reason::ConnectRefused => RequestReason::ConnectRefused,
        Reason::ConnectTimeout => RequestReason::ConnectTimeout,
        Reason::ConnectUnreachable => RequestReason::ConnectUnreachable,
        Reason::TlsHandshake | Reason::TlsCertificate => RequestReason::TlsUpstream,
        Reason::NoEndpoint => RequestReason::NoEndpoint,
        Reason::Limit => RequestReason::Limit,
        _ => RequestReason::Internal,
    }
}
