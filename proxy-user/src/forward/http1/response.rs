//! Heads of answers: read, and written anew for the client.

use httparse::ParserConfig;
use proxy_core::route::HeaderChanges;

use super::Fault;
use super::body::Framing;
use super::field::{self, Fields, Lengths, Options, Slots, put};

/// An answer's head.
pub struct ResponseHead<'h, 'b> {
    /// Status, 100 to 999.
    pub status: u16,
    reason: &'b str,
    /// How long the body is; tells nothing yet about answers that have none by their nature.
    framing: Option<Framing>,
    /// Whether the endpoint goes on using the connection after the body.
    pub is_keep_alive: bool,
    /// Protocol that a 101 switches to.
    pub upgrade: Option<&'b [u8]>,
    /// The fields.
    pub fields: Fields<'h, 'b>,
}

/// What is changed on the way to the client.
#[derive(Default)]
pub struct ResponseEdits<'a> {
    /// What the rule says about headers.
    pub changes: Option<&'a HeaderChanges>,
    /// The connection ends after this answer.
    pub is_last: bool,
    /// The client speaks HTTP/1.0.
    pub is_version_1_0: bool,
    /// What follows is another protocol.
    pub is_tunnel: bool,
}

impl<'h, 'b> ResponseHead<'h, 'b> {
    /// Reads a head: all of it, up to and with its empty line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(head: &'b [u8], slots: &'h mut Slots<'b>) -> Result<Self, Fault> {
        let mut parsed = httparse::Response::new(&mut []);
        let status = ParserConfig::default()
            .parse_response_with_uninit_headers(&mut parsed, head, slots)
            .map_err(super::request::fault)?;
        if status.is_partial() {
            return Err(Fault::LineEnd);
        }
        let status = parsed.code.filter(|code| *code >= 100).ok_or(Fault::StartLine)?;
        let is_version_1_0 = parsed.version == Some(0);
        let mut fields = Fields::new(head, parsed.headers);
        let (mut options, mut lengths, mut upgrade, mut names_fields) =
            (Options::default(), Lengths::default(), None, false);
        for (index, item) in fields.items().iter().enumerate() {
            let is = |known: &str| item.name.eq_ignore_ascii_case(known);
            let mut is_dropped = field::is_hop_by_hop(item.name);
            match item.name.len() {
                7 if is("upgrade") => upgrade = Some(item.value),
                10 if is("connection") => names_fields |= options.handle_connection(item.value),
                14 if is("content-length") => lengths.handle_content_length(item.value)?,
                17 if is("transfer-encoding") => {
                    lengths.handle_transfer_encoding(item.value)?;
                    is_dropped = true;
                }
                _ => {}
            }
            if is_dropped {
                fields.drop(index);
            }
        }
        if names_fields {
            fields.drop_nominated()?;
        }
        Ok(Self {
            status,
            reason: parsed.reason.unwrap_or_default(),
            framing: lengths.framing(is_version_1_0)?,
            is_keep_alive: !options.is_close && (!is_version_1_0 || options.is_keep_alive),
            upgrade: upgrade.filter(|_| options.is_upgrade),
            fields,
        })
    }

    /// Tells whether this is not the answer yet.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// How long the body is that follows, given what was asked (RFC 9112, 6.3).
    #[must_use]
    pub fn body(&self, method: &str) -> Framing {
        let is_tunnel = method == "CONNECT" && (200..300).contains(&self.status);
        if method == "HEAD" || is_tunnel || matches!(self.status, 100..200 | 204 | 304) {
            return Framing::Length(0);
        }
        self.framing.unwrap_or(Framing::UntilClose)
    }

    /// Writes the head for the client, as HTTP/1.1. `body` is how the body is going to be sent.
    pub fn write(mut self, out: &mut Vec<u8>, body: Framing, edits: &ResponseEdits<'_>) {
        if let Some(changes) = edits.changes {
            let names = changes.remove.iter().chain(changes.set.iter().map(|(name, _)| name));
            names.for_each(|name| self.fields.drop_named(name));
        }
        // A server says nothing about the length of what has no content by its nature (RFC 9112, 6.1; RFC 9110, 8.6).
        let has_none = edits.is_tunnel || matches!(self.status, 100..200 | 204);
        if has_none {
            self.fields.drop_named("content-length");
        }
        put_line(out, self.status, self.reason);
        self.fields.write(out);
        if let Some(changes) = edits.changes {
            changes.set.iter().chain(&changes.add).for_each(|(name, value)| put(out, name, value.as_bytes()));
        }
        // A HEAD's answer says what a GET's would.
        let is_chunked = self.framing == Some(Framing::Chunked) && body != Framing::UntilClose;
        if is_chunked && !has_none && !edits.is_version_1_0 {
            put(out, "transfer-encoding", b"chunked");
        }
        match self.upgrade {
            Some(protocol) if self.status == 101 => {
                put(out, "connection", b"upgrade");
                put(out, "upgrade", protocol);
            }
            _ if edits.is_last => put(out, "connection", b"close"),
            _ if edits.is_version_1_0 => put(out, "connection", b"keep-alive"),
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes the first line of an answer, with words that mean nothing to anybody but people.
pub fn put_status(out: &mut Vec<u8>, status: u16) {
    let known = http::StatusCode::from_u16(status).ok();
    put_line(out, status, known.and_then(|status| status.canonical_reason()).unwrap_or_default());
}

fn put_line(out: &mut Vec<u8>, status: u16, reason: &str) {
    out.extend_from_slice(b"HTTP/1.1 ");
    put_number(out, status);
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn put_number(out: &mut Vec<u8>, status: u16) {
    let digit = |n: u16| b'0' + u8::try_from(n % 10).unwrap_or_default();
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status)]);
}

#[cfg(test)]
mod tests;
