//! One client's HTTP/2 connection: requests side by side, each routed and sent on by itself.
//!
//! ```text
//!   preface ──> streams ──> requests, each in a future of its own
//!                  └─ drained, idle for too long, too old, key nearly worn: GOAWAY, and the end when the last request is over
//! ```

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proxy_core::http2::{Breach, Code, Fault, Silence, Step};
use proxy_core::outcome::Reason;
use tokio::time::Sleep;

use super::{Client, LINGER_TIME, call};
use crate::connection::{OpenConn, boxed};
use crate::forward::l4::{Ending, Watch as _, lost};
use crate::forward::wire::Wire;
use crate::http2::{self, End, ServerConnection};

/// Looks at a client's silence before it is asked: the last may come so much of it late.
const LOOKS: u32 = 4;

type Call<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Serves a client that speaks HTTP/2 from its first byte to its end.
///
/// No `async fn`: it would keep its arguments twice.
pub(super) fn serve<'a>(
    client: &'a Client<'a>,
    down: Wire,
    count: Rc<OpenConn>,
) -> impl Future<Output = Ending> + 'a {
    let limits = client.limits();
    let pings = limits.pings;
    let silence = pings.clients.map(|interval| Silence::new(Instant::now(), interval, pings.timeout));
    async move {
        // Boxed: it would keep its place for as long as the connection lives.
        let accepting = boxed(move || {
            let begun = http2::accept(down.stream, down.chunk, limits, count);
            tokio::time::timeout(limits.head_timeout, begun)
        });
        let connection = match accepting.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(end)) => return Ending::of(reason(end)),
            Err(_) => return Ending::of(Reason::HeadTimeout),
        };
        client.conn.set_graceful();
        let calls = FuturesUnordered::new();
        let mut session = Session { client, connection, silence, calls, leaving: None, grace: None };
        session.set_alarm(Step::Wait);
        session.rest();
        let ended = poll_fn(|cx| session.poll(cx)).await;
        // Their streams are over: they notice and say so to the log.
        while session.calls.next().await.is_some() {}
        Ending::of(ended)
    }
}

struct Session<'a> {
    client: &'a Client<'a>,
    connection: ServerConnection,
    /// The client's, if it is asked whether it is still there.
    silence: Option<Silence>,
    calls: FuturesUnordered<Call<'a>>,
    /// Why the client was asked to go, and until when it may take if nothing is under way.
    leaving: Option<(Reason, Option<Pin<Box<Sleep>>>)>,
    /// Until when what is under way may take, since the connection is too old.
    grace: Option<Instant>,
}

