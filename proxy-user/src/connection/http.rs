//! One client's HTTP connection: in HTTP/1.1 requests one after the other, each routed and sent on by itself ([`http2`] has
//! them side by side).
//!
//! ```text
//!   rest ──first byte──> head ──> plan ──> endpoint ──> exchange ──> rest
//!    │                    │         │          │           └─ cut off: reset, so that nobody takes half for whole
//!    │                    └─────────┴──────────┴─ refused: an answer of ours with its reason, then rest or close
//!    └─ idle, drained, FIN: closed
//! ```

mod answer;
mod attempt;
mod bridged;
mod call;
mod http2;
mod mirror;
mod plan;
mod question;
mod reply;
mod request;
mod story;
mod streams;
mod tries;
mod upstream;

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use proxy_core::addr::EndpointAddr;
use proxy_core::http::HttpLimits;
use proxy_core::id::EndpointId;
use proxy_core::outcome::{Reason, RequestReason};
use proxy_core::service::{Limits, Service};
use proxy_io::Chunk;
use proxy_io::clock::monotonic_ns;

use self::plan::Version;
use self::upstream::Tunnel;
use super::endpoint::Counted;
use super::{Accepted, After, Entry, Local, OpenConn, OpenGuard, Served, boxed};
use crate::forward::http1::Scan;
use crate::forward::l4::{Early, Ending, Watch as _};
use crate::forward::wire::{HeadBound, NoHead, Wire};
use crate::tls::Count as _;
use crate::tls::Negotiated;

/// Time for a client to take its last answer and close, after which nothing more of it is read.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// Bytes that are read and thrown away meanwhile: closing with something unread would be a reset, which can overtake
/// the answer.
const LINGER_BYTES: usize = 256 << 10;

/// What a client of HTTP/2 says first (RFC 9113, 3.4), as far as it looks like a head of HTTP/1.
const PREFACE: &[u8; 18] = b"PRI * HTTP/2.0\r\n\r\n";

/// What all requests of a connection have in common.
struct Client<'a> {
    local: &'a Rc<Local>,
    accepted: &'a Accepted,
    conn: &'a OpenConn,
    /// Service that the connection is for; none if routes decide.
    service: Option<&'a Arc<Service>>,
    /// What was agreed on with a client that speaks TLS.
    tls: Option<&'a Negotiated>,
    /// What the client speaks.
    version: Version,
    /// Its session of TLS can carry little more.
    is_wearing: bool,
}

/// What comes after a request.
enum Then {
    /// The next one.
    Next,
    /// Nothing for a while.
    Rest,
    /// Nothing: the client has asked for the end itself, with a request that was all it had to say.
    Done,
    /// The client is told that this was all, and may still read.
    Close(Reason),
    /// The client must not take what it has for whole.
    Abort(Reason),
    /// Both sides go on in another protocol.
    Tunnel(Box<Tunnel>),
    /// The client speaks HTTP/2; nothing of it was used yet.
    Http2,
}

/// A connection between two requests, with all that is needed to go on.
pub(super) struct Resting {
    pub(super) down: Wire,
    pub(super) held: Held,
}

/// What a connection holds for as long as it lives.
pub(super) struct Held {
    pub(super) guard: OpenGuard,
    service: Option<Arc<Service>>,
    /// Counted against the bound of its service, if it has one.
    pub(super) counted: Option<Counted>,
}

/// Serves a client until it rests, or to its end.
pub(super) fn serve<'a>(
    local: &'a Rc<Local>,
    down: Wire,
    accepted: &'a Accepted,
    service: Option<Arc<Service>>,
) -> impl Future<Output = After> + 'a {
    let limits = service.as_ref().map_or(&Limits::DEFAULT, |service| &service.limits);
    let guard = local.open.add(limits, Some(accepted.stats(local)));
    guard.conn.count(down.chunk.len(), 0);
    guard.conn.set_pacer(down.stream.pacer());
    serve_from(local, Resting { down, held: Held { guard, service, counted: None } }, accepted, true)
}

/// Goes on with a client that rested.
pub(super) fn go_on<'a>(
    local: &'a Rc<Local>,
    resting: Resting,
    accepted: &'a Accepted,
) -> impl Future<Output = After> + 'a {
    serve_from(local, resting, accepted, false)
}

