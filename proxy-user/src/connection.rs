//! The life of one proxied connection.
//!
//! ```text
//!   accepted ──> service? ──> limits? ──> endpoint? ──> connect ──> relay ──> closed
//!                   │            │            │            │  └─ failed: another endpoint, a few times
//!                   └────────────┴────────────┴────────────┴───> reset, with a reason
//! ```

mod local;
mod open;
mod peers;
mod routes;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proxy_core::addr::{ClientAddr, EndpointAddr, OriginalDst};
use proxy_core::id::{EndpointId, ServiceId};
use proxy_core::outcome::{Attempt, Reason};
use proxy_core::service::{Endpoint, Load, Service};
use proxy_core::snapshot::{ExplicitListener, Serves, Source};
use proxy_io::netns::Netns;
use proxy_io::{Chunk, Socket, sock};

use crate::forward::l4::{Ending, Relay};
use crate::record::access::AccessRecord;
use crate::stats::conn::{BudgetGuard, ServiceStats};
use crate::upstream::connect::{self, ConnectError, Target};

pub(crate) use self::local::Local;
pub use self::local::Shared;
pub use self::open::{OpenConn, OpenConns, OpenGuard, TICK};
pub(crate) use self::peers::LoadGuard;
pub use self::peers::{Handed, Peers};
pub use self::routes::{Route, Routes};

/// A connection that was taken from a listener.
pub(crate) struct Accepted {
    pub(crate) client: ClientAddr,
    /// What the application asked for; for an explicit listener, the listener itself.
    pub(crate) original_dst: OriginalDst,
    /// Which way it came.
    pub(crate) entry: Entry,
    /// Cgroup of the application; 0 if it was not intercepted.
    pub(crate) cgroup_id: u64,
    /// The client may be on another machine.
    pub(crate) is_remote: bool,
    /// The application's network namespace, if it is not Weir's own.
    pub(crate) netns: Option<Arc<Netns>>,
    /// Counted as long as the connection lives: by its worker ...
    pub(crate) load: LoadGuard,
    /// ... and against the bound on descriptors.
    pub(crate) _budget: BudgetGuard,
}

/// Which way a connection came, and so what is known of it.
pub(crate) enum Entry {
    /// The kernel programs caught it for this service.
    Intercepted(ServiceId),
    /// The client connected to a listener of the config.
    Listener(Arc<ExplicitListener>),
}

/// Most endpoints that are tried for one connection, whatever the config says: the list of tried ones stays small.
const MOST_ATTEMPTS: u32 = 16;
/// Time that bytes on their way to one side get to arrive before the other side's reset is passed on.
const FLUSH_TIME: Duration = Duration::from_secs(5);
/// Most bytes that are read of a client before its endpoint is connected: a request's head mostly fits, and what a
/// connection attempt holds stays small.
const EARLY_BYTES: usize = 4 << 10;

/// Serves one accepted connection to its end.
pub(crate) async fn run(local: Rc<Local>, fd: OwnedFd, accepted: Accepted) {
    let began = Instant::now();
    let Served { service, stats, endpoint, ending } = serve(&local, fd, &accepted).await;
    stats.handle_end(ending.reason, ending.sent_bytes, ending.received_bytes);
    tracing::debug!(
        client = %accepted.client,
        original_dst = %accepted.original_dst,
        service = service.as_ref().map(|s| &*s.name),
        endpoint = endpoint.map(|e| tracing::field::display(e.1)),
        sent_bytes = ending.sent_bytes,
        received_bytes = ending.received_bytes,
        reason = ending.reason.as_str(),
        "connection closed",
    );
    local.shared.access.record(|| AccessRecord {
        client: accepted.client,
        original_dst: accepted.original_dst,
        endpoint: endpoint.map(|e| e.1),
        service: service.as_ref().map(|s| Arc::clone(&s.name)),
        lane: "proxy",
        cgroup_id: accepted.cgroup_id,
        sent_bytes: ending.sent_bytes,
        received_bytes: ending.received_bytes,
        duration: began.elapsed(),
        reason: ending.reason.as_str(),
    });
}

/// What became of a connection.
struct Served {
    service: Option<Arc<Service>>,
    stats: Arc<ServiceStats>,
    endpoint: Option<(EndpointId, EndpointAddr)>,
    ending: Ending,
}

/// Gives a count back when the connection is over.
struct Counted(Arc<Load>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.release();
    }
}