impl Session<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        self.connection.begin_turn();
        self.poll_leave(cx);
        if self.client.conn.wants_weight() {
            // The calls say what is theirs.
            self.client.conn.set_weight(self.connection.left_bytes() as u64);
        }
        if self.is_heaviest() {
            self.connection.give_up(cx, Code::ENHANCE_YOUR_CALM);
            return Poll::Ready(Reason::Overload);
        }
        if self.client.conn.take_alarm()
            && let Some(reason) = self.handle_alarm()
        {
            self.client.conn.kill(reason);
            // Its requests hear of it, and the client if it takes what is sent now: nobody waits for that.
            self.connection.give_up(cx, Code::NO_ERROR);
            return Poll::Ready(reason);
        }
        let client = self.client;
        while let Poll::Ready(Some((head, stream))) = self.connection.poll_accept(cx) {
            client.conn.await_within(None, Reason::IdleTimeout);
            self.calls.push(boxed(move || call::serve(client, head, stream)));
        }
        let was_busy = !self.calls.is_empty();
        while let Poll::Ready(Some(())) = self.calls.poll_next_unpin(cx) {}
        if was_busy && self.calls.is_empty() {
            self.rest();
        }
        self.handle_end();
        // What the calls have said.
        match self.connection.poll_flush(cx) {
            Poll::Ready(end) => {
                Poll::Ready(self.leaving.as_ref().map_or_else(|| reason(end), |leaving| leaving.0))
            }
            Poll::Pending => self.poll_lingered(cx),
        }
    }

    /// Notes why the connection ended by itself, and gives its client time to hear it.
    fn handle_end(&mut self) {
        if let Some(end) = self.connection.end()
            && self.leaving.is_none()
        {
            tracing::debug!(client = %self.client.accepted.client, %end, "a client's HTTP/2 connection ended");
            self.leaving = Some((reason(end), None));
        }
    }

    /// Looks at what comes with time: a client that says nothing is asked whether it is there, and one whose connection is old is
    /// asked to make another. Says why the connection has to end at once, if it has to.
    fn handle_alarm(&mut self) -> Option<Reason> {
        let has_heard = self.connection.take_heard();
        let is_busy = !self.calls.is_empty();
        let step = self
            .silence
            .as_mut()
            .map_or(Step::Wait, |silence| silence.look(Instant::now(), has_heard, is_busy));
        match step {
            Step::Wait => {}
            Step::Ask => self.connection.ping(),
            Step::Lost => return Some(Reason::UserTimeout),
        }
        let left = self.client.time_left();
        if left == Some(Duration::ZERO) && self.leaving.is_none() {
            self.replace(Reason::MaxAge);
        }
        if self.grace.is_some_and(|grace| grace <= Instant::now()) {
            return Some(Reason::MaxAge);
        }
        self.set_alarm(step);
        None
    }

    /// Asks the client to make another connection; what is under way has its grace.
    fn replace(&mut self, reason: Reason) {
        self.leaving = Some((reason, None));
        self.connection.leave();
        self.grace = self.client.limits().max_age_grace.map(|grace| Instant::now() + grace);
    }

    /// Sees to it that somebody looks again.
    fn set_alarm(&self, step: Step) {
        let pings = self.client.limits().pings;
        let ping =
            if step == Step::Ask { Some(pings.timeout) } else { pings.clients.map(|time| time / LOOKS) };
        let age = match self.grace {
            Some(grace) => Some(grace.saturating_duration_since(Instant::now())),
            None => self.client.time_left().filter(|_| self.leaving.is_none()),
        };
        self.client.conn.set_alarm([ping, age].into_iter().flatten().min());
    }

    /// Nothing is under way.
    fn rest(&self) {
        self.client.conn.rest(self.client.limits().idle_timeout);
    }

    /// Tells whether it is reset for what it holds. One at rest has nobody who would mind to be asked to go.
    fn is_heaviest(&self) -> bool {
        self.client.conn.killed() == Some(Reason::Overload) && !self.calls.is_empty()
    }

    /// Asks the client to go elsewhere with what it has not begun yet, if that is wanted.
    fn poll_leave(&mut self, cx: &mut Context<'_>) {
        let killed = self.client.conn.poll_kill(cx);
        if self.leaving.is_some() {
            return;
        }
        if let Some(reason) = killed {
            self.leaving = Some((reason, None));
            self.connection.leave();
        } else if self.connection.is_wearing() {
            // In order, and nothing is lost.
            self.replace(Reason::Fin);
            self.set_alarm(Step::Wait);
        }
    }

    /// Ends a connection whose client was asked to go, has nothing under way, and stays.
    fn poll_lingered(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let Some((reason, limit)) = &mut self.leaving else { return Poll::Pending };
        if !self.calls.is_empty() {
            *limit = None;
            return Poll::Pending;
        }
        let limit = limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER_TIME)));
        limit.as_mut().poll(cx).map(|()| *reason)
    }
}

/// What the end of a connection is called.
fn reason(end: End) -> Reason {
    match end {
        End::Died(kind) => lost(kind, Reason::DownstreamReset),
        End::Fault(fault) => reason_of(fault),
        End::HeadTooLong => Reason::Flood,
        End::GoAway(Code::NO_ERROR) | End::Eof | End::Left | End::GivenUp(_) => Reason::Fin,
        End::GoAway(_) => Reason::DownstreamReset,
    }
}

fn reason_of(fault: Fault) -> Reason {
    match fault {
        Fault::Flood(_) => Reason::Flood,
        Fault::Breach(Breach::Protocol) => Reason::Protocol,
        Fault::Breach(Breach::FlowControl) => Reason::FlowControl,
        Fault::Breach(Breach::FrameSize) => Reason::FrameSize,
        Fault::Breach(Breach::StreamClosed) => Reason::StreamClosed,
        Fault::Breach(Breach::Compression) => Reason::Compression,
    }
}
