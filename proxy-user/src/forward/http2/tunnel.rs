//! Tunnels that a request opens. A WebSocket is an upgrade in HTTP/1.1 (RFC 6455, 4) and an extended CONNECT in HTTP/2 (RFC 8441);
//! CONNECT is the same in both.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, request};

use crate::forward::http1::{Fault, RequestHead, ResponseHead};
use crate::http2::Protocol;

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
    accept: Option<HeaderValue>,
}

impl Tunnel {
    /// Looks what a client of HTTP/2 opens. From there on a WebSocket is asked for as it is in HTTP/1.1, by GET, for rules and logs,
    /// too.
    ///
    /// # Errors
    /// `Tunnel` for what else a stream could become.
    pub fn take(parts: &mut request::Parts) -> Result<Option<Self>, Fault> {
        let tunnel = match parts.extensions.remove::<Protocol>() {
            Some(Protocol(name)) if name.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()) => {
                Self::WebSocket
            }
            Some(_) => return Err(Fault::Tunnel),
            None if parts.method == Method::CONNECT => Self::Connect,
            None => return Ok(None),
        };
        parts.headers.remove(CONTENT_LENGTH);
        if tunnel == Self::WebSocket {
            parts.method = Method::GET;
            parts.headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
            // Whoever asks in HTTP/1.1 has a key of its own (RFC 8441, 5).
            parts.headers.remove(SEC_WEBSOCKET_KEY);
        }
        Ok(Some(tunnel))
    }

    /// Looks what a client of HTTP/1.1 opens, as far as HTTP/2 has words for it.
    #[must_use]
    pub fn of_http1(head: &RequestHead<'_, '_>) -> Option<Self> {
        let is_websocket = head.upgrade.is_some_and(|name| name.eq_ignore_ascii_case(WEBSOCKET));
        let has_key = head.fields.find_all("sec-websocket-key").count() == 1;
        (is_websocket && has_key && head.method == "GET").then_some(Self::WebSocket)
    }

    /// Asks an endpoint of HTTP/1.1, by this key.
    pub fn ask_http1(self, request: &mut Request<()>, key: [u8; 16]) -> Opening {
        let mut accept = None;
        if self == Self::WebSocket {
            let headers = request.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
            if let Ok(key) = HeaderValue::from_str(&STANDARD.encode(key)) {
                accept = accept_of(&key);
                headers.insert(SEC_WEBSOCKET_KEY, key);
            }
        }
        Opening { tunnel: self, accept }
    }

    /// Asks an endpoint of HTTP/2.
    pub fn ask_http2(self, request: &mut Request<()>) -> Opening {
        *request.method_mut() = Method::CONNECT;
        if self == Self::WebSocket {
            request.headers_mut().remove(SEC_WEBSOCKET_KEY);
            request.extensions_mut().insert(Protocol(HeaderValue::from_static(WEBSOCKET)));
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
                let is_proven = proof == self.accept.as_ref().map(HeaderValue::as_bytes);
                if is_websocket && is_proven { Ok(true) } else { Err(Fault::StartLine) }
            }
            Tunnel::Connect if is_switch => Err(Fault::StartLine),
            Tunnel::WebSocket => Ok(false),
            Tunnel::Connect => Ok((200..300).contains(&head.status)),
        }
    }
}

/// Makes the answer that opens a tunnel one of HTTP/2.
pub fn set_opened(response: &mut Response<()>) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        *response.status_mut() = StatusCode::OK;
    }
    // There is no body that these could be about.
    for name in [SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH, TRANSFER_ENCODING] {
        response.headers_mut().remove(name);
    }
}

/// Makes the answer that opens a WebSocket one of HTTP/1.1, for whoever asked like this.
pub fn set_switched(response: &mut Response<()>, request: &Request<()>) {
    set_opened(response);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    if let Some(accept) = request.headers().get(SEC_WEBSOCKET_KEY).and_then(accept_of) {
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
}

/// What a server proves with that it has read a key.
fn accept_of(key: &HeaderValue) -> Option<HeaderValue> {
    let read = [key.as_bytes(), GUID].concat();
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &read);
    HeaderValue::from_str(&STANDARD.encode(hash)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_rfc_says() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_of(&key).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_websocket_is_asked_for_by_get_and_other_protocols_are_not_known() {
        let asked = |protocol: Option<&'static str>| {
            let mut request =
                Request::connect("http://a/chat").header("content-length", "5").body(()).unwrap();
            if let Some(protocol) = protocol {
                request.extensions_mut().insert(Protocol(HeaderValue::from_static(protocol)));
            }
            request.into_parts().0
        };
        let mut parts = asked(Some("WebSocket"));
        assert_eq!(Tunnel::take(&mut parts), Ok(Some(Tunnel::WebSocket)));
        assert_eq!(
            (&parts.method, &parts.headers[UPGRADE], parts.headers.len()),
            (&Method::GET, &HeaderValue::from_static(WEBSOCKET), 1)
        );
        assert_eq!(Tunnel::take(&mut asked(Some("connect-udp"))), Err(Fault::Tunnel));
        assert_eq!(Tunnel::take(&mut asked(None)), Ok(Some(Tunnel::Connect)));
    }
}
