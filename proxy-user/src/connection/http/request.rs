//! One request, from its head to the end of its answer.

use std::pin::Pin;

use proxy_core::id::EndpointId;
use proxy_core::outcome::Reason;
use proxy_io::Chunk;
use tokio::time::Sleep;

use super::answer::{self, Answer};
use super::attempt::{Upstream, acquire};
use super::plan::{Decided, Plan, plan};
use super::{Client, Then};
use crate::forward::exchange::{Download, Exchange, Trouble, Upload};
use crate::forward::http1::{Body, Fault, Framing, ResponseEdits, ResponseHead, Scan, slots};
use crate::forward::wire::Wire;

/// Bytes of a request's body that are copied behind its head, so that one send carries both without a list of parts.
const COPIED_BYTES: usize = 4 << 10;
/// Bytes of a request that are kept so that it can be sent again.
const REPLAY_BYTES: usize = 64 << 10;
/// Answers before the answer (1xx) that are passed on; nobody sends more than a few.
const MOST_INTERIM: u32 = 16;

/// Serves the request whose head stands at the beginning of what was received.
pub(super) async fn serve(client: &Client<'_>, down: &mut Wire, head_bytes: usize) -> Then {
    let decided = plan(client, &down.chunk[..head_bytes]);
    down.chunk.advance(head_bytes);
    match decided {
        Ok(Decided::Forward(plan)) => forward(client, down, *plan).await,
        Ok(Decided::Answer(answer, is_last)) => match answer::send(client, down, answer, is_last).await {
            Ok(()) if !is_last => Then::Next,
            Ok(()) => Then::Close(Reason::Fin),
            Err(_) => Then::Abort(Reason::DownstreamReset),
        },
        Err(fault) => client.refuse(down, fault).await,
    }
}

/// How one try ended without an answer.
enum Failed {
    /// No connection.
    Connect(Reason),
    /// The exchange broke before the client saw anything.
    Exchange(Trouble),
}

/// What is sent to an endpoint.
struct Sending {
    /// Head and what is there of the body; taken by the try that sends it.
    first: Option<Chunk>,
    /// The same once more, if that is all of the request and may be needed again.
    copy: Option<Vec<u8>>,
    body: Option<Body>,
    early_bytes: u64,
}

async fn forward(client: &Client<'_>, down: &mut Wire, mut plan: Plan) -> Then {
    let mut sending = match Sending::new(client, down, &mut plan) {
        Ok(sending) => sending,
        Err(fault) => return client.refuse(down, fault).await,
    };
    let mut tried: Vec<EndpointId> = Vec::new();
    let mut tries = 0;
    loop {
        tries += 1;
        let failed = match acquire(client, &plan, &mut tried).await {
            Err(reason) => Failed::Connect(reason),
            Ok(upstream) => match attempt(client, down, &plan, &mut sending, upstream).await {
                Ok(then) => return then,
                Err((trouble, endpoint)) => {
                    tried.push(endpoint);
                    Failed::Exchange(trouble)
                }
            },
        };
        if !may_retry(&plan, &sending, &failed, tries) {
            return give_up(client, down, &plan, failed).await;
        }
    }
}

impl Sending {
    fn new(client: &Client<'_>, down: &mut Wire, plan: &mut Plan) -> Result<Self, Fault> {
        let bound = client.bound();
        let mut body = Body::new(plan.framing, bound.fields, bound.bytes);
        let mut early = Chunk::default();
        if plan.framing != Framing::Length(0) && !down.chunk.is_empty() {
            early = body.split(&mut down.chunk)?;
        }
        let early_bytes = early.len() as u64;
        let mut head = std::mem::take(&mut plan.head);
        let is_whole = body.is_done();
        let first = if early.len() <= COPIED_BYTES {
            early.parts().for_each(|part| head.extend_from_slice(part));
            Chunk::from(head)
        } else {
            early.detach();
            Chunk::join(Chunk::from(head), early)
        };
        let copy =
            (is_whole && first.len() <= REPLAY_BYTES).then(|| first.parts().collect::<Vec<_>>().concat());
        Ok(Self { first: Some(first), copy, body: Some(body), early_bytes })
    }