fn count(load: &Arc<Load>, most: Option<u32>) -> Option<Counted> {
    load.try_acquire(most.unwrap_or(u32::MAX)).then(|| Counted(Arc::clone(load)))
}

/// A connection that never reached an endpoint.
fn unserved(service: Option<Arc<Service>>, stats: Arc<ServiceStats>, reason: Reason) -> Served {
    Served { service, stats, endpoint: None, ending: Ending { reason, sent_bytes: 0, received_bytes: 0 } }
}

async fn serve(local: &Rc<Local>, fd: OwnedFd, accepted: &Accepted) -> Served {
    let Some((service, stats)) = find(local, accepted) else {
        let stats = Arc::clone(&local.shared.stats.stray);
        stats.opened.fetch_add(1, Ordering::Relaxed);
        refuse(&fd);
        return unserved(None, stats, Reason::NoEndpoint);
    };
    stats.opened.fetch_add(1, Ordering::Relaxed);
    let Some(_counted) = count(&service.load, service.limits.max_connections) else {
        refuse(&fd);
        return unserved(Some(service), stats, Reason::Limit);
    };
    let early = match early_bytes(&fd) {
        Ok(early) => early,
        Err(_) => return unserved(Some(service), stats, Reason::DownstreamReset),
    };
    if accepted.is_remote {
        // Without it the client is given up later, by the kernel's own count of retransmits.
        let _ = sock::set_user_timeout(&fd, service.limits.user_timeout);
    }
    let guard = local.open.add(&service.limits);
    let wants = Wanted { accepted, service: &service, has_early: !early.is_empty() };
    let established = Box::pin(establish(local, &wants, &stats, &guard.conn)).await;
    let Established { socket: upstream, index, _counted } = match established {
        Ok(established) => established,
        Err(reason) => {
            refuse(&fd);
            return unserved(Some(service), stats, reason);
        }
    };
    let ending = relay(local, fd, early, upstream, &guard.conn).await;
    let endpoint = &service.endpoints[index];
    report(local, endpoint, &ending);
    Served {
        endpoint: Some((endpoint.id, endpoint.address)),
        service: Some(Arc::clone(&service)),
        stats,
        ending,
    }
}

fn find(local: &Local, accepted: &Accepted) -> Option<(Arc<Service>, Arc<ServiceStats>)> {
    let mut routes = local.routes.borrow_mut();
    let service = match &accepted.entry {
        Entry::Intercepted(service) => *service,
        Entry::Listener(listener) => match &listener.serves {
            Serves::Service(service) => *service,
            Serves::Routes(_) => return None,
        },
    };
    let route = routes.route(service, Some(accepted.original_dst.0), &local.shared.stats)?;
    Some((Arc::clone(&route.service), Arc::clone(&route.stats)))
}

/// Makes dropping the accepted socket send RST: the application learns at once that nobody will answer.
fn refuse(fd: &OwnedFd) {
    let _ = sock::set_linger_reset(fd);
}

/// What the client has sent by now, up to [`EARLY_BYTES`]: with it in hand, the first packet to the endpoint carries
/// bytes, and its first look at the connection finds them.
fn early_bytes(fd: &OwnedFd) -> io::Result<Chunk> {
    let mut bytes = [0; EARLY_BYTES];
    let count = sock::recv_now(fd, &mut bytes)?.unwrap_or(0);
    Ok(Chunk::from(bytes[..count].to_vec()))
}

/// What an endpoint is wanted for.
struct Wanted<'a> {
    accepted: &'a Accepted,
    service: &'a Service,
    /// The client has spoken.
    has_early: bool,
}

/// An open connection to an endpoint.
struct Established {
    socket: Socket,
    /// Index into [`Service::endpoints`].
    index: usize,
    _counted: Counted,
}

