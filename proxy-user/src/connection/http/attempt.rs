//! One try: the request to one endpoint, and its answer to the client.
#![expect(
    clippy::manual_async_fn,
    reason = "an `async fn` keeps its arguments twice, as long as a request takes"
)]

use std::pin::Pin;
use std::time::{Duration, Instant};

use proxy_core::id::EndpointId;
use proxy_core::outcome::{Attempt, Reason, RequestReason};
use proxy_core::retry::Failure;
use proxy_core::retry::proof::End;
use proxy_core::service::{Endpoint, Policy};
use proxy_io::clock;
use tokio::time::Sleep;

use super::plan::Plan;
use super::request::{Outcome, Sending};
use super::tries::Tries;
use super::upstream::{Upstream, reach};
use super::{Client, Then};
use crate::connection::endpoint::send_attempt;
use crate::connection::{OpenConn, boxed};
use crate::forward::exchange::{Download, Exchange, Trouble, Upload};
use crate::forward::http1::{Body, Fault, Framing, ResponseEdits, ResponseHead, Scan, slots};
use crate::forward::l4::lost;
use crate::forward::wire::Wire;
use crate::stats::http::Event;

/// Answers before the answer (1xx) that are passed on; nobody sends more than a few.
const MOST_INTERIM: u32 = 16;

/// What follows a try.
pub(super) enum Next {
    /// The request is over: its answer has gone to the client, or a part of it.
    Done(Box<Outcome>),
    /// Another try, after this pause.
    Again(Duration),
    /// No try; nothing has gone to the client.
    Over(RequestReason),
}

/// Tries once.
pub(super) fn attempt(
    client: &Client<'_>,
    down: &mut Wire,
    plan: &Plan,
    sending: &mut Sending,
    tries: &mut Tries<'_>,
) -> impl Future<Output = Next> {
    async move {
        let deadline = tries.deadline();
        let upstream = match reach(client, plan, tries, deadline).await {
            Ok(upstream) => upstream,
            Err((reason, endpoint)) => {
                return after(client, tries, sending.is_there(), endpoint, reason, Failure::Connect);
            }
        };
        tries.note(if upstream.is_reused { Event::ConnectionReused } else { Event::ConnectionOpened });
        let endpoint = &plan.service.endpoints[upstream.index];
        // Boxed: two small pieces of memory are found faster than one beyond what the allocator keeps at hand (1032 bytes).
        let exchanging = boxed(|| exchange(client, down, plan, sending, tries, upstream, deadline));
        match exchanging.await {
            Ok(next) => next,
            Err(Broken::Over(reason)) => Next::Over(reason),
            Err(Broken::Try(reason, failure)) => {
                report(client, endpoint, plan, Attempt::Bad, failure);
                after(client, tries, sending.is_there(), Some(endpoint.id), reason, failure)
            }
        }
    }
}

/// Decides what follows a failure of a request that is still there, or is not.
pub(super) fn after(
    client: &Client<'_>,
    tries: &mut Tries<'_>,
    is_there: bool,
    endpoint: Option<EndpointId>,
    reason: RequestReason,
    failure: Failure,
) -> Next {
    let is_final = matches!(
        reason,
        RequestReason::NoEndpoint
            | RequestReason::Limit
            | RequestReason::PendingLimit
            | RequestReason::Overload
            | RequestReason::RequestTimeout
    );
    if is_final || !is_there {
        return Next::Over(reason);
    }
    tries.handle_failure(client, failure, endpoint).map_or(Next::Over(reason), Next::Again)
}

/// Tells passive health what a request says about its endpoint, if that is news. An end of a connection that rested says
/// nothing.
pub(super) fn report(
    client: &Client<'_>,
    endpoint: &Endpoint,
    plan: &Plan,
    attempt: Attempt,
    failure: Failure,
) {
    let is_stale = matches!(
        failure,
        // Who refuses has too much to do, or stops: neither is a fault.
        Failure::Refused { .. }
            | Failure::ResetBeforeSend { is_reused: true }
            | Failure::ResetAfterSend { is_reused: true }
    );
    if !is_stale {
        endpoint.load.set_suspect();
        send_attempt(client.local, endpoint.id, attempt);
    }
    if failure == Failure::PerTryTimeout && plan.service.policy == Policy::LeastLatency {
        let now_ns = clock::monotonic_ns();
        endpoint.load.record_latency(u64::from(u32::MAX), now_ns);
    }
}

