//! Heads as HTTP/2 has them, and their way to and from HTTP/1.1.

use http::header::{self, HeaderName};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, request, response};
use proxy_core::http2::FIELD_BYTES;
use proxy_core::route::HeaderChanges;

use crate::forward::head::Head;
use crate::forward::http1::{Fault, Framing, MOST_FIELDS, RequestEdits, RequestHead, ResponseHead};

/// Fields that are for one hop only. Most of them are refused where they come in; a proxy must not depend on that.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// A request of an HTTP/2 client.
pub struct Asked<'a> {
    parts: &'a request::Parts,
    host: &'a str,
}

impl<'a> Asked<'a> {
    /// Looks at a head.
    ///
    /// # Errors
    /// What a server must not serve although each line of it is well-formed.
    pub fn of(parts: &'a request::Parts) -> Result<Self, Fault> {
        let mut hosts = parts.headers.get_all(header::HOST).iter();
        let named = hosts.next().map(|host| host.to_str().map_err(|_| Fault::Host)).transpose()?;
        let authority = parts.uri.authority().map(Authority::as_str);
        let is_several = hosts.next().is_some();
        // RFC 9113, 8.3.1: both must say the same.
        let host = match (authority, named) {
            _ if is_several => return Err(Fault::Host),
            (Some(authority), Some(named)) if !authority.eq_ignore_ascii_case(named) => {
                return Err(Fault::Host);
            }
            (Some(host), _) | (None, Some(host)) => host,
            (None, None) => return Err(Fault::Host),
        };
        if host.is_empty() || host.contains('@') {
            return Err(Fault::Host);
        }
        if parts.uri.path().is_empty() && parts.method != Method::CONNECT {
            return Err(Fault::Target);
        }
        // One, and digits: what goes on to HTTP/1.1 must not be read in two ways there.
        let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
        let is_number =
            |length: &HeaderValue| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
        if lengths.next().is_some_and(|length| !is_number(length)) || lengths.next().is_some() {
            return Err(Fault::ContentLength);
        }
        if parts.headers.get(header::EXPECT).is_some_and(|value| value != "100-continue") {
            return Err(Fault::Expectation);
        }
        Ok(Self { parts, host })
    }
}

impl Head for Asked<'_> {
    fn method(&self) -> &str {
        self.parts.method.as_str()
    }

    fn host(&self) -> &str {
        self.host
    }

    fn path(&self) -> &str {
        self.parts.uri.path()
    }

    fn query(&self) -> &str {
        self.parts.uri.query().unwrap_or_default()
    }

    fn path_and_query(&self) -> &str {
        self.parts.uri.path_and_query().map_or("", PathAndQuery::as_str)
    }

    fn find(&self, name: &str) -> Option<&[u8]> {
        self.parts.headers.get(name).map(HeaderValue::as_bytes)
    }

    fn find_all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.parts.headers.get_all(name).iter().map(HeaderValue::as_bytes)
    }

    fn version(&self) -> &'static str {
        "2"
    }
}

impl Asked<'_> {
    /// Compares the head with what is allowed.
    ///
    /// # Errors
    /// If it is too large.
    pub fn check_size(&self, most_bytes: usize) -> Result<(), Fault> {
        let uri = &self.parts.uri;
        let said = [
            (":method", self.parts.method.as_str()),
            (":scheme", uri.scheme_str().unwrap_or_default()),
            (":authority", uri.authority().map_or("", Authority::as_str)),
            (":path", uri.path_and_query().map_or("", PathAndQuery::as_str)),
        ];
        let pseudo = said.iter().filter(|(_, value)| !value.is_empty());
        let beside = pseudo.map(|(name, value)| name.len() + value.len() + FIELD_BYTES).sum();
        check_size(&self.parts.headers, beside, most_bytes)
    }
}

/// Compares the fields of a head or of trailers, as HTTP/2 counts them, with what is allowed. So many bytes stand beside them.
///
/// # Errors
/// If they are too large.
pub fn check_size(fields: &HeaderMap, beside: usize, most_bytes: usize) -> Result<(), Fault> {
    let count = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + FIELD_BYTES;
    let bytes = beside + fields.iter().map(count).sum::<usize>();
    if bytes > most_bytes { Err(Fault::HeadTooLarge) } else { Ok(()) }
}

/// Makes the head that an endpoint gets of one that came in HTTP/2.
///
/// # Errors
/// `Target` if a rewritten path is none.
pub fn of_http2(parts: request::Parts, host: &str, edits: &RequestEdits<'_>) -> Result<Request<()>, Fault> {
    let mut headers = parts.headers;
    let takes_trailers = headers.get(header::TE).is_some_and(|te| te == "trailers");
    strip(&mut headers);
    join_cookies(&mut headers);
    let uri = parts.uri.into_parts();
    // What stands in Host alone is no authority yet.
    let authority = uri.authority.map_or_else(|| authority(host), Ok)?;
    build(parts.method, uri.path_and_query, authority, headers, takes_trailers, edits)
}

