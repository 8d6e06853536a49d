//! Heads and trailers: fields as they come and go, and the types that everybody else reads (RFC 9113, 8).

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use proxy_core::http2::FIELD_BYTES;
use proxy_core::http2::hpack::{DecodeError, Decoder, Encoder, Field};

/// The protocol that a stream is to become (`:protocol`, RFC 8441, 4): an extension of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol(pub HeaderValue);

/// What no message may say (RFC 9113, 8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Names that calls of gRPC have, which need no memory of their own.
static GRPC_NAMES: [HeaderName; 6] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// Pseudo-headers of a request that is no CONNECT.
const REQUEST_PSEUDO: usize = 4;

/// Room that a connection at rest may hold.
const RESTING_BYTES: usize = 2 << 10;
const RESTING_FIELDS: usize = 32;

/// Fields of one block, in memory that the next block uses again.
#[derive(Default)]
pub(super) struct Fields {
    bytes: Vec<u8>,
    ends: Vec<Ends>,
    list_bytes: usize,
}

/// Where a field's name and value end.
#[derive(Clone, Copy)]
struct Ends {
    name: u32,
    value: u32,
    is_sensitive: bool,
}

/// A field's value, in memory that all fields of the block share.
struct Value<'a> {
    all: &'a Bytes,
    begin: usize,
    end: usize,
    is_sensitive: bool,
}

impl Value<'_> {
    fn bytes(&self) -> &[u8] {
        self.all.get(self.begin..self.end).unwrap_or_default()
    }

    fn share(&self) -> Bytes {
        self.all.slice_ref(self.bytes())
    }

    fn header(&self) -> Result<HeaderValue, Malformed> {
        let mut value = HeaderValue::from_maybe_shared(self.share()).map_err(|_| Malformed)?;
        value.set_sensitive(self.is_sensitive);
        Ok(value)
    }
}

impl Fields {
    /// Decodes a block. Of a list that is longer than allowed, fields are kept until it is: whoever compares sees that.
    pub(super) fn decode(
        &mut self,
        decoder: &mut Decoder,
        block: &[u8],
        most_list_bytes: u32,
    ) -> Result<(), DecodeError> {
        let most = usize::try_from(most_list_bytes).unwrap_or(usize::MAX);
        decoder.decode(block, |field| {
            if self.list_bytes <= most {
                self.push(&field);
            }
        })
    }

    fn push(&mut self, field: &Field<'_>) {
        self.list_bytes += field.name.len() + field.value.len() + FIELD_BYTES;
        self.bytes.extend_from_slice(field.name);
        let name = self.bytes.len();
        self.bytes.extend_from_slice(field.value);
        // They fit: a block is shorter than a message may be by far.
        let [name, value] = [name, self.bytes.len()].map(|end| u32::try_from(end).unwrap_or(u32::MAX));
        self.ends.push(Ends { name, value, is_sensitive: field.is_sensitive });
    }

    /// Makes room for the next block.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(RESTING_BYTES);
        self.ends.clear();
        self.ends.shrink_to(RESTING_FIELDS);
        self.list_bytes = 0;
    }

    fn iter<'a>(&self, all: &'a Bytes) -> impl Iterator<Item = (&'a [u8], Value<'a>)> {
        let mut begin = 0;
        self.ends.iter().map(move |ends| {
            let [name_end, end] =
                [ends.name, ends.value].map(|end| usize::try_from(end).unwrap_or(usize::MAX));
            let name = all.get(begin..name_end).unwrap_or_default();
            begin = end;
            (name, Value { all, begin: name_end, end, is_sensitive: ends.is_sensitive })
        })
    }

    /// Reads the head of a request (RFC 9113, 8.3.1).
    pub(super) fn request(&self) -> Result<Request<()>, Malformed> {
        let all = Bytes::copy_from_slice(&self.bytes);
        let mut headers = HeaderMap::with_capacity(self.ends.len().saturating_sub(REQUEST_PSEUDO));
        let [mut method, mut path, mut authority, mut scheme, mut protocol] = [const { None }; 5];
        for (name, value) in self.iter(&all) {
            let place = match name {
                b":method" => &mut method,
                b":path" => &mut path,
                b":authority" => &mut authority,
                b":scheme" => &mut scheme,
                b":protocol" => &mut protocol,
                _ => {
                    append(&mut headers, name, &value)?;
                    continue;
                }
            };
            if !headers.is_empty() || place.replace(value).is_some() {
                return Err(Malformed);
            }
        }
        let method = Method::from_bytes(method.ok_or(Malformed)?.bytes()).map_err(|_| Malformed)?;
        let mut uri = http::uri::Parts::default();
        if let Some(authority) = authority {
            uri.authority = Some(Authority::from_maybe_shared(authority.share()).map_err(|_| Malformed)?);
        }
        let is_plain_connect = method == Method::CONNECT && protocol.is_none();
        if is_plain_connect {
            ensure(uri.authority.is_some() && scheme.is_none() && path.is_none())?;
        } else {
            let (scheme, path) = (scheme.ok_or(Malformed)?, path.ok_or(Malformed)?);
            let is_of_server = method == Method::OPTIONS && path.bytes() == b"*";
            ensure(path.bytes().starts_with(b"/") || is_of_server)?;
            ensure(protocol.is_none() || (method == Method::CONNECT && uri.authority.is_some()))?;
            uri.path_and_query = Some(PathAndQuery::from_maybe_shared(path.share()).map_err(|_| Malformed)?);
            let scheme = Scheme::try_from(scheme.bytes()).map_err(|_| Malformed)?;
            // `Uri` knows no scheme without an authority.
            uri.scheme = uri.authority.as_ref().map(|_| scheme);
        }
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Malformed)?;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = headers;
        if let Some(protocol) = protocol {
            let protocol = Protocol(protocol.header()?);
            request.extensions_mut().insert(protocol);
        }
        Ok(request)
    }

    /// Reads the head of an answer (RFC 9113, 8.3.2).
    pub(super) fn response(&self) -> Result<Response<()>, Malformed> {
        let all = Bytes::copy_from_slice(&self.bytes);
        let mut headers = HeaderMap::with_capacity(self.ends.len().saturating_sub(1));
        let mut status = None;
        for (name, value) in self.iter(&all) {
            if name != b":status" {
                append(&mut headers, name, &value)?;
            } else if !headers.is_empty() || status.replace(value).is_some() {
                return Err(Malformed);
            }
        }
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_bytes(status.ok_or(Malformed)?.bytes()).map_err(|_| Malformed)?;
        *response.version_mut() = http::Version::HTTP_2;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// Reads trailers.
    pub(super) fn trailers(&self) -> Result<HeaderMap, Malformed> {
        let all = Bytes::copy_from_slice(&self.bytes);
        let mut headers = HeaderMap::with_capacity(self.ends.len());
        self.iter(&all).try_for_each(|(name, value)| append(&mut headers, name, &value))?;
        Ok(headers)
    }
}