/// How a try broke before the client saw anything.
pub(super) enum Broken {
    /// Another one may follow.
    Try(RequestReason, Failure),
    /// None may: it was not the endpoint's fault.
    Over(RequestReason),
}

fn exchange(
    client: &Client<'_>,
    down: &mut Wire,
    plan: &Plan,
    sending: &mut Sending,
    tries: &mut Tries<'_>,
    mut upstream: Upstream,
    deadline: Option<(Instant, RequestReason)>,
) -> impl Future<Output = Result<Next, Broken>> {
    async move {
        let Some((first, body)) = sending.take() else {
            return Err(Broken::Over(RequestReason::Internal));
        };
        let first_bytes = first.len() as u64;
        // What connecting took says nothing about how fast the endpoint answers.
        let began = if upstream.is_reused { tries.began } else { Instant::now() };
        client.conn.set_answer_limit(plan.service.limits.idle_timeout);
        client.conn.await_within(Some(client.limits().body_timeout), Reason::BodyTimeout);
        let most = client.limits().request_bytes.unwrap_or(u64::MAX);
        let mut exchange = Exchange {
            down,
            up: &mut upstream.wire,
            upload: Upload::new(first, body, sending.early_bytes, most),
            watch: client.conn,
            deadline: deadline.map(|(at, _)| sleep_until(at)),
        };
        let answered = match answered(client, plan, tries, &mut exchange).await {
            Ok(answered) => answered,
            Err(trouble) => {
                let late = deadline.map_or(RequestReason::RequestTimeout, |(_, late)| late);
                let is_unseen = |end| upstream.is_unseen(sending.head_bytes, end);
                return Err(broken(trouble, upstream.is_reused, is_unseen, late));
            }
        };
        let endpoint = &plan.service.endpoints[upstream.index];
        let answered = match answered {
            Answered::Again(pause) => {
                send_attempt(client.local, endpoint.id, Attempt::BadStatus);
                return Ok(Next::Again(pause));
            }
            Answered::Final(answered) => *answered,
        };
        let first_byte = began.elapsed();
        let attempt = attempt_of(answered.status);
        handle_answer(client, plan, endpoint, attempt, first_byte);
        if attempt == Attempt::Good {
            tries.handle_success();
        }
        let Final { mut download, status, is_last, is_kept, is_tunnel } = answered;
        exchange.deadline = tries.end().map(sleep_until);
        let result = exchange.answer(&mut download).await;
        let sent = &exchange.upload;
        let ended = Instant::now();
        let (sent_bytes, is_sent) = (first_bytes + sent.bytes - sending.early_bytes, sent.is_sent());
        let mut outcome = Outcome {
            then: Then::Next,
            reason: RequestReason::Ok,
            status,
            grpc: None,
            endpoint: Some(endpoint.address.0),
            first_byte: Some(first_byte),
            sent_bytes: sent.bytes,
            received_bytes: download.bytes,
            tries: 0,
            ended,
        };
        match result {
            Ok(()) if is_tunnel => outcome.then = Then::Tunnel(Box::new(upstream.into_tunnel(endpoint))),
            Ok(()) => {
                if is_kept && is_sent && upstream.wire.chunk.is_empty() && !upstream.wire.is_ended {
                    upstream.keep(client, sent_bytes, ended);
                }
                if is_last || !is_sent {
                    outcome.then = plan.question.after_last(plan.framing);
                }
            }
            Err(trouble) => (outcome.then, outcome.reason) = cut(&trouble),
        }
        Ok(Next::Done(Box::new(outcome)))
    }
}

pub(super) fn sleep_until(at: Instant) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep_until(at.into()))
}

/// Tells balancing and passive health what an answer says about its endpoint.
pub(super) fn handle_answer(
    client: &Client<'_>,
    plan: &Plan,
    endpoint: &Endpoint,
    attempt: Attempt,
    took: Duration,
) {
    if plan.service.policy == Policy::LeastLatency {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        endpoint.load.record_latency(took_ns, clock::monotonic_ns());
    }
    // An error comes faster than the work would.
    if attempt == Attempt::Good
        && let Some(adaptive) = &plan.service.adaptive
    {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        adaptive.handle_answer(took_ns, clock::monotonic_ns(), plan.service.load.request_count());
    }
    if attempt == Attempt::BadStatus && plan.service.outlier.consecutive_5xx > 0 {
        endpoint.load.set_suspect();
        send_attempt(client.local, endpoint.id, Attempt::BadStatus);
    } else if endpoint.load.take_suspect() {
        send_attempt(client.local, endpoint.id, Attempt::Good);
    }
}

