//! What a client gets of an answer that passes a bridge: its head, and word of an end before its end.

use proxy_core::grpc::Status;
use proxy_core::grpc::web::Form;
use proxy_core::http2::FieldList;
use proxy_core::outcome::RequestReason;

use super::Client;
use super::answer::Answer;
use super::plan::Plan;
use crate::forward::bridge::{self, Side};
use crate::forward::grpc_web;
use crate::forward::http1::Framing;
use crate::forward::http2;
use crate::http2::Error;

/// Begins an answer to the client; says whether it is the last one on its connection. `is_early` is one that came before the
/// request was complete.
pub(super) fn send_head(
    client: &Client<'_>,
    plan: &Plan,
    side: &mut Side<'_>,
    answer: bridge::Answer,
    is_early: bool,
) -> Result<bool, Error> {
    let bridge::Answer { mut head, has_ended, is_tunnel, .. } = answer;
    let changes = plan.rule.as_deref().map(|rule| &rule.response_headers);
    http2::edit_answer(&mut head, changes.filter(|changes| !changes.is_empty()));
    match side {
        Side::Http2(side) => {
            side.stream.respond(&head, has_ended)?;
            side.has_begun = true;
            Ok(false)
        }
        Side::Http1(side) if is_tunnel => {
            let is_upgrade = head.status() == 101;
            if is_upgrade {
                head.set("upgrade", b"websocket");
            }
            let none = Framing::Length(0);
            side.begin(http2::write_answer(&head, none, is_upgrade.then_some("upgrade")), none);
            side.begin_tunnel();
            Ok(true)
        }
        Side::Http1(side) => {
            let framing = framing(plan, &mut head, has_ended);
            let question = plan.question;
            let is_last =
                !question.is_keep_alive || framing == Framing::UntilClose || client.is_leaving() || is_early;
            let connection = match (is_last, question.is_version_1_0) {
                (true, _) => Some("close"),
                (false, true) => Some("keep-alive"),
                (false, false) => None,
            };
            side.begin(http2::write_answer(&head, framing, connection), framing);
            Ok(is_last)
        }
    }
}

/// How an answer's body is framed for a client that speaks HTTP/1.1; says so where a head must.
fn framing(plan: &Plan, head: &mut FieldList, has_ended: bool) -> Framing {
    if head.status() == 204 {
        // Nothing is said about the length of what has no content by its nature (RFC 9110, 8.6).
        head.remove("content-length");
    }
    if plan.question.is_head || matches!(head.status(), 204 | 304) {
        return Framing::Length(0);
    }
    let length = head.find("content-length").and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    match (has_ended, length) {
        (true, None) => {
            head.set("content-length", b"0");
            Framing::Length(0)
        }
        (true, _) => Framing::Length(0),
        (false, Some(count)) => Framing::Length(count),
        (false, None) if plan.question.is_version_1_0 => Framing::UntilClose,
        (false, None) => Framing::Chunked,
    }
}

/// Tells a client of gRPC-Web how its call broke off; gives that, if the client was there to take it.
pub(super) async fn tell(side: &mut Side<'_>, form: Form, reason: RequestReason) -> Option<Status> {
    let status = Status::of_reason(reason).filter(|_| reason != RequestReason::DownstreamReset)?;
    grpc_web::end(side, form, Answer::trailers(status, reason)).await.ok().map(|()| status)
}
