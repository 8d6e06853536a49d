//! The connections that are open on one worker: how their owner reaches them.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proxy_core::id::EndpointId;
use proxy_core::outcome::Reason;
use proxy_core::service::Limits;
use proxy_io::clock::monotonic_ns;
use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::bug;
use crate::forward::l4::Watch;
use crate::pace::Pacer;
use crate::stats::conn::ServiceStats;
use crate::tls::Count;

/// Time between two looks at all connections: the grain of idle timeouts.
pub const TICK: Duration = Duration::from_secs(1);

/// All open connections of a worker.
#[derive(Default)]
pub struct OpenConns {
    conns: RefCell<Slab<Rc<OpenConn>>>,
    waiting: RefCell<Option<Waker>>,
    /// Where those go that another process may take, once it asks for them. As many as there are connections.
    leaving: RefCell<Option<mpsc::UnboundedSender<Rc<OpenConn>>>>,
}

/// One open connection. Small: an idle connection costs little more than this.
pub struct OpenConn {
    waker: Cell<Option<Waker>>,
    endpoint: Cell<Option<EndpointId>>,
    kill: Cell<Option<Reason>>,
    idle_ticks: Cell<u32>,
    idle_limit: Cell<u32>,
    /// Why it ends when the limit is reached.
    expiry: Cell<Reason>,
    half_close_limit: u32,
    /// Time that an endpoint gets to begin its answer.
    answer_limit: Cell<u32>,
    /// Ticks until the connection is woken to look at something.
    alarm_ticks: Cell<u32>,
    has_alarm: Cell<bool>,
    /// Between two requests: it may end at any time.
    is_resting: Cell<bool>,
    /// The pace that it keeps, if it keeps one.
    pacer: OnceCell<Rc<Pacer>>,
    is_idle: Cell<bool>,
    /// Asked to end, it ends what is under way first.
    is_graceful: Cell<bool>,
    /// It is a relay that another process could go on with.
    is_movable: Cell<bool>,
    /// Its owner wants to know what it holds, and what it said: bytes, here and in the kernel.
    wants_weight: Cell<bool>,
    weight: Cell<u32>,
    /// Bytes from its client and for it, and those of them that its service's counters have.
    bytes: Cell<(u64, u64)>,
    counted: Cell<(u64, u64)>,
    /// Those counters; none for what is only a part of a client's connection, or belongs to no client.
    stats: Option<Arc<ServiceStats>>,
    /// It is to stop, and holds one of the few places for that;
    /// since when, on the monotonic clock.
    stopping: Cell<Option<Box<(OwnedSemaphorePermit, u64)>>>,
}

/// Looks at what is in a cell, which is empty meanwhile. A `RefCell` would do, and take 8 bytes more.
fn peek<T: Default, R>(cell: &Cell<T>, look: impl FnOnce(&T) -> R) -> R {
    let value = cell.take();
    let seen = look(&value);
    cell.set(value);
    seen
}

/// "Never", in ticks.
const NEVER: u32 = u32::MAX;

impl OpenConn {
    fn new(limits: &Limits, stats: Option<Arc<ServiceStats>>) -> Self {
        Self {
            waker: Cell::default(),
            endpoint: Cell::new(None),
            kill: Cell::new(None),
            idle_ticks: Cell::new(0),
            idle_limit: Cell::new(ticks(limits.idle_timeout)),
            expiry: Cell::new(Reason::IdleTimeout),
            half_close_limit: ticks(limits.half_close_timeout),
            answer_limit: Cell::new(ticks(limits.idle_timeout)),
            alarm_ticks: Cell::new(NEVER),
            has_alarm: Cell::new(false),
            is_resting: Cell::new(false),
            pacer: OnceCell::new(),
            is_idle: Cell::new(false),
            is_graceful: Cell::new(false),
            is_movable: Cell::new(false),
            wants_weight: Cell::new(false),
            weight: Cell::new(0),
            bytes: Cell::default(),
            counted: Cell::default(),
            stats,
            stopping: Cell::default(),
        }
    }

    /// Says which pace it keeps: time in which it waits for its turn is no idle time.
    pub fn set_pacer(&self, pacer: Option<&Rc<Pacer>>) {
        if let Some(pacer) = pacer {
            let _ = self.pacer.set(Rc::clone(pacer));
        }
    }

