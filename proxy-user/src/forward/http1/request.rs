//! Heads of requests: read, and written anew for the endpoint.

use httparse::ParserConfig;
use proxy_core::route::HeaderChanges;

use super::Fault;
use super::body::Framing;
use super::field::{self, Fields, Lengths, Options, Slots, put};
use crate::forward::head::Head;

/// A request's head.
pub struct RequestHead<'h, 'b> {
    /// Method, as it came.
    pub method: &'b str,
    /// What is asked for.
    pub target: Target<'b>,
    /// Host that is asked for, with its port, as it came; empty in HTTP/1.0 without one.
    pub host: &'b str,
    /// It is HTTP/1.0.
    pub is_version_1_0: bool,
    /// How long the body is.
    pub framing: Framing,
    /// Whether the client wants to go on using the connection.
    pub is_keep_alive: bool,
    /// Another protocol that the client would like to go on with, `websocket` for example.
    pub upgrade: Option<&'b str>,
    /// The fields.
    pub fields: Fields<'h, 'b>,
}

/// The four forms of RFC 9112, 3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'b> {
    /// Path; `*` for a server as a whole; empty for CONNECT.
    pub path: &'b str,
    /// What stands behind the `?`; empty if there is none.
    pub query: &'b str,
    /// Path and query as they came.
    pub path_and_query: &'b str,
}

/// What is changed on the way to the endpoint.
#[derive(Default)]
pub struct RequestEdits<'a> {
    /// Path and query in place of those that came.
    pub path_and_query: Option<&'a str>,
    /// Host in place of that which came.
    pub host: Option<&'a str>,
    /// What the rule says about headers.
    pub changes: Option<&'a HeaderChanges>,
    /// Headers of ours, in place of what came under their names.
    pub set: &'a [Option<(&'static str, &'a [u8])>],
}

impl<'h, 'b> RequestHead<'h, 'b> {
    /// Reads a head: all of it, up to and with its empty line, as [`super::Scan`] found it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(head: &'b [u8], slots: &'h mut Slots<'b>) -> Result<Self, Fault> {
        // One empty line in front is overlooked (RFC 9112, 2.2).
        let head = head.strip_prefix(b"\r\n").unwrap_or(head);
        let mut parsed = httparse::Request::new(&mut []);
        ParserConfig::default()
            .parse_request_with_uninit_headers(&mut parsed, head, slots)
            .map_err(fault)
            .and_then(|status| if status.is_complete() { Ok(()) } else { Err(Fault::LineEnd) })?;
        let method = parsed.method.ok_or(Fault::StartLine)?;
        let is_version_1_0 = parsed.version == Some(0);
        let fields = Fields::new(head, parsed.headers);
        Self::read(method, parsed.path.unwrap_or_default(), is_version_1_0, fields)
    }

    fn read(
        method: &'b str,
        target: &'b str,
        is_version_1_0: bool,
        mut fields: Fields<'h, 'b>,
    ) -> Result<Self, Fault> {
        let mut seen = Seen::default();
        for (index, item) in fields.items().iter().enumerate() {
            if seen.handle(item.name, item.value)? {
                fields.drop(index);
            }
        }
        if seen.names_fields {
            fields.drop_nominated()?;
        }
        let (target, authority) = Target::parse(method, target)?;
        let host = match (authority, seen.host) {
            // RFC 9112, 3.2.2: what the target says counts, and Host is made to say the same.
            (Some(authority), _) => authority,
            (None, Some(host)) => text(host).ok_or(Fault::Host)?,
            (None, None) if is_version_1_0 => "",
            (None, None) => return Err(Fault::Host),
        };
        if seen.hosts > 1 || (!is_version_1_0 && seen.hosts == 0) || !is_authority(host) {
            return Err(Fault::Host);
        }
        let framing = seen.lengths.framing(is_version_1_0)?.unwrap_or(Framing::Length(0));
        // Content of a CONNECT has no meaning (RFC 9110, 9.3.6): some take it for a body, others for the tunnel's first bytes.
        let is_connect = method == "CONNECT";
        if is_connect && framing != Framing::Length(0) {
            return Err(Fault::Framing);
        }
        // An offer to go on otherwise may be overlooked (RFC 9110, 7.8): h2c, which tunnels requests past the routes, is, and
        // so are offers with a body, after which few agree where the new protocol begins.
        let is_upgrade = seen.options.is_upgrade && !is_version_1_0 && framing == Framing::Length(0);
        let upgrade = seen.upgrade.filter(|_| is_upgrade).and_then(text);
        Ok(Self {
            method,
            target,
            host,
            is_version_1_0,
            framing,
            // What a client sends ahead into a tunnel that is refused must not be taken for requests.
            is_keep_alive: !seen.options.is_close
                && !is_connect
                && (!is_version_1_0 || seen.options.is_keep_alive),
            upgrade: upgrade.filter(|protocol| !has_h2c(protocol)),
            fields,
        })
    }

    /// Writes the head for the endpoint, as HTTP/1.1.
    pub fn write(mut self, out: &mut Vec<u8>, edits: &RequestEdits<'_>) {
        let is_other_host = edits.host.is_some() || self.fields.find("host") != Some(self.host.as_bytes());
        let host = edits.host.unwrap_or(self.host);
        if is_other_host {
            self.fields.drop_named("host");
        }
        for (name, _) in edits.set.iter().flatten() {
            self.fields.drop_named(name);
        }
        if let Some(changes) = edits.changes {
            let names = changes.remove.iter().chain(changes.set.iter().map(|(name, _)| name));
            names.for_each(|name| self.fields.drop_named(name));
        }
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        let target = edits.path_and_query.unwrap_or(self.target.path_and_query);
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if is_other_host {
            put(out, "host", host.as_bytes());
        }
        self.fields.write(out);
        edits.set.iter().flatten().for_each(|(name, value)| put(out, name, value));
        if let Some(changes) = edits.changes {
            changes.set.iter().chain(&changes.add).for_each(|(name, value)| put(out, name, value.as_bytes()));
        }
        if let Some(protocol) = self.upgrade {
            put(out, "connection", b"upgrade");
            put(out, "upgrade", protocol.as_bytes());
        }
        if self.framing == Framing::Chunked {
            put(out, "transfer-encoding", b"chunked");
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl Head for RequestHead<'_, '_> {
    fn method(&self) -> &str {
        self.method
    }

    fn host(&self) -> &str {
        self.host
    }

    fn path(&self) -> &str {
        self.target.path
    }

    fn query(&self) -> &str {
        self.target.query
    }

    fn path_and_query(&self) -> &str {
        self.target.path_and_query
    }

    fn find(&self, name: &str) -> Option<&[u8]> {
        self.fields.find(name)
    }

    fn find_all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.fields.find_all(name)
    }

    fn version(&self) -> &'static str {
        if self.is_version_1_0 { "1.0" } else { "1.1" }
    }
}

