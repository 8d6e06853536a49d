//! One client's HTTP/2 connection: requests side by side, each routed and sent on by itself.
//!
//! ```text
//!   preface ──> streams ──> requests, each in a future of its own
//!                  └─ drained, idle for too long, too old: GOAWAY, and the end when the last request is over
//! ```

use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proxy_core::http2::{Breach, Fault, HeadBounds, Step};
use proxy_core::outcome::Reason;
use tokio::time::Sleep;

use super::{Client, LINGER_TIME, call};
use crate::connection::{OpenConn, boxed};
use crate::forward::http2::{self, H2Io, Meter, ServerConnection};
use crate::forward::l4::{Ending, Watch as _, lost};
use crate::forward::wire::Wire;
use crate::upstream::http2::Pinger;

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
    let bounds = HeadBounds::new(limits.head_bytes);
    let meter = Meter::of_client();
    let io = H2Io::of_client(down.stream, down.chunk, bounds, Rc::clone(&meter), count);
    let pings = limits.pings;
    let pinger = pings.clients.map(|interval| Pinger::new(io.heard(), interval, pings.timeout));
    async move {
        // Boxed: it would keep its place for as long as the connection lives.
        let accepting = boxed(move || tokio::time::timeout(limits.head_timeout, http2::accept(io, limits)));
        let connection = match accepting.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Ending::of(reason(&error)),
            Err(_) => return Ending::of(Reason::HeadTimeout),
        };
        client.conn.set_graceful();
        let calls = FuturesUnordered::new();
        let mut session = Session { client, connection, meter, pinger, calls, leaving: None, grace: None };
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
    meter: Rc<Meter>,
    /// Asks the client, if it says nothing, whether it is still there.
    pinger: Option<Pinger>,
    calls: FuturesUnordered<Call<'a>>,
    /// Why the client was asked to go, and until when it may take if nothing is under way.
    leaving: Option<(Reason, Option<Pin<Box<Sleep>>>)>,
    /// Until when what is under way may take, since the connection is too old.
    grace: Option<Instant>,
}

impl Session<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        self.poll_leave(cx);
        if self.client.conn.wants_weight() {
            // The calls say what is theirs.
            self.client.conn.set_weight(self.meter.left().get() as u64);
        }
        if self.is_heaviest() {
            self.connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
            let _ = self.connection.poll_accept(cx);
            return Poll::Ready(Reason::Overload);
        }
        if self.client.conn.take_alarm()
            && let Some(reason) = self.handle_alarm()
        {
            self.client.conn.kill(reason);
            self.connection.abrupt_shutdown(h2::Reason::NO_ERROR);
            // Its requests hear of it, and the client if it takes what is sent now: nobody waits for that.
            let _ = self.connection.poll_accept(cx);
            return Poll::Ready(reason);
        }
        loop {
            let was_busy = !self.calls.is_empty();
            while let Poll::Ready(Some(())) = self.calls.poll_next_unpin(cx) {}
            if was_busy && self.calls.is_empty() {
                self.rest();
            }
            // This also sends what the calls have said.
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.client.conn.await_within(None, Reason::IdleTimeout);
                    let client = self.client;
                    let meter = Rc::clone(&self.meter);
                    self.calls.push(boxed(move || call::serve(client, request, respond, meter)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.reason(&error)),
                Poll::Ready(None) => return Poll::Ready(self.leaving.as_ref().map_or(Reason::Fin, |l| l.0)),
                Poll::Pending => {
                    // It is told why, and the connection ends with that.
                    if self.poll_fault().is_break() {
                        break;
                    }
                }
            }
        }
        self.poll_lingered(cx)
    }

    /// Ends a connection whose client sends what it must not, or too much; says whether there is nothing to do.
    fn poll_fault(&mut self) -> ControlFlow<()> {
        let Some(fault) = self.meter.fault() else { return ControlFlow::Break(()) };
        let reason = reason_of(fault);
        if self.leaving.as_ref().is_some_and(|leaving| leaving.0 == reason) {
            return ControlFlow::Break(());
        }
        tracing::debug!(client = %self.client.accepted.client, fault = fault.as_str(), "a wrong frame");
        self.leaving = Some((reason, None));
        self.connection.abrupt_shutdown(fault.code().into());
        ControlFlow::Continue(())
    }

    /// Looks at what comes with time: a client that says nothing is asked whether it is there, and one whose connection is old is
    /// asked to make another. Says why the connection has to end at once, if it has to.
    fn handle_alarm(&mut self) -> Option<Reason> {
        let step = match &mut self.pinger {
            Some(pinger) => pinger.look(!self.calls.is_empty(), || self.connection.ping_pong()),
            None => Step::Wait,
        };
        if step == Step::Lost {
            return Some(Reason::UserTimeout);
        }
        let limits = self.client.limits();
        let left = self.client.time_left();
        if left == Some(Duration::ZERO) && self.leaving.is_none() {
            self.leaving = Some((Reason::MaxAge, None));
            self.connection.graceful_shutdown();
            self.grace = limits.max_age_grace.map(|grace| Instant::now() + grace);
        }
        if self.grace.is_some_and(|grace| grace <= Instant::now()) {
            return Some(Reason::MaxAge);
        }
        self.set_alarm(step);
        None
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
        if let Some(reason) = self.client.conn.poll_kill(cx)
            && self.leaving.is_none()
        {
            self.leaving = Some((reason, None));
            self.connection.graceful_shutdown();
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

    fn reason(&self, error: &h2::Error) -> Reason {
        let leaving = self.leaving.as_ref().map(|leaving| leaving.0);
        // Of what `h2` found by itself, the meter knows the right name.
        self.meter.fault().map(reason_of).or(leaving).unwrap_or_else(|| reason(error))
    }
}

/// Why a connection ended, by what `h2` says of it.
fn reason(error: &h2::Error) -> Reason {
    tracing::debug!(%error, "a client's HTTP/2 connection ended");
    match error.reason() {
        _ if error.is_io() => error
            .get_io()
            .map_or(Reason::DownstreamReset, |error| lost(error.kind(), Reason::DownstreamReset)),
        Some(h2::Reason::NO_ERROR) => Reason::Fin,
        _ if error.is_remote() => Reason::DownstreamReset,
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Reason::Flood,
        Some(code) => {
            Breach::of_code(code.into()).map_or(Reason::Protocol, |breach| reason_of(breach.into()))
        }
        None => Reason::Protocol,
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
