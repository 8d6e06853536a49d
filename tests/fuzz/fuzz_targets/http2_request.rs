//! Whatever HTTP/2 can say in a request's head is one request of HTTP/1.1, and the same one.
#![no_main]

use http::{HeaderName, HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use proxy_user::forward::head::Head as _;
use proxy_user::forward::http1::{Framing, RequestEdits, RequestHead, Scan, slots};
use proxy_user::forward::http2::{Asked, of_http2, write_request};

/// Most fields of a head here.
const MOST_FIELDS: usize = 200;

/// Makes a request of lines: method, target, then a field each, up to its first colon behind the first byte.
fn request(bytes: &[u8]) -> Option<Request<()>> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut request = Request::new(());
    *request.method_mut() = http::Method::from_bytes(lines.next()?).ok()?;
    *request.uri_mut() = http::Uri::try_from(lines.next()?).ok()?;
    for line in lines.take(MOST_FIELDS - 10) {
        let colon = 1 + line.get(1..)?.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(&line[colon + 1..]).ok()?);
    }
    Some(request)
}

fuzz_target!(|bytes: &[u8]| {
    let Some(request) = request(bytes) else { return };
    let (parts, ()) = request.into_parts();
    let Ok(asked) = Asked::of(&parts) else { return };
    let (method, host) = (asked.method().to_owned(), asked.host().to_owned());
    // A length comes with its body, whose framing is not chosen here; a tunnel is refused by whoever plans.
    if method == "CONNECT" || parts.headers.contains_key("content-length") {
        return;
    }
    let Ok(out) = of_http2(parts, &host, &RequestEdits::default()) else { return };
    let target = out.uri().path_and_query().map_or(String::new(), ToString::to_string);
    let written = write_request(&out, Framing::Chunked);
    assert_eq!(Scan::default().find(&written, usize::MAX, MOST_FIELDS), Ok(Some(written.len())), "it is one head");
    let mut slots = slots();
    // What HTTP/1.1 has no words for may be refused by whoever reads it, and must not be read as another request.
    let Ok(read) = RequestHead::parse(&written, &mut slots) else { return };
    assert_eq!((read.method, read.framing), (&*method, Framing::Chunked));
    assert_eq!(read.target.path_and_query, target);
    assert!(read.host.eq_ignore_ascii_case(&host), "{} instead of {host}", read.host);
});
