//! Tunnels that a request opens. A WebSocket is an upgrade in HTTP/1.1 (RFC 6455, 4) and an extended CONNECT in HTTP/2 (RFC 8441);
//! CONNECT is the same in both.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proxy_core::http2::FieldList;

use crate::forward::http1::{Fault, RequestHead, ResponseHead};

const WEBSOCKET: &str = "websocket";
/// What a server proves with that it has read a key (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a request opens, if it is answered so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// A WebSocket.
    WebSocket,
    /// A stream of bytes to a host.
    Connect,
}

/// What an endpoint was asked for, and how it says yes.
#[derive(Clone, Debug)]
pub struct Opening {
    /// What is to be opened.
    pub tunnel: Tunnel,
    /// What it proves with, in HTTP/1.1, that it has read the key.
    accept: Option<String>,
}

impl Tunnel {
    /// Looks what a client of HTTP/2 opens. From there on a WebSocket is asked for as it is in HTTP/1.1, by GET, for rules and logs,
    /// too.
    ///
    /// # Errors
    /// `Tunnel` for what else a stream could become.
    pub fn take(head: &mut FieldList) -> Result<Option<Self>, Fault> {
        let tunnel = match head.find(":protocol") {
            Some(name) if name.eq_ignore_ascii_case(WEBSOCKET.as_bytes()) => Self::WebSocket,
            Some(_) => return Err(Fault::Tunnel),
            None if head.method() == "CONNECT" => Self::Connect,
            None => return Ok(None),
        };
        head.remove("content-length");
        if tunnel == Self::WebSocket {
            head.remove(":protocol");
            head.set(":method", b"GET");
            head.set("upgrade", WEBSOCKET.as_bytes());
            // Whoever asks in HTTP/1.1 has a key of its own (RFC 8441, 5).
            head.remove("sec-websocket-key");
        }
        Ok(Some(tunnel))
    }

    /// Looks what a client of HTTP/1.1 opens, as far as HTTP/2 has words for it.
    #[must_use]
    pub fn of_http1(head: &RequestHead<'_, '_>) -> Option<Self> {
        if head.method == "CONNECT" {
            return Some(Self::Connect);
        }
        let is_websocket = head.upgrade.is_some_and(|name| name.eq_ignore_ascii_case(WEBSOCKET));
        let has_key = head.fields.find_all("sec-websocket-key").count() == 1;
        (is_websocket && has_key && head.method == "GET").then_some(Self::WebSocket)
    }

    /// Asks an endpoint of HTTP/1.1, by this key.
    pub fn ask_http1(self, request: &mut FieldList, key: [u8; 16]) -> Opening {
        let mut accept = None;
        if self == Self::WebSocket {
            request.set("connection", b"upgrade");
            request.set("upgrade", WEBSOCKET.as_bytes());
            let key = STANDARD.encode(key);
            request.set("sec-websocket-key", key.as_bytes());
            accept = Some(accept_of(key.as_bytes()));
        }
        Opening { tunnel: self, accept }
    }

    /// Asks an endpoint of HTTP/2.
    pub fn ask_http2(self, request: &mut FieldList) -> Opening {
        request.set(":method", b"CONNECT");
        if self == Self::WebSocket {
            request.remove("sec-websocket-key");
            request.set(":protocol", WEBSOCKET.as_bytes());
        }
        Opening { tunnel: self, accept: None }
    }
}

impl Opening {
    /// Tells whether an endpoint of HTTP/1.1 has opened what it was asked for.
    ///
    /// # Errors
    /// If it switches to what nobody asked for.
    pub fn is_opened(&self, head: &ResponseHead<'_, '_>) -> Result<bool, Fault> {
        let is_switch = head.status == 101;
        match self.tunnel {
            Tunnel::WebSocket if is_switch => {
                let proof = head.fields.find_all("sec-websocket-accept").next();
                let is_websocket =
                    head.upgrade.is_some_and(|name| name.eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
                let is_proven = proof == self.accept.as_ref().map(String::as_bytes);
                if is_websocket && is_proven { Ok(true) } else { Err(Fault::StartLine) }
            }
            Tunnel::Connect if is_switch => Err(Fault::StartLine),
            Tunnel::WebSocket => Ok(false),
            Tunnel::Connect => Ok((200..300).contains(&head.status)),
        }
    }
}

/// Makes the answer that opens a tunnel one of HTTP/2.
pub fn set_opened(answer: &mut FieldList) {
    if answer.status() == 101 {
        answer.set_status(200);
    }
    // There is no body that these could be about.
    for name in ["sec-websocket-accept", "content-length", "transfer-encoding"] {
        answer.remove(name);
    }
}

/// Makes the answer that opens a WebSocket one of HTTP/1.1, for whoever asked like this.
pub fn set_switched(answer: &mut FieldList, request: &FieldList) {
    answer.set_status(101);
    if let Some(key) = request.find("sec-websocket-key") {
        answer.set("sec-websocket-accept", accept_of(key).as_bytes());
    }
}

/// What a server proves with that it has read a key.
fn accept_of(key: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    STANDARD.encode(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_rfc_says() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_websocket_is_asked_for_by_get_and_other_protocols_are_not_known() {
        let asked = |protocol: Option<&str>| {
            let mut request = FieldList::of_request("CONNECT", Some("a"), "/chat");
            request.append("content-length", b"5");
            if let Some(protocol) = protocol {
                request.set(":protocol", protocol.as_bytes());
            }
            request
        };
        let mut head = asked(Some("WebSocket"));
        assert_eq!(Tunnel::take(&mut head), Ok(Some(Tunnel::WebSocket)));
        let mut wanted = FieldList::of_request("GET", Some("a"), "/chat");
        wanted.append("upgrade", b"websocket");
        assert_eq!(head, wanted);
        assert_eq!(Tunnel::take(&mut asked(Some("connect-udp"))), Err(Fault::Tunnel));
        assert_eq!(Tunnel::take(&mut asked(None)), Ok(Some(Tunnel::Connect)));
    }
}
