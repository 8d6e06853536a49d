//! Connections whose protocol, or whose service, shows only in what the client says first.
//!
//! ```text
//!   tls:  ClientHello ──name──> route ──> service                      passed on as it is, never opened
//!   auto: endpoint connected at once, then who speaks first?
//!           client ──HTTP──> request by request        client ──anything else──> relay
//!           server, or nobody in time ──> relay, and the service is remembered as one that waits for its server
//! ```

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use proxy_core::detect::{Detected, detect};
use proxy_core::outcome::Reason;
use proxy_core::route::{Action, Found};
use proxy_core::service::{Protocol, Service};
use proxy_io::netns::Netns;

use super::endpoint::{self, Established, Wanted, establish};
use super::l4::Downstream;
use super::moving::Whose;
use super::{Accepted, After, Known, Local, Served, announce, boxed, http, l4};
use crate::forward::l4::{Early, Watch as _, lost};
use crate::forward::wire::Wire;
use crate::http2;
use crate::stats::conn::ServiceStats;
use crate::tls::Count as _;
use crate::upstream;
use crate::upstream::pool::{Kept, Key};

/// Time that a client gets to say something before its server is taken for the one that speaks first.
const SILENCE: Duration = Duration::from_millis(50);
/// Time for a ClientHello: it is the first that a client says, and small.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// Time that a service is remembered as one whose server speaks first: its connections are not held up meanwhile.
pub(super) const MEMORY: Duration = Duration::from_secs(600);

/// Serves a connection by what the client says first.
pub(super) async fn serve(
    local: &Rc<Local>,
    downstream: Downstream,
    accepted: &Accepted,
    protocol: Protocol,
    service: Option<Arc<Service>>,
    stats: Arc<ServiceStats>,
) -> After {
    match (protocol, service) {
        (Protocol::Auto, Some(service)) => {
            let is_server_first = local.routes.borrow().is_server_first(service.id, Instant::now());
            let known = Known { accepted, service, stats };
            if is_server_first {
                l4::serve(local, downstream, known).await.into()
            } else {
                by_first_speaker(local, downstream, known).await
            }
        }
        (_, service) => by_name(local, downstream, accepted, service, stats).await.into(),
    }
}

/// Passes TLS on to the service that the routes name for the name that the client asks for.
async fn by_name(
    local: &Rc<Local>,
    downstream: Downstream,
    accepted: &Accepted,
    service: Option<Arc<Service>>,
    stats: Arc<ServiceStats>,
) -> Served {
    let names = accepted.entry.routes(service.as_deref()).to_vec();
    if let (Some(service), true) = (&service, names.is_empty()) {
        let service = Arc::clone(service);
        return l4::serve(local, downstream, Known { accepted, service, stats }).await;
    }
    let Some(mut down) = downstream.into_wire(local) else {
        return Served::nowhere(service, stats, Reason::Internal);
    };
    let name = match tokio::time::timeout(HELLO_TIME, hello(&mut down)).await {
        Ok(Ok(name)) => name,
        Ok(Err(reason)) => return refuse(down, service, stats, reason),
        Err(_) if down.chunk.is_empty() => return refuse(down, service, stats, Reason::TlsTimeout),
        Err(_) => {
            crate::tls::refuse_slow(down.stream).await;
            return Served::nowhere(service, stats, Reason::TlsTimeout);
        }
    };
    let found = local.routes.borrow().router(&names).and_then(|router| router.find_host(&name));
    let Some((service, own)) = found.and_then(|found| target(local, &found)) else {
        // Nobody here has that name, as far as the client is concerned.
        crate::tls::refuse_name(down.stream).await;
        return Served::nowhere(service, stats, Reason::NoEndpoint);
    };
    // Counted where it goes: the listener belongs to nobody.
    own.opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    stats.handle_end(Reason::Fin);
    let downstream = Downstream::Stream(down.stream, down.chunk);
    l4::serve(local, downstream, Known { accepted, service, stats: own }).await
}

fn target(local: &Local, found: &Found) -> Option<(Arc<Service>, Arc<ServiceStats>)> {
    let Action::Forward { .. } = &found.rule.action else { return None };
    let draw = rand::Rng::random(&mut *local.rng.borrow_mut());
    let backend = found.rule.pick_backend(draw)?.service;
    let mut routes = local.routes.borrow_mut();
    let route = routes.route(backend, None, &local.shared.stats)?;
    Some((Arc::clone(&route.service), Arc::clone(&route.stats)))
}

fn refuse(down: Wire, service: Option<Arc<Service>>, stats: Arc<ServiceStats>, reason: Reason) -> Served {
    down.stream.abort();
    Served::nowhere(service, stats, reason)
}

/// Waits for a ClientHello; gives the name in it, empty if there is none. Everything stays in the wire.
async fn hello(down: &mut Wire) -> Result<Box<str>, Reason> {
    loop {
        down.chunk.flatten();
        match detect(&down.chunk) {
            Detected::Tls(hello) => return Ok(hello.sni.unwrap_or_default()),
            Detected::NeedMore => {}
            _ => return Err(Reason::Protocol),
        }
        match poll_fn(|cx| down.poll_more(cx, &())).await {
            Ok(true) => {}
            _ => return Err(Reason::DownstreamReset),
        }
    }
}

