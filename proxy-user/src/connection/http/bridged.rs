//! Requests of which the client or the endpoint, or both, speak HTTP/2: tried, and tried again.
#![expect(
    clippy::manual_async_fn,
    reason = "an `async fn` keeps its arguments twice, as long as a call takes"
)]

mod begin;

use std::time::{Duration, Instant};

use proxy_core::grpc::{Messages, Status};
use proxy_core::http2::FieldList;
use proxy_core::outcome::{Attempt, Reason, RequestReason};
use proxy_core::retry::{Failure, Pushback};
use proxy_core::service::Endpoint;

use self::begin::{Begun, begin, takes_protocols};
use super::answer::Answer;
use super::attempt::{Broken, Next, after, attempt_of, broken, cut, handle_answer, report, sleep_until};
use super::plan::{Outgoing, Plan, Version};
use super::reply::{send_head, tell};
use super::request::{Outcome, answer_here};
use super::story::Story;
use super::streams::{self, Streams};
use super::tries::Tries;
use super::upstream::{self, Reaching, Upstream, mapped};
use super::{Client, Then, mirror};
use crate::connection::endpoint::send_attempt;
use crate::connection::{OpenConn, boxed};
use crate::forward::bridge::{self, Bound, Bridge, Download, GRPC_STATUS, Http1Side, Side, Upload};
use crate::forward::exchange::Trouble;
use crate::forward::grpc_web;
use crate::forward::http1::{Body, Fault, Framing};
use crate::forward::http2::{self, Tunnel};
use crate::forward::wire::{HeadBound, Wire};
use crate::http2::Error;
use crate::stats::http::Event;

const GRPC_PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Answers before the answer (1xx) that are passed on; nobody sends more than a few.
const MOST_INTERIM: u32 = 16;

/// A request that came to nothing, of which the client knows nothing yet.
pub(super) struct Over {
    pub(super) reason: RequestReason,
    pub(super) tries: u32,
}

impl Over {
    /// How it ended, if the client was answered with this status.
    pub(super) fn outcome(&self, status: u16) -> Outcome {
        let then = if status > 0 { Then::Next } else { Then::Abort(Reason::DownstreamReset) };
        Outcome { tries: self.tries, ..Outcome::here(then, self.reason, status) }
    }
}

/// Serves a request of a client that speaks HTTP/1.1.
pub(super) async fn serve_http1(
    client: &Client<'_>,
    down: &mut Wire,
    plan: Box<Plan>,
    story: &Story,
    began: Instant,
) -> Outcome {
    let bound = client.bound();
    let incoming = match Body::new(plan.framing, bound.fields, bound.bytes) {
        Body::Chunked(chunked) => Body::Chunked(Box::new(chunked.keeping_trailers())),
        body => body,
    };
    let (question, framing) = (plan.question, plan.framing);
    let mut side = Side::Http1(Http1Side::of_client(&mut *down, incoming, client.conn));
    let of_reason = |reason| Status::of_reason(reason).filter(|_| question.bridged_web().is_some());
    let over = match forward(client, &mut side, plan, story, began).await {
        Ok(outcome) => {
            return Outcome { grpc: outcome.grpc.or_else(|| of_reason(outcome.reason)), ..outcome };
        }
        Err(over) => over,
    };
    if over.reason.status().is_none() {
        return Outcome { grpc: of_reason(over.reason), ..over.outcome(0) };
    }
    let mut answer = Answer::of_reason(over.reason);
    (answer.is_head, answer.web) = (question.is_head, question.web);
    let is_last = framing != Framing::Length(0) || !question.is_keep_alive;
    let outcome = answer_here(client, down, answer, is_last).await;
    Outcome { tries: over.tries, ..outcome }
}