/// Adds a field that is no pseudo-header.
fn append(headers: &mut HeaderMap, name: &[u8], value: &Value<'_>) -> Result<(), Malformed> {
    let grpc =
        GRPC_NAMES.iter().find(|known| name.starts_with(b"grpc-") && known.as_str().as_bytes() == name);
    // Not in upper case (RFC 9113, 8.2); a name with a colon is none, as every pseudo-header that does not belong there.
    let name = match grpc {
        Some(name) => name.clone(),
        None => HeaderName::from_lowercase(name).map_err(|_| Malformed)?,
    };
    let value = value.header()?;
    // For one hop only (RFC 9113, 8.2.2).
    let is_of_hop = name == CONNECTION
        || name == TRANSFER_ENCODING
        || name == UPGRADE
        || name == "keep-alive"
        || name == "proxy-connection"
        || (name == TE && value != "trailers");
    ensure(!is_of_hop)?;
    headers.try_append(name, value).map_err(|_| Malformed)?;
    Ok(())
}

fn ensure(holds: bool) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(Malformed) }
}

/// What `content-length` says, if it is there: digits, and once (RFC 9113, 8.1.1).
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    let digits = length.as_bytes();
    ensure(lengths.next().is_none() && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))?;
    length.to_str().ok().and_then(|length| length.parse().ok()).map(Some).ok_or(Malformed)
}

/// What one try changes of a request's head.
#[derive(Clone, Copy, Default)]
pub struct Edit<'a> {
    /// It goes inside TLS.
    pub is_https: bool,
    /// A field that takes the place of those of its name.
    pub set: Option<(&'a HeaderName, &'a HeaderValue)>,
}

impl Edit<'_> {
    /// Makes a request with the change, for later; it is of a plain head then.
    pub(super) fn apply(self, request: &Request<()>) -> Request<()> {
        let mut request = request.clone();
        if let Some((name, value)) = self.set {
            request.headers_mut().insert(name, value.clone());
        }
        request
    }
}

/// Writes the head of a request, as one block.
pub(super) fn write_request(encoder: &mut Encoder, request: &Request<()>, edit: Edit<'_>, out: &mut Vec<u8>) {
    let uri = request.uri();
    let protocol = request.extensions().get::<Protocol>();
    encoder.begin(out);
    write(encoder, ":method", request.method().as_str().as_bytes(), out);
    if request.method() != Method::CONNECT || protocol.is_some() {
        write(encoder, ":scheme", (if edit.is_https { "https" } else { "http" }).as_bytes(), out);
        write(encoder, ":path", uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes(), out);
    }
    if let Some(authority) = uri.authority() {
        write(encoder, ":authority", authority.as_str().as_bytes(), out);
    }
    if let Some(Protocol(protocol)) = protocol {
        write(encoder, ":protocol", protocol.as_bytes(), out);
    }
    let Some((name, value)) = edit.set else { return write_fields(encoder, request.headers(), out) };
    let kept = request.headers().iter().filter(|(kept, _)| *kept != name);
    kept.for_each(|(name, value)| write_field(encoder, name, value, out));
    write_field(encoder, name, value, out);
}

/// Writes the head of an answer, as one block.
pub(super) fn write_response(encoder: &mut Encoder, response: &Response<()>, out: &mut Vec<u8>) {
    encoder.begin(out);
    write(encoder, ":status", response.status().as_str().as_bytes(), out);
    write_fields(encoder, response.headers(), out);
}

/// Writes trailers, as one block.
pub(super) fn write_trailers(encoder: &mut Encoder, trailers: &HeaderMap, out: &mut Vec<u8>) {
    encoder.begin(out);
    write_fields(encoder, trailers, out);
}

fn write_fields(encoder: &mut Encoder, headers: &HeaderMap, out: &mut Vec<u8>) {
    headers.iter().for_each(|(name, value)| write_field(encoder, name, value, out));
}

fn write_field(encoder: &mut Encoder, name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    let (name, is_sensitive) = (name.as_str().as_bytes(), value.is_sensitive());
    encoder.field(Field { name, value: value.as_bytes(), is_sensitive }, out);
}

fn write(encoder: &mut Encoder, name: &str, value: &[u8], out: &mut Vec<u8>) {
    encoder.field(Field { name: name.as_bytes(), value, is_sensitive: false }, out);
}
