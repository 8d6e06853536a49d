//! Answers that Weir makes itself.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use proxy_core::grpc::Status;
use proxy_core::grpc::web::Web;
use proxy_core::http2::FieldList;
use proxy_core::outcome::RequestReason;
use proxy_core::rate::TooEarly;
use proxy_core::route::fault::{FaultAnswer, FaultEnd};
use proxy_io::Chunk;
use rand::Rng as _;
use rand::rngs::SmallRng;

use super::Client;
use crate::forward::http1::{Framing, put_status};
use crate::forward::http2;
use crate::forward::l4::Watch as _;
use crate::forward::wire::Wire;

/// When to come again to a node that takes no new work, at the soonest and at the latest: less than two seconds no rung of the ladder
/// lasts, and those that were refused together must not come together.
const OVERLOADED_SECONDS: std::ops::RangeInclusive<u64> = 2..=5;

/// When to come again to a service that has enough to do: who tries at once makes it no less.
const BUSY_TIME: Duration = Duration::from_secs(1);

/// Says why Weir answers itself.
const X_WEIR_REASON: &str = "x-weir-reason";

/// An answer. Its body says the reason in the word of the access log and metrics; so does the header `x-weir-reason`.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) reason: RequestReason,
    /// Where else to ask.
    pub(super) location: Option<String>,
    /// What a gRPC call is told, where the reason alone does not say it.
    pub(super) grpc: Option<Status>,
    /// When to ask again.
    pub(super) early: Option<TooEarly>,
    /// Type and text of the body, where the config says them.
    pub(super) body: Option<(Box<str>, Box<str>)>,
    /// The question was HEAD: no body follows, whatever its length says.
    pub(super) is_head: bool,
    /// The question was a call in gRPC-Web.
    pub(super) web: Option<Web>,
}

impl Answer {
    /// What a request is answered with that ends like this.
    pub(super) fn of_reason(reason: RequestReason) -> Self {
        let early = (reason == RequestReason::ConcurrencyLimit).then_some(TooEarly { wait: BUSY_TIME });
        Self { early, ..Self::of_config(reason, reason.status().unwrap_or(500)) }
    }

    /// What a request is answered with that came too early.
    pub(super) fn too_early(early: TooEarly) -> Self {
        Self { early: Some(early), ..Self::of_reason(RequestReason::RateLimited) }
    }

    /// What a request is answered with when memory or descriptors run out.
    pub(super) fn overloaded(rng: &mut SmallRng) -> Self {
        let wait = Duration::from_secs(rng.random_range(OVERLOADED_SECONDS));
        Self { early: Some(TooEarly { wait }), ..Self::of_reason(RequestReason::Overload) }
    }

    /// What a request is answered with that fails on purpose.
    pub(super) fn of_fault(end: FaultEnd) -> Self {
        let reason = RequestReason::FaultInjected;
        match end {
            FaultEnd::Abort(FaultAnswer::Http(status)) => {
                Self { grpc: Some(Status::from_http_status(status)), ..Self::of_config(reason, status) }
            }
            // Who does not speak gRPC gets what a client of gRPC would read as this.
            FaultEnd::Abort(FaultAnswer::Grpc(status)) => {
                Self { grpc: Some(status), ..Self::of_config(reason, 503) }
            }
            FaultEnd::RateLimited(wait) => Self {
                grpc: Some(Status::ResourceExhausted),
                early: Some(TooEarly { wait }),
                ..Self::of_config(reason, 429)
            },
        }
    }

    /// What it is called in a gRPC call; none where the config says what is answered.
    pub(super) fn grpc_status(&self) -> Option<Status> {
        self.grpc.or_else(|| Status::of_reason(self.reason))
    }

    /// What the config says is answered.
    pub(super) fn of_config(reason: RequestReason, status: u16) -> Self {
        Self {
            status,
            reason,
            location: None,
            grpc: None,
            early: None,
            body: None,
            is_head: false,
            web: None,
        }
    }

    /// What the config asks for is no fault of anybody.
    fn is_asked_for(&self) -> bool {
        matches!(self.reason, RequestReason::Redirect | RequestReason::DirectResponse)
    }