/// Who speaks first, and what.
enum First {
    Http1,
    Http2,
    Opaque,
    /// The server, or nobody.
    Server,
    Over(Reason),
}

async fn by_first_speaker(local: &Rc<Local>, downstream: Downstream, known: Known<'_>) -> After {
    let Known { accepted, service, stats } = known;
    let Some(mut down) = downstream.into_wire(local) else {
        return Served::nowhere(Some(service), stats, Reason::Internal).into();
    };
    let guard = local.open.add(&service.limits, Some(&stats));
    guard.conn.set_pacer(down.stream.pacer());
    let Accepted { client, original_dst, ref netns, .. } = *accepted;
    let netns = netns.as_ref();
    let wants =
        Wanted { client, original_dst, netns, service: &service, has_early: false, application: None };
    let established = boxed(|| establish(local, &wants, &stats, &guard.conn)).await;
    let Established { stream, index, _counted } = match established {
        Ok(established) => established,
        Err(reason) => return refuse(down, Some(service), stats, reason).into(),
    };
    let mut up = Wire::new(stream, proxy_io::Chunk::default());
    let endpoint = &service.endpoints[index];
    match first(&mut down, &mut up, &guard.conn).await {
        spoken @ (First::Http1 | First::Http2) => {
            // The connection is there already, and the first request is going to want it.
            let tls = endpoint::tls_client(local, &service);
            let netns = endpoint::netns(local, accepted.netns.as_ref()).map_or(0, Netns::cookie);
            let header = announce::header(&service, client, original_dst);
            let sent_bytes = announce::encode(&service, header).map_or(0, |header| header.len() as u64);
            let key = Key::new(endpoint.id, netns, tls.as_ref()).announced_by(header);
            let life = local.pool.begin(&mut local.rng.borrow_mut());
            match (spoken, local.http2.find(key, Instant::now())) {
                (First::Http2, upstream::http2::Found::Missing(ticket)) => {
                    let begun = http2::connect(up.stream, &service.http);
                    drop(ticket.open(begun, service.http.pings, life, tls));
                }
                // There is one.
                (First::Http2, _) => {}
                _ => {
                    let kept = Kept { stream: up.stream, sent_bytes, tls, life };
                    local.pool.put(key, kept, Instant::now());
                }
            }
            drop((guard, _counted));
            return boxed(move || http::serve(local, down, accepted, Some(service))).await;
        }
        First::Server => local.routes.borrow_mut().set_server_first(service.id, Instant::now()),
        First::Opaque => {}
        First::Over(reason) => return refuse(down, Some(service), stats, reason).into(),
    }
    let early = Early { downstream: down.chunk, upstream: up.chunk };
    let conn = Rc::clone(&guard.conn);
    conn.count(early.downstream.len(), early.upstream.len());
    let whose = Some(Whose::Accepted(accepted, Arc::clone(&service), index));
    let ending = boxed(move || l4::relay_for(local, down.stream, up.stream, early, conn, whose)).await;
    if !ending.is_moved {
        l4::report(local, endpoint, &ending);
    }
    After::Over(Served {
        endpoint: Some((endpoint.id, endpoint.address)),
        service: Some(Arc::clone(&service)),
        stats,
        ending,
        is_told: false,
    })
}

async fn first(down: &mut Wire, up: &mut Wire, conn: &super::OpenConn) -> First {
    let mut silence = Box::pin(tokio::time::sleep(SILENCE));
    poll_fn(|cx| {
        if let Some(reason) = conn.poll_kill(cx) {
            return Poll::Ready(First::Over(reason));
        }
        loop {
            down.chunk.flatten();
            match detect(&down.chunk) {
                Detected::Http1 => return Poll::Ready(First::Http1),
                Detected::NeedMore => {}
                Detected::Http2 => return Poll::Ready(First::Http2),
                Detected::Tls(_) | Detected::Opaque => return Poll::Ready(First::Opaque),
            }
            match down.poll_more(cx, &()) {
                Poll::Ready(Ok(true)) => {}
                // It has said all: whoever reads it finds the end again.
                Poll::Ready(Ok(false)) => return Poll::Ready(First::Opaque),
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(First::Over(lost(error.kind(), Reason::DownstreamReset)));
                }
                Poll::Pending => break,
            }
        }
        match up.poll_more(cx, &()) {
            Poll::Ready(Ok(_)) => return Poll::Ready(First::Server),
            Poll::Ready(Err(_)) => return Poll::Ready(First::Over(Reason::UpstreamReset)),
            Poll::Pending => {}
        }
        if std::future::Future::poll(silence.as_mut(), cx).is_ready() {
            // A client that has begun to speak is slow, but not waiting for its server.
            let first = if down.chunk.is_empty() { First::Server } else { First::Opaque };
            return Poll::Ready(first);
        }
        Poll::Pending
    })
    .await
}