/// Sends a request to an endpoint and its answer to the client.
///
/// # Errors
/// Why there is no answer; nothing was sent to the client.
pub(super) fn forward(
    client: &Client<'_>,
    side: &mut Side<'_>,
    mut plan: Box<Plan>,
    story: &Story,
    began: Instant,
) -> impl Future<Output = Result<Outcome, Over>> {
    async move {
        let Outgoing::Fields(request) = std::mem::take(&mut plan.head) else {
            return Err(Over { reason: RequestReason::Internal, tries: 0 });
        };
        let plan = &*plan;
        let _active = plan.begin().map_err(|reason| Over { reason, tries: 0 })?;
        let mut tries = Tries::new(began, plan, story);
        let is_tunnel = plan.question.tunnel.is_some();
        let most = client.limits().request_bytes.filter(|_| !is_tunnel).unwrap_or(u64::MAX);
        let has_ended = plan.framing == Framing::Length(0) && !is_tunnel;
        let mut upload =
            Upload::new(has_ended, Bound::new(most, client.bound().bytes, messages(client, plan)));
        if let Some(web) = plan.question.bridged_web() {
            upload = upload.in_web(web.asks);
        }
        let mut asked = Asked { side, request, upload };
        loop {
            match attempt(client, plan, &mut asked, &mut tries).await {
                Next::Done(mut outcome) => {
                    outcome.tries = tries.count();
                    return Ok(*outcome);
                }
                Next::Again(pause) => {
                    if !pause.is_zero() {
                        boxed(|| tokio::time::sleep(pause)).await;
                    }
                    tries.began = Instant::now();
                }
                Next::Over(reason) => {
                    tries.handle_end(reason);
                    return Err(Over { reason, tries: tries.count() });
                }
            }
        }
    }
}

/// Bounds on the head of an answer. Connections of HTTP/2 are shared by whoever asks for the service, so it has a bound, too.
fn answer_bound(client: &Client<'_>, plan: &Plan) -> HeadBound {
    let bound = client.bound();
    match plan.version {
        Version::Http1 => bound,
        Version::Http2 => {
            HeadBound { bytes: bound.bytes.min(plan.service.http.head_bytes as usize), ..bound }
        }
    }
}

/// Follows the messages of a call, if they have a bound.
fn messages(client: &Client<'_>, plan: &Plan) -> Option<Messages> {
    let most = client.limits().message_bytes.filter(|_| plan.question.is_grpc)?;
    Some(Messages::new(Some(most)))
}

/// What is asked, and by whom.
struct Asked<'a, 's> {
    side: &'a mut Side<'s>,
    /// Its head, as long as it may be asked again.
    request: FieldList,
    upload: Upload,
}

/// Where a try goes.
enum Reached {
    Http1(Box<Upstream>),
    Http2(Streams),
}

impl Reached {
    fn index(&self) -> usize {
        match self {
            Self::Http1(upstream) => upstream.index,
            Self::Http2(streams) => streams.index,
        }
    }

    fn named(&self, trouble: Trouble) -> Trouble {
        match self {
            Self::Http1(_) => trouble,
            Self::Http2(streams) => streams.named(trouble),
        }
    }

    fn is_reused(&self) -> bool {
        match self {
            Self::Http1(upstream) => upstream.is_reused,
            Self::Http2(streams) => streams.lease.is_reused,
        }
    }
}

