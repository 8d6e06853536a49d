//! Connections that another process goes on with.
//!
//! ```text
//!   older:  relay ──(asked, one of a few at a time)──> stopped ──parcel──> newer process took it? ──yes──> forgotten here
//!             ^                                                                  └──no──┐
//!             └─────────────────────────────────────────────────────────────────────────┘
//!   newer:  parcel ──> relay, with the names, bytes and times that it had ──> counted and told once, at its end
//! ```
//!
//! Only plain relays move: what is inside TLS, or read as HTTP, has more state than two sockets and the bytes between them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proxy_core::addr::{ClientAddr, EndpointAddr, OriginalDst};
use proxy_core::id::{EndpointId, ServiceId};
use proxy_core::outcome::Reason;
use proxy_core::service::{Endpoint, Limits, Service};
use proxy_io::clock::monotonic_ns;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::endpoint::{Counted, count};
use super::l4::{finish, report};
use super::{Accepted, End, Entry, Local, OpenConn, Shared, Told, boxed, pace, tell_end};
use crate::forward::l4::{Ending, Flow, Relay, Rest, Turned, Watch as _};
use crate::stats::application::{Attending, Key, Lane};
use crate::stats::conn::{BudgetGuard, Moved, ServiceStats};
use crate::tls::Stream;

/// What is known of a connection, wherever it is carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The application's end.
    pub client: SocketAddr,
    /// What it asked for.
    pub original_dst: SocketAddr,
    /// It came to an application.
    #[serde(default)]
    pub is_inbound: bool,
    /// Cgroup of the application; 0 if it is not known.
    pub cgroup_id: u64,
    /// Network namespace that it is counted for; 0 is Weir's own.
    pub netns_cookie: u64,
    /// Number of the service.
    pub service: u32,
    /// Its name, which may not be in the config any more.
    pub service_name: Arc<str>,
    /// Number of the endpoint.
    pub endpoint: u32,
    /// Its address.
    pub endpoint_address: SocketAddr,
    /// When it began, on the machine's monotonic clock.
    pub began_ns: u64,
    /// Time without a byte after which it ends.
    pub idle_timeout: Option<Duration>,
    /// The same when one side has closed.
    pub half_close_timeout: Option<Duration>,
    /// How long it has been idle, in [`TICK`](super::TICK)s.
    pub idle_ticks: u32,
}

/// A connection on its way from one process to another.
#[derive(Debug)]
pub struct Parcel {
    /// What it is.
    pub identity: Identity,
    /// The client's socket and the endpoint's.
    pub sockets: [OwnedFd; 2],
    /// From the client to the endpoint, and back.
    pub flows: [Flow; 2],
    /// When it was asked to stop, on the machine's monotonic clock.
    pub stopping_since_ns: u64,
}

/// A connection that waits for another process to take it.
#[derive(Debug)]
pub struct Leaver {
    /// What it takes.
    pub parcel: Parcel,
    /// Whether it did; without an answer it did not.
    pub is_taken: oneshot::Sender<bool>,
}

/// The way out for all connections of this process.
#[derive(Clone, Debug)]
pub struct Exit {
    /// How many may be stopped at once: those that wait for their turn go on meanwhile.
    pub permits: Arc<Semaphore>,
    /// Where those that have stopped go.
    pub leavers: mpsc::Sender<Leaver>,
}

impl Exit {
    /// Makes one through which at most so many connections go at once.
    #[must_use]
    pub fn new(most: usize) -> (Self, mpsc::Receiver<Leaver>) {
        let (leavers, leaving) = mpsc::channel(most);
        (Self { permits: Arc::new(Semaphore::new(most)), leavers }, leaving)
    }
}

/// Who a relay belongs to, for when it moves.
pub(super) enum Whose<'a> {
    /// A connection that was accepted here.
    Accepted(&'a Accepted, Arc<Service>, usize),
    /// One that came from another process.
    Moved(Rc<Identity>),
}

