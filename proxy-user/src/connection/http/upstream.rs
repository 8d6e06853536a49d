//! A connection to an endpoint for one request: one that rests, or a new one.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{Either, LocalBoxFuture, Ready, ready};
use proxy_core::addr::EndpointAddr;
use proxy_core::id::EndpointId;
use proxy_core::load::Load;
use proxy_core::outcome::{Reason, RequestReason};
use proxy_core::overload::Rung;
use proxy_core::pool::Life;
use proxy_core::retry::proof::{End, Evidence};
use proxy_core::service::Endpoint;
use proxy_io::netns::Netns;
use proxy_io::{Chunk, sock};

use super::Client;
use super::plan::Plan;
use super::tries::Tries;
use crate::connection::Accepted;
use crate::connection::announce;
use crate::connection::boxed;
use crate::connection::endpoint::{self, Counted, Wanted, count, pick};
use crate::forward::wire::Wire;
use crate::tls::{self, Stream};
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
    counted: Counted,
}

/// A connection on which both sides go on in another protocol: as long as it lives it counts for its endpoint.
pub(super) struct Tunnel {
    pub(super) wire: Wire,
    pub(super) endpoint: (EndpointId, EndpointAddr),
    pub(super) counted: Counted,
}

impl Upstream {
    /// Makes a tunnel of it.
    pub(super) fn into_tunnel(self, endpoint: &Endpoint) -> Tunnel {
        Tunnel { wire: self.wire, endpoint: (endpoint.id, endpoint.address), counted: self.counted }
    }

    /// Gives the connection back for the next request; so many bytes were sent for this one.
    pub(super) fn keep(self, client: &Client<'_>, sent_bytes: u64, now: Instant) {
        if self.wire.stream.is_wearing() {
            return;
        }
        // Those that rested before may go on: to make each anew would cost more than it gives back.
        if !self.is_reused && client.local.shared.overload.is_at(Rung::StopKeepAlive) {
            return;
        }
        let Self { wire, key, tls, life, .. } = self;
        let sent_bytes = self.sent_bytes + sent_bytes;
        client.local.pool.put(key, Kept { stream: wire.stream, sent_bytes, tls, life }, now);
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

/// A way to an endpoint. Most requests find one at once; for those that do not, the
/// memory of waiting is set apart.
pub(super) type Reaching<'a, T> =
    Either<Ready<Result<T, Unreached>>, LocalBoxFuture<'a, Result<T, Unreached>>>;
/// Why there is no way to an endpoint, and to which.
pub(super) type Unreached = (RequestReason, Option<EndpointId>);

/// The same for what else is made of it.
pub(super) fn mapped<'a, T: 'a, U>(reaching: Reaching<'a, T>, map: impl Fn(T) -> U + 'a) -> Reaching<'a, U> {
    match reaching {
        Either::Left(found) => Either::Left(ready(found.into_inner().map(map))),
        Either::Right(waiting) => Either::Right(Box::pin(async move { waiting.await.map(map) })),
    }
}

/// Finds a connection for a request, or makes one, until a deadline, which has a name of its own: to an endpoint that was not tried
/// yet, or to any if all were.
///
/// # Errors
/// Why there is none, and at which endpoint.
pub(super) fn reach<'a>(
    client: &'a Client<'_>,
    plan: &'a Plan,
    tries: &Tries<'_>,
    deadline: Option<(Instant, RequestReason)>,
) -> Reaching<'a, Upstream> {
    let most = plan.service.limits.max_connections_per_endpoint;
    let Place { index, endpoint, key, tls, counted } = match place(client, plan, tries, most) {
        Ok(place) => place,
        Err(reason) => return Either::Left(ready(Err((reason, None)))),
    };
    let kept = if tries.is_fresh { None } else { client.local.pool.checkout(key, tries.began) };
    if let Some(Kept { stream, sent_bytes, life, .. }) = kept {
        let wire = Wire::new(stream, Chunk::default());
        let upstream = Upstream { wire, index, is_reused: true, sent_bytes, key, life, tls, counted };
        return Either::Left(ready(Ok(upstream)));
    }
    Either::Right(Box::pin(async move {
        let connecting = boxed(|| connect(client, plan, index, key, tls, counted));
        within(deadline, connecting).await.map_err(|reason| (reason, Some(endpoint)))
    }))
}