fn serve_from<'a>(
    local: &'a Rc<Local>,
    resting: Resting,
    accepted: &'a Accepted,
    is_new: bool,
) -> impl Future<Output = After> + 'a {
    let Resting { mut down, held: Held { guard, service, counted } } = resting;
    // Apart from the stream, which is somebody else's during a request. Boxed: most clients have none.
    let tls = down.stream.negotiated().cloned().map(Box::new);
    async move {
        let (service_of, tls) = (service.as_ref(), tls.as_deref());
        let mut client = Client {
            local,
            accepted,
            conn: &guard.conn,
            service: service_of,
            tls,
            version: Version::Http1,
            is_wearing: false,
        };
        let has_chosen = tls.is_some_and(|tls| tls.alpn.as_deref() == Some(b"h2"));
        let then = if has_chosen { Then::Http2 } else { client.run(&mut down, is_new).await };
        if let Then::Rest = then {
            return After::Rests(Box::new(Resting { down, held: Held { guard, service, counted } }));
        }
        let is_told = !matches!(then, Then::Tunnel(_));
        let (mut ending, endpoint) = if let Then::Http2 = then {
            client.version = Version::Http2;
            let (client, count) = (&client, Rc::clone(&guard.conn));
            (boxed(move || http2::serve(client, down, count)).await, None)
        } else {
            boxed(|| end(local, down, then, Rc::clone(&guard.conn))).await
        };
        (ending.sent_bytes, ending.received_bytes) = guard.conn.bytes();
        let stats = Arc::clone(accepted.stats(local));
        After::Over(Served { service, stats, endpoint, ending, is_told })
    }
}

/// Does what comes after the last request; says who was at the other end of a tunnel.
async fn end(
    local: &Rc<Local>,
    mut down: Wire,
    then: Then,
    conn: Rc<OpenConn>,
) -> (Ending, Option<(EndpointId, EndpointAddr)>) {
    let ending = match then {
        Then::Next | Then::Rest | Then::Http2 => Ending::of(Reason::Fin),
        Then::Done if has_said_all(&mut down, &conn).await => Ending::of(Reason::Fin),
        Then::Done => {
            boxed(|| linger(&mut down, &conn)).await;
            Ending::of(Reason::Fin)
        }
        Then::Close(reason) => {
            boxed(|| linger(&mut down, &conn)).await;
            Ending::of(reason)
        }
        Then::Abort(reason) => {
            down.stream.abort();
            Ending::of(reason)
        }
        Then::Tunnel(tunnel) => {
            // What the service says of connections, and no more what a body may rest.
            conn.handle_sent();
            let Tunnel { wire: up, endpoint, counted: _counted } = *tunnel;
            conn.count(0, up.chunk.len());
            let early = Early { downstream: down.chunk, upstream: up.chunk };
            let relay = boxed(move || super::l4::relay(local, down.stream, up.stream, early, conn));
            return (relay.await, Some(endpoint));
        }
    };
    (ending, None)
}

