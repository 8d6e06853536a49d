use super::*;
use crate::forward::http1::slots;

fn parts(head: request::Builder) -> request::Parts {
    head.body(()).unwrap().into_parts().0
}

fn to_http1(head: request::Builder) -> String {
    let parts = parts(head);
    let host = Asked::of(&parts).unwrap().host().to_owned();
    let request = of_http2(parts, &host, &RequestEdits::default()).unwrap();
    String::from_utf8(write_request(&request, Framing::Chunked)).unwrap()
}

#[test]
fn a_request_of_http2_is_one_of_http1_in_other_words() {
    let head = Request::post("http://a.example:80/p?q=1")
        .header("te", "trailers")
        .header("cookie", "a=1")
        .header("x-y", "z")
        .header("cookie", "b=2");
    let written = to_http1(head);
    let mut lines: Vec<&str> = written.split("\r\n").collect();
    lines[2..4].sort_unstable();
    let wanted = ["POST /p?q=1 HTTP/1.1", "host: a.example:80", "cookie: a=1; b=2", "x-y: z"];
    assert_eq!(lines, [&wanted[..], &["transfer-encoding: chunked", "", ""]].concat());
}

#[test]
fn what_is_for_one_hop_stays_behind_whoever_lets_it_pass() {
    let head = Request::get("http://a/").header("connection", "x").header("transfer-encoding", "chunked");
    let head = head.header("upgrade", "x").header("keep-alive", "x").header("proxy-connection", "x");
    assert_eq!(to_http1(head), "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
}

#[test]
fn a_host_that_two_say_differently_is_refused() {
    let of = |head: request::Builder| Asked::of(&parts(head)).map(|asked| asked.host().to_owned());
    assert_eq!(of(Request::get("http://a/").header("host", "A")), Ok("a".to_owned()));
    assert_eq!(of(Request::get("/").header("host", "b")), Ok("b".to_owned()));
    for head in [
        Request::get("http://a/").header("host", "b"),
        Request::get("/").header("host", "b").header("host", "b"),
        Request::get("/"),
        Request::get("http://user@a/"),
    ] {
        assert_eq!(of(head), Err(Fault::Host));
    }
    assert_eq!(of(Request::get("http://a/").header("expect", "x")), Err(Fault::Expectation));
    for lengths in [&["1", "1"][..], &["+1"], &[""], &["1 "]] {
        let head = Request::post("http://a/");
        let head = lengths.iter().fold(head, |head, length| head.header("content-length", *length));
        assert_eq!(of(head), Err(Fault::ContentLength), "{lengths:?}");
    }
}

#[test]
fn a_request_of_http1_is_one_of_http2_in_other_words() {
    let bytes =
        b"PUT /p?q HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nConnection: te, x-hop\r\nX-Hop: 1\r\n\
                  Content-Length: 3\r\nX-Y: z\r\n\r\n";
    let mut slots = slots();
    let head = RequestHead::parse(bytes, &mut slots).unwrap();
    let request = of_http1(&head, &RequestEdits { host: Some("b"), ..RequestEdits::default() }).unwrap();
    assert_eq!(request.uri(), "http://b/p?q");
    let mut fields: Vec<_> =
        request.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    fields.sort_unstable();
    assert_eq!(fields, [("content-length", "3"), ("te", "trailers"), ("x-y", "z")]);
}

#[test]
fn trailers_are_fields_in_their_order() {
    let read = trailers(b"grpc-status: 0\r\nX-Sum: 1\r\n\r\n").unwrap();
    let mut out = Vec::new();
    write_trailers(&read, &mut out);
    assert_eq!(out, b"0\r\ngrpc-status: 0\r\nx-sum: 1\r\n\r\n");
    assert_eq!(trailers(b"no colon\r\n\r\n"), Err(Fault::Trailer));
}