fn attempt(
    client: &Client<'_>,
    plan: &Plan,
    asked: &mut Asked<'_, '_>,
    tries: &mut Tries<'_>,
) -> impl Future<Output = Next> {
    async move {
        let deadline = tries.deadline();
        let mut reached = match reach(client, plan, tries, deadline).await {
            Ok(reached) => reached,
            Err((reason, endpoint)) => {
                return after(client, tries, asked.upload.is_there(), endpoint, reason, Failure::Connect);
            }
        };
        tries.note(if reached.is_reused() { Event::ConnectionReused } else { Event::ConnectionOpened });
        asked.upload.begin_try();
        let endpoint = &plan.service.endpoints[reached.index()];
        let exchanging = boxed(|| exchange(client, plan, asked, tries, &mut reached, deadline));
        match exchanging.await {
            Ok(Exchanged { next, kept, is_cut }) => {
                match (reached, kept) {
                    (Reached::Http1(upstream), Some(sent_bytes)) => {
                        upstream.keep(client, sent_bytes, Instant::now());
                    }
                    // Its endpoint must not take what it has for the whole.
                    (Reached::Http1(upstream), None) if is_cut => upstream.wire.stream.abort(),
                    _ => {}
                }
                next
            }
            Err(Broken::Over(reason)) => Next::Over(reason),
            Err(Broken::Try(reason, failure)) => {
                report(client, endpoint, plan, Attempt::Bad, failure);
                after(client, tries, asked.upload.is_there(), Some(endpoint.id), reason, failure)
            }
        }
    }
}

/// Finds a way to an endpoint.
fn reach<'a>(
    client: &'a Client<'_>,
    plan: &'a Plan,
    tries: &Tries<'_>,
    deadline: Option<(Instant, RequestReason)>,
) -> Reaching<'a, Reached> {
    match plan.version {
        Version::Http1 => {
            let reaching = upstream::reach(client, plan, tries, deadline);
            mapped(reaching, |upstream| Reached::Http1(Box::new(upstream)))
        }
        Version::Http2 => mapped(streams::reach(client, plan, tries, deadline), Reached::Http2),
    }
}

/// What follows an exchange.
struct Exchanged {
    next: Next,
    /// The endpoint's connection, of HTTP/1.1, can be used again; so many bytes were sent on it.
    kept: Option<u64>,
    /// It was a tunnel, and ended before its end.
    is_cut: bool,
}

