//! Answers that Weir makes itself.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use proxy_core::grpc::Status;
use proxy_core::grpc::web::Web;
use proxy_core::outcome::RequestReason;
use proxy_core::rate::TooEarly;
use proxy_core::route::fault::{FaultAnswer, FaultEnd};
use proxy_io::Chunk;
use rand::Rng as _;
use rand::rngs::SmallRng;

use super::Client;
use crate::forward::http1::Framing;
use crate::forward::http2;
use crate::forward::l4::Watch as _;
use crate::forward::wire::Wire;

/// When to come again to a node that takes no new work, at the soonest and at the latest: less than two seconds no rung of the ladder
/// lasts, and those that were refused together must not come together.
const OVERLOADED_SECONDS: std::ops::RangeInclusive<u64> = 2..=5;

/// When to come again to a service that has enough to do: who tries at once makes it no less.
const BUSY_TIME: Duration = Duration::from_secs(1);

/// Says why Weir answers itself.
const X_WEIR_REASON: HeaderName = HeaderName::from_static("x-weir-reason");

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
    pub(super) fn into_http2(self, is_grpc: bool) -> (Response<()>, Bytes) {
        if is_grpc && let Some(status) = self.grpc_status() {
            return (self.in_grpc(status), Bytes::new());
        }
        let (content_type, body) = self.content();
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        if !content_type.is_empty() {
            set(header::CONTENT_TYPE, content_type);
        }
        if !self.is_asked_for() {
            set(X_WEIR_REASON, self.reason.as_str());
        }
        if let Some(early) = self.early {
            set(header::RETRY_AFTER, &early.retry_after_seconds().to_string());
        }
        if let Some(location) = &self.location {
            set(header::LOCATION, location);
        }
        let body = if self.is_head { Bytes::new() } else { Bytes::from(body.into_owned()) };
        (response, body)
    }

    fn in_grpc(&self, status: Status) -> Response<()> {
        let mut response = Response::new(());
        *response.headers_mut() = Self::trailers(status, self.reason);
        let content_type = self.web.map_or("application/grpc", |web| web.answers.content_type());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(early) = self.early {
            response.headers_mut().insert("grpc-retry-pushback-ms", early.pushback_ms().into());
        }
        response
    }

    /// What tells a call how it ended.
    pub(super) fn trailers(status: Status, reason: RequestReason) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let reason = HeaderValue::from_static(reason.as_str());
        headers.insert("grpc-status", HeaderValue::from_static(status.header_value()));
        headers.insert("grpc-message", reason.clone());
        headers.insert(X_WEIR_REASON, reason);
        headers
    }

    /// What it is called in a call, if it is written in gRPC-Web.
    pub(super) fn web_status(&self) -> Option<Status> {
        self.grpc_status().filter(|_| self.web.is_some())
    }

    fn write(&self, is_last: bool) -> Vec<u8> {
        use std::io::Write as _;
        if let Some(status) = self.web_status() {
            let (mut head, ()) = self.in_grpc(status).into_parts();
            head.headers.insert(header::CONTENT_LENGTH, 0.into());
            return http2::write_response(&head, Framing::Length(0), is_last.then_some("close"));
        }
        let (content_type, body) = self.content();
        let mut out = Vec::with_capacity(192 + body.len());
        // Writing to a Vec does not fail.
        let _ = write!(
            out,
            "HTTP/1.1 {} {}\r\ncontent-length: {}\r\n",
            self.status,
            phrase(self.status),
            body.len()
        );
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
    poll_fn(|cx| {
        if client.conn.poll_kill(cx).is_some() && !is_last {
            return std::task::Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        down.poll_send(cx, &mut out, client.conn)
    })
    .await
}

/// Words for a status (RFC 9110, 15); they mean nothing to anybody but people.
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