/// What a status says about the endpoint that sent it.
pub(super) fn attempt_of(status: u16) -> Attempt {
    if status >= 500 { Attempt::BadStatus } else { Attempt::Good }
}

/// What a try is called that broke before its answer.
pub(super) fn broken(
    trouble: Trouble,
    is_reused: bool,
    is_unseen: impl Fn(End) -> bool,
    late: RequestReason,
) -> Broken {
    let reset = |end: End| {
        if is_unseen(end) {
            Failure::ResetBeforeSend { is_reused }
        } else {
            Failure::ResetAfterSend { is_reused }
        }
    };
    match trouble {
        Trouble::ClientDied(_) | Trouble::ClientCut => Broken::Over(RequestReason::DownstreamReset),
        Trouble::ClientFault(fault) => Broken::Over(fault.of_request()),
        Trouble::UpstreamDied(_) => Broken::Try(RequestReason::UpstreamReset, reset(End::Rst)),
        Trouble::UpstreamSilent => {
            Broken::Try(RequestReason::UpstreamSilent, Failure::ResetAfterSend { is_reused: false })
        }
        Trouble::UpstreamEnded { has_begun: false } => {
            Broken::Try(RequestReason::UpstreamClosed, reset(End::Fin))
        }
        // The connection had answered: it was not closed as one that rests.
        Trouble::UpstreamEnded { has_begun: true } => {
            Broken::Try(RequestReason::UpstreamClosed, Failure::ResetAfterSend { is_reused: false })
        }
        Trouble::UpstreamRefused { is_leaving } => {
            Broken::Try(RequestReason::UpstreamRefused, Failure::Refused { is_leaving })
        }
        Trouble::UpstreamFault(fault) => Broken::Over(fault.of_answer()),
        Trouble::Timeout if late == RequestReason::PerTryTimeout => Broken::Try(late, Failure::PerTryTimeout),
        Trouble::Timeout => Broken::Over(late),
        Trouble::Killed(reason) => Broken::Over(of_kill(reason)),
    }
}

/// What the end of an answer is called that had begun, and what becomes of the client's connection: it must not take what it
/// has for the whole.
pub(super) fn cut(trouble: &Trouble) -> (Then, RequestReason) {
    match trouble {
        Trouble::ClientDied(error) if lost(error.kind(), Reason::DownstreamReset) == Reason::TlsWorn => {
            (Then::Abort(Reason::TlsWorn), RequestReason::TlsWorn)
        }
        Trouble::ClientDied(_) | Trouble::ClientCut => {
            (Then::Abort(Reason::DownstreamReset), RequestReason::DownstreamReset)
        }
        Trouble::ClientFault(fault) => (Then::Abort(Reason::Protocol), fault.of_request()),
        Trouble::UpstreamFault(fault) => (Then::Abort(Reason::Protocol), fault.of_answer()),
        Trouble::UpstreamDied(_) | Trouble::UpstreamEnded { .. } | Trouble::UpstreamRefused { .. } => {
            (Then::Abort(Reason::UpstreamReset), RequestReason::ResponseCut)
        }
        Trouble::UpstreamSilent => (Then::Abort(Reason::UpstreamReset), RequestReason::UpstreamSilent),
        Trouble::Timeout => (Then::Abort(Reason::BodyTimeout), RequestReason::RequestTimeout),
        Trouble::Killed(Reason::BodyTimeout) => {
            (Then::Abort(Reason::BodyTimeout), RequestReason::ResponseTimeout)
        }
        Trouble::Killed(reason) => (Then::Abort(*reason), of_kill(*reason)),
    }
}

fn of_kill(reason: Reason) -> RequestReason {
    match reason {
        Reason::BodyTimeout => RequestReason::BodyTimeout,
        Reason::IdleTimeout => RequestReason::RequestTimeout,
        Reason::HalfCloseTimeout => RequestReason::ResponseTimeout,
        Reason::EndpointLost => RequestReason::EndpointLost,
        Reason::Drained => RequestReason::Draining,
        Reason::Overload => RequestReason::Overload,
        _ => RequestReason::Internal,
    }
}