/// An endpoint that a request goes to, and is counted for already.
pub(super) struct Place {
    /// Its index in the plan's service.
    pub(super) index: usize,
    pub(super) endpoint: EndpointId,
    /// What a connection to it could be used again for, and how TLS is spoken on it.
    pub(super) key: Key,
    pub(super) tls: Option<Arc<tls::Client>>,
    pub(super) counted: Counted,
}

/// Picks an endpoint that has room for one more, of so many: one that was not tried yet, or any if all were.
///
/// # Errors
/// Why there is none.
pub(super) fn place(
    client: &Client<'_>,
    plan: &Plan,
    tries: &Tries<'_>,
    most: Option<u32>,
) -> Result<Place, RequestReason> {
    let tried = &*tries.tried;
    let mut full: Vec<EndpointId> = Vec::new();
    loop {
        let pick =
            |avoided: &[EndpointId]| pick(client.local, client.accepted.client, &plan.service, avoided);
        let index = if full.is_empty() { pick(tried) } else { pick(&[tried, &full].concat()) };
        let index = index.or_else(|| if tried.is_empty() { None } else { pick(&full) });
        let Some(index) = index else {
            return Err(if full.is_empty() { RequestReason::NoEndpoint } else { RequestReason::Limit });
        };
        let endpoint = &plan.service.endpoints[index];
        match count(&endpoint.load, most) {
            Some(counted) => {
                let endpoint = endpoint.id;
                client.conn.set_endpoint(endpoint);
                let (key, tls) = key(client, plan, endpoint);
                return Ok(Place { index, endpoint, key, tls, counted });
            }
            None => full.push(endpoint.id),
        }
    }
}

/// Waits until a deadline, which has a name of its own.
pub(super) async fn within<T>(
    deadline: Option<(Instant, RequestReason)>,
    waiting: impl Future<Output = Result<T, RequestReason>>,
) -> Result<T, RequestReason> {
    match deadline {
        None => waiting.await,
        Some((at, late)) => tokio::time::timeout_at(at.into(), waiting).await.unwrap_or(Err(late)),
    }
}

/// What a connection to an endpoint could be used again for, and how TLS is spoken on it.
fn key(client: &Client<'_>, plan: &Plan, endpoint: EndpointId) -> (Key, Option<Arc<tls::Client>>) {
    let Accepted { client: whose, original_dst, ref netns, .. } = *client.accepted;
    let netns = endpoint::netns(client.local, netns.as_ref());
    let tls = endpoint::tls_client(client.local, &plan.service);
    let header = announce::header(&plan.service, whose, original_dst);
    let key = Key::new(endpoint, netns.map_or(0, Netns::cookie), tls.as_ref()).announced_by(header);
    (key, tls)
}

/// Connects to an endpoint, as one of the requests that wait for that.
pub(super) async fn open(client: &Client<'_>, plan: &Plan, index: usize) -> Result<Stream, RequestReason> {
    let _pending =
        Load::try_pending(&*plan.service.load, plan.limits()).ok_or(RequestReason::PendingLimit)?;
    let Accepted { client: whose, original_dst, ref netns, .. } = *client.accepted;
    let netns = netns.as_ref();
    let wants = Wanted {
        client: whose,
        original_dst,
        netns,
        service: &plan.service,
        has_early: true,
        application: None,
    };
    let endpoint = &plan.service.endpoints[index];
    endpoint::open(client.local, &wants, endpoint, &plan.stats).await.map_err(of_connect)
}

async fn connect(
    client: &Client<'_>,
    plan: &Plan,
    index: usize,
    key: Key,
    tls: Option<Arc<tls::Client>>,
    counted: Counted,
) -> Result<Upstream, RequestReason> {
    let stream = open(client, plan, index).await?;
    let life = client.local.pool.begin(&mut client.local.rng.borrow_mut());
    let wire = Wire::new(stream, Chunk::default());
    let sent_bytes = announce::encode(&plan.service, key.header).map_or(0, |header| header.len() as u64);
    Ok(Upstream { wire, index, is_reused: false, sent_bytes, key, life, tls, counted })
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