/// Makes the head that an HTTP/2 endpoint gets of one that came in HTTP/1.1.
///
/// # Errors
/// What HTTP/2 has no words for.
pub fn of_http1(head: &RequestHead<'_, '_>, edits: &RequestEdits<'_>) -> Result<Request<()>, Fault> {
    let method = Method::from_bytes(head.method.as_bytes()).map_err(|_| Fault::StartLine)?;
    let target = PathAndQuery::try_from(head.target.path_and_query).map_err(|_| Fault::Target)?;
    let takes_trailers = head.fields.find_all("te").any(|te| te.eq_ignore_ascii_case(b"trailers"));
    let headers = map(head.fields.kept())?;
    build(method, Some(target), authority(head.host)?, headers, takes_trailers, edits)
}

fn authority(host: &str) -> Result<Authority, Fault> {
    Authority::try_from(host).map_err(|_| Fault::Host)
}

fn build(
    method: Method,
    target: Option<PathAndQuery>,
    authority: Authority,
    mut headers: HeaderMap,
    takes_trailers: bool,
    edits: &RequestEdits<'_>,
) -> Result<Request<()>, Fault> {
    headers.remove(header::HOST);
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    for (name, value) in edits.set.iter().flatten() {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    }
    if let Some(changes) = edits.changes {
        change(&mut headers, changes);
    }
    let mut uri = http::uri::Parts::default();
    uri.authority = Some(edits.host.map_or(Ok(authority), self::authority)?);
    if method != Method::CONNECT {
        uri.scheme = Some(Scheme::HTTP);
        uri.path_and_query = match edits.path_and_query {
            Some(rewritten) => Some(PathAndQuery::try_from(rewritten).map_err(|_| Fault::Target)?),
            None => Some(target.ok_or(Fault::Target)?),
        };
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Fault::Target)?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Writes a head for an HTTP/1.1 endpoint.
pub fn write_request(request: &Request<()>, framing: Framing) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let authority = request.uri().authority().map_or("", Authority::as_str);
    let path = || request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let target = if request.method() == Method::CONNECT { authority } else { path() };
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    put(&mut out, "host", authority.as_bytes());
    for (name, value) in request.headers() {
        if *name != header::TE {
            put(&mut out, name.as_str(), value.as_bytes());
        }
    }
    if framing == Framing::Chunked {
        put(&mut out, "transfer-encoding", b"chunked");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Makes an answer of HTTP/1.1 one of HTTP/2.
///
/// # Errors
/// What HTTP/2 has no words for.
pub fn response_of_http1(head: &ResponseHead<'_, '_>) -> Result<Response<()>, Fault> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| Fault::StartLine)?;
    *response.headers_mut() = map(head.fields.kept())?;
    Ok(response)
}

/// Takes out of an answer of HTTP/2 what is for one hop, and changes what a rule says.
pub fn edit_response(response: &mut Response<()>, changes: Option<&HeaderChanges>) {
    let headers = response.headers_mut();
    strip(headers);
    if let Some(changes) = changes {
        change(headers, changes);
    }
}

/// Writes the head of an answer for an HTTP/1.1 client.
pub fn write_response(response: &response::Parts, framing: Framing, connection: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let status = response.status;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &response.headers {
        put(&mut out, name.as_str(), value.as_bytes());
    }
    if framing == Framing::Chunked {
        put(&mut out, "transfer-encoding", b"chunked");
    }
    if let Some(connection) = connection {
        put(&mut out, "connection", connection.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Writes the trailers of a chunked body, and its end.
pub fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    trailers.iter().for_each(|(name, value)| put(out, name.as_str(), value.as_bytes()));
    out.extend_from_slice(b"\r\n");
}

/// Reads the trailers of a chunked body: checked lines and an empty one.
///
/// # Errors
/// What HTTP/2 has no words for.
pub fn trailers(lines: &[u8]) -> Result<HeaderMap, Fault> {
    let mut slots = [httparse::EMPTY_HEADER; MOST_FIELDS];
    match httparse::parse_headers(lines, &mut slots) {
        Ok(httparse::Status::Complete((_, fields))) => map(fields.iter().map(|f| (f.name, f.value))),
        _ => Err(Fault::Trailer),
    }
}

fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Fields of HTTP/1.1 in the form of `http`, without Host.
fn map<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Fault::Field)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| Fault::Field)?;
        headers.try_append(name, value).map_err(|_| Fault::TooManyFields)?;
    }
    Ok(headers)
}

fn strip(headers: &mut HeaderMap) {
    // Hardly any has one: to look at the few names costs less than to look each of these up.
    let is_for_one_hop =
        |(name, value): (&HeaderName, &HeaderValue)| HOP_BY_HOP.contains(name) && !is_trailers(name, value);
    if headers.iter().any(is_for_one_hop) {
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
    }
}

/// `te: trailers`, which each call of gRPC has.
fn is_trailers(name: &HeaderName, value: &HeaderValue) -> bool {
    *name == header::TE && value == "trailers"
}

/// HTTP/2 may send cookies one by one, so that they compress better; nobody else understands that (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

fn change(headers: &mut HeaderMap, changes: &HeaderChanges) {
    for name in &changes.remove {
        headers.remove(&**name);
    }
    for (name, value) in &changes.set {
        set(headers, name, value.as_bytes());
    }
    for (name, value) in &changes.add {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&**name), HeaderValue::try_from(&**value)) {
            headers.append(name, value);
        }
    }
}

fn set(headers: &mut HeaderMap, name: &str, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests;