fn exchange(
    client: &Client<'_>,
    plan: &Plan,
    asked: &mut Asked<'_, '_>,
    tries: &mut Tries<'_>,
    reached: &mut Reached,
    deadline: Option<(Instant, RequestReason)>,
) -> impl Future<Output = Result<Exchanged, Broken>> {
    async move {
        let Asked { side, request, upload } = asked;
        let is_reused = reached.is_reused();
        let endpoint = &plan.service.endpoints[reached.index()];
        // What connecting took says nothing about how fast the endpoint answers.
        let began = if is_reused { tries.began } else { Instant::now() };
        // A call may be silent for as long as its deadline lets it: watches mostly are.
        let silence = (!plan.question.is_grpc).then(|| client.limits().body_timeout);
        client.conn.set_answer_limit(silence.and(plan.service.limits.idle_timeout));
        client.conn.await_within(silence, Reason::BodyTimeout);
        if plan.question.tunnel == Some(Tunnel::WebSocket) {
            boxed(|| takes_protocols(reached, deadline)).await?;
        }
        let Begun { up, opening } = begin(client, plan, request, reached, upload.has_body(), deadline)?;
        let is_opening = opening.is_some();
        let mut bridge = Bridge {
            down: side,
            up,
            upload,
            method: plan.question.method(),
            opening,
            bound: answer_bound(client, plan),
            watch: client.conn,
            deadline: deadline.map(|(at, _)| sleep_until(at)),
        };
        let mut answer = match answered(client, plan, tries, &mut bridge).await {
            Ok(Answered::Final(answer)) => answer,
            Ok(Answered::Again(pause)) => {
                send_attempt(client.local, endpoint.id, Attempt::BadStatus);
                return Ok(Exchanged { next: Next::Again(pause), kept: None, is_cut: false });
            }
            Err(trouble) => {
                let late = deadline.map_or(RequestReason::RequestTimeout, |(_, late)| late);
                let head_bytes = bridge.head_bytes();
                drop(bridge);
                let trouble = reached.named(trouble);
                if let (Trouble::UpstreamRefused { is_leaving: true }, Reached::Http2(streams)) =
                    (&trouble, &*reached)
                {
                    streams.lease.set_over();
                }
                let is_unseen = |end| match &*reached {
                    Reached::Http1(upstream) => upstream.is_unseen(head_bytes, end),
                    // Positions in the stream are of other requests, too.
                    Reached::Http2(_) => false,
                };
                return Err(broken(trouble, is_reused, is_unseen, late));
            }
        };
        if let Some(rule) = plan.rule.as_ref().filter(|rule| !rule.mirrors.is_empty()) {
            let copy = || Some(copy(request, &bridge.upload.whole()?));
            mirror::send_copies(client, rule, copy, tries.story);
        }
        let first_byte = began.elapsed();
        client.conn.await_within(silence, Reason::BodyTimeout);
        let is_tunnel = answer.is_tunnel;
        if is_opening && !is_tunnel {
            bridge.upload.refuse();
        }
        if is_tunnel {
            if matches!(bridge.down, Side::Http1(_)) && plan.question.tunnel == Some(Tunnel::WebSocket) {
                http2::set_switched(&mut answer.head, request);
            }
            client.conn.await_within(plan.service.limits.idle_timeout, Reason::IdleTimeout);
        }
        // Nobody else is asked, however long the answer takes.
        *request = FieldList::default();
        let mut passing = pass_on(client, plan, &mut bridge, answer, first_byte);
        bridge.deadline = tries.end().filter(|_| !is_tunnel).map(sleep_until);
        let result = match passing.is_last {
            Ok(_) if is_tunnel => boxed(|| bridge.tunnel(&mut passing.download)).await,
            Ok(_) => bridge.answer(&mut passing.download).await,
            Err(ref failed) => Err(Trouble::ClientDied(std::io::Error::other(failed.to_string()))),
        };
        let mut outcome = outcome(plan, endpoint, &bridge, &passing, result.is_ok());
        let attempt = outcome.grpc.map_or_else(|| attempt_of(outcome.status), Status::attempt);
        handle_answer(client, plan, endpoint, attempt, first_byte);
        if attempt == Attempt::Good {
            tries.handle_success();
        }
        let is_sent = bridge.upload.is_sent();
        let is_cut = is_tunnel && result.is_err();
        let kept = (result.is_ok() && passing.is_kept && is_sent).then(|| bridge.clean_bytes()).flatten();
        match result {
            Ok(()) if passing.is_last.unwrap_or(true) || !is_sent => {
                outcome.then = plan.question.after_last(plan.framing);
            }
            Ok(()) => {}
            Err(trouble) => {
                (outcome.then, outcome.reason) = cut(&reached.named(trouble));
                if let Some(form) = passing.download.web_between_messages()
                    && let Some(status) = boxed(|| tell(side, form, outcome.reason)).await
                {
                    (outcome.then, outcome.grpc) = (Then::Close(Reason::Fin), Some(status));
                }
            }
        }
        Ok(Exchanged { next: Next::Done(Box::new(outcome)), kept, is_cut })
    }
}

/// An answer whose head has gone to the client.
struct Passing {
    status: u16,
    /// What its head said of how the call ended.
    head_status: Option<Status>,
    first_byte: Duration,
    download: Download,
    /// The endpoint's connection, of HTTP/1.1, can be used again after it.
    is_kept: bool,
    /// Whether it is the last one on the client's connection; or why the client could not get it.
    is_last: Result<bool, Error>,
}