    /// What the next try sends.
    fn take(&mut self) -> Option<(Chunk, Body)> {
        match self.first.take() {
            Some(first) => Some((first, self.body.take()?)),
            None => Some((Chunk::from(self.copy.clone()?), Body::Length(0))),
        }
    }
}

/// Tells whether a failed request may be sent to another endpoint.
fn may_retry(plan: &Plan, sending: &Sending, failed: &Failed, tries: u32) -> bool {
    if tries >= plan.service.limits.connect_attempts {
        return false;
    }
    match failed {
        Failed::Connect(reason) => *reason != Reason::NoEndpoint && sending.first.is_some(),
        Failed::Exchange(_) => false,
    }
}

/// Tells the client that its request was not served.
async fn give_up(client: &Client<'_>, down: &mut Wire, plan: &Plan, failed: Failed) -> Then {
    let (status, reason, after) = match failed {
        Failed::Connect(reason) => {
            let status = if reason == Reason::ConnectTimeout { 504 } else { 503 };
            (status, reason.as_str(), Reason::Fin)
        }
        Failed::Exchange(trouble) => match trouble {
            Trouble::ClientDied(_) | Trouble::ClientCut => return Then::Abort(Reason::DownstreamReset),
            Trouble::ClientFault(fault) => return client.refuse(down, fault).await,
            Trouble::UpstreamDied(_) => (502, "upstream_reset", Reason::UpstreamReset),
            Trouble::UpstreamEnded { .. } => (502, "upstream_closed", Reason::UpstreamReset),
            Trouble::UpstreamFault(_) => (502, "upstream_malformed", Reason::Protocol),
            Trouble::Timeout => (504, "request_timeout", Reason::Fin),
            Trouble::Killed(Reason::BodyTimeout) => (408, "body_timeout", Reason::BodyTimeout),
            Trouble::Killed(reason) => (503, reason.as_str(), reason),
        },
    };
    let mut answer = Answer::new(status, reason);
    answer.is_head = plan.question.is_head;
    match answer::send(client, down, answer, true).await {
        Ok(()) => Then::Close(after),
        Err(_) => Then::Abort(Reason::DownstreamReset),
    }
}

/// Sends a request to one endpoint, and its answer to the client.
///
/// # Errors
/// What went wrong before the client saw anything of an answer, and the endpoint.
async fn attempt(
    client: &Client<'_>,
    down: &mut Wire,
    plan: &Plan,
    sending: &mut Sending,
    mut upstream: Upstream,
) -> Result<Then, (Trouble, EndpointId)> {
    let endpoint = plan.service.endpoints[upstream.index].id;
    let Some((first, body)) = sending.take() else {
        return Err((Trouble::UpstreamEnded { has_begun: false }, endpoint));
    };
    let first_bytes = first.len() as u64;
    let most = client.limits.request_bytes.unwrap_or(u64::MAX);
    let mut exchange = Exchange {
        down,
        up: &mut upstream.wire,
        upload: Upload::new(first, body, sending.early_bytes, most),
        watch: client.conn,
        deadline: None::<Pin<Box<Sleep>>>,
    };
    client.conn.await_within(Some(client.limits.body_timeout), Reason::BodyTimeout);
    let answered = answered(client, plan, &mut exchange).await.map_err(|trouble| (trouble, endpoint))?;
    let Answered { mut download, is_last, is_kept, is_tunnel } = answered;
    let result = exchange.answer(&mut download).await;
    let sent_bytes = first_bytes + exchange.upload.bytes - sending.early_bytes;
    let is_sent = exchange.upload.is_sent();
    Ok(match result {
        Ok(()) if is_tunnel => Then::Tunnel(Box::new(upstream.wire)),
        Ok(()) => {
            if is_kept && is_sent && upstream.wire.chunk.is_empty() && !upstream.wire.is_ended {
                upstream.keep(client, sent_bytes);
            }
            if is_last || !is_sent { Then::Close(Reason::Fin) } else { Then::Next }
        }
        Err(Trouble::ClientDied(_) | Trouble::ClientCut) => Then::Abort(Reason::DownstreamReset),
        Err(Trouble::ClientFault(_) | Trouble::UpstreamFault(_)) => Then::Abort(Reason::Protocol),
        Err(Trouble::UpstreamDied(_) | Trouble::UpstreamEnded { .. }) => Then::Abort(Reason::UpstreamReset),
        Err(Trouble::Timeout) => Then::Abort(Reason::IdleTimeout),
        Err(Trouble::Killed(reason)) => Then::Abort(reason),
    })
}

