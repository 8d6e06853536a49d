//! Finding an endpoint, and a connection to it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proxy_core::addr::{ClientAddr, EndpointAddr, OriginalDst};
use proxy_core::id::EndpointId;
use proxy_core::outcome::{Attempt, Reason};
use proxy_core::service::{Endpoint, EndpointState, Load, Service};
use proxy_core::snapshot::Source;
use proxy_io::netns::Netns;
use proxy_io::{Socket, sock};

use super::{Local, OpenConn, announce};
use crate::stats::conn::ServiceStats;
use crate::tls::{self, Alpn, Stream, TlsError};
use crate::upstream::connect::{self, ConnectError, Target};

/// Most endpoints that are tried for one connection, whatever the config says: the list of tried ones stays small.
const MOST_ATTEMPTS: u32 = 16;

/// Gives a count back when the connection is over.
pub(super) struct Counted(Arc<Load>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.release();
    }
}

pub(super) fn count(load: &Arc<Load>, most: Option<u32>) -> Option<Counted> {
    load.try_acquire(most.unwrap_or(u32::MAX)).then(|| Counted(Arc::clone(load)))
}

/// What an endpoint is wanted for.
pub(super) struct Wanted<'a> {
    /// For whom: the address, and the network namespace if it is not Weir's own.
    pub(super) client: ClientAddr,
    /// What the client asked for.
    pub(super) original_dst: OriginalDst,
    pub(super) netns: Option<&'a Arc<Netns>>,
    pub(super) service: &'a Service,
    /// The client has spoken.
    pub(super) has_early: bool,
    /// The endpoint is the application that the client asked for, in `netns`; its cgroup, or 0.
    pub(super) application: Option<u64>,
}

/// An open connection to an endpoint.
pub(super) struct Established {
    pub(super) stream: Stream,
    /// Index into [`Service::endpoints`].
    pub(super) index: usize,
    pub(super) _counted: Counted,
}

/// Connects to an endpoint, and to another one if that fails.
pub(super) async fn establish(
    local: &Rc<Local>,
    wants: &Wanted<'_>,
    stats: &ServiceStats,
    conn: &OpenConn,
) -> Result<Established, Reason> {
    let Wanted { client, service, .. } = *wants;
    let mut tried: Vec<EndpointId> = Vec::new();
    let mut last_reason = Reason::NoEndpoint;
    for attempt in 0..service.limits.connect_attempts.clamp(1, MOST_ATTEMPTS) {
        let picked = match wants.application {
            // The only one.
            Some(_) => tried.is_empty().then_some(0),
            None => pick(local, client, service, &tried),
        };
        let Some(index) = picked else { break };
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
        match open(local, wants, endpoint, stats).await {
            Ok(stream) => return Ok(Established { stream, index, _counted: counted }),
            Err(reason) => last_reason = reason,
        }
    }
    Err(last_reason)
}

/// Connects to one endpoint, and begins TLS if it speaks that.
pub(super) async fn open(
    local: &Local,
    wants: &Wanted<'_>,
    endpoint: &Endpoint,
    stats: &ServiceStats,
) -> Result<Stream, Reason> {
    let Wanted { client, service, has_early, .. } = *wants;
    let target = Target {
        address: endpoint.address,
        endpoint: endpoint.id,
        service: service.id,
        client,
        timeout: service.limits.connect_timeout,
        user_timeout: service.limits.user_timeout,
        // Inside TLS it is our hello that comes first, at once.
        has_early: has_early || service.tls.is_some(),
        netns: match wants.application {
            Some(_) => wants.netns.map(AsRef::as_ref),
            None => netns(local, wants.netns),
        },
        application: wants.application,
        client_netns_cookie: wants.netns.map_or(local.shared.netns_cookie, |netns| netns.cookie()),
    };
    let connected = connect::connect(&local.driver, local.shared.maps.as_deref(), &target).await;
    let connected = connected.and_then(|socket| announce_client(wants, target.has_early, socket));
    let socket = connected.map_err(|error| handle_failure(local, stats, &endpoint.load, &target, &error))?;
    let Some(client) = tls_client(local, service) else { return Ok(Stream::Plain(socket)) };
    // A hello is small and answered at once by whoever accepts connections at all: as long as for connecting.
    let limit = service.limits.connect_timeout;
    let connecting = client.connect(endpoint.address.0, Alpn::of_service(service.protocol), socket, limit);
    let failed = match connecting.await {
        Ok(stream) => return Ok(stream),
        Err(error) => {
            tracing::debug!(endpoint = %target.address, %error, "no TLS session");
            match error {
                TlsError::TimedOut(_) => Reason::ConnectTimeout,
                error => error.reason(),
            }
        }
    };
    stats.connect_failures.fetch_add(1, Ordering::Relaxed);
    endpoint.load.set_suspect();
    send_attempt(local, endpoint.id, Attempt::Bad);
    Err(failed)
}

/// Tells an endpoint who the client is, if its service says so. More that `follows` at once goes in the same packet.
fn announce_client(wants: &Wanted<'_>, follows: bool, socket: Socket) -> Result<Socket, ConnectError> {
    let header = announce::header(wants.service, wants.client, wants.original_dst);
    if let Some(bytes) = announce::encode(wants.service, header) {
        // The buffer of a new socket has room for that.
        let sent = sock::send_now(&socket.fd(), &bytes, follows)?;
        if sent < bytes.len() {
            return Err(ConnectError::Local(std::io::ErrorKind::WriteZero.into()));
        }
    }
    Ok(socket)
}

/// The service of an application's port for one connection: the application is its endpoint.
pub(super) fn application(of_port: &Service, asked: OriginalDst) -> Service {
    let endpoint = Endpoint {
        // Statistics are of the port.
        id: EndpointId(0),
        address: EndpointAddr(asked.0),
        weight: 1,
        zone: None,
        state: EndpointState::Healthy,
        load: Arc::default(),
    };
    Service { endpoints: vec![endpoint], ..of_port.clone() }
}

/// How a service's endpoints are spoken to inside TLS, if they are.
pub(super) fn tls_client(local: &Local, service: &Service) -> Option<Arc<tls::Client>> {
    let tls = service.tls.as_ref()?;
    local.shared.tls.current().client(tls).cloned()
}

/// Network namespace that connections to endpoints are made in, if it is not Weir's own.
pub(super) fn netns<'a>(local: &Local, of_client: Option<&'a Arc<Netns>>) -> Option<&'a Netns> {
    let source = local.routes.borrow().source();
    of_client.map(AsRef::as_ref).filter(|_| source == Source::Pod)
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
pub(super) fn pick(
    local: &Local,
    client: ClientAddr,
    service: &Service,
    tried: &[EndpointId],
) -> Option<usize> {
    let mut routes = local.routes.borrow_mut();
    let route = routes.route(service.id, None, &local.shared.stats)?;
    // The snapshot may have changed since the connection was routed; it is then routed by what it came with as far as
    // that still makes sense: an index of another version must not be used on this one.
    let now_ns = proxy_io::clock::monotonic_ns;
    let index = route.balancer.pick(&route.service, client, tried, now_ns).ok()?;
    let id = route.service.endpoints[index].id;
    service
        .endpoints
        .get(index)
        .filter(|e| e.id == id)
        .map(|_| index)
        .or_else(|| service.endpoints.iter().position(|e| e.id == id))
}

pub(super) fn send_attempt(local: &Local, endpoint: EndpointId, attempt: Attempt) {
    // A full channel means that the control side is behind: it has more than enough to judge by.
    let _ = local.shared.attempts.try_send((endpoint, attempt));
}