/// Sends an answer's head to the client.
fn pass_on(
    client: &Client<'_>,
    plan: &Plan,
    bridge: &mut Bridge<'_, '_, OpenConn>,
    mut answer: bridge::Answer,
    first_byte: Duration,
) -> Passing {
    let head_status = answer.head.find(GRPC_STATUS).map(Status::from_header);
    let most = client.limits().response_bytes.filter(|_| !answer.is_tunnel).unwrap_or(u64::MAX);
    let web = plan.question.bridged_web().map(|web| web.answers);
    let web = web.filter(|form| grpc_web::answer_in_web(&mut answer.head, *form));
    // Only between two messages is there room for the frame that tells how a call ended.
    let messages = messages(client, plan).or_else(|| web.map(|_| Messages::new(None)));
    let download =
        Download::new(answer.has_ended, Bound::new(most, bridge.bound.bytes, messages)).in_web(web);
    let (status, is_kept) = (answer.head.status(), answer.is_kept);
    let is_early = !bridge.upload.is_sent();
    let is_last = send_head(client, plan, bridge.down, answer, is_early);
    Passing { status, head_status, first_byte, download, is_kept, is_last }
}

/// What became of a request that was answered: it `is_whole` if all of the answer came and went.
fn outcome(
    plan: &Plan,
    endpoint: &Endpoint,
    bridge: &Bridge<'_, '_, OpenConn>,
    passing: &Passing,
    is_whole: bool,
) -> Outcome {
    let Passing { status, head_status, first_byte, ref download, .. } = *passing;
    let is_call = plan.question.is_grpc && is_whole;
    Outcome {
        then: Then::Next,
        reason: RequestReason::Ok,
        status,
        grpc: is_call.then(|| {
            let said = download.grpc_status.or(head_status);
            said.unwrap_or_else(|| Status::of_answer(status, None))
        }),
        endpoint: Some(endpoint.address.0),
        first_byte: Some(first_byte),
        sent_bytes: bridge.upload.bytes,
        received_bytes: download.bytes,
        tries: 0,
        ended: Instant::now(),
    }
}

/// The whole request in HTTP/1.1, for somebody who answers it and closes.
fn copy(request: &FieldList, body: &[u8]) -> Vec<u8> {
    let mut head = request.clone();
    head.set("content-length", body.len().to_string().as_bytes());
    head.set("connection", b"close");
    let mut out = http2::write_request(&head, Framing::Length(body.len() as u64));
    out.extend_from_slice(body);
    out
}

/// What an endpoint has answered.
enum Answered {
    Final(bridge::Answer),
    /// With a status after which another try follows.
    Again(Duration),
}

/// Waits for the answer's head; passes on what comes before it.
fn answered(
    client: &Client<'_>,
    plan: &Plan,
    tries: &mut Tries<'_>,
    bridge: &mut Bridge<'_, '_, OpenConn>,
) -> impl Future<Output = Result<Answered, Trouble>> {
    async move {
        for _ in 0..MOST_INTERIM {
            let answer = bridge.head().await?;
            if answer.is_interim {
                if !plan.question.is_version_1_0 {
                    // Boxed: most answers are the first.
                    boxed(|| bridge.interim(answer.head)).await?;
                }
                continue;
            }
            if let Some(failure) = failure(plan, &answer).filter(|failure| tries.holds(*failure))
                && bridge.upload.is_sent()
                && bridge.upload.is_there()
                && let Some(pause) = tries.handle_failure(client, failure, client.conn.endpoint())
            {
                return Ok(Answered::Again(pause));
            }
            return Ok(Answered::Final(answer));
        }
        Err(Trouble::UpstreamFault(Fault::StartLine))
    }
}

/// What an answer would be called if its request were to be tried again because of it; none for a call that goes on.
fn failure(plan: &Plan, answer: &bridge::Answer) -> Option<Failure> {
    let http_status = answer.head.status();
    let said = answer.head.find(GRPC_STATUS).filter(|_| answer.has_ended);
    if !plan.question.is_grpc || (said.is_none() && http_status == 200) {
        return (!plan.question.is_grpc).then_some(Failure::Status(http_status));
    }
    let status = Status::of_answer(http_status, said);
    let pushback = answer.head.find(GRPC_PUSHBACK).map(Pushback::from_header);
    Some(Failure::Grpc { status, pushback })
}