/// What an endpoint has answered.
enum Answered {
    Final(Box<Final>),
    /// With a status after which another try follows.
    Again(Duration),
}

/// An answer that is on its way to the client.
struct Final {
    download: Download,
    status: u16,
    /// It is the last one on this connection.
    is_last: bool,
    /// The endpoint's connection can be used again after it.
    is_kept: bool,
    /// Both sides go on in another protocol after it.
    is_tunnel: bool,
}

/// Waits for the answer's head; passes on what comes before it.
fn answered(
    client: &Client<'_>,
    plan: &Plan,
    tries: &mut Tries<'_>,
    exchange: &mut Exchange<'_, OpenConn>,
) -> impl Future<Output = Result<Answered, Trouble>> {
    async move {
        for _ in 0..MOST_INTERIM {
            let head_bytes = exchange.head(&mut Scan::default(), client.bound()).await?;
            let read = read(client, plan, exchange, head_bytes).map_err(Trouble::UpstreamFault)?;
            exchange.up.chunk.advance(head_bytes);
            match read {
                Read::Final(answer)
                    if tries.holds(Failure::Status(answer.status)) && exchange.upload.is_sent() =>
                {
                    let failure = Failure::Status(answer.status);
                    let endpoint = client.conn.endpoint();
                    if let Some(pause) = tries.handle_failure(client, failure, endpoint) {
                        return Ok(Answered::Again(pause));
                    }
                    return begin(client, exchange, answer);
                }
                Read::Final(answer) => return begin(client, exchange, answer),
                Read::Interim(head) => {
                    if !plan.question.is_version_1_0 {
                        let mut interim = Download::new(head, Body::Length(0), false, u64::MAX);
                        boxed(|| exchange.answer(&mut interim)).await?;
                    }
                }
            }
        }
        Err(Trouble::UpstreamFault(Fault::StartLine))
    }
}

/// Begins to pass an answer on, with what is there of its body.
fn begin(
    client: &Client<'_>,
    exchange: &mut Exchange<'_, OpenConn>,
    mut answer: Box<Final>,
) -> Result<Answered, Trouble> {
    answer.download.take_early(exchange.up).map_err(Trouble::UpstreamFault)?;
    client.conn.await_within(Some(client.limits().body_timeout), Reason::BodyTimeout);
    Ok(Answered::Final(answer))
}

enum Read {
    Interim(Vec<u8>),
    Final(Box<Final>),
}

/// Reads the head of an answer and writes it for the client.
fn read(
    client: &Client<'_>,
    plan: &Plan,
    exchange: &Exchange<'_, OpenConn>,
    head_bytes: usize,
) -> Result<Read, Fault> {
    let mut slots = slots();
    let head = ResponseHead::parse(&exchange.up.chunk[..head_bytes], &mut slots)?;
    let mut out = Vec::with_capacity(head_bytes + 64);
    if head.is_interim() {
        head.write(&mut out, Framing::Length(0), &ResponseEdits::default());
        return Ok(Read::Interim(out));
    }
    let (question, status) = (plan.question, head.status);
    let is_switch = status == 101;
    if is_switch && !(question.is_upgrade && head.upgrade.is_some()) {
        // Nobody asked for it.
        return Err(Fault::StartLine);
    }
    let is_tunnel = is_switch || question.is_connect && (200..300).contains(&status);
    let body = head.body(question.method());
    let is_unwrapped = question.is_version_1_0 && body == Framing::Chunked;
    let is_last = !question.is_keep_alive
        || body == Framing::UntilClose
        || is_unwrapped
        || !exchange.upload.is_sent()
        || client.is_leaving();
    let is_kept = head.is_keep_alive && body != Framing::UntilClose && !is_tunnel;
    let changes = plan.rule.as_deref().map(|rule| &rule.response_headers);
    let edits = ResponseEdits {
        changes: changes.filter(|changes| !changes.is_empty()),
        is_last: is_last && !is_tunnel,
        is_version_1_0: question.is_version_1_0,
        is_tunnel,
    };
    head.write(&mut out, body, &edits);
    let bound = client.bound();
    let most = client.limits().response_bytes.unwrap_or(u64::MAX);
    let download = Download::new(out, Body::new(body, bound.fields, bound.bytes), is_unwrapped, most)
        .ending(is_last && !is_tunnel);
    Ok(Read::Final(Box::new(Final { download, status, is_last, is_kept, is_tunnel })))
}
