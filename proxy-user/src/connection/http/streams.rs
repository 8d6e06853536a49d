//! A stream to an endpoint that speaks HTTP/2, for one request.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::ready;
use proxy_core::http2::{Edit, FieldList};
use proxy_core::outcome::RequestReason;
use proxy_core::retry::Failure;
use proxy_core::service::Protocol;

use super::Client;
use super::attempt::Broken;
use super::plan::Plan;
use super::tries::Tries;
use super::upstream::{Place, Reaching, open, place, within};
use crate::connection::boxed;
use crate::connection::endpoint::Counted;
use crate::forward::bridge::Http2Side;
use crate::forward::exchange::Trouble;
use crate::forward::http1::Fault;
use crate::http2;
use crate::tls;
use crate::upstream::http2::{Found, Lease, Ticket};
use crate::upstream::pool::Key;

/// A place on a connection.
pub(super) struct Streams {
    pub(super) lease: Lease,
    /// Index of the endpoint in the plan's service.
    pub(super) index: usize,
    is_tls: bool,
    _counted: Counted,
}

impl Streams {
    /// What a connection is called that died because its endpoint did not answer a ping, or said what is too long.
    pub(super) fn named(&self, trouble: Trouble) -> Trouble {
        match trouble {
            Trouble::UpstreamDied(_) if self.lease.is_silent() => Trouble::UpstreamSilent,
            Trouble::UpstreamDied(_) if self.lease.is_too_long() => {
                Trouble::UpstreamFault(Fault::HeadTooLarge)
            }
            other => other,
        }
    }

    /// Begins a request, with a field edited if one is given; one that `has_ended` has no body. If the endpoint has no room for it now, it waits there.
    pub(super) fn begin(
        &self,
        request: &FieldList,
        edit: Option<Edit<'_>>,
        has_ended: bool,
    ) -> Result<Http2Side, Broken> {
        let scheme: Edit<'_> = (":scheme", if self.is_tls { b"https" } else { b"http" });
        let begun = match edit {
            Some(edit) => self.lease.begin(request, &[scheme, edit], has_ended),
            None => self.lease.begin(request, &[scheme], has_ended),
        };
        match begun {
            Ok(stream) => Ok(Http2Side::of_endpoint(stream)),
            Err(error) => {
                tracing::debug!(%error, "no stream");
                self.lease.set_over();
                // Nothing was sent, whatever it was.
                Err(Broken::Try(
                    RequestReason::UpstreamClosed,
                    Failure::ResetBeforeSend { is_reused: self.lease.is_reused },
                ))
            }
        }
    }
}

/// Finds a place on a connection, or makes one, until a deadline, which has a name of its own.
///
/// # Errors
/// Why there is none, and at which endpoint.
pub(super) fn reach<'a>(
    client: &'a Client<'_>,
    plan: &'a Plan,
    tries: &Tries<'_>,
    deadline: Option<(Instant, RequestReason)>,
) -> Reaching<'a, Streams> {
    let Place { index, endpoint, key, tls, counted } = match place(client, plan, tries, None) {
        Ok(place) => place,
        Err(reason) => return Reaching::Left(ready(Err((reason, None)))),
    };
    let is_tls = tls.is_some();
    match client.local.http2.find(key, tries.began) {
        Found::Lease(lease) => Reaching::Left(ready(Ok(Streams { lease, index, is_tls, _counted: counted }))),
        Found::Full => Reaching::Left(ready(Err((RequestReason::PendingLimit, Some(endpoint))))),
        found => Reaching::Right(Box::pin(async move {
            let waiting = boxed(|| wait(client, plan, index, key, tls, found));
            let lease = within(deadline, waiting).await.map_err(|reason| (reason, Some(endpoint)))?;
            Ok(Streams { lease, index, is_tls, _counted: counted })
        })),
    }
}

/// Waits until there is a connection with room, and makes it if nobody else does.
async fn wait(
    client: &Client<'_>,
    plan: &Plan,
    index: usize,
    key: Key,
    tls: Option<Arc<tls::Client>>,
    mut found: Found,
) -> Result<Lease, RequestReason> {
    loop {
        match found {
            Found::Lease(lease) => return Ok(lease),
            Found::Coming(coming) => coming.wait().await?,
            Found::Full => return Err(RequestReason::PendingLimit),
            Found::Missing(ticket) => return connect(client, plan, index, tls, ticket).await,
        }
        found = client.local.http2.find(key, Instant::now());
    }
}

async fn connect(
    client: &Client<'_>,
    plan: &Plan,
    index: usize,
    tls: Option<Arc<tls::Client>>,
    ticket: Ticket,
) -> Result<Lease, RequestReason> {
    let endpoint = &plan.service.endpoints[index];
    let opened = open(client, plan, index).await.and_then(|stream| {
        let chosen = stream.negotiated().and_then(|negotiated| negotiated.alpn.as_deref());
        let is_refused =
            tls.is_some() && plan.service.protocol == Protocol::Http2 && chosen != Some(b"h2");
        if is_refused {
            tracing::debug!(endpoint = %endpoint.address, "the endpoint does not speak HTTP/2 inside TLS (ALPN)");
            return Err(RequestReason::TlsUpstream);
        }
        Ok(stream)
    });
    match opened {
        Ok(stream) => {
            let limits = &plan.service.http;
            let life = client.local.pool.begin(&mut client.local.rng.borrow_mut());
            Ok(ticket.open(http2::connect(stream, limits), limits.pings, life, tls))
        }
        Err(reason) => {
            ticket.fail(reason);
            Err(reason)
        }
    }
}
