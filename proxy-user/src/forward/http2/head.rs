//! Heads as HTTP/2 has them, and their way to and from HTTP/1.1.

use proxy_core::http2::{FieldList, Malformed, is_hop_by_hop, is_path};
use proxy_core::route::HeaderChanges;

use crate::forward::head::Head;
use crate::forward::http1::{
    Fault, Framing, MOST_FIELDS, RequestEdits, RequestHead, ResponseHead, has_port, is_authority,
    is_forbidden_trailer, put, put_status,
};

/// A request of an HTTP/2 client, well-formed line by line.
pub struct Asked<'a> {
    list: &'a FieldList,
    host: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Asked<'a> {
    /// Looks at a head.
    ///
    /// # Errors
    /// What a server must not serve although each line of it is well-formed.
    pub fn of(list: &'a FieldList) -> Result<Self, Fault> {
        let mut hosts = list.find_all("host");
        let named =
            hosts.next().map(|host| std::str::from_utf8(host).map_err(|_| Fault::Host)).transpose()?;
        let is_several = hosts.next().is_some();
        // RFC 9113, 8.3.1: both must say the same.
        let host = match (list.authority(), named) {
            _ if is_several => return Err(Fault::Host),
            (Some(authority), Some(named)) if !authority.eq_ignore_ascii_case(named) => {
                return Err(Fault::Host);
            }
            (Some(host), _) | (None, Some(host)) => host,
            (None, None) => return Err(Fault::Host),
        };
        if host.is_empty() || !is_authority(host) {
            return Err(Fault::Host);
        }
        let is_plain_connect = list.method() == "CONNECT" && list.find(":protocol").is_none();
        if is_plain_connect && !has_port(host) {
            return Err(Fault::Target);
        }
        // One, and digits: what goes on to HTTP/1.1 must not be read in two ways there.
        list.content_length().map_err(|Malformed| Fault::ContentLength)?;
        if list.find("expect").is_some_and(|value| value != b"100-continue") {
            return Err(Fault::Expectation);
        }
        let target = list.path_and_query();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Ok(Self { list, host, path, query })
    }
}

impl Head for Asked<'_> {
    fn method(&self) -> &str {
        self.list.method()
    }

    fn host(&self) -> &str {
        self.host
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> &str {
        self.query
    }

    fn path_and_query(&self) -> &str {
        self.list.path_and_query()
    }

    fn find(&self, name: &str) -> Option<&[u8]> {
        self.list.find(name)
    }

    fn find_all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.list.find_all(name)
    }

    fn version(&self) -> &'static str {
        "2"
    }
}

/// Compares a head or trailers, as HTTP/2 counts them, with what is allowed.
///
/// # Errors
/// If they are too large.
pub fn check_size(list: &FieldList, most_bytes: usize) -> Result<(), Fault> {
    if list.list_bytes() > most_bytes { Err(Fault::HeadTooLarge) } else { Ok(()) }
}

/// Makes the head that an endpoint gets of one that came in HTTP/2.
///
/// # Errors
/// `Target` if a rewritten path is none.
pub fn of_http2(mut list: FieldList, edits: &RequestEdits<'_>) -> Result<FieldList, Fault> {
    join_cookies(&mut list);
    let is_dropped = |name: &[u8]| match name.len() {
        // It says what the authority says.
        4 => name == b"host",
        14 => name == b"http2-settings",
        _ => false,
    };
    // Most of what is for one hop is refused where it comes in; a proxy must not depend on that.
    if list.authority().is_none()
        && let Some(host) = list.find("host").map(<[u8]>::to_vec)
    {
        list.set(":authority", &host);
    }
    list.retain(|field| !is_hop_by_hop(field) && !is_dropped(field.name));
    edit_request(&mut list, edits)?;
    Ok(list)
}

/// Makes the head that an HTTP/2 endpoint gets of one that came in HTTP/1.1.
///
/// # Errors
/// `Target` for what some take for a path, and not everybody.
pub fn of_http1(head: &RequestHead<'_, '_>, edits: &RequestEdits<'_>) -> Result<FieldList, Fault> {
    let host = Some(head.host).filter(|host| !host.is_empty());
    let mut list = match (head.method, host) {
        ("CONNECT", Some(host)) => FieldList::of_connect(host),
        _ => FieldList::of_request(head.method, host, head.target.path_and_query),
    };
    let kept = head.fields.kept().filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
    append(&mut list, kept);
    if head.fields.find_all("te").any(|te| te.eq_ignore_ascii_case(b"trailers")) {
        list.append("te", b"trailers");
    }
    edit_request(&mut list, edits)?;
    list.check_request().map_err(|Malformed| Fault::Target)?;
    Ok(list)
}

