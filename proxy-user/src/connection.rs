//! The life of one proxied connection.
//!
//! ```text
//!   accepted ──> service? ──> limits? ──> endpoint? ──> connect ──> relay ──> closed
//!                   │            │            │            │  └─ failed: another endpoint, a few times
//!                   └────────────┴────────────┴────────────┴───> reset, with a reason
//! ```

mod announce;
mod detect;
mod end;
mod endpoint;
mod http;
mod l4;
mod local;
pub mod moving;
mod namespaces;
mod open;
mod parking;
mod peers;
mod routes;

use std::cell::OnceCell;
use std::future::{poll_fn, ready};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt as _;
use proxy_core::addr::{Cidr, ClientAddr, OriginalDst};
use proxy_core::id::ServiceId;
use proxy_core::outcome::Reason;
use proxy_core::proxy_protocol::Header;
use proxy_core::service::{Limits, Protocol, Service};
use proxy_core::snapshot::{ExplicitListener, Inbound, Serves};
use proxy_core::tls::ServerTls;
use proxy_io::clock::monotonic_ns;
use proxy_io::netns::Netns;
use proxy_io::{Chunk, sock};

use self::end::{After, End, Served, tell, tell_end};
use self::endpoint::count;
use self::http::Resting;
use self::l4::Downstream;
use crate::forward::wire::Wire;
use crate::pace::{CONNECTION_BYTES, Pacer};
use crate::stats::application::Attending;
use crate::stats::conn::{BudgetGuard, ServiceStats};
use crate::tls::Stream;

pub(crate) use self::local::Local;
pub use self::local::Shared;
pub use self::namespaces::{Namespace, Namespaces};
pub use self::open::{OpenConn, OpenConns, OpenGuard, TICK};
pub(crate) use self::parking::Parking;
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
    /// Counts it as one of its application; none of a listener of the config.
    pub(crate) attending: Option<Attending>,
    /// The application's network namespace, if it is not Weir's own.
    pub(crate) netns: Option<Arc<Netns>>,
    /// When, on the machine's monotonic clock.
    pub(crate) began_ns: u64,
    /// Counted as long as the connection lives: by its worker ...
    pub(crate) load: LoadGuard,
    /// ... and against the bound on descriptors.
    pub(crate) _budget: BudgetGuard,
    /// Whether its end has been counted.
    pub(crate) told: Told,
}

impl Accepted {
    /// The client may be on another machine.
    pub(crate) fn is_remote(&self) -> bool {
        !matches!(self.entry, Entry::Intercepted(_))
    }

    /// The counters in which it is open.
    pub(crate) fn stats<'a>(&'a self, local: &'a Local) -> &'a Arc<ServiceStats> {
        self.told.0.get().unwrap_or(&local.shared.stats.stray)
    }
}

/// Counters in which a connection is open. Dropped with them, it was cut: by a bug in its own task or in its worker.
#[derive(Default)]
pub(crate) struct Told(OnceCell<Arc<ServiceStats>>);

impl Told {
    fn of(stats: &Arc<ServiceStats>) -> Self {
        Self(OnceCell::from(Arc::clone(stats)))
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(stats) = self.0.take() {
            let reason = if std::thread::panicking() { Reason::Internal } else { Reason::Drained };
            stats.handle_end(reason);
        }
    }
}

/// Which way a connection came, and so what is known of it.
pub(crate) enum Entry {
    /// The kernel programs caught it for this service.
    Intercepted(ServiceId),
    /// The client connected to a listener of the config.
    Listener(Arc<ExplicitListener>),
    /// The client connected to an application.
    Inbound(Arc<Inbound>),
}

impl Entry {
    /// The routes that decide for a connection that came this way: those of its listener, else those of its service. Empty
    /// if all of it goes to the service.
    fn routes<'a>(&'a self, service: Option<&'a Service>) -> &'a [Arc<str>] {
        if let Self::Listener(listener) = self
            && let Serves::Routes(names) = &listener.serves
        {
            return names;
        }
        service.map_or(&[], |service| &service.routes)
    }

    /// Word of the lane.
    fn lane(&self) -> &'static str {
        if matches!(self, Self::Inbound(_)) { "inbound" } else { "proxy" }
    }
}

/// Most bytes that are read of a client before its endpoint is connected: a request's head mostly fits, and what a
/// connection attempt holds stays small.
const EARLY_BYTES: usize = 4 << 10;

/// Serves one accepted connection to its end.
///
/// No `async fn`, nor is what else a connection rests in.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
pub(crate) fn run(local: Rc<Local>, fd: OwnedFd, mut accepted: Accepted) -> impl Future<Output = ()> {
    async move {
        let (here, whose) = (&local, &mut accepted);
        let after = boxed(move || serve(here, fd, whose)).await;
        settle(&local, accepted, after);
    }
}

/// Goes on with a connection that rested.
#[expect(clippy::manual_async_fn, reason = "as above")]
fn go_on(local: Rc<Local>, accepted: Accepted, resting: Resting) -> impl Future<Output = ()> {
    async move {
        let (here, whose) = (&local, &accepted);
        let after = boxed(move || http::go_on(here, resting, whose)).await;
        settle(&local, accepted, after);
    }
}