impl Client<'_> {
    /// Serves one request after the other; `is_new` unless the connection goes on after a rest.
    async fn run(&mut self, down: &mut Wire, is_new: bool) -> Then {
        let (mut is_first, mut rests) = (is_new, !is_new);
        loop {
            // A rest goes on until there is a request, whatever ended its being parked.
            if !std::mem::take(&mut rests) {
                self.conn.rest(self.limits().idle_timeout);
            }
            let head_bytes = match self.head(down, is_first).await {
                Ok(bytes) => bytes,
                Err(none) => return boxed(move || self.handle_no_head(down, none)).await,
            };
            if std::mem::take(&mut is_first) && self.tls.is_none() && down.chunk[..head_bytes] == *PREFACE {
                return Then::Http2;
            }
            self.is_wearing = down.stream.is_wearing();
            // Boxed: what a request needs is far larger than what a resting connection may cost.
            let (client, wire) = (&*self, &mut *down);
            match boxed(move || request::serve(client, wire, head_bytes)).await {
                Then::Next => {}
                then => return then,
            }
        }
    }

    /// Waits for a request's head.
    fn head<'f>(
        &'f self,
        down: &'f mut Wire,
        is_first: bool,
    ) -> impl Future<Output = Result<usize, NoRequest>> + 'f {
        let (mut scan, mut has_begun) = (Scan::default(), false);
        poll_fn(move |cx| {
            if let Some(reason) = self.conn.poll_kill(cx) {
                return Poll::Ready(Err(NoRequest::Killed(reason)));
            }
            let head = down.poll_head(cx, &mut scan, self.bound(), self.conn).map_err(NoRequest::NoHead);
            // What comes first may be of another protocol.
            if head.is_pending() && !is_first && down.chunk.is_empty() && self.conn.has_rested() {
                return Poll::Ready(Err(NoRequest::Rests));
            }
            if head.is_pending() && !has_begun && !down.chunk.is_empty() {
                has_begun = true;
                // All of the head, however slowly: no byte of it begins the time anew.
                self.conn.await_within(Some(self.limits().head_timeout), Reason::HeadTimeout);
            }
            head
        })
    }

    async fn handle_no_head(&self, down: &mut Wire, none: NoRequest) -> Then {
        match none {
            NoRequest::Rests => Then::Rest,
            NoRequest::NoHead(NoHead::Ended) => Then::Next,
            NoRequest::NoHead(NoHead::Cut | NoHead::Died(_)) => Then::Abort(Reason::DownstreamReset),
            NoRequest::NoHead(NoHead::Fault(fault)) => {
                let reason = fault.of_request();
                request::refuse_unread(self, down, reason, Reason::Protocol).await
            }
            NoRequest::Killed(Reason::HeadTimeout) => {
                request::refuse_unread(self, down, RequestReason::HeadTimeout, Reason::HeadTimeout).await
            }
            // Between two requests nothing is lost: a plain end.
            NoRequest::Killed(reason) if down.chunk.is_empty() => Then::Close(reason),
            NoRequest::Killed(reason) => Then::Abort(reason),
        }
    }

    /// What the client speaks, in words of an URL.
    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    fn limits(&self) -> &HttpLimits {
        match (&self.accepted.entry, self.service) {
            (Entry::Listener(listener), _) => &listener.http,
            (_, Some(service)) => &service.http,
            (_, None) => &HttpLimits::DEFAULT,
        }
    }

    /// Time that the connection has until its client is asked to make another: none left, or no bound.
    fn time_left(&self) -> Option<Duration> {
        let limit = self.limits().age_limit(self.accepted.began_ns)?;
        Some(limit.saturating_sub(self.age()))
    }

    fn age(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.accepted.began_ns))
    }

    /// Tells whether the next answer is to be the last one on this connection.
    fn is_leaving(&self) -> bool {
        self.local.ends_keep_alive() || self.is_wearing || self.time_left().is_some_and(|left| left.is_zero())
    }

    fn bound(&self) -> HeadBound {
        let limits = self.limits();
        HeadBound { bytes: limits.head_bytes as usize, fields: usize::from(limits.header_count) }
    }
}

/// Why there is no request.
enum NoRequest {
    NoHead(NoHead),
    /// There has been none for a while.
    Rests,
    Killed(Reason),
}

/// Tells whether a client that wants the end has nothing to say any more, so that closing is no reset: the kernel delivers what was
/// sent. TLS has word of its own of the end, in both directions.
async fn has_said_all(down: &mut Wire, conn: &OpenConn) -> bool {
    if !down.chunk.is_empty() || down.stream.negotiated().is_some() {
        return false;
    }
    // What it said behind its request, against the rules.
    poll_fn(|cx| Poll::Ready(!matches!(down.poll_more(cx, conn), Poll::Ready(Ok(true))))).await
}

/// Ends what is sent and waits a while for the client to close, too.
async fn linger(down: &mut Wire, conn: &OpenConn) {
    let close = async {
        if poll_fn(|cx| down.stream.poll_shutdown_write(cx)).await.is_err() {
            return;
        }
        let mut left = LINGER_BYTES;
        while left > 0 && !down.is_ended {
            down.chunk = Chunk::default();
            match poll_fn(|cx| down.poll_more(cx, conn)).await {
                Ok(true) => left = left.saturating_sub(down.chunk.len()),
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER_TIME, close).await;
}
