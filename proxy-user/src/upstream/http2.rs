//! Connections of HTTP/2 to endpoints: each carries many requests at a time.
//!
//! ```text
//!   checkout ──> one with room ──> request
//!      │            └─ too old, or its endpoint said GOAWAY: no new ones; closed when its last request is over
//!      └─ none, or all full ──> one request connects, the others wait for it
//! ```
//!
//! An endpoint that says nothing while requests are under way is asked whether it is still there; one that does not answer loses
//! the connection, and the requests go the way of a reset.

mod heard;
mod held;
mod pinger;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::http2::Step;
use proxy_core::id::EndpointId;
use proxy_core::outcome::RequestReason;
use proxy_core::pool::Life;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::pool::Key;
use crate::tls::Client;

pub use self::heard::Heard;
pub use self::held::{Held, Waiting};
pub use self::pinger::Pinger;

/// Begins requests on a connection.
pub type SendRequest = h2::client::SendRequest<Held>;

/// Time that a connection without requests is kept. Servers of HTTP/2 wait longer than those of HTTP/1.1 (gRPC for ever, nginx
/// 75 seconds), and one that goes says so.
const MOST_IDLE: Duration = Duration::from_secs(60);
/// Requests at a time on one connection, also where its endpoint allows more: what their answers may be ahead by adds up.
pub const MOST_STREAMS: u32 = 1 << 10;
/// Connections of one worker to one endpoint: each has room for a hundred requests and more.
const MOST_CONNECTIONS: usize = 64;

/// The connections of a worker.
#[derive(Default)]
pub struct Http2Pool {
    entries: RefCell<FxHashMap<Key, Entry>>,
    /// All that are asked whether they are still there: also those that take no more requests.
    asked: RefCell<Vec<Weak<Http2Conn>>>,
}

#[derive(Default)]
struct Entry {
    conns: Vec<Rc<Http2Conn>>,
    connecting: Option<Rc<Connecting>>,
}

struct Http2Conn {
    sender: SendRequest,
    /// Requests under way.
    active: Cell<usize>,
    is_over: Cell<bool>,
    /// Its endpoint did not answer when it was asked.
    is_silent: Cell<bool>,
    used: Cell<Instant>,
    life: Life,
    watch: Option<RefCell<Watch>>,
    heard: Rc<Heard>,
    /// How TLS is spoken, which [`Key`] knows by where it lives.
    _tls: Option<Arc<Client>>,
}

/// Asks an endpoint, and ends the connection.
struct Watch {
    pinger: Pinger,
    driving: AbortHandle,
}

impl Http2Conn {
    fn is_open(&self, now: Instant) -> bool {
        !self.is_over.get() && !self.life.is_over(now)
    }

    fn has_room(&self) -> bool {
        let most = usize::try_from(MOST_STREAMS).unwrap_or(usize::MAX);
        self.active.get() < self.sender.current_max_send_streams().min(most)
    }

    /// Asks an endpoint that has been silent for too long, or ends the connection of one that was.
    fn look(&self) {
        let Some(watch) = &self.watch else { return };
        let Watch { pinger, driving } = &mut *watch.borrow_mut();
        if pinger.look(self.active.get() > 0, || None) == Step::Lost {
            tracing::debug!("an endpoint does not answer pings");
            self.is_over.set(true);
            self.is_silent.set(true);
            driving.abort();
        }
    }
}

/// A place for one request.
pub struct Lease {
    conn: Rc<Http2Conn>,
    /// It was there before.
    pub is_reused: bool,
}

impl Lease {
    fn new(conn: &Rc<Http2Conn>, is_reused: bool) -> Self {
        conn.active.set(conn.active.get() + 1);
        Self { conn: Rc::clone(conn), is_reused }
    }

    /// Begins requests.
    #[must_use]
    pub fn sender(&self) -> SendRequest {
        self.conn.sender.clone()
    }

    /// Tells whether the connection was ended because its endpoint said a head that is too long.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        self.conn.heard.is_too_long()
    }

    /// Tells whether the endpoint lets a stream become a tunnel of a protocol (RFC 8441, 3); waits until that is known.
    pub async fn takes_protocols(&self) -> bool {
        if !self.conn.sender.is_extended_connect_protocol_enabled() {
            self.conn.heard.greeted().await;
        }
        self.conn.sender.is_extended_connect_protocol_enabled()
    }

    /// Says that the connection takes no more requests.
    pub fn set_over(&self) {
        self.conn.is_over.set(true);
    }

    /// Tells whether the connection was ended because its endpoint did not answer a ping.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.conn.is_silent.get()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.conn.active.set(self.conn.active.get() - 1);
        self.conn.used.set(Instant::now());
    }
}

/// Who drives a connection. Once that is over, however it came, the connection takes no more requests.
struct Driven(Weak<Http2Conn>);