    /// The pace that it keeps.
    #[must_use]
    pub fn pacer(&self) -> Option<&Rc<Pacer>> {
        self.pacer.get()
    }

    /// Bytes from its client and for it.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        self.bytes.get()
    }

    /// Goes on where another process had stopped, which has counted so many.
    pub fn set_counted(&self, sent_bytes: u64, received_bytes: u64) {
        self.bytes.set((sent_bytes, received_bytes));
        self.counted.set((sent_bytes, received_bytes));
    }

    /// Tells the counters of its service what they do not have yet.
    fn tell_bytes(&self) {
        let (bytes, counted) = (self.bytes.get(), self.counted.get());
        if let Some(stats) = &self.stats
            && bytes != counted
        {
            stats.handle_bytes(bytes.0 - counted.0, bytes.1 - counted.1);
            self.counted.set(bytes);
        }
    }

    /// Says to which endpoint the connection goes now.
    pub fn set_endpoint(&self, endpoint: EndpointId) {
        self.endpoint.set(Some(endpoint));
    }

    /// To which endpoint it goes now.
    #[must_use]
    pub fn endpoint(&self) -> Option<EndpointId> {
        self.endpoint.get()
    }

    /// Says how long the endpoint of the next request may be silent before its answer.
    pub fn set_answer_limit(&self, limit: Option<Duration>) {
        self.answer_limit.set(ticks(limit));
    }

    /// Says that the connection ends what is under way before it ends itself, if it is asked to.
    pub fn set_graceful(&self) {
        self.is_graceful.set(true);
    }

    /// Says that nothing is under way: the connection may rest for so long, and ends when its worker drains.
    pub fn rest(&self, limit: Option<Duration>) {
        self.await_within(limit, Reason::IdleTimeout);
        self.is_resting.set(true);
    }

    /// Says what is awaited now: it has to come within this time (in whole ticks, `None` is never), else the connection ends
    /// with the reason. What makes progress begins the time anew.
    pub fn await_within(&self, limit: Option<Duration>, reason: Reason) {
        self.await_for(ticks(limit), reason);
    }

    fn await_for(&self, ticks: u32, reason: Reason) {
        self.is_resting.set(false);
        self.idle_ticks.set(0);
        self.idle_limit.set(ticks);
        self.expiry.set(reason);
    }

    /// Asks to be woken, once, after this time (in whole ticks, `None` is never).
    pub fn set_alarm(&self, after: Option<Duration>) {
        self.alarm_ticks.set(ticks(after));
    }

    /// Tells whether it was woken for that.
    pub fn take_alarm(&self) -> bool {
        self.has_alarm.take()
    }

    /// How long nothing has moved, in [`TICK`]s.
    #[must_use]
    pub fn idle_ticks(&self) -> u32 {
        self.idle_ticks.get()
    }

    /// Goes on counting where another process had stopped.
    pub fn set_idle_ticks(&self, ticks: u32) {
        self.idle_ticks.set(ticks);
    }

    /// Asks the connection to stop, with the place that it takes among those that do at the same time.
    pub fn stop(&self, permit: OwnedSemaphorePermit) {
        if self.is_movable.get() {
            self.stopping.set(Some(Box::new((permit, monotonic_ns()))));
            self.wake();
        }
    }

    /// When it was asked to stop, on the machine's monotonic clock.
    #[must_use]
    pub fn stopping_since_ns(&self) -> u64 {
        peek(&self.stopping, |stopping| stopping.as_ref().map(|stopping| stopping.1))
            .unwrap_or_else(monotonic_ns)
    }

    /// Goes on after a stop, for good.
    pub fn go_on(&self) {
        self.is_movable.set(false);
        self.stopping.set(None);
    }

    /// Asks the connection to end.
    pub fn kill(&self, reason: Reason) {
        if self.kill.get().is_none() {
            self.kill.set(Some(reason));
            self.wake();
        }
    }

    /// Tells whether it is between two requests, and has been for a whole tick at least.
    #[must_use]
    pub fn has_rested(&self) -> bool {
        self.is_resting.get() && self.idle_ticks.get() >= 2
    }

    /// Why it was asked to end, if it was.
    #[must_use]
    pub fn killed(&self) -> Option<Reason> {
        self.kill.get()
    }

    fn wake(&self) {
        peek(&self.waker, |waker| waker.as_ref().map(Waker::wake_by_ref));
    }

    fn handle_tick(&self) {
        self.tell_bytes();
        match self.alarm_ticks.get() {
            NEVER => {}
            0 | 1 => {
                self.alarm_ticks.set(NEVER);
                self.has_alarm.set(true);
                self.wake();
            }
            more => self.alarm_ticks.set(more - 1),
        }
        if self.pacer().is_some_and(|pacer| pacer.is_waiting()) {
            return;
        }
        let idle = self.idle_ticks.get().saturating_add(1);
        self.idle_ticks.set(idle);
        if idle >= self.idle_limit.get() {
            self.kill(self.expiry.get());
        } else if idle == 2 {
            // A whole tick without a byte: time to give back what only a busy connection needs.
            self.is_idle.set(true);
            self.wake();
        }
    }
}

