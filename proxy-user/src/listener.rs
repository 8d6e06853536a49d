//! Accepting connections and finding out where they wanted to go.

mod newcomer;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use proxy_bpf::abi;
use proxy_bpf::abi::config::WEIR_MARK;
use proxy_bpf::abi::key::{Addr, OriginalDstKey};
use proxy_core::addr::{ClientAddr, OriginalDst, canonical};
use proxy_core::id::ServiceId;
use proxy_core::outcome::Reason;
use proxy_core::overload::Rung;
use proxy_core::service::{Limits, Protocol};
use proxy_core::snapshot::{ExplicitListener, Inbound};
use proxy_io::clock::monotonic_ns;
use proxy_io::{sock, watch};

pub(crate) use self::newcomer::LONGEST_WAIT;
use crate::bug;
use crate::connection::{self, Accepted, Entry, Handed, Local, Namespace, Shared, Told};
use crate::stats::application::{Key, Lane};
use crate::stats::conn::BudgetGuard;

/// Connections that may wait to be accepted, per listener. The kernel caps it at net.core.somaxconn (4096).
const BACKLOG: u32 = 4096;
/// Connections accepted before others get their turn: some 200 µs.
const TURN_ACCEPTS: usize = 16;
/// What it costs an application that a connection is accepted, or that none is there, in bytes as [`Seat`](crate::pace::Seat) counts them.
const ACCEPT_BYTES: usize = 8 << 10;
/// Time for which a connection that has brought no byte yet is left to the kernel, where the client begins: the least that there
/// is. Who waits longer is accepted then.
pub(crate) const DEFER_TIME: Duration = Duration::from_secs(1);
/// Pause when the process is out of descriptors: the listener stays readable, and asking at once would spin.
const EMFILE_PAUSE: Duration = Duration::from_millis(50);
/// Pause after anything else that goes wrong with a listener: memory may have run out, which takes its time.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket with what its connections are for.
#[derive(Clone, Debug)]
pub struct Listening {
    /// The socket; others may hold it, too: other workers, and whoever hands it to a newer process.
    pub socket: Arc<OwnedFd>,
    /// Its address.
    pub address: SocketAddr,
    /// How to tell the service of a connection.
    pub purpose: Purpose,
}

/// How the service of an accepted connection is told.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// By the original destination that the kernel stored; the address is the listener's part of its key.
    Intercepted(Addr),
    /// The same in another network namespace, whose connections are shared among all workers.
    InterceptedIn {
        /// The namespace.
        namespace: Arc<Namespace>,
        /// The listener's part of the key.
        listener: Addr,
        /// What comes to applications there.
        inbound: Arc<InboundPorts>,
    },
    /// By the original destination of a connection that comes from a namespace which is not served yet; the address is the listener's.
    Node(Addr),
    /// By what the config says of the listener.
    Explicit,
}

/// Ports of the applications of a network namespace; shared by who decides about them and who accepts there.
#[derive(Debug, Default)]
pub struct InboundPorts {
    /// Cgroup of the pod, or 0.
    cgroup_id: u64,
    ports: RwLock<HashMap<u16, Arc<Inbound>>>,
}

impl InboundPorts {
    /// Begins with none.
    #[must_use]
    pub fn new(cgroup_id: u64) -> Self {
        Self { cgroup_id, ports: RwLock::default() }
    }

    /// Says what the ports are from now on.
    pub fn set(&self, ports: HashMap<u16, Arc<Inbound>>) {
        *self.ports.write().unwrap_or_else(PoisonError::into_inner) = ports;
    }

    /// Tells what a connection that was accepted came to, if not to the listener itself.
    fn of(&self, fd: &OwnedFd, listener: Addr) -> Option<(SocketAddr, Option<Arc<Inbound>>)> {
        let ports = self.ports.read().unwrap_or_else(PoisonError::into_inner);
        if ports.is_empty() {
            return None;
        }
        let own = canonical(sock::local_addr(fd).ok()?);
        (Addr::from(own) != listener).then(|| (own, ports.get(&own.port()).cloned()))
    }
}

/// What tells one listener of a worker from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerName {
    /// Cookie of its network namespace; 0 is Weir's own.
    pub netns_cookie: u64,
    /// Its address, which listeners in other namespaces may have as well.
    pub address: SocketAddr,
}

impl Listening {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> ListenerName {
        let netns_cookie = match &self.purpose {
            Purpose::InterceptedIn { namespace, .. } => namespace.netns.cookie(),
            Purpose::Intercepted(_) | Purpose::Node(_) | Purpose::Explicit => 0,
        };
        ListenerName { netns_cookie, address: self.address }
    }
}

/// Opens a listening socket.
///
/// Options set here are inherited by every accepted connection: four system calls less for each.
///
/// # Errors
/// As socket(2), bind(2) and listen(2).
pub fn open(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = sock::listen(address, BACKLOG, true, false)?;
    sock::set_mark(&socket, WEIR_MARK)?;
    sock::set_nodelay(&socket, true)?;
    Ok(socket)
}