impl Whose<'_> {
    fn identity(&self, conn: &OpenConn) -> Identity {
        let idle_ticks = conn.idle_ticks();
        match self {
            Self::Accepted(accepted, service, index) => {
                let endpoint = &service.endpoints[*index];
                Identity {
                    client: accepted.client.0,
                    original_dst: accepted.original_dst.0,
                    is_inbound: matches!(accepted.entry, Entry::Inbound(_)),
                    cgroup_id: accepted.cgroup_id,
                    netns_cookie: accepted.netns.as_ref().map_or(0, |netns| netns.cookie()),
                    service: service.id.0,
                    service_name: Arc::clone(&service.name),
                    endpoint: endpoint.id.0,
                    endpoint_address: endpoint.address.0,
                    began_ns: accepted.began_ns,
                    idle_timeout: service.limits.idle_timeout,
                    half_close_timeout: service.limits.half_close_timeout,
                    idle_ticks,
                }
            }
            Self::Moved(identity) => Identity { idle_ticks, ..Identity::clone(identity) },
        }
    }
}

/// Asks the connections of this worker to leave, those first that are relays already, and the others when they become some.
pub(crate) async fn leave(local: Rc<Local>, exit: Exit) {
    let mut movable = local.open.leave();
    *local.exit.borrow_mut() = Some(exit.clone());
    while let Some(conn) = movable.recv().await {
        // Closed when the other process takes no more.
        let Ok(permit) = Arc::clone(&exit.permits).acquire_owned().await else { return };
        conn.stop(permit);
    }
}

/// Runs a relay until its connection is over, here or because another process has it.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
pub(super) fn run_relay<'a>(
    local: &'a Local,
    relay: &'a mut Relay<'_, OpenConn>,
    conn: &'a Rc<OpenConn>,
    whose: Option<Whose<'a>>,
) -> impl Future<Output = Ending> {
    async move {
        if whose.is_some() {
            local.open.set_movable(conn);
        }
        loop {
            match (&mut *relay).await {
                Turned::Ended(ending) => return ending,
                Turned::Stopped => {
                    if let Some(whose) = &whose
                        && boxed(|| offer(local, relay, conn, whose)).await
                    {
                        return Ending::moved();
                    }
                    conn.go_on();
                }
            }
        }
    }
}

/// Offers a stopped relay to the other process; tells whether that has it now.
async fn offer(local: &Local, relay: &mut Relay<'_, OpenConn>, conn: &OpenConn, whose: &Whose<'_>) -> bool {
    let Some(exit) = local.exit.borrow().clone() else { return false };
    let Ok((sockets, flows)) = relay.stopped() else { return false };
    let parcel = Parcel {
        identity: whose.identity(conn),
        sockets,
        flows,
        stopping_since_ns: conn.stopping_since_ns(),
    };
    let (answer, answered) = oneshot::channel();
    let sent = exit.leavers.send(Leaver { parcel, is_taken: answer }).await;
    sent.is_ok() && answered.await.unwrap_or(false)
}

/// Serves a connection that came from another process to its end.
pub(crate) async fn serve(local: Rc<Local>, parcel: Parcel, _budget: BudgetGuard) {
    let Parcel { identity, sockets, flows, stopping_since_ns } = parcel;
    let Moved { count, longest_pause_ns } = &local.shared.stats.moved;
    count.fetch_add(1, Ordering::Relaxed);
    longest_pause_ns.fetch_max(monotonic_ns().saturating_sub(stopping_since_ns), Ordering::Relaxed);
    let identity = Rc::new(identity);
    let service_id = ServiceId(identity.service);
    let stats = local.shared.stats.service(service_id);
    let mut told = Told::of(&stats);
    let attending = attend(&local.shared, &identity);
    let _load = local.shared.peers.count(local.index);
    let (endpoint, _counted) = find(&local, &identity);
    let ending = boxed(|| resume(&local, &identity, (&stats, &attending), sockets, flows)).await;
    told.0.take();
    if ending.is_moved {
        attending.handle_move();
        return;
    }
    if let Some(endpoint) = &endpoint {
        report(&local, endpoint, &ending);
    }
    tell_end(
        &local,
        End {
            client: ClientAddr(identity.client),
            original_dst: OriginalDst(identity.original_dst),
            lane: if identity.is_inbound { "inbound" } else { "proxy" },
            cgroup_id: identity.cgroup_id,
            attending: Some(&attending),
            service: Some(Arc::clone(&identity.service_name)),
            stats: &stats,
            endpoint: Some(EndpointAddr(identity.endpoint_address)),
            ending: &ending,
            duration: Duration::from_nanos(monotonic_ns().saturating_sub(identity.began_ns)),
            is_told: false,
        },
    );
}

