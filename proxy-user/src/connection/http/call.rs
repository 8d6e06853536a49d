//! One request of an HTTP/2 client, from its head to the end of its answer.

use std::time::Instant;

use proxy_core::grpc::Status;
use proxy_core::grpc::web::Dialect;
use proxy_core::http2::{Code, FieldList};
use proxy_core::outcome::{Reason, RequestReason};
use proxy_core::service::Limits;

use super::answer::Answer;
use super::bridged;
use super::plan::{Decided, plan_http2};
use super::request::Outcome;
use super::story::Story;
use super::{Client, Then};
use crate::forward::bridge::{Http2Side, Side};
use crate::forward::http1::Framing;
use crate::forward::http2::Tunnel;
use crate::http2::{Piece, Stream};

/// Serves a request.
///
/// No `async fn`: what it begins with would be kept to its end.
pub(super) fn serve<'a>(
    client: &'a Client<'a>,
    head: FieldList,
    stream: Stream,
) -> impl Future<Output = ()> + 'a {
    let began = Instant::now();
    let guard =
        client.local.open.add(client.service.map_or(&Limits::DEFAULT, |service| &service.limits), None);
    guard.conn.set_pacer(client.conn.pacer());
    let framing = framing(&head, stream.has_ended());
    let mut story = Story::new(client, began);
    let dialect = Dialect::of(|name| head.find(name));
    let mut is_grpc = dialect == Some(Dialect::Plain);
    let mut tunnel = None;
    let decided = plan_http2(&Client { conn: &guard.conn, ..*client }, head, framing, &mut story);
    let mut side = Side::Http2(Http2Side::of_client(stream));
    async move {
        let session = client.conn;
        let client = &Client { conn: &guard.conn, ..*client };
        let active = story.begin(client);
        if let Some(delay) = story.delay {
            tokio::time::sleep(delay).await;
        }
        let refuse = |side: &mut Side<'_>, mut found: Answer| {
            found.web = dialect.and_then(Dialect::web);
            let status = found.grpc_status().filter(|_| dialect.is_some());
            let outcome = Outcome::here(Then::Next, found.reason, answer(side, found, dialect.is_some()));
            Outcome { grpc: status, ..outcome }
        };
        let mut outcome = match decided {
            Ok(Decided::Forward(plan)) => {
                (is_grpc, tunnel) = (plan.question.is_grpc, plan.question.tunnel);
                match bridged::forward(client, &mut side, plan, &story, began).await {
                    Ok(outcome) => outcome,
                    Err(over) if over.reason.status().is_none() => over.outcome(0),
                    Err(over) => {
                        Outcome { tries: over.tries, ..refuse(&mut side, Answer::of_reason(over.reason)) }
                    }
                }
            }
            Ok(Decided::Answer(found, _)) => refuse(&mut side, *found),
            Err(fault) => refuse(&mut side, Answer::of_reason(fault.of_request())),
        };
        if outcome.reason == RequestReason::DownstreamReset && session.killed() == Some(Reason::MaxAge) {
            outcome.reason = RequestReason::Draining;
        }
        if is_grpc && outcome.grpc.is_none() {
            outcome.grpc = Status::of_reason(outcome.reason);
        }
        if let (Then::Abort(_), Side::Http2(side)) = (&outcome.then, &mut side) {
            let grpc = outcome.grpc.filter(|_| dialect == Some(Dialect::Plain));
            cut(side, outcome.reason, grpc, tunnel);
        }
        story.end(client, active, &outcome);
    }
}

/// How the body of a request is framed for HTTP/1.1.
fn framing(head: &FieldList, has_ended: bool) -> Framing {
    if has_ended {
        return Framing::Length(0);
    }
    // A length that the body does not have ends the stream (RFC 9113, 8.1.1).
    head.content_length().ok().flatten().map_or(Framing::Chunked, Framing::Length)
}

/// Answers by ourselves; gives the status that the client got, 0 if none.
fn answer(side: &mut Side<'_>, answer: Answer, is_grpc: bool) -> u16 {
    let Side::Http2(side) = side else { return 0 };
    let (head, body) = answer.into_http2(is_grpc);
    let sent = side.stream.respond(&head, body.is_empty()).and_then(|()| {
        // Small: it waits for room in the stream's window, if there is none.
        if body.is_empty() { Ok(()) } else { side.stream.give(Piece::Data(body, true)) }
    });
    sent.map_or(0, |()| head.status())
}

/// Makes sure that the client does not take what it has for the whole: a call is told how it ended, anything else is reset.
fn cut(side: &mut Http2Side, reason: RequestReason, grpc: Option<Status>, tunnel: Option<Tunnel>) {
    let code = match reason {
        // What a reset is called there (RFC 9113, 8.5, and RFC 8441, 5).
        RequestReason::ResponseCut if tunnel == Some(Tunnel::Connect) => Code::CONNECT_ERROR,
        RequestReason::ResponseCut if tunnel == Some(Tunnel::WebSocket) => Code::CANCEL,
        RequestReason::DownstreamReset
        | RequestReason::RequestTimeout
        | RequestReason::ResponseTimeout
        | RequestReason::Draining
        | RequestReason::Overload => Code::CANCEL,
        // It could be more than was said to be allowed (RFC 9113, 10.5.1).
        RequestReason::HeadTooLarge => Code::ENHANCE_YOUR_CALM,
        _ => Code::INTERNAL_ERROR,
    };
    if let Some(status) = grpc.filter(|_| side.has_begun && reason != RequestReason::DownstreamReset)
        && side.stream.give(Piece::Trailers(Answer::trailers(status, reason))).is_ok()
    {
        return;
    }
    side.stream.reset(code);
}