/// Prepares a listener of the config for its connections, which inherit what `limits` says.
///
/// # Errors
/// As setsockopt(2).
pub fn prepare(socket: &OwnedFd, listener: &ExplicitListener, limits: &Limits) -> io::Result<()> {
    // Without it a client is given up later, by the kernel's own count of retransmits.
    sock::set_user_timeout(socket, limits.user_timeout)?;
    let is_client_first = match listener.protocol {
        Protocol::Tls | Protocol::Http | Protocol::Http2 => true,
        Protocol::Tcp | Protocol::Auto => listener.tls.is_some() || listener.expects_proxy_header,
    };
    // One wake-up for a connection and its first bytes, and none for who never sends any.
    sock::set_defer_accept(socket, if is_client_first { DEFER_TIME } else { Duration::ZERO })
}

/// Opens a listener of the proxy lane in this thread's network namespace; `None` for IPv6 where that has none.
///
/// # Errors
/// As [`open`], with the address.
pub fn open_proxied(abi: Addr, is_v4: bool) -> io::Result<Option<OwnedFd>> {
    let address = SocketAddr::from(abi);
    match open(address) {
        Ok(socket) => {
            // Local hops do not want bbr. A kernel without cubic keeps its default.
            let _ = sock::set_congestion(&socket, "cubic");
            Ok(Some(socket))
        }
        Err(error) if !is_v4 && is_family_missing(&error) => Ok(None),
        Err(error) => {
            let is_taken = error.kind() == io::ErrorKind::AddrInUse;
            let advice = if is_taken { "; `weir doctor` says who has it" } else { "" };
            let text = format!("cannot listen on {address} for the proxy lane: {error}{advice}");
            Err(io::Error::new(error.kind(), text))
        }
    }
}

