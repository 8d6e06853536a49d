use super::*;
use crate::forward::http1::slots;

fn head(method: &str, authority: Option<&str>, fields: &[(&str, &str)]) -> FieldList {
    let mut list = FieldList::of_request(method, authority, "/p?q=1");
    fields.iter().for_each(|(name, value)| list.append(name, value.as_bytes()));
    list
}

fn to_http1(list: FieldList) -> String {
    let request = of_http2(list, &RequestEdits::default()).unwrap();
    String::from_utf8(write_request(&request, Framing::Chunked)).unwrap()
}

#[test]
fn a_request_of_http2_is_one_of_http1_in_other_words() {
    let fields = [("te", "trailers"), ("cookie", "a=1"), ("x-y", "z"), ("cookie", "b=2")];
    assert_eq!(
        to_http1(head("POST", Some("a.example:80"), &fields)),
        "POST /p?q=1 HTTP/1.1\r\nhost: a.example:80\r\ncookie: a=1; b=2\r\nx-y: z\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert!(to_http1(head("GET", None, &[("host", "b")])).starts_with("GET /p?q=1 HTTP/1.1\r\nhost: b\r\n"));
}

#[test]
fn what_is_for_one_hop_stays_behind_whoever_lets_it_pass() {
    let fields = ["connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection", "te"];
    let list = head("GET", Some("a"), &fields.map(|name| (name, "x")));
    assert_eq!(to_http1(list), "GET /p?q=1 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut answer = FieldList::of_answer(200);
    fields.iter().for_each(|name| answer.append(name, b"x"));
    edit_answer(&mut answer, None);
    assert!(answer == FieldList::of_answer(200), "{answer:?}");
}

#[test]
fn what_the_rule_changes_is_changed() {
    let text = |s: &str| Box::<str>::from(s);
    let changes = HeaderChanges {
        remove: vec![text("a")],
        set: vec![(text("b"), text("2"))],
        add: vec![(text("c"), text("3"))],
    };
    let edits = RequestEdits {
        path_and_query: Some("/new?q"),
        host: Some("y"),
        changes: Some(&changes),
        set: &[Some(("x-request-id", b"7"))],
    };
    let fields = [("a", "1"), ("b", "1"), ("b", "0"), ("c", "1"), ("x-request-id", "6"), ("host", "A")];
    let request = of_http2(head("GET", Some("a"), &fields), &edits).unwrap();
    let mut wanted = FieldList::of_request("GET", Some("y"), "/new?q");
    for (name, value) in [("b", b"2"), ("c", b"1"), ("x-request-id", b"7"), ("c", b"3")] {
        wanted.append(name, value);
    }
    assert!(request == wanted, "{request:?}");
}

#[test]
fn a_host_that_two_say_differently_is_refused() {
    let of = |authority: Option<&str>, hosts: &[&str]| {
        let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
        Asked::of(&head("GET", authority, &fields)).map(|asked| asked.host().to_owned())
    };
    assert_eq!(of(Some("a"), &["A"]), Ok("a".to_owned()));
    assert_eq!(of(None, &["b"]), Ok("b".to_owned()));
    assert_eq!(of(Some("[::1]:80"), &[]), Ok("[::1]:80".to_owned()));
    for (authority, hosts) in [
        (Some("a"), &["b"][..]),
        (None, &["b", "b"]),
        (None, &[]),
        (None, &[""]),
        (Some("user@a"), &[]),
        (Some("a/b"), &[]),
        (Some("a\"b"), &[]),
    ] {
        assert_eq!(of(authority, hosts), Err(Fault::Host), "{authority:?} {hosts:?}");
    }
    let fault = |fields: &[(&str, &str)]| Asked::of(&head("POST", Some("a"), fields)).err();
    assert_eq!(fault(&[("expect", "x")]), Some(Fault::Expectation));
    for lengths in [&["1", "1"][..], &["+1"], &[""], &["1 "]] {
        let fields: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
        assert_eq!(fault(&fields), Some(Fault::ContentLength), "{lengths:?}");
    }
}

#[test]
fn a_target_has_a_path_and_maybe_a_query() {
    let list = head("GET", Some("a"), &[]);
    let asked = Asked::of(&list).unwrap();
    assert_eq!((asked.path(), asked.query(), asked.path_and_query()), ("/p", "q=1", "/p?q=1"));
    let list: FieldList = [(":method", "CONNECT"), (":authority", "a:443")].into_iter().collect();
    let asked = Asked::of(&list).unwrap();
    assert_eq!((asked.path(), asked.query(), asked.host()), ("", "", "a:443"));
    assert_eq!(Asked::of(&FieldList::of_connect("a")).err(), Some(Fault::Target), "no port");
    assert!(
        write_request(&list, Framing::Length(0)).starts_with(b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n")
    );
}

#[test]
fn a_request_of_http1_is_one_of_http2_in_other_words() {
    let bytes =
        b"PUT /p?q HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nConnection: te, x-hop\r\nX-Hop: 1\r\n\
                  Content-Length: 3\r\nX-Y: z\r\n\r\n";
    let mut slots = slots();
    let head = RequestHead::parse(bytes, &mut slots).unwrap();
    let request = of_http1(&head, &RequestEdits { host: Some("b"), ..RequestEdits::default() }).unwrap();
    let mut wanted = FieldList::of_request("PUT", Some("b"), "/p?q");
    for (name, value) in [("content-length", &b"3"[..]), ("x-y", b"z"), ("te", b"trailers")] {
        wanted.append(name, value);
    }
    assert!(request == wanted, "{request:?}");
}

#[test]
fn a_request_of_http1_without_a_host_names_no_authority() {
    let mut slots = slots();
    let head = RequestHead::parse(b"GET /p?q HTTP/1.0\r\n\r\n", &mut slots).unwrap();
    assert!(of_http1(&head, &RequestEdits::default()).unwrap() == FieldList::of_request("GET", None, "/p?q"));
}

#[test]
fn a_path_that_not_everybody_takes_does_not_reach_an_endpoint_of_http2() {
    for path in ["/a<b", "/a?\"b\"", "/`"] {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut slots = slots();
        let head = RequestHead::parse(bytes.as_bytes(), &mut slots).unwrap();
        assert_eq!(of_http1(&head, &RequestEdits::default()).err(), Some(Fault::Target), "{path}");
        let edits = RequestEdits { path_and_query: Some(path), ..RequestEdits::default() };
        assert_eq!(of_http2(self::head("GET", Some("a"), &[]), &edits).err(), Some(Fault::Target), "{path}");
    }
    let edits = RequestEdits { host: Some("b"), path_and_query: Some("/b"), ..RequestEdits::default() };
    let connect = FieldList::of_connect("a:443");
    assert!(of_http2(connect.clone(), &edits).unwrap() == connect, "what a CONNECT asks for is asked for");
}

#[test]
fn trailers_are_fields_in_their_order() {
    let read = trailers(b"grpc-status: 0\r\nX-Sum: 1\r\n\r\n").unwrap();
    let mut out = Vec::new();
    write_trailers(&read, &mut out);
    assert_eq!(out, b"0\r\ngrpc-status: 0\r\nx-sum: 1\r\n\r\n");
    let smuggled = [("content-length", "5"), ("Authorization", "x"), ("grpc-status", "0")];
    out.clear();
    write_trailers(&smuggled.into_iter().collect(), &mut out);
    assert_eq!(out, b"0\r\ngrpc-status: 0\r\n\r\n");
    assert_eq!(trailers(b"no colon\r\n\r\n"), Err(Fault::Trailer));
}
