//! One request, from its head to the end of its answer.
#![expect(
    clippy::manual_async_fn,
    reason = "an `async fn` keeps its arguments twice, as long as a request takes"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy_core::grpc::Status;
use proxy_core::outcome::{Reason, RequestReason};
use proxy_io::Chunk;

use super::answer::{self, Answer};
use super::attempt::{self, Next};
use super::plan::{Decided, Outgoing, Plan, plan};
use super::story::Story;
use super::tries::Tries;
use super::{Client, Then, bridged, mirror};
use crate::connection::boxed;
use crate::forward::http1::{Body, Fault, Framing};
use crate::forward::wire::Wire;

/// Bytes of a request that are kept so that it can be sent again.
const REPLAY_BYTES: usize = 64 << 10;

/// How a request ended.
pub(super) struct Outcome {
    pub(super) then: Then,
    pub(super) reason: RequestReason,
    /// Status that the client got; 0 if it got none.
    pub(super) status: u16,
    /// The same in the words of gRPC, if it is a call.
    pub(super) grpc: Option<Status>,
    /// Who answered.
    pub(super) endpoint: Option<SocketAddr>,
    /// From the head to the first byte of the answer.
    pub(super) first_byte: Option<Duration>,
    /// Bytes of bodies from the client to the endpoint, and back.
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    /// Tries made of it.
    pub(super) tries: u32,
    /// When it was over.
    pub(super) ended: Instant,
}

impl Outcome {
    /// Nothing reached an endpoint.
    pub(super) fn here(then: Then, reason: RequestReason, status: u16) -> Self {
        Self {
            then,
            reason,
            status,
            grpc: None,
            endpoint: None,
            first_byte: None,
            sent_bytes: 0,
            received_bytes: 0,
            tries: 0,
            ended: Instant::now(),
        }
    }
}

/// Serves the request whose head stands at the beginning of what was received.
pub(super) fn serve(client: &Client<'_>, down: &mut Wire, head_bytes: usize) -> impl Future<Output = Then> {
    async move {
        let began = Instant::now();
        let mut story = Story::new(client, began);
        let decided = plan(client, &down.chunk[..head_bytes], &mut story);
        down.chunk.advance(head_bytes);
        let active = story.begin(client);
        if let Some(delay) = story.delay {
            boxed(|| tokio::time::sleep(delay)).await;
        }
        let outcome = match decided {
            Ok(Decided::Forward(plan)) if matches!(plan.head, Outgoing::Fields(_)) => {
                boxed(|| bridged::serve_http1(client, down, plan, &story, began)).await
            }
            Ok(Decided::Forward(mut plan)) => forward(client, down, &mut plan, &story, began).await,
            Ok(Decided::Answer(answer, is_last)) => {
                boxed(move || answer_here(client, down, *answer, is_last)).await
            }
            Err(fault) => boxed(move || refuse(client, down, fault)).await,
        };
        story.end(client, active, &outcome);
        outcome.then
    }
}

/// Says what is wrong with a request whose head never was one; the connection ends for `end`.
pub(super) async fn refuse_unread(
    client: &Client<'_>,
    down: &mut Wire,
    reason: RequestReason,
    end: Reason,
) -> Then {
    let story = Story::new(client, Instant::now());
    let active = story.begin(client);
    let outcome = answer_here(client, down, Answer::of_reason(reason), true).await;
    story.end(client, active, &outcome);
    match outcome.then {
        Then::Close(_) => Then::Close(end),
        then => then,
    }
}

pub(super) async fn answer_here(
    client: &Client<'_>,
    down: &mut Wire,
    answer: Answer,
    is_last: bool,
) -> Outcome {
    let is_last = is_last || client.is_leaving();
    let grpc = answer.web_status();
    let (reason, status) = (answer.reason, if grpc.is_some() { 200 } else { answer.status });
    let then = match answer::send(client, down, answer, is_last).await {
        Ok(()) if !is_last => Then::Next,
        Ok(()) => Then::Close(Reason::Fin),
        Err(_) => Then::Abort(Reason::DownstreamReset),
    };
    Outcome { grpc, ..Outcome::here(then, reason, status) }
}

/// Says what is wrong with a request; where the next one begins nobody knows.
async fn refuse(client: &Client<'_>, down: &mut Wire, fault: Fault) -> Outcome {
    let reason = fault.of_request();
    let answer = Answer::of_reason(reason);
    let mut outcome = answer_here(client, down, answer, true).await;
    if matches!(outcome.then, Then::Close(_)) {
        outcome.then = Then::Close(Reason::Protocol);
    }
    outcome
}

