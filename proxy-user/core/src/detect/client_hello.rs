//! The ClientHello of TLS (RFC 8446, 4.1.2), as far as one routes by it.

use super::Detected;

/// Content type of a handshake record.
pub(super) const HANDSHAKE_RECORD: u8 = 22;
/// Message type.
const CLIENT_HELLO: u8 = 1;
/// Type, version and length of a record.
const RECORD_HEAD_BYTES: usize = 5;
/// Most bytes in a plaintext record (RFC 8446, 5.1).
const RECORD_BYTES: usize = 1 << 14;
/// Type and length of a handshake message.
const MESSAGE_HEAD_BYTES: usize = 4;
/// Longest name in the DNS (RFC 1035, 2.3.4).
const NAME_BYTES: usize = 255;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const ALPN: u16 = 16;

/// What a TLS client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Name of the server in lower case (SNI), if one was asked for and it can be a name in the DNS.
    pub sni: Option<Box<str>>,
    /// Protocols inside, the preferred one first.
    pub alpn: Vec<Box<[u8]>>,
}

/// Reads bytes that begin like a handshake record.
pub(super) fn detect(bytes: &[u8]) -> Detected {
    match message(bytes) {
        Message::Complete(body) => parse(&body).map_or(Detected::Opaque, Detected::Tls),
        Message::NeedMore => Detected::NeedMore,
        Message::Other => Detected::Opaque,
    }
}

enum Message {
    /// The body of the ClientHello.
    Complete(Vec<u8>),
    NeedMore,
    /// Not a ClientHello.
    Other,
}

/// Puts the first handshake message together from the records that carry it.
fn message(mut bytes: &[u8]) -> Message {
    let mut message = Vec::new();
    loop {
        if !begins_record(bytes) {
            return Message::Other;
        }
        let Some((head, rest)) = bytes.split_at_checked(RECORD_HEAD_BYTES) else { return Message::NeedMore };
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if length == 0 || length > RECORD_BYTES {
            return Message::Other;
        }
        let (fragment, after) = rest.split_at(length.min(rest.len()));
        message.extend_from_slice(fragment);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Message::Other;
        }
        if let [_, high, middle, low, ..] = message[..] {
            let end = MESSAGE_HEAD_BYTES + u32::from_be_bytes([0, high, middle, low]) as usize;
            if end > super::DETECT_BYTES {
                return Message::Other;
            }
            if message.len() >= end {
                message.truncate(end);
                message.drain(..MESSAGE_HEAD_BYTES);
                return Message::Complete(message);
            }
        }
        if fragment.len() < length {
            return Message::NeedMore;
        }
        bytes = after;
    }
}

/// Whether this can be the beginning of a handshake record: any version 3.x, as RFC 8446, 5.1 says to ignore it.
fn begins_record(bytes: &[u8]) -> bool {
    bytes.iter().zip([HANDSHAKE_RECORD, 3]).all(|(byte, wanted)| *byte == wanted)
}

/// Reads the body; `None` if it is malformed.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut body = Reader(body);
    let _version = body.take(2)?;
    let _random = body.take(32)?;
    let _session = body.vec8()?;
    let _suites = body.vec16()?;
    let _compressions = body.vec8()?;
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(body.vec16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vec16()?;
        match kind {
            SERVER_NAME => hello.sni = server_name(data)?,
            ALPN => hello.alpn = protocols(data)?,
            _ => {}
        }
    }
    body.0.is_empty().then_some(hello)
}

fn server_name(data: &[u8]) -> Option<Option<Box<str>>> {
    let mut names = Reader(Reader(data).vec16()?);
    let kind = names.u8()?;
    let name = names.vec16()?;
    Some(if kind == HOST_NAME { host_name(name) } else { None })
}

fn host_name(name: &[u8]) -> Option<Box<str>> {
    let is_host = (1..=NAME_BYTES).contains(&name.len())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte));
    let text = is_host.then(|| std::str::from_utf8(name).ok())??;
    Some(text.to_ascii_lowercase().into_boxed_str())
}

fn protocols(data: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let mut list = Reader(Reader(data).vec16()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        protocols.push(list.vec8()?.into());
    }
    Some(protocols)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// Bytes after their length in one byte.
    fn vec8(&mut self) -> Option<&'a [u8]> {
        let count = self.u8()?;
        self.take(usize::from(count))
    }

    /// Bytes after their length in two bytes.
    fn vec16(&mut self) -> Option<&'a [u8]> {
        let count = self.u16()?;
        self.take(usize::from(count))
    }
}
