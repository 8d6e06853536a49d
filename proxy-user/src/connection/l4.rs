//! A connection whose bytes are passed on, whatever they mean.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::outcome::{Attempt, Reason};
use proxy_core::service::Endpoint;
use proxy_io::{Chunk, sock};

use super::endpoint::{Counted, Established, Wanted, establish, send_attempt};
use super::moving::{Whose, run_relay};
use super::{Accepted, Entry, Known, Local, OpenConn, Served, boxed, early_bytes, refuse};
use crate::forward::l4::{Early, Ending, Relay};
use crate::forward::wire::Wire;
use crate::pace::Pacer;
use crate::tls::Count as _;
use crate::tls::Stream;

/// Time that bytes on their way to one side get to arrive before the other side's reset is passed on.
const FLUSH_TIME: Duration = Duration::from_secs(5);

/// The client's side.
pub(super) enum Downstream {
    /// As it was accepted: the driver takes it up only when there is somebody to relay to.
    Fd(OwnedFd, Option<Rc<Pacer>>),
    /// With what was read of it.
    Stream(Stream, Chunk),
}

/// Connects to an endpoint and relays to the end.
pub(super) fn serve<'a>(
    local: &'a Rc<Local>,
    downstream: Downstream,
    known: Known<'a>,
) -> impl Future<Output = Served> + 'a {
    let Known { accepted, service, stats } = known;
    let guard = local.open.add(&service.limits, Some(&stats));
    guard.conn.set_pacer(downstream.pacer());
    let connecting = {
        let known = Known { accepted, service: Arc::clone(&service), stats: Arc::clone(&stats) };
        let conn = Rc::clone(&guard.conn);
        boxed(move || connect(local, downstream, known, conn))
    };
    async move {
        let _guard = guard;
        let Connected { relaying, index, _counted } = match connecting.await {
            Ok(connected) => connected,
            Err(reason) => return Served::nowhere(Some(service), stats, reason),
        };
        let ending = relaying.await;
        let endpoint = &service.endpoints[index];
        if !ending.is_moved {
            report(local, endpoint, &ending);
        }
        let endpoint = Some((endpoint.id, endpoint.address));
        Served { endpoint, service: Some(Arc::clone(&service)), stats, ending, is_told: false }
    }
}

/// A connection that has both its ends.
struct Connected<'a> {
    relaying: Pin<Box<dyn Future<Output = Ending> + 'a>>,
    /// Index into [`Service::endpoints`](proxy_core::service::Service::endpoints).
    index: usize,
    _counted: Counted,
}

async fn connect<'a>(
    local: &'a Rc<Local>,
    downstream: Downstream,
    known: Known<'a>,
    conn: Rc<OpenConn>,
) -> Result<Connected<'a>, Reason> {
    let Known { accepted, service, stats } = known;
    let (downstream, early) = match downstream {
        Downstream::Fd(fd, pacer) => match early_bytes(&fd) {
            Ok(early) => (Downstream::Fd(fd, pacer), early),
            Err(_) => return Err(Reason::DownstreamReset),
        },
        Downstream::Stream(stream, early) => (Downstream::Stream(stream, Chunk::default()), early),
    };
    let Accepted { client, original_dst, ref netns, .. } = *accepted;
    let (netns, has_early) = (netns.as_ref(), !early.is_empty());
    let application = matches!(accepted.entry, Entry::Inbound(_)).then_some(accepted.cgroup_id);
    let wants = Wanted { client, original_dst, netns, service: &service, has_early, application };
    let Established { stream: upstream, index, _counted } =
        match boxed(|| establish(local, &wants, &stats, &conn)).await {
            Ok(established) => established,
            Err(reason) => {
                downstream.refuse();
                return Err(reason);
            }
        };
    let downstream = downstream.into_stream(local).ok_or(Reason::Internal)?;
    conn.count(early.len(), 0);
    let early = Early { downstream: early, upstream: Chunk::default() };
    let whose = Some(Whose::Accepted(accepted, service, index));
    let relaying = boxed(move || relay_for(local, downstream, upstream, early, conn, whose));
    Ok(Connected { relaying, index, _counted })
}