/// Counts the end of a connection that nobody here can go on with; dropping its sockets ends it.
pub(crate) fn refuse(shared: &Shared, parcel: &Parcel) {
    let stats = shared.stats.service(ServiceId(parcel.identity.service));
    stats.handle_end(Reason::Internal);
    attend(shared, &parcel.identity).handle_end(Reason::Internal, 0, 0);
}

/// Counts a connection for its application, whose other counters have come before it.
fn attend(shared: &Shared, identity: &Identity) -> Attending {
    let key = match identity.netns_cookie {
        0 => Key::Cgroup(identity.cgroup_id),
        cookie => Key::Netns(cookie),
    };
    let lane = if identity.is_inbound { Lane::Inbound } else { Lane::Proxy };
    let attending = shared.stats.applications.known(key).go_on(lane);
    attending.go_on();
    attending
}

/// Finds the endpoint, and counts the connection wherever the config still knows of it. It is open already, so no bound refuses it.
fn find(local: &Local, identity: &Identity) -> (Option<Endpoint>, Vec<Counted>) {
    let mut routes = local.routes.borrow_mut();
    if identity.is_inbound {
        let service = routes.inbound(ServiceId(identity.service));
        return (None, service.and_then(|service| count(&service.load, None)).into_iter().collect());
    }
    let route = routes.route(ServiceId(identity.service), None, &local.shared.stats);
    let Some(service) = route.map(|route| Arc::clone(&route.service)) else { return (None, Vec::new()) };
    let mut counted = Vec::with_capacity(2);
    counted.extend(count(&service.load, None));
    let endpoint = service.endpoints.iter().find(|endpoint| endpoint.id.0 == identity.endpoint).cloned();
    counted.extend(endpoint.as_ref().and_then(|endpoint| count(&endpoint.load, None)));
    (endpoint, counted)
}

async fn resume(
    local: &Rc<Local>,
    identity: &Rc<Identity>,
    (stats, attending): (&Arc<ServiceStats>, &Attending),
    sockets: [OwnedFd; 2],
    flows: [Flow; 2],
) -> Ending {
    let limits = Limits {
        idle_timeout: identity.idle_timeout,
        half_close_timeout: identity.half_close_timeout,
        ..Limits::DEFAULT
    };
    let guard = local.open.add(&limits, Some(stats));
    guard.conn.set_endpoint(EndpointId(identity.endpoint));
    guard.conn.set_idle_ticks(identity.idle_ticks);
    let [out, back] = &flows;
    guard.conn.set_counted(out.bytes, back.bytes);
    if flows.iter().any(|flow| matches!(flow.rest, Rest::Ended)) {
        guard.conn.handle_half_close();
    }
    let [down, up] = sockets;
    let (mut down, mut up) = match (local.driver.socket(down), local.driver.socket(up)) {
        (Ok(down), Ok(up)) => (Stream::Plain(down), Stream::Plain(up)),
        _ => return Ending::of(Reason::Internal),
    };
    let pacer = pace(local, attending);
    guard.conn.set_pacer(Some(&pacer));
    down = down.paced(pacer);
    let relay = Relay::go_on(&mut down, &mut up, flows, &local.pipes, &*guard.conn);
    let ending = match relay {
        Ok(mut relay) => {
            let whose = Whose::Moved(Rc::clone(identity));
            run_relay(local, &mut relay, &guard.conn, Some(whose)).await
        }
        // The bytes between the two are lost, and both must learn that.
        Err(_) => Ending::of(Reason::Internal),
    };
    finish(down, up, &ending).await;
    ending
}