/// Time in ticks, rounded up, and one more because the first tick may come at once.
fn ticks(time: Option<Duration>) -> u32 {
    let Some(time) = time else { return NEVER };
    let whole = time.as_millis().div_ceil(TICK.as_millis());
    u32::try_from(whole).map_or(NEVER, |whole| whole.saturating_add(1))
}

impl Count for OpenConn {
    fn count(&self, sent_bytes: usize, received_bytes: usize) {
        let (sent, received) = self.bytes.get();
        self.bytes.set((sent + sent_bytes as u64, received + received_bytes as u64));
    }
}

impl Watch for OpenConn {
    fn handle_progress(&self) {
        self.idle_ticks.set(0);
    }

    fn handle_half_close(&self) {
        if self.half_close_limit < self.idle_limit.get() {
            self.idle_limit.set(self.half_close_limit);
        }
        self.expiry.set(Reason::HalfCloseTimeout);
    }

    fn handle_sent(&self) {
        self.await_for(self.answer_limit.get(), Reason::IdleTimeout);
    }

    fn poll_kill(&self, cx: &mut Context<'_>) -> Option<Reason> {
        bug::point("connection", 0);
        if !peek(&self.waker, |known| known.as_ref().is_some_and(|known| known.will_wake(cx.waker()))) {
            self.waker.set(Some(cx.waker().clone()));
        }
        self.kill.get()
    }

    fn wants_weight(&self) -> bool {
        self.wants_weight.get()
    }

