//! What messages may say (RFC 9113, 8).

use super::{Field, FieldList, text};

/// A message says what none may (RFC 9113, 8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl FieldList {
    /// Checks the head of a request (RFC 9113, 8.3.1).
    ///
    /// # Errors
    /// If it is malformed.
    pub fn check_request(&self) -> Result<(), Malformed> {
        let [method, path, authority, scheme, protocol] =
            self.check([":method", ":path", ":authority", ":scheme", ":protocol"])?;
        let method = method.ok_or(Malformed)?;
        let is_connect = method == b"CONNECT";
        ensure(is_token(method) && authority.is_none_or(is_visible))?;
        if is_connect && protocol.is_none() {
            return ensure(authority.is_some() && scheme.is_none() && path.is_none());
        }
        // RFC 8441, 4.
        ensure(protocol.is_none_or(|name| is_connect && authority.is_some() && is_token(name)))?;
        let (scheme, path) = (scheme.ok_or(Malformed)?, path.ok_or(Malformed)?);
        ensure(is_scheme(scheme) && (is_path(path) || (method == b"OPTIONS" && path == b"*")))
    }

    /// Checks the head of an answer (RFC 9113, 8.3.2).
    ///
    /// # Errors
    /// If it is malformed.
    pub fn check_answer(&self) -> Result<(), Malformed> {
        let [status] = self.check([":status"])?;
        match status {
            Some([b'1'..=b'9', rest @ ..]) if rest.len() == 2 => ensure(is_number(rest)),
            _ => Err(Malformed),
        }
    }

    /// Checks trailers (RFC 9113, 8.1).
    ///
    /// # Errors
    /// If they are malformed.
    pub fn check_trailers(&self) -> Result<(), Malformed> {
        self.check([]).map(|[]| ())
    }

    /// Checks all fields; gives the values of those pseudo-headers that may be there, each once.
    fn check<const N: usize>(&self, pseudo: [&str; N]) -> Result<[Option<&[u8]>; N], Malformed> {
        let mut values = [None; N];
        let mut is_behind = false;
        for field in self.iter() {
            if field.name.starts_with(b":") {
                let at = pseudo.iter().position(|name| name.as_bytes() == field.name).ok_or(Malformed)?;
                ensure(!is_behind && values[at].replace(field.value).is_none())?;
            } else {
                is_behind = true;
                check_plain(&field)?;
            }
        }
        Ok(values)
    }

    /// What `content-length` says, if it is there: digits, and once (RFC 9113, 8.1.1).
    ///
    /// # Errors
    /// If it says something else.
    pub fn content_length(&self) -> Result<Option<u64>, Malformed> {
        let mut lengths = self.find_all("content-length");
        let Some(length) = lengths.next() else { return Ok(None) };
        ensure(lengths.next().is_none() && is_number(length))?;
        text(length).parse().map(Some).map_err(|_| Malformed)
    }
}

/// Tells whether a field is for one hop only (RFC 9113, 8.2.2): no message of HTTP/2 has one.
#[must_use]
pub fn is_hop_by_hop(field: &Field<'_>) -> bool {
    // Told apart by length first: most fields are none of these.
    match field.name.len() {
        2 => field.name == b"te" && field.value != b"trailers",
        7 => field.name == b"upgrade",
        10 => field.name == b"connection" || field.name == b"keep-alive",
        16 => field.name == b"proxy-connection",
        17 => field.name == b"transfer-encoding",
        _ => false,
    }
}

fn check_plain(field: &Field<'_>) -> Result<(), Malformed> {
    ensure(is_name(field.name) && is_value(field.value) && !is_hop_by_hop(field))
}

/// Bytes of a token (RFC 9110, 5.6.2).
const IS_TOKEN: [bool; 256] = {
    let mut bytes = [false; 256];
    let token = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut at = 0;
    while at < token.len() {
        bytes[token[at] as usize] = true;
        at += 1;
    }
    bytes
};

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| IS_TOKEN[usize::from(*byte)])
}

/// A token without capitals (RFC 9113, 8.2.1).
fn is_name(bytes: &[u8]) -> bool {
    is_token(bytes) && !bytes.iter().any(u8::is_ascii_uppercase)
}

/// RFC 9110, 5.5: of what a line cannot have, tabs only.
fn is_value(bytes: &[u8]) -> bool {
    // All of them, with no early end: so it is done many at a time.
    !bytes.iter().fold(false, |is_bad, byte| is_bad | (*byte < b' ') & (*byte != b'\t') | (*byte == 0x7f))
}

fn is_number(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit)
}

/// Text without spaces.
fn is_visible(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic)
}

/// RFC 3986, 3.1.
fn is_scheme(bytes: &[u8]) -> bool {
    let is_inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    bytes.first().is_some_and(u8::is_ascii_alphabetic) && bytes.iter().all(is_inside)
}

/// Tells whether this is a path, with or without a query, that everybody takes: beside what RFC 3986, 3.3 and 3.4, allow, that is some
/// marks which are common unencoded, and text in UTF-8. A fragment never leaves a browser (RFC 9110, 7.1).
#[must_use]
pub fn is_path(bytes: &[u8]) -> bool {
    let path_bytes = bytes.iter().position(|byte| *byte == b'?').unwrap_or(bytes.len());
    let (path, query) = bytes.split_at(path_bytes);
    let is_inside = |byte: &u8| *byte > b' ' && *byte != 0x7f && !b"#<>".contains(byte);
    path.first() == Some(&b'/')
        && path.iter().all(|byte| is_inside(byte) && *byte != b'`')
        && query.iter().all(|byte| is_inside(byte) && *byte != b'"')
        && std::str::from_utf8(bytes).is_ok()
}

fn ensure(holds: bool) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(Malformed) }
}
