//! Whatever HTTP/2 can say in a request's head is one request of HTTP/1.1, and the same one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_core::http2::FieldList;
use proxy_user::forward::head::Head as _;
use proxy_user::forward::http1::{Framing, RequestEdits, RequestHead, Scan, slots};
use proxy_user::forward::http2::{Asked, of_http2, write_request};

/// Most fields of a head here.
const MOST_FIELDS: usize = 200;

/// Makes a request of lines: method, authority, path, then a field each, up to its first colon behind the first byte.
fn request(bytes: &[u8]) -> Option<FieldList> {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(std::str::from_utf8);
    let (method, authority, path) = (lines.next()?.ok()?, lines.next()?.ok()?, lines.next()?.ok()?);
    let mut list = FieldList::of_request(method, (!authority.is_empty()).then_some(authority), path);
    for line in lines.take(MOST_FIELDS - 10) {
        let line = line.ok()?;
        let colon = 1 + line.get(1..)?.find(':')?;
        list.append(&line[..colon], line[colon + 1..].as_bytes());
    }
    list.check_request().ok().map(|()| list)
}

fuzz_target!(|bytes: &[u8]| {
    let Some(list) = request(bytes) else { return };
    let Ok(asked) = Asked::of(&list) else { return };
    let (method, host) = (asked.method().to_owned(), asked.host().to_owned());
    // A length comes with its body, whose framing is not chosen here; a tunnel is refused by whoever plans.
    if method == "CONNECT" || list.find("content-length").is_some() {
        return;
    }
    let Ok(out) = of_http2(list, &RequestEdits::default()) else { return };
    let written = write_request(&out, Framing::Chunked);
    assert_eq!(Scan::default().find(&written, usize::MAX, MOST_FIELDS), Ok(Some(written.len())), "it is one head");
    let mut slots = slots();
    // What HTTP/1.1 has no words for may be refused by whoever reads it, and must not be read as another request.
    let Ok(read) = RequestHead::parse(&written, &mut slots) else { return };
    assert_eq!((read.method, read.framing), (&*method, Framing::Chunked));
    assert_eq!(read.target.path_and_query, out.path_and_query());
    assert!(read.host.eq_ignore_ascii_case(&host), "{} instead of {host}", read.host);
});