fn edit_request(list: &mut FieldList, edits: &RequestEdits<'_>) -> Result<(), Fault> {
    for (name, value) in edits.set.iter().flatten() {
        list.set(name, value);
    }
    if let Some(changes) = edits.changes {
        change(list, changes);
    }
    // What a CONNECT asks for is asked for, whatever else is said.
    if list.find(":path").is_none() {
        return Ok(());
    }
    if let Some(host) = edits.host {
        list.set(":authority", host.as_bytes());
    }
    if let Some(target) = edits.path_and_query {
        list.set(":path", target.as_bytes());
        let is_target = is_path(target.as_bytes()) || target == "*";
        return if is_target { Ok(()) } else { Err(Fault::Target) };
    }
    Ok(())
}

/// Writes a head for an HTTP/1.1 endpoint.
#[must_use]
pub fn write_request(list: &FieldList, framing: Framing) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let (method, authority) = (list.method(), list.authority().unwrap_or_default());
    let target = if method == "CONNECT" { authority } else { list.path_and_query() };
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    put(&mut out, "host", authority.as_bytes());
    list.plain().filter(|(name, _)| *name != "te").for_each(|(name, value)| put(&mut out, name, value));
    if framing == Framing::Chunked {
        put(&mut out, "transfer-encoding", b"chunked");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Makes an answer of HTTP/1.1 one of HTTP/2.
#[must_use]
pub fn answer_of_http1(head: &ResponseHead<'_, '_>) -> FieldList {
    let mut list = FieldList::of_answer(head.status);
    append(&mut list, head.fields.kept());
    list
}

/// Takes out of an answer of HTTP/2 what is for one hop, and changes what a rule says.
pub fn edit_answer(list: &mut FieldList, changes: Option<&HeaderChanges>) {
    list.retain(|field| !is_hop_by_hop(field) && field.name != b"te");
    if let Some(changes) = changes {
        change(list, changes);
    }
}

/// Writes the head of an answer for an HTTP/1.1 client.
#[must_use]
pub fn write_answer(list: &FieldList, framing: Framing, connection: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    put_status(&mut out, list.status());
    list.plain().for_each(|(name, value)| put(&mut out, name, value));
    if framing == Framing::Chunked {
        put(&mut out, "transfer-encoding", b"chunked");
    }
    if let Some(connection) = connection {
        put(&mut out, "connection", connection.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Writes the trailers of a chunked body, and its end. Those that nobody may say there stay behind.
pub fn write_trailers(trailers: &FieldList, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    let allowed = trailers.plain().filter(|(name, _)| !is_forbidden_trailer(name));
    allowed.for_each(|(name, value)| put(out, name, value));
    out.extend_from_slice(b"\r\n");
}

/// Reads the trailers of a chunked body: checked lines and an empty one.
///
/// # Errors
/// What HTTP/2 has no words for.
pub fn trailers(lines: &[u8]) -> Result<FieldList, Fault> {
    let mut slots = [httparse::EMPTY_HEADER; MOST_FIELDS];
    match httparse::parse_headers(lines, &mut slots) {
        Ok(httparse::Status::Complete((_, fields))) => {
            let mut list = FieldList::default();
            append(&mut list, fields.iter().map(|field| (field.name, field.value)));
            Ok(list)
        }
        _ => Err(Fault::Trailer),
    }
}

/// Adds fields of HTTP/1.1, whose names may have capitals.
fn append<'a>(list: &mut FieldList, fields: impl Iterator<Item = (&'a str, &'a [u8])>) {
    fields.for_each(|(name, value)| list.append(name, value));
}

/// HTTP/2 may send cookies one by one, so that they compress better; nobody else understands that (RFC 9113, 8.2.3).
fn join_cookies(list: &mut FieldList) {
    if list.find_all("cookie").nth(1).is_some() {
        let joined = list.find_all("cookie").collect::<Vec<_>>().join(&b"; "[..]);
        list.set("cookie", &joined);
    }
}

fn change(list: &mut FieldList, changes: &HeaderChanges) {
    changes.remove.iter().for_each(|name| list.remove(name));
    changes.set.iter().for_each(|(name, value)| list.set(name, value.as_bytes()));
    changes.add.iter().for_each(|(name, value)| list.append(name, value.as_bytes()));
}

#[cfg(test)]
mod tests;