fn is_family_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Accepts from one socket for as long as the task lives, whatever goes wrong: a listener that nobody serves would take
/// connections and never answer.
pub(crate) async fn serve(local: Rc<Local>, listening: Listening) {
    let address = listening.address;
    loop {
        match bug::caught(accept_all(&local, listening.clone())).await {
            Ok(Ok(never)) => match never {},
            Ok(Err(error)) => tracing::error!(%address, %error, "cannot accept; the listener tries again"),
            Err(panic) => tracing::error!(%address, panic, "a listener failed; it goes on"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn accept_all(local: &Rc<Local>, listening: Listening) -> io::Result<Infallible> {
    // Readiness, not an accept in the ring: a killed process's ring lets go of its listeners late, and in between new
    // connections would be sent to a socket that nobody serves.
    let Listening { socket, address, purpose } = listening;
    let socket = watch::readable(socket)?;
    // A pod's connections are counted as its work from here on; who makes them otherwise is known only when they are accepted.
    let seat = match &purpose {
        Purpose::InterceptedIn { namespace, .. } => Some(local.turns.seat(&namespace.application)),
        Purpose::Intercepted(_) | Purpose::Node(_) | Purpose::Explicit => None,
    };
    loop {
        let mut ready = socket.readable().await?;
        for turn in 0.. {
            if turn == TURN_ACCEPTS {
                tokio::task::yield_now().await;
                break;
            }
            if let Some(seat) = &seat {
                poll_fn(|cx| seat.poll_turn(cx)).await;
                seat.handle_work(ACCEPT_BYTES);
            }
            match local.driver.accept(socket.get_ref()) {
                Ok(Some((fd, peer))) => handle_accepted(local, &purpose, fd, peer, address),
                Ok(None) => {
                    ready.clear_ready();
                    break;
                }
                Err(error) if sock::is_out_of_descriptors(&error) => {
                    tracing::warn!(%error, "cannot accept; raise LimitNOFILE");
                    local.pipes.close_idle();
                    tokio::time::sleep(EMFILE_PAUSE).await;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn handle_accepted(
    local: &Rc<Local>,
    purpose: &Purpose,
    fd: OwnedFd,
    peer: SocketAddr,
    listener: SocketAddr,
) {
    bug::point("listener", local.index);
    let client = ClientAddr(canonical(peer));
    let share = match purpose {
        Purpose::InterceptedIn { namespace, .. } => &namespace.share,
        Purpose::Intercepted(_) | Purpose::Node(_) | Purpose::Explicit => &local.shared.home_share,
    };
    let Some(budget) = share.try_acquire() else {
        if let Purpose::InterceptedIn { namespace, .. } = purpose {
            namespace.application.refuse(Lane::Proxy, Reason::Limit);
        }
        return refuse(&local.shared, &fd, client, Reason::Limit);
    };
    match purpose {
        Purpose::Explicit if local.shared.overload.are_descriptors_short() => {
            local.shared.overload.count(Rung::Refuse, 1);
            refuse(&local.shared, &fd, client, Reason::Overload);
        }
        Purpose::Explicit => {
            let explicit = local.routes.borrow().listener(listener);
            // Between two versions a connection may come for a listener that is about to be closed.
            let Some(explicit) = explicit else {
                return refuse(&local.shared, &fd, client, Reason::NoEndpoint);
            };
            let asked = if listener.ip().is_unspecified() { sock::local_addr(&fd).ok() } else { None };
            let accepted = Accepted {
                client,
                original_dst: OriginalDst(asked.map_or(listener, canonical)),
                entry: Entry::Listener(explicit),
                cgroup_id: 0,
                attending: None,
                netns: None,
                began_ns: monotonic_ns(),
                load: local.shared.peers.count(local.index),
                _budget: budget,
                told: Told::default(),
            };
            start(local, fd, accepted);
        }
        Purpose::Intercepted(listener) => {
            let home = local.shared.netns_cookie;
            let Some(found) = take_original_dst(local, home, client, *listener) else {
                return refuse(&local.shared, &fd, client, Reason::NoOriginalDst);
            };
            start(local, fd, caught(local, client, &found, None, budget));
        }
        Purpose::InterceptedIn { namespace, listener, inbound } => {
            let Namespace { netns, application, .. } = &**namespace;
            if let Some((own, rule)) = inbound.of(&fd, *listener) {
                let Some(rule) = rule else {
                    application.refuse(Lane::Inbound, Reason::NoEndpoint);
                    return refuse(&local.shared, &fd, client, Reason::NoEndpoint);
                };
                let accepted = Accepted {
                    client,
                    original_dst: OriginalDst(own),
                    entry: Entry::Inbound(rule),
                    cgroup_id: inbound.cgroup_id,
                    attending: Some(application.attend(Lane::Inbound)),
                    netns: Some(Arc::clone(netns)),
                    began_ns: monotonic_ns(),
                    load: local.shared.peers.count(local.index),
                    _budget: budget,
                    told: Told::default(),
                };
                return spread(local, fd, accepted);
            }
            let Some(found) = take_original_dst(local, netns.cookie(), client, *listener) else {
                application.refuse(Lane::Proxy, Reason::NoOriginalDst);
                return refuse(&local.shared, &fd, client, Reason::NoOriginalDst);
            };
            spread(local, fd, caught(local, client, &found, Some(namespace), budget));
        }
        Purpose::Node(listener) => newcomer::handle_accepted(local, fd, client, *listener, budget),
    }
}

/// A connection that the kernel programs caught, from another network namespace if one is given.
fn caught(
    local: &Local,
    client: ClientAddr,
    found: &abi::value::OriginalDst,
    namespace: Option<&Arc<Namespace>>,
    budget: BudgetGuard,
) -> Accepted {
    let attending = match namespace {
        Some(namespace) => namespace.application.attend(Lane::Proxy),
        None => local.shared.stats.applications.find(Key::Cgroup(found.cgroup_id)).attend(Lane::Proxy),
    };
    Accepted {
        client,
        original_dst: OriginalDst(found.address.into()),
        entry: Entry::Intercepted(ServiceId(found.service)),
        cgroup_id: found.cgroup_id,
        attending: Some(attending),
        netns: namespace.map(|namespace| Arc::clone(&namespace.netns)),
        began_ns: monotonic_ns(),
        load: local.shared.peers.count(local.index),
        _budget: budget,
        told: Told::default(),
    }
}

/// Serves a connection here, or gives it to a worker that has clearly fewer.
fn spread(local: &Rc<Local>, fd: OwnedFd, accepted: Accepted) {
    if let Some(Handed { fd, accepted }) = local.shared.peers.hand(local.index, Handed { fd, accepted }) {
        start(local, fd, accepted);
    }
}

/// Serves a connection in a task of its own.
pub(crate) fn start(local: &Rc<Local>, fd: OwnedFd, accepted: Accepted) {
    tokio::task::spawn_local(connection::run(Rc::clone(local), fd, accepted));
}

/// Takes what the kernel programs stored when the SYN was sent; each connection's entry is there once.
fn take_original_dst(
    local: &Local,
    netns_cookie: u64,
    client: ClientAddr,
    listener: Addr,
) -> Option<abi::value::OriginalDst> {
    let maps = local.shared.maps.as_ref()?;
    let key = OriginalDstKey { netns_cookie, source: Addr::from(client.0), listener };
    match maps.original_dst.take(&key) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "cannot read the map of original destinations");
            None
        }
    }
}

/// Resets a connection that cannot be served, and counts it.
pub(crate) fn refuse(shared: &Shared, fd: &OwnedFd, client: ClientAddr, reason: Reason) {
    let _ = sock::set_linger_reset(fd);
    let stray = &shared.stats.stray;
    stray.opened.fetch_add(1, Ordering::Relaxed);
    stray.handle_end(reason);
    tracing::debug!(%client, reason = reason.as_str(), "connection refused");
}
