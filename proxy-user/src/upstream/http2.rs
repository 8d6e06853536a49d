//! Connections of HTTP/2 to endpoints: each carries many requests at a time.
//!
//! ```text
//!   checkout ──> one with room ──> request
//!      │            └─ too old, key nearly worn, or its endpoint said GOAWAY: no new ones; closed when its last request is over
//!      ├─ none, or all full ──> one request connects, the others wait for it
//!      └─ as many as may be, all full ──> behind the requests of one, or refused
//! ```
//!
//! An endpoint that says nothing while requests are under way is asked whether it is still there; one that does not answer loses
//! the connection, and the requests go the way of a reset.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::http2::{Edit, FieldList, Pings, Place, Silence, Step};
use proxy_core::id::EndpointId;
use proxy_core::outcome::RequestReason;
use proxy_core::pool::Life;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::pool::Key;
use crate::http2::{Begun, Error, Sender, Stream};
use crate::tls::Client;

/// Time that a connection without requests is kept. Servers of HTTP/2 wait longer than those of HTTP/1.1 (gRPC for ever, nginx
/// 75 seconds), and one that goes says so.
const MOST_IDLE: Duration = Duration::from_secs(60);

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
    sender: Sender,
    /// Requests under way.
    active: Cell<usize>,
    is_over: Cell<bool>,
    /// Its endpoint did not answer when it was asked.
    is_silent: Cell<bool>,
    used: Cell<Instant>,
    life: Life,
    /// Its silence, if it is asked whether it is there.
    silence: Option<Cell<Silence>>,
    driving: AbortHandle,
    /// How TLS is spoken, which [`Key`] knows by where it lives.
    _tls: Option<Arc<Client>>,
}

impl Http2Conn {
    fn is_open(&self, now: Instant) -> bool {
        !self.is_over.get() && !self.sender.is_leaving() && !self.life.is_over(now)
    }

    /// Asks an endpoint that has been silent for too long, or ends the connection of one that was.
    fn look(&self, now: Instant) {
        let Some(kept) = &self.silence else { return };
        let mut silence = kept.get();
        let step = silence.look(now, self.sender.take_heard(), self.active.get() > 0);
        kept.set(silence);
        match step {
            Step::Wait => {}
            Step::Ask => self.sender.ping(),
            Step::Lost => {
                tracing::debug!("an endpoint does not answer pings");
                self.is_over.set(true);
                self.is_silent.set(true);
                self.driving.abort();
            }
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

    /// Begins the request; one that `has_ended` has no body. If the endpoint has no room for it now, it waits there.
    ///
    /// # Errors
    /// If the connection takes no more: nothing was sent.
    pub fn begin(&self, request: &FieldList, edits: &[Edit<'_>], has_ended: bool) -> Result<Stream, Error> {
        self.conn.sender.begin(request, edits, has_ended)
    }

    /// Tells whether the connection was ended because its endpoint said a head that is too long.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        self.conn.sender.is_head_too_long()
    }

    /// Tells whether the endpoint lets a stream become a tunnel of a protocol (RFC 8441, 3); waits until that is known.
    pub async fn takes_protocols(&self) -> bool {
        self.conn.sender.takes_protocols().await
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
    /// None, and there may be no more: as many requests wait on each as may.
    Full,
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

    /// Takes up the connection and drives it until it ends; an endpoint that is silent is asked as `pings` say.
    pub fn open(self, begun: Begun, pings: Pings, life: Life, tls: Option<Arc<Client>>) -> Lease {
        let Begun { sender, driving } = begun;
        let now = Instant::now();
        let silence = pings.endpoints.map(|interval| Cell::new(Silence::new(now, interval, pings.timeout)));
        let is_asked = silence.is_some();
        let conn = Rc::new_cyclic(|conn| {
            let driven = Driven(Weak::clone(conn));
            let driving = tokio::task::spawn_local(async move {
                let _driven = driven;
                let end = driving.await;
                tracing::debug!(%end, "connection to an endpoint ended");
            });
            Http2Conn {
                sender,
                active: Cell::new(0),
                is_over: Cell::new(false),
                is_silent: Cell::new(false),
                used: Cell::new(now),
                life,
                silence,
                driving: driving.abort_handle(),
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
        match Place::choose(entry.conns.iter().map(|conn| (conn.active.get(), conn.sender.most_streams()))) {
            Place::On(index) => return Found::Lease(Lease::new(&entry.conns[index], true)),
            Place::Full => return Found::Full,
            Place::New => {}
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
                conn.look(now);
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