/// What one pass over the fields finds.
#[derive(Default)]
struct Seen<'b> {
    options: Options,
    lengths: Lengths,
    host: Option<&'b [u8]>,
    hosts: u32,
    upgrade: Option<&'b [u8]>,
    names_fields: bool,
}

impl<'b> Seen<'b> {
    /// Takes up a field; says whether it stays behind.
    fn handle(&mut self, name: &str, value: &'b [u8]) -> Result<bool, Fault> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        // Told apart by length first: most fields are none of these.
        match name.len() {
            4 if is("host") => {
                self.hosts += 1;
                self.host = Some(value);
            }
            6 if is("expect") && !value.eq_ignore_ascii_case(b"100-continue") => {
                return Err(Fault::Expectation);
            }
            7 if is("upgrade") => self.upgrade = Some(value),
            10 if is("connection") => self.names_fields |= self.options.handle_connection(value),
            14 if is("content-length") => self.lengths.handle_content_length(value)?,
            14 if is("http2-settings") => return Ok(true),
            17 if is("transfer-encoding") => {
                self.lengths.handle_transfer_encoding(value)?;
                return Ok(true);
            }
            _ => {}
        }
        Ok(field::is_hop_by_hop(name))
    }
}

impl<'b> Target<'b> {
    /// Reads a target, and the authority that it may bring.
    fn parse(method: &str, target: &'b str) -> Result<(Self, Option<&'b str>), Fault> {
        if method == "CONNECT" {
            let parsed = Self { path: "", query: "", path_and_query: target };
            return if has_port(target) { Ok((parsed, Some(target))) } else { Err(Fault::Target) };
        }
        if target == "*" && method == "OPTIONS" {
            return Ok((Self { path: "*", query: "", path_and_query: "*" }, None));
        }
        if target.starts_with('/') {
            return Ok((Self::of_path(target)?, None));
        }
        let scheme = ["http://", "https://"].into_iter().find(|scheme| {
            target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        });
        let rest = &target[scheme.ok_or(Fault::Target)?.len()..];
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() {
            return Err(Fault::Target);
        }
        let parsed = match path {
            // The last proxy makes the asterisk of it again (RFC 9112, 3.2.4).
            "" if method == "OPTIONS" => Self { path: "*", query: "", path_and_query: "*" },
            "" => Self { path: "/", query: "", path_and_query: "/" },
            // A query without a path would need a slash that is not there.
            path if path.starts_with('?') => return Err(Fault::Target),
            path => Self::of_path(path)?,
        };
        Ok((parsed, Some(authority)))
    }

    fn of_path(path_and_query: &'b str) -> Result<Self, Fault> {
        // A fragment never leaves a browser (RFC 9110, 7.1); whoever sends one hopes that somebody cuts it off.
        if path_and_query.contains('#') {
            return Err(Fault::Target);
        }
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        Ok(Self { path, query, path_and_query })
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii())
}

/// Tells whether this is a host, with or without a port, and without user information (RFC 3986, 3.2.2 and 3.2.3).
#[must_use]
pub fn is_authority(host: &str) -> bool {
    let is_in = |marks: &[u8], b: u8| b.is_ascii_alphanumeric() || marks.contains(&b);
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    if let Some(literal) = host.strip_prefix('[') {
        let Some((address, rest)) = literal.split_once(']') else { return false };
        // A zone may stand behind a percent sign (RFC 6874).
        let is_address = !address.is_empty() && address.bytes().all(|b| is_in(b"-._~%!$&'()*+,;=:", b));
        return is_address && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    name.bytes().all(|b| is_in(b"-._~!$&'()*+,;=", b)) && is_port(port)
}

/// Tells whether an authority ends with a port, which a CONNECT must say (RFC 9110, 7.1).
#[must_use]
pub fn has_port(authority: &str) -> bool {
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn has_h2c(protocol: &str) -> bool {
    field::tokens(protocol.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"h2c"))
}

pub(super) fn fault(error: httparse::Error) -> Fault {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Fault::Field,
        httparse::Error::NewLine => Fault::LineEnd,
        httparse::Error::TooManyHeaders => Fault::TooManyFields,
        httparse::Error::Version => Fault::Version,
        httparse::Error::Token | httparse::Error::Status => Fault::StartLine,
    }
}

#[cfg(test)]
mod tests;