impl Downstream {
    /// For those who read what is sent.
    pub(super) fn into_wire(self, local: &Local) -> Option<Wire> {
        match self {
            Self::Fd(..) => self.into_stream(local).map(|stream| Wire::new(stream, Chunk::default())),
            Self::Stream(stream, early) => Some(Wire::new(stream, early)),
        }
    }

    /// Makes it keep a pace, if there is one.
    pub(super) fn paced(self, pacer: Option<Rc<Pacer>>) -> Self {
        match (self, pacer) {
            (Self::Stream(stream, early), Some(pacer)) => Self::Stream(stream.paced(pacer), early),
            (Self::Fd(fd, _), pacer) => Self::Fd(fd, pacer),
            (unpaced, None) => unpaced,
        }
    }

    /// The pace that it is going to keep, if it keeps one.
    fn pacer(&self) -> Option<&Rc<Pacer>> {
        match self {
            Self::Fd(_, pacer) => pacer.as_ref(),
            Self::Stream(stream, _) => stream.pacer(),
        }
    }

    pub(super) fn refuse(self) {
        match self {
            Self::Fd(fd, _) => refuse(&fd),
            Self::Stream(stream, _) => stream.abort(),
        }
    }

    fn into_stream(self, local: &Local) -> Option<Stream> {
        match self {
            Self::Fd(fd, pacer) => {
                let plain = Stream::Plain(local.driver.accepted(fd).ok()?);
                Some(match pacer {
                    Some(pacer) => plain.paced(pacer),
                    None => plain,
                })
            }
            Self::Stream(stream, _) => Some(stream),
        }
    }
}

/// Relays to the end in this process, and closes both sides as a connection without a proxy would have closed.
pub(super) fn relay(
    local: &Local,
    downstream: Stream,
    upstream: Stream,
    early: Early,
    conn: Rc<OpenConn>,
) -> impl Future<Output = Ending> {
    relay_for(local, downstream, upstream, early, conn, None)
}

/// The same for a connection that a newer process may go on with, if it is plain on both sides.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
pub(super) fn relay_for<'a>(
    local: &'a Local,
    mut downstream: Stream,
    mut upstream: Stream,
    early: Early,
    conn: Rc<OpenConn>,
    whose: Option<Whose<'a>>,
) -> impl Future<Output = Ending> + 'a {
    async move {
        let is_plain = downstream.as_plain().is_some() && upstream.as_plain().is_some();
        let whose = whose.filter(|_| is_plain);
        let mut relay = Relay::new(&mut downstream, &mut upstream, early, &local.pipes, &*conn);
        let ending = run_relay(local, &mut relay, &conn, whose).await;
        boxed(|| finish(downstream, upstream, &ending)).await;
        ending
    }
}

/// Closes both sides. Both must learn that a stream is incomplete, and as without a proxy what came before a reset still arrives.
pub(super) async fn finish(downstream: Stream, upstream: Stream, ending: &Ending) {
    match ending.reason {
        // Another process has copies of both.
        _ if ending.is_moved => {}
        Reason::Fin => {}
        Reason::UpstreamReset => reset_after_flush(downstream).await,
        Reason::DownstreamReset => reset_after_flush(upstream).await,
        _ => {
            downstream.abort();
            upstream.abort();
        }
    }
}

async fn reset_after_flush(stream: Stream) {
    let _ = tokio::time::timeout(FLUSH_TIME, flushed(&stream)).await;
    stream.abort();
}

async fn flushed(socket: &Stream) {
    let mut pause = Duration::from_millis(1);
    while sock::unsent_bytes(&socket.fd()).is_ok_and(|bytes| bytes > 0) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Tells passive health what the connection says about its endpoint, if that is news.
pub(super) fn report(local: &Local, endpoint: &Endpoint, ending: &Ending) {
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