impl Drop for Driven {
    fn drop(&mut self) {
        if let Some(conn) = self.0.upgrade() {
            conn.is_over.set(true);
            conn.heard.end();
        }
    }
}

/// A connection that is being made, for all who wait for it.
#[derive(Default)]
struct Connecting {
    done: Notify,
    failure: Cell<Option<RequestReason>>,
}

/// What a request finds.
pub enum Found {
    /// A connection with room.
    Lease(Lease),
    /// None, and nobody makes one: this request has to.
    Missing(Ticket),
    /// None yet; somebody makes one.
    Coming(Coming),
}

/// The duty to make a connection. Dropped, others get it.
pub struct Ticket {
    pool: Rc<Http2Pool>,
    key: Key,
    connecting: Rc<Connecting>,
}

/// Somebody else's connection that is being made.
pub struct Coming(Rc<Connecting>);

impl Coming {
    /// Waits until it is made, or is not.
    ///
    /// # Errors
    /// Why it is not; ask the pool again otherwise.
    pub async fn wait(self) -> Result<(), RequestReason> {
        self.0.done.notified().await;
        self.0.failure.get().map_or(Ok(()), Err)
    }
}

impl Ticket {
    /// Says why there is no connection.
    pub fn fail(self, reason: RequestReason) {
        self.connecting.failure.set(Some(reason));
    }

    /// Takes up the connection and drives it until it ends; the `pinger`, if there is one, asks whether its endpoint is still
    /// there.
    pub fn open(
        self,
        sender: SendRequest,
        connection: impl Future<Output = Result<(), h2::Error>> + 'static,
        pinger: Option<Pinger>,
        heard: Rc<Heard>,
        life: Life,
        tls: Option<Arc<Client>>,
    ) -> Lease {
        let is_asked = pinger.is_some();
        let conn = Rc::new_cyclic(|conn| {
            let driven = Driven(Weak::clone(conn));
            let driving = tokio::task::spawn_local(async move {
                let _driven = driven;
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection to an endpoint ended");
                }
            });
            let driving = driving.abort_handle();
            let watch = pinger.map(|pinger| RefCell::new(Watch { pinger, driving }));
            Http2Conn {
                sender,
                active: Cell::new(0),
                is_over: Cell::new(false),
                is_silent: Cell::new(false),
                used: Cell::new(Instant::now()),
                life,
                watch,
                heard,
                _tls: tls,
            }
        });
        if is_asked {
            self.pool.asked.borrow_mut().push(Rc::downgrade(&conn));
        }
        self.pool.entries.borrow_mut().entry(self.key).or_default().conns.push(Rc::clone(&conn));
        Lease::new(&conn, false)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(entry) = self.pool.entries.borrow_mut().get_mut(&self.key) {
            entry.connecting = None;
        }
        self.connecting.done.notify_waiters();
    }
}

impl Http2Pool {
    /// Finds a connection with room. One that is not fresh may be about to close.
    #[must_use]
    pub fn find(self: &Rc<Self>, key: Key, now: Instant) -> Found {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(key).or_default();
        entry.conns.retain(|conn| conn.is_open(now));
        let is_full = entry.conns.len() >= MOST_CONNECTIONS;
        // The first with room, so that those that are not needed any more come to rest.
        let free = entry.conns.iter().find(|conn| conn.has_room());
        let least = || entry.conns.iter().min_by_key(|conn| conn.active.get());
        if let Some(conn) = free.or_else(|| if is_full { least() } else { None }) {
            return Found::Lease(Lease::new(conn, true));
        }
        match &entry.connecting {
            Some(connecting) => Found::Coming(Coming(Rc::clone(connecting))),
            None => {
                let connecting = Rc::<Connecting>::default();
                entry.connecting = Some(Rc::clone(&connecting));
                Found::Missing(Ticket { pool: Rc::clone(self), key, connecting })
            }
        }
    }

    /// Closes what has carried nothing for too long, is too old, was closed by its endpoint or has an endpoint that does not
    /// answer any more; to be called every second or so.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.asked.borrow_mut().retain(|conn| {
            conn.upgrade().is_some_and(|conn| {
                conn.look();
                !conn.is_silent.get()
            })
        });
        let mut entries = self.entries.borrow_mut();
        for entry in entries.values_mut() {
            entry.conns.retain(|conn| {
                let is_idle = conn.active.get() == 0 && now.duration_since(conn.used.get()) >= MOST_IDLE;
                conn.is_open(now) && !is_idle
            });
        }
        entries.retain(|_, entry| !entry.conns.is_empty() || entry.connecting.is_some());
    }

    /// Begins no more requests on connections to an endpoint.
    pub fn drop_endpoint(&self, endpoint: EndpointId) {
        let mut entries = self.entries.borrow_mut();
        for (_, entry) in entries.iter_mut().filter(|(key, _)| key.endpoint == endpoint) {
            entry.conns.clear();
        }
    }
}