/// Does what is left to do after a connection's task.
fn settle(local: &Rc<Local>, mut accepted: Accepted, after: After) {
    match after {
        After::Rests(resting) => Parking::park(local, accepted, *resting),
        After::Over(served) => {
            accepted.told.0.take();
            if !served.ending.is_moved {
                tell(local, &accepted, served);
            } else if let Some(attending) = &accepted.attending {
                attending.handle_move();
            }
        }
    }
}

/// A connection whose service is known.
struct Known<'a> {
    accepted: &'a Accepted,
    service: Arc<Service>,
    stats: Arc<ServiceStats>,
}

async fn serve(local: &Rc<Local>, fd: OwnedFd, accepted: &mut Accepted) -> After {
    let pacer = accepted.attending.as_ref().map(|attending| pace(local, attending));
    if let Some(pacer) = &pacer {
        boxed(|| await_turn(local, pacer)).await;
    }
    let Admitted { service, stats, counted } = match admit(local, &fd, accepted) {
        Ok(admitted) => admitted,
        Err(refused) => {
            refuse(&fd);
            return refused.into();
        }
    };
    if let Some(attending) = &accepted.attending
        && let Err(reason) = boxed(|| enter(local, attending)).await
    {
        refuse(&fd);
        return Served::nowhere(service, stats, reason).into();
    }
    let downstream = match &accepted.entry {
        Entry::Listener(listener) if listener.expects_proxy_header || listener.tls.is_some() => {
            let listener = Arc::clone(listener);
            let (listener, whose) = (&*listener, &mut *accepted);
            match boxed(move || unwrap(local, fd, listener, whose)).await {
                Ok(downstream) => downstream,
                Err(reason) => return Served::nowhere(service, stats, reason).into(),
            }
        }
        Entry::Inbound(inbound) if inbound.expects_proxy_header => {
            let inbound = Arc::clone(inbound);
            let (inbound, whose) = (&*inbound, &mut *accepted);
            match boxed(move || learn_client(local, fd, &inbound.trusted_proxies, whose)).await {
                Ok(downstream) => downstream.paced(pacer),
                Err(reason) => return Served::nowhere(service, stats, reason).into(),
            }
        }
        Entry::Listener(_) | Entry::Inbound(_) | Entry::Intercepted(_) => Downstream::Fd(fd, pacer),
    };
    let mut after = serve_as_spoken(local, downstream, accepted, service, stats).await;
    if let After::Rests(resting) = &mut after {
        resting.held.counted = counted;
    }
    after
}

/// A connection that is going to be served.
struct Admitted {
    service: Option<Arc<Service>>,
    stats: Arc<ServiceStats>,
    /// Counted against the bound of its service, if it has one.
    counted: Option<endpoint::Counted>,
}

/// Counts a connection against what its application may have; it waits for its turn if they come too fast.
async fn enter(local: &Local, attending: &Attending) -> Result<(), Reason> {
    let wait = attending.try_enter(monotonic_ns())?;
    if !wait.is_zero() {
        // A worker that drains waits for it, too.
        let _guard = local.open.add(&Limits::DEFAULT, None);
        tokio::time::sleep(wait).await;
    }
    Ok(())
}

/// Waits until a connection's application may do what a new one costs.
async fn await_turn(local: &Local, pacer: &Pacer) {
    // A worker that drains waits for those who wait, too.
    let mut guard = None;
    poll_fn(|cx| {
        let turn = pacer.poll_turn(cx);
        if turn.is_pending() {
            guard.get_or_insert_with(|| local.open.add(&Limits::DEFAULT, None));
        }
        turn
    })
    .await;
    pacer.handle_work(CONNECTION_BYTES);
}

/// The pace that a connection has to keep.
fn pace(local: &Local, attending: &Attending) -> Rc<Pacer> {
    let application = attending.application();
    let bounds = attending.is_bounded().then(|| Arc::clone(application));
    Rc::new(Pacer::new(local.turns.seat(application), bounds))
}

/// Finds out whether a connection is served, and for whom.
fn admit(local: &Local, fd: &OwnedFd, accepted: &Accepted) -> Result<Admitted, Served> {
    let known = find(local, accepted);
    let has_routes = !accepted.entry.routes(None).is_empty();
    let stats = known.as_ref().map_or(&local.shared.stats.stray, |(_, stats)| stats);
    let (stats, service) = (Arc::clone(stats), known.map(|(service, _)| service));
    stats.opened.fetch_add(1, Ordering::Relaxed);
    let _ = accepted.told.0.set(Arc::clone(&stats));
    if service.is_none() && !has_routes {
        return Err(Served::nowhere(None, stats, Reason::NoEndpoint));
    }
    let limits = service.as_ref().map_or(&Limits::DEFAULT, |service| &service.limits);
    // A listener of the config has it already.
    if matches!(accepted.entry, Entry::Inbound(_)) {
        // Without it the client is given up later, by the kernel's own count of retransmits.
        let _ = sock::set_user_timeout(fd, limits.user_timeout);
    }
    match service.as_ref().map(|service| count(&service.load, limits.max_connections)) {
        Some(None) => Err(Served::nowhere(service, stats, Reason::Limit)),
        counted => Ok(Admitted { service, stats, counted: counted.flatten() }),
    }
}