/// What is sent to an endpoint.
pub(super) struct Sending {
    /// Head and what is there of the body; taken by the try that sends it.
    first: Option<(Chunk, Body)>,
    /// The same once more, if that is all of the request and may be needed again.
    copy: Option<Chunk>,
    /// Bytes of the head, and of the part of the body that is there.
    pub(super) head_bytes: u64,
    pub(super) early_bytes: u64,
}

impl Sending {
    fn new(client: &Client<'_>, down: &mut Wire, plan: &mut Plan) -> Result<Self, Fault> {
        let bound = client.bound();
        let mut body = Body::new(plan.framing, bound.fields, bound.bytes);
        let mut early = Chunk::default();
        if plan.framing != Framing::Length(0) && !down.chunk.is_empty() {
            early = body.split(&mut down.chunk)?;
        }
        let head = match std::mem::take(&mut plan.head) {
            Outgoing::Bytes(head) => head,
            // Goes another way.
            Outgoing::Fields(_) => Vec::new(),
        };
        let (head_bytes, early_bytes) = (head.len() as u64, early.len() as u64);
        let mut first = Chunk::join(Chunk::from(head), early);
        // It may have to wait for a connection.
        first.detach();
        let is_whole = body.is_done() && first.len() <= REPLAY_BYTES;
        let copy = is_whole.then(|| first.share());
        Ok(Self { first: Some((first, body)), copy, head_bytes, early_bytes })
    }

    /// What the next try sends; none if it is not there any more.
    pub(super) fn take(&mut self) -> Option<(Chunk, Body)> {
        self.first.take().or_else(|| Some((self.copy.as_mut()?.share(), Body::Length(0))))
    }

    /// The whole request once more, for somebody who answers it and closes; none if it is not whole yet or too large.
    pub(super) fn last_copy(&self) -> Option<Vec<u8>> {
        let copy = self.copy.as_ref()?;
        // In front of the empty line.
        let (head, body) = copy.split_at(usize::try_from(self.head_bytes).ok()?.checked_sub(2)?);
        Some([head, b"connection: close\r\n", body].concat())
    }

    /// Tells whether another try could send it.
    pub(super) fn is_there(&self) -> bool {
        self.first.is_some() || self.copy.is_some()
    }
}

fn forward(
    client: &Client<'_>,
    down: &mut Wire,
    plan: &mut Plan,
    story: &Story,
    began: Instant,
) -> impl Future<Output = Outcome> {
    async move {
        let mut sending = match Sending::new(client, down, plan) {
            Ok(sending) => sending,
            Err(fault) => return boxed(move || refuse(client, down, fault)).await,
        };
        let plan = &*plan;
        let _active = match plan.begin() {
            Ok(active) => active,
            Err(reason) => return boxed(move || give_up(client, down, plan, reason)).await,
        };
        let mut tries = Tries::new(began, plan, story);
        if let Some(rule) = &plan.rule
            && !rule.mirrors.is_empty()
        {
            mirror::send_copies(client, rule, || sending.last_copy(), story);
        }
        loop {
            match attempt::attempt(client, down, plan, &mut sending, &mut tries).await {
                Next::Done(mut outcome) => {
                    outcome.tries = tries.count();
                    return *outcome;
                }
                Next::Again(pause) => {
                    if !pause.is_zero() {
                        boxed(|| tokio::time::sleep(pause)).await;
                    }
                    tries.began = Instant::now();
                }
                Next::Over(reason) => {
                    tries.handle_end(reason);
                    let mut outcome = boxed(move || give_up(client, down, plan, reason)).await;
                    outcome.tries = tries.count();
                    return outcome;
                }
            }
        }
    }
}

/// Tells the client that its request was not served, if there is a way to.
async fn give_up(client: &Client<'_>, down: &mut Wire, plan: &Plan, reason: RequestReason) -> Outcome {
    if reason.status().is_none() {
        return Outcome::here(Then::Abort(Reason::DownstreamReset), reason, 0);
    }
    let mut answer = Answer::of_reason(reason);
    (answer.is_head, answer.web) = (plan.question.is_head, plan.question.web);
    let is_last = plan.framing != Framing::Length(0) || !plan.question.is_keep_alive;
    answer_here(client, down, answer, is_last).await
}