    fn set_weight(&self, bytes: u64) {
        self.wants_weight.set(false);
        self.weight.set(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    fn take_idle(&self) -> bool {
        self.is_idle.take()
    }

    fn wants_stop(&self) -> bool {
        peek(&self.stopping, Option::is_some)
    }

    fn refuse_stop(&self) {
        self.go_on();
    }
}

/// Keeps a connection in the list for as long as it lives.
pub struct OpenGuard {
    /// The connection.
    pub conn: Rc<OpenConn>,
    list: Rc<OpenConns>,
    key: usize,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.conn.tell_bytes();
        self.list.conns.borrow_mut().remove(self.key);
        if self.list.conns.borrow().is_empty()
            && let Some(waker) = self.list.waiting.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

impl OpenConns {
    /// Adds a connection, whose bytes are counted here.
    #[must_use]
    pub fn add(self: &Rc<Self>, limits: &Limits, stats: Option<&Arc<ServiceStats>>) -> OpenGuard {
        let conn = Rc::new(OpenConn::new(limits, stats.cloned()));
        let key = self.conns.borrow_mut().insert(Rc::clone(&conn));
        OpenGuard { conn, list: Rc::clone(self), key }
    }

    /// Looks at every connection once: idle ones end, or give back what they do not need.
    pub fn handle_tick(&self) {
        self.conns.borrow().iter().for_each(|(_, conn)| conn.handle_tick());
    }

    /// Ends all connections to an endpoint.
    pub fn kill_endpoint(&self, endpoint: EndpointId) {
        let conns = self.conns.borrow();
        let hit = conns.iter().filter(|(_, conn)| conn.endpoint.get() == Some(endpoint));
        hit.for_each(|(_, conn)| conn.kill(Reason::EndpointLost));
    }

    /// Ends the connections between two requests that have rested for a tick at least. Others get a chance to ask once more,
    /// or for the first time: what is on its way just now would be lost. Those that end gracefully are asked at once.
    pub fn kill_rested(&self, reason: Reason) {
        let conns = self.conns.borrow();
        let rested = conns.iter().filter(|(_, conn)| conn.is_graceful.get() || conn.has_rested());
        rested.for_each(|(_, conn)| conn.kill(reason));
    }

    /// Ends the connections that have rested for a tick at least, of whatever kind; gives their number.
    pub fn kill_idle(&self, reason: Reason) -> u64 {
        let conns = self.conns.borrow();
        let rested = conns.iter().filter(|(_, conn)| conn.has_rested() && conn.kill.get().is_none());
        rested.map(|(_, conn)| conn.kill(reason)).count() as u64
    }

    /// Asks all connections that have something under way what they hold. They say so when they are next polled, which is soon.
    pub fn begin_weighing(&self) {
        let conns = self.conns.borrow();
        for (_, conn) in conns.iter() {
            conn.weight.set(0);
            let is_asked = !conn.is_resting.get() && conn.kill.get().is_none();
            conn.wants_weight.set(is_asked);
            if is_asked {
                conn.wake();
            }
        }
    }

    /// The connection that said that it holds most, and how much.
    #[must_use]
    pub fn heaviest(&self) -> Option<(Rc<OpenConn>, u32)> {
        let conns = self.conns.borrow();
        let of = |conn: &Rc<OpenConn>| if conn.kill.get().is_none() { conn.weight.get() } else { 0 };
        let (_, heaviest) = conns.iter().max_by_key(|(_, conn)| of(conn))?;
        Some((Rc::clone(heaviest), of(heaviest))).filter(|(_, bytes)| *bytes > 0)
    }

    /// Ends all connections.
    pub fn kill_all(&self, reason: Reason) {
        self.conns.borrow().iter().for_each(|(_, conn)| conn.kill(reason));
    }

    /// Begins to give out the connections that another process could go on with: those that there are, and those that come to be so.
    #[must_use]
    pub fn leave(&self) -> mpsc::UnboundedReceiver<Rc<OpenConn>> {
        let (leaving, movable) = mpsc::unbounded_channel();
        for (_, conn) in self.conns.borrow().iter().filter(|(_, conn)| conn.is_movable.get()) {
            let _ = leaving.send(Rc::clone(conn));
        }
        *self.leaving.borrow_mut() = Some(leaving);
        movable
    }

    /// Says that a connection has become one that another process could go on with.
    pub fn set_movable(&self, conn: &Rc<OpenConn>) {
        conn.is_movable.set(true);
        if let Some(leaving) = &*self.leaving.borrow() {
            let _ = leaving.send(Rc::clone(conn));
        }
    }

    /// Waits until there is none.
    pub async fn wait_empty(&self) {
        std::future::poll_fn(|cx| {
            if self.conns.borrow().is_empty() {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_have_something_under_way_say_what_they_hold_and_the_heaviest_is_found() {
        let open = Rc::<OpenConns>::default();
        let [resting, light, heavy] = [(); 3].map(|()| open.add(&Limits::DEFAULT, None));
        resting.conn.rest(None);
        open.begin_weighing();
        assert!(!resting.conn.wants_weight() && light.conn.wants_weight());
        light.conn.set_weight(5);
        heavy.conn.set_weight(1 << 40);
        let (found, bytes) = open.heaviest().unwrap();
        assert!(Rc::ptr_eq(&found, &heavy.conn) && bytes == u32::MAX && !heavy.conn.wants_weight());
        found.kill(Reason::Overload);
        assert_eq!(open.heaviest().unwrap().1, 5, "the next one");
        open.begin_weighing();
        assert!(open.heaviest().is_none(), "nobody has said anything yet");
    }

    #[test]
    fn a_drain_ends_what_has_rested_for_a_while_and_nothing_that_may_just_be_asking() {
        let open = Rc::<OpenConns>::default();
        let [fresh, busy] = [(); 2].map(|()| open.add(&Limits::DEFAULT, None));
        let is_killed = |guard: &OpenGuard| guard.conn.kill.get() == Some(Reason::Drained);
        fresh.conn.rest(None);
        busy.conn.await_within(None, Reason::IdleTimeout);
        open.kill_rested(Reason::Drained);
        assert!(!is_killed(&fresh), "its first request may be on its way");
        for _ in 0..2 {
            open.handle_tick();
        }
        open.kill_rested(Reason::Drained);
        assert!(is_killed(&fresh) && !is_killed(&busy));
    }
}
