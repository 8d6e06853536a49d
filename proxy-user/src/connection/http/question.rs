//! What stays known of a request while it is answered.

use proxy_core::grpc::web::{Dialect, Web};
use proxy_core::outcome::Reason;
use proxy_core::retry;

use super::Then;
use crate::forward::head::Head;
use crate::forward::http1::{Framing, RequestHead};
use crate::forward::http2::Tunnel;

/// What must be known of a request to pass its answer on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) is_head: bool,
    pub(super) is_connect: bool,
    pub(super) is_idempotent: bool,
    pub(super) is_version_1_0: bool,
    pub(super) is_keep_alive: bool,
    pub(super) is_upgrade: bool,
    /// What it opens, where a side speaks HTTP/2.
    pub(super) tunnel: Option<Tunnel>,
    /// The endpoint gets a call.
    pub(super) is_grpc: bool,
    /// The client calls in gRPC-Web.
    pub(super) web: Option<Web>,
}

impl Question {
    pub(super) fn of_http1(head: &RequestHead<'_, '_>) -> Self {
        Self {
            is_version_1_0: head.is_version_1_0,
            is_keep_alive: head.is_keep_alive,
            is_upgrade: head.upgrade.is_some(),
            ..Self::of(head)
        }
    }

    /// A question of a client that goes on asking, whatever comes of this one.
    pub(super) fn of(head: &impl Head) -> Self {
        let method = head.method();
        let dialect = Dialect::of(|name| head.find(name));
        Self {
            is_grpc: dialect == Some(Dialect::Plain),
            web: dialect.and_then(Dialect::web),
            is_head: method == "HEAD",
            is_connect: method == "CONNECT",
            is_idempotent: retry::is_idempotent(method),
            is_version_1_0: false,
            is_keep_alive: true,
            is_upgrade: false,
            tunnel: None,
        }
    }

    /// What comes after an answer that was the last one. Behind a body an old client may send an empty line (RFC 9112, 2.2), and
    /// who wants a tunnel what goes into it.
    pub(super) fn after_last(self, framing: Framing) -> Then {
        let wants_tunnel = self.is_connect || self.is_upgrade;
        let is_done = !self.is_keep_alive && framing == Framing::Length(0) && !wants_tunnel;
        if is_done { Then::Done } else { Then::Close(Reason::Fin) }
    }

    /// The same of one that opens a tunnel: nobody else can be asked once it is open.
    pub(super) fn opening(self, tunnel: Option<Tunnel>) -> Self {
        Self { tunnel, is_idempotent: self.is_idempotent && tunnel.is_none(), ..self }
    }

    /// The client's form of gRPC-Web, if the endpoint is spoken to in gRPC.
    pub(super) fn bridged_web(self) -> Option<Web> {
        self.web.filter(|_| self.is_grpc)
    }

    /// The method as far as the length of an answer's body depends on it.
    pub(super) fn method(self) -> &'static str {
        match (self.is_head, self.is_connect) {
            (true, _) => "HEAD",
            (_, true) => "CONNECT",
            _ => "",
        }
    }
}