/// An answer that is on its way to the client.
struct Answered {
    download: Download,
    /// It is the last one on this connection.
    is_last: bool,
    /// The endpoint's connection can be used again after it.
    is_kept: bool,
    /// Both sides go on in another protocol after it.
    is_tunnel: bool,
}

/// Waits for the answer's head; passes on what comes before it.
async fn answered(
    client: &Client<'_>,
    plan: &Plan,
    exchange: &mut Exchange<'_, super::OpenConn>,
) -> Result<Answered, Trouble> {
    for _ in 0..MOST_INTERIM {
        let head_bytes = exchange.head(&mut Scan::default(), client.bound()).await?;
        let answered = read(client, plan, exchange, head_bytes).map_err(Trouble::UpstreamFault)?;
        exchange.up.chunk.advance(head_bytes);
        match answered {
            Read::Final(mut answered) => {
                answered.download.take_early(exchange.up).map_err(Trouble::UpstreamFault)?;
                client.conn.await_within(Some(client.limits.body_timeout), Reason::BodyTimeout);
                return Ok(*answered);
            }
            Read::Interim(head) => {
                if !plan.question.is_version_1_0 {
                    exchange.answer(&mut Download::new(head, Body::Length(0), false, u64::MAX)).await?;
                }
            }
        }
    }
    Err(Trouble::UpstreamFault(Fault::StartLine))
}

enum Read {
    Interim(Vec<u8>),
    Final(Box<Answered>),
}

/// Reads the head of an answer and writes it for the client.
fn read(
    client: &Client<'_>,
    plan: &Plan,
    exchange: &Exchange<'_, super::OpenConn>,
    head_bytes: usize,
) -> Result<Read, Fault> {
    let mut slots = slots();
    let head = ResponseHead::parse(&exchange.up.chunk[..head_bytes], &mut slots)?;
    let mut out = Vec::with_capacity(head_bytes + 64);
    if head.is_interim() {
        head.write(&mut out, Framing::Length(0), &ResponseEdits::default());
        return Ok(Read::Interim(out));
    }
    let question = plan.question;
    let is_switch = head.status == 101;
    if is_switch && !(question.is_upgrade && head.upgrade.is_some()) {
        // Nobody asked for it.
        return Err(Fault::StartLine);
    }
    let is_tunnel = is_switch || question.is_connect && (200..300).contains(&head.status);
    let body = head.body(question.method());
    let is_unwrapped = question.is_version_1_0 && body == Framing::Chunked;
    let is_last = !question.is_keep_alive
        || body == Framing::UntilClose
        || is_unwrapped
        || client.local.is_draining.get()
        || !exchange.upload.is_sent();
    let is_kept = head.is_keep_alive && body != Framing::UntilClose && !is_tunnel;
    let edits = ResponseEdits {
        changes: plan
            .rule
            .as_deref()
            .map(|rule| &rule.response_headers)
            .filter(|changes| !changes.is_empty()),
        is_last: is_last && !is_tunnel,
        is_version_1_0: question.is_version_1_0,
    };
    head.write(&mut out, body, &edits);
    let bound = client.bound();
    let most = client.limits.response_bytes.unwrap_or(u64::MAX);
    let download = Download::new(out, Body::new(body, bound.fields, bound.bytes), is_unwrapped, most);
    Ok(Read::Final(Box::new(Answered { download, is_last, is_kept, is_tunnel })))
}
