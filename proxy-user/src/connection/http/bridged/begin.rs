//! The begin of a try over a bridge.

use std::time::{Duration, Instant};

use proxy_core::grpc::{self, TimeoutText};
use proxy_core::http2::FieldList;
use proxy_core::outcome::RequestReason;
use rand::Rng as _;

use super::Reached;
use crate::connection::http::Client;
use crate::connection::http::attempt::Broken;
use crate::connection::http::plan::Plan;
use crate::forward::bridge::{Http1Side, Side};
use crate::forward::http1::Body;
use crate::forward::http2::{self, Opening};

const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Time for an endpoint to say what it offers: no more than a connection takes.
const GREETING_TIME: Duration = Duration::from_secs(5);

/// Waits until it is known that an endpoint of HTTP/2 lets streams become something else.
pub(super) async fn takes_protocols(
    reached: &Reached,
    deadline: Option<(Instant, RequestReason)>,
) -> Result<(), Broken> {
    let Reached::Http2(streams) = reached else { return Ok(()) };
    let most = Instant::now() + GREETING_TIME;
    let until = deadline.map_or(most, |(at, _)| at.min(most));
    let asked = tokio::time::timeout_at(until.into(), streams.lease.takes_protocols()).await;
    if asked.unwrap_or(false) { Ok(()) } else { Err(Broken::Over(RequestReason::UpstreamNoTunnel)) }
}

/// A try that has begun.
pub(super) struct Begun<'r> {
    pub(super) up: Side<'r>,
    pub(super) opening: Option<Box<Opening>>,
}

/// Begins a try: its head is on its way.
pub(super) fn begin<'r>(
    client: &Client<'_>,
    plan: &Plan,
    request: &FieldList,
    reached: &'r mut Reached,
    has_body: bool,
    deadline: Option<(Instant, RequestReason)>,
) -> Result<Begun<'r>, Broken> {
    let timeout = timeout(plan, deadline);
    let edit = timeout.as_ref().map(|timeout| (GRPC_TIMEOUT, timeout.as_bytes()));
    let tunnel = plan.question.tunnel;
    match reached {
        Reached::Http1(upstream) => {
            let mut head = request.clone();
            edit.into_iter().for_each(|edit| head.apply(edit));
            let key = || client.local.rng.borrow_mut().random();
            let opening = tunnel.map(|tunnel| Box::new(tunnel.ask_http1(&mut head, key())));
            let mut up = Http1Side::of_endpoint(&mut upstream.wire, Body::Length(0));
            up.begin(http2::write_request(&head, plan.framing), plan.framing);
            Ok(Begun { up: Side::Http1(up), opening })
        }
        Reached::Http2(streams) => {
            let Some(tunnel) = tunnel else {
                return Ok(Begun {
                    up: Side::Http2(streams.begin(request, edit, !has_body)?),
                    opening: None,
                });
            };
            let mut head = request.clone();
            let opening = Some(Box::new(tunnel.ask_http2(&mut head)));
            Ok(Begun { up: Side::Http2(streams.begin(&head, edit, !has_body)?), opening })
        }
    }
}

/// The time that a try has, which a gRPC call is told.
fn timeout(plan: &Plan, deadline: Option<(Instant, RequestReason)>) -> Option<TimeoutText> {
    let (at, _) = deadline.filter(|_| plan.question.is_grpc)?;
    Some(grpc::format_timeout(at.saturating_duration_since(Instant::now())))
}