/// Serves a connection by its protocol.
///
/// Boxed one by one: a connection that rests costs what its own kind needs, and not what the largest does.
fn serve_as_spoken<'a>(
    local: &'a Rc<Local>,
    downstream: Downstream,
    accepted: &'a Accepted,
    service: Option<Arc<Service>>,
    stats: Arc<ServiceStats>,
) -> Pin<Box<dyn Future<Output = After> + 'a>> {
    let protocol = match &accepted.entry {
        Entry::Listener(listener) => listener.protocol,
        Entry::Intercepted(_) | Entry::Inbound(_) => {
            service.as_ref().map_or(Protocol::Tcp, |service| service.protocol)
        }
    };
    match (protocol, service) {
        (Protocol::Tcp, Some(service)) => {
            boxed(move || l4::serve(local, downstream, Known { accepted, service, stats }).map(After::Over))
        }
        (Protocol::Http | Protocol::Http2, service) => match downstream.into_wire(local) {
            Some(down) => boxed(move || http::serve(local, down, accepted, service)),
            None => boxed(move || ready(Served::nowhere(service, stats, Reason::Internal).into())),
        },
        (Protocol::Tls | Protocol::Auto, service) => {
            boxed(move || detect::serve(local, downstream, accepted, protocol, service, stats))
        }
        (Protocol::Tcp, None) => {
            boxed(move || ready(Served::nowhere(None, stats, Reason::NoEndpoint).into()))
        }
    }
}

/// Takes off what a connection to a listener is wrapped in: a header that says who the client is, then TLS.
async fn unwrap(
    local: &Local,
    fd: OwnedFd,
    listener: &ExplicitListener,
    accepted: &mut Accepted,
) -> Result<Downstream, Reason> {
    let downstream = if listener.expects_proxy_header {
        learn_client(local, fd, &listener.trusted_proxies, accepted).await?
    } else {
        Downstream::Fd(fd, None)
    };
    match &listener.tls {
        None => Ok(downstream),
        Some(tls) => {
            let stream = secure(local, downstream, listener, tls).await?;
            Ok(Downstream::Stream(stream, Chunk::default()))
        }
    }
}

/// Learns who the client is, and what it asked for, from the header that its connection begins with.
async fn learn_client(
    local: &Local,
    fd: OwnedFd,
    trusted: &[Cidr],
    accepted: &mut Accepted,
) -> Result<Downstream, Reason> {
    let peer = accepted.client.0.ip();
    if !trusted.is_empty() && !trusted.iter().any(|network| network.contains(peer)) {
        refuse(&fd);
        return Err(Reason::ProxyUntrusted);
    }
    let (header, downstream) = announce::receive(local, fd).await?;
    if let Header::Proxied { source, destination } = header {
        (accepted.client, accepted.original_dst) = (ClientAddr(source), OriginalDst(destination));
    }
    Ok(downstream)
}

/// Ends the client's TLS here.
async fn secure(
    local: &Local,
    downstream: Downstream,
    listener: &ExplicitListener,
    tls: &ServerTls,
) -> Result<Stream, Reason> {
    let config =
        local.shared.tls.current().server(tls, listener.protocol).cloned().ok_or(Reason::Internal)?;
    let wire = downstream.into_wire(local).ok_or(Reason::Internal)?;
    let Wire { stream: Stream::Plain(socket), chunk, .. } = wire else { return Err(Reason::Internal) };
    let accepting = crate::tls::accept(&config, socket, chunk, listener.http.head_timeout);
    accepting.await.map_err(|error| {
        tracing::debug!(listener = %listener.address, %error, "no TLS session");
        error.reason()
    })
}

fn find(local: &Local, accepted: &Accepted) -> Option<(Arc<Service>, Arc<ServiceStats>)> {
    let service = match &accepted.entry {
        Entry::Intercepted(service) => *service,
        Entry::Listener(listener) => match &listener.serves {
            Serves::Service(service) => *service,
            Serves::Routes(_) => return None,
        },
        Entry::Inbound(inbound) => {
            let service = endpoint::application(&inbound.service, accepted.original_dst);
            return Some((Arc::new(service), local.shared.stats.service(inbound.service.id)));
        }
    };
    let mut routes = local.routes.borrow_mut();
    let route = routes.route(service, Some(accepted.original_dst.0), &local.shared.stats)?;
    Some((Arc::clone(&route.service), Arc::clone(&route.stats)))
}

/// Makes a future where it lives. One that is made first and boxed then keeps its size in whoever awaits it, and that is what
/// every resting connection would cost.
fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::pin(make())
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