/// Connects to an endpoint, and to another one if that fails.
async fn establish(
    local: &Rc<Local>,
    wants: &Wanted<'_>,
    stats: &ServiceStats,
    conn: &OpenConn,
) -> Result<Established, Reason> {
    let Wanted { accepted, service, has_early } = *wants;
    let source = local.routes.borrow().source();
    let netns = accepted.netns.as_deref().filter(|_| source == Source::Pod);
    let client_netns_cookie =
        accepted.netns.as_ref().map_or(local.shared.netns_cookie, |netns| netns.cookie());
    let mut tried: Vec<EndpointId> = Vec::new();
    let mut last_reason = Reason::NoEndpoint;
    for attempt in 0..service.limits.connect_attempts.clamp(1, MOST_ATTEMPTS) {
        let Some(index) = pick(local, accepted, service, &tried) else { break };
        let endpoint = &service.endpoints[index];
        tried.push(endpoint.id);
        let Some(counted) = count(&endpoint.load, service.limits.max_connections_per_endpoint) else {
            last_reason = Reason::Limit;
            continue;
        };
        if attempt > 0 {
            stats.retried.fetch_add(1, Ordering::Relaxed);
        }
        conn.set_endpoint(endpoint.id);
        let target = Target {
            address: endpoint.address,
            endpoint: endpoint.id,
            service: service.id,
            client: accepted.client,
            timeout: service.limits.connect_timeout,
            user_timeout: service.limits.user_timeout,
            has_early,
            netns,
            client_netns_cookie,
        };
        match connect::connect(&local.driver, local.shared.maps.as_deref(), &target).await {
            Ok(socket) => return Ok(Established { socket, index, _counted: counted }),
            Err(error) => last_reason = handle_failure(local, stats, &endpoint.load, &target, &error),
        }
    }
    Err(last_reason)
}

fn handle_failure(
    local: &Local,
    stats: &ServiceStats,
    load: &Load,
    target: &Target<'_>,
    error: &ConnectError,
) -> Reason {
    stats.connect_failures.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(endpoint = %target.address, %error, "cannot connect");
    // A pod without a route says nothing about the endpoint.
    let is_pods = target.netns.is_some() && matches!(error, ConnectError::Unreachable(_));
    if error.is_upstreams() && !is_pods {
        load.set_suspect();
        send_attempt(local, target.endpoint, Attempt::Bad);
    }
    error.reason()
}

/// Picks an endpoint that was not tried yet.
fn pick(local: &Local, accepted: &Accepted, service: &Service, tried: &[EndpointId]) -> Option<usize> {
    let mut routes = local.routes.borrow_mut();
    let route = routes.route(service.id, None, &local.shared.stats)?;
    // The snapshot may have changed since the connection was routed; it is then routed by what it came with as far as
    // that still makes sense: an index of another version must not be used on this one.
    let index = route.balancer.pick(&route.service, accepted.client, tried).ok()?;
    let id = route.service.endpoints[index].id;
    service
        .endpoints
        .get(index)
        .filter(|e| e.id == id)
        .map(|_| index)
        .or_else(|| service.endpoints.iter().position(|e| e.id == id))
}

async fn relay(local: &Local, fd: OwnedFd, early: Chunk, mut upstream: Socket, conn: &OpenConn) -> Ending {
    let Ok(mut downstream) = local.driver.accepted(fd) else {
        return Ending { reason: Reason::Internal, sent_bytes: 0, received_bytes: 0 };
    };
    let ending = Relay::new(&mut downstream, &mut upstream, early, &local.pipes, conn).await;
    // Both ends must learn that a stream is incomplete, and as without a proxy what came before a reset still arrives.
    match ending.reason {
        Reason::Fin => {}
        Reason::UpstreamReset => reset_after_flush(downstream).await,
        Reason::DownstreamReset => reset_after_flush(upstream).await,
        _ => {
            downstream.abort();
            upstream.abort();
        }
    }
    ending
}

async fn reset_after_flush(socket: Socket) {
    let _ = tokio::time::timeout(FLUSH_TIME, flushed(&socket)).await;
    socket.abort();
}

async fn flushed(socket: &Socket) {
    let mut pause = Duration::from_millis(1);
    while sock::unsent_bytes(&socket.fd()).is_ok_and(|bytes| bytes > 0) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Tells passive health what the connection says about its endpoint, if that is news.
fn report(local: &Local, endpoint: &Endpoint, ending: &Ending) {
    match ending.reason {
        // A reset before the first byte is how a broken server behind a working port looks.
        Reason::UpstreamReset if ending.received_bytes == 0 => {
            endpoint.load.set_suspect();
            send_attempt(local, endpoint.id, Attempt::Bad);
        }
        _ if ending.received_bytes > 0 && endpoint.load.take_suspect() => {
            send_attempt(local, endpoint.id, Attempt::Good);
        }
        _ => {}
    }
}

fn send_attempt(local: &Local, endpoint: EndpointId, attempt: Attempt) {
    // A full channel means that the control side is behind: it has more than enough to judge by.
    let _ = local.shared.attempts.try_send((endpoint, attempt));
}