    /// Type and text of the body; both empty if there is none.
    fn content(&self) -> (&str, Cow<'_, str>) {
        match &self.body {
            Some((content_type, body)) => (content_type, Cow::Borrowed(body)),
            None if self.is_asked_for() => ("", Cow::Borrowed("")),
            None => ("text/plain", Cow::Owned(format!("{} {}\n", self.status, self.reason.as_str()))),
        }
    }

    /// The answer in HTTP/2: head and body. To a gRPC call it is in gRPC's words, which are a head and nothing else
    /// ("Trailers-Only").
    pub(super) fn into_http2(self, is_grpc: bool) -> (FieldList, Bytes) {
        if is_grpc && let Some(status) = self.grpc_status() {
            return (self.in_grpc(status), Bytes::new());
        }
        let (content_type, body) = self.content();
        let mut head = FieldList::of_answer(self.status);
        head.append("content-length", body.len().to_string().as_bytes());
        if !content_type.is_empty() {
            head.append("content-type", content_type.as_bytes());
        }
        if !self.is_asked_for() {
            head.append(X_WEIR_REASON, self.reason.as_str().as_bytes());
        }
        if let Some(early) = self.early {
            head.append("retry-after", early.retry_after_seconds().to_string().as_bytes());
        }
        if let Some(location) = &self.location {
            head.append("location", location.as_bytes());
        }
        let body = if self.is_head { Bytes::new() } else { Bytes::from(body.into_owned()) };
        (head, body)
    }

    fn in_grpc(&self, status: Status) -> FieldList {
        let mut head = FieldList::of_answer(200);
        let content_type = self.web.map_or("application/grpc", |web| web.answers.content_type());
        head.append("content-type", content_type.as_bytes());
        Self::trailers(status, self.reason).plain().for_each(|(name, value)| head.append(name, value));
        if let Some(early) = self.early {
            head.append("grpc-retry-pushback-ms", early.pushback_ms().to_string().as_bytes());
        }
        head
    }

    /// What tells a call how it ended.
    pub(super) fn trailers(status: Status, reason: RequestReason) -> FieldList {
        let reason = reason.as_str();
        [("grpc-status", status.header_value()), ("grpc-message", reason), (X_WEIR_REASON, reason)]
            .into_iter()
            .collect()
    }

    /// What it is called in a call, if it is written in gRPC-Web.
    pub(super) fn web_status(&self) -> Option<Status> {
        self.grpc_status().filter(|_| self.web.is_some())
    }

    fn write(&self, is_last: bool) -> Vec<u8> {
        use std::io::Write as _;
        if let Some(status) = self.web_status() {
            let mut head = self.in_grpc(status);
            head.append("content-length", b"0");
            return http2::write_answer(&head, Framing::Length(0), is_last.then_some("close"));
        }
        let (content_type, body) = self.content();
        let mut out = Vec::with_capacity(192 + body.len());
        put_status(&mut out, self.status);
        // Writing to a Vec does not fail.
        let _ = write!(out, "content-length: {}\r\n", body.len());
        if !content_type.is_empty() {
            let _ = write!(out, "content-type: {content_type}\r\n");
        }
        if !self.is_asked_for() {
            let _ = write!(out, "{X_WEIR_REASON}: {}\r\n", self.reason.as_str());
        }
        if let Some(early) = self.early {
            let _ = write!(out, "retry-after: {}\r\n", early.retry_after_seconds());
        }
        if let Some(location) = &self.location {
            let _ = write!(out, "location: {location}\r\n");
        }
        out.extend_from_slice(if is_last { b"connection: close\r\n\r\n" } else { b"\r\n" });
        if !self.is_head {
            out.extend_from_slice(body.as_bytes());
        }
        out
    }
}

/// Sends an answer.
///
/// # Errors
/// What the client's connection died of, or `TimedOut` if the owner ends it first.
pub(super) async fn send(
    client: &Client<'_>,
    down: &mut Wire,
    answer: Answer,
    is_last: bool,
) -> io::Result<()> {
    let mut out = Chunk::from(answer.write(is_last));
    if is_last {
        down.stream.expect_end();
    }
    poll_fn(|cx| {
        if client.conn.poll_kill(cx).is_some() && !is_last {
            return std::task::Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        down.poll_send(cx, &mut out, client.conn)
    })
    .await
}
