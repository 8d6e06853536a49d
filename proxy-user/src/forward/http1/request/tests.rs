use super::*;
use crate::forward::http1::slots;

/// Reads a head and writes it as it would go on.
fn through(head: &str) -> Result<String, Fault> {
    edited(head, &RequestEdits::default())
}

fn edited(head: &str, edits: &RequestEdits<'_>) -> Result<String, Fault> {
    let mut slots = slots();
    let mut out = Vec::new();
    RequestHead::parse(head.as_bytes(), &mut slots)?.write(&mut out, edits);
    Ok(String::from_utf8(out).unwrap())
}

fn with<R>(head: &str, look: impl FnOnce(RequestHead<'_, '_>) -> R) -> R {
    let mut slots = slots();
    look(RequestHead::parse(head.as_bytes(), &mut slots).unwrap())
}

#[test]
fn a_request_is_passed_on_without_what_is_for_one_hop() {
    let head = "GET /a?b=c HTTP/1.1\r\nHost: x\r\nConnection: close, X-Hop\r\nAccept: */*\r\nX-Hop: 1\r\nTE: trailers\r\n\
                Keep-Alive: 5\r\nCookie:  a=b \r\n\r\n";
    assert_eq!(
        through(head).unwrap(),
        "GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nCookie:  a=b \r\n\r\n"
    );
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
    let head = "GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\nB: 1\r\nb: 0\r\nC: 1\r\nX-Request-Id: 6\r\n\r\n";
    assert_eq!(
        edited(head, &edits).unwrap(),
        "GET /new?q HTTP/1.1\r\nhost: y\r\nC: 1\r\nx-request-id: 7\r\nb: 2\r\nc: 3\r\n\r\n"
    );
}

#[test]
fn targets_of_all_four_forms_are_understood() {
    let parts =
        |head: &str| with(head, |h| (h.target.path.to_owned(), h.target.query.to_owned(), h.host.to_owned()));
    let of = |path: &str, query: &str, host: &str| (path.into(), query.into(), host.into());
    assert_eq!(parts("GET /a/b?c?d HTTP/1.1\r\nHost: x:1\r\n\r\n"), of("/a/b", "c?d", "x:1"));
    assert_eq!(parts("GET http://y/a?b HTTP/1.1\r\nHost: x\r\n\r\n"), of("/a", "b", "y"));
    assert_eq!(parts("GET HTTP://y HTTP/1.1\r\nHost: x\r\n\r\n"), of("/", "", "y"));
    assert_eq!(parts("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"), of("*", "", "x"));
    assert_eq!(parts("OPTIONS http://y HTTP/1.1\r\nHost: x\r\n\r\n"), of("*", "", "y"));
    assert_eq!(parts("CONNECT y:443 HTTP/1.1\r\nHost: y:443\r\n\r\n"), of("", "", "y:443"));
    assert_eq!(parts("\r\nGET / HTTP/1.0\r\n\r\n"), of("/", "", ""));
    let absolute = through("GET http://y/a HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n").unwrap();
    assert_eq!(absolute, "GET /a HTTP/1.1\r\nhost: y\r\nA: b\r\n\r\n", "Host says what the target said");
    for target in ["*", "a", "//\u{7f}", "ftp://x/", "http://", "http://x?a", "/a#b", "http:///a"] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(matches!(through(&head), Err(Fault::Target | Fault::StartLine)), "{target}");
    }
    assert_eq!(through("CONNECT y HTTP/1.1\r\nHost: y\r\n\r\n"), Err(Fault::Target));
}

#[test]
fn heads_that_could_be_read_differently_are_refused() {
    let refused = |fields: &str| through(&format!("POST / HTTP/1.1\r\n{fields}\r\n")).unwrap_err();
    assert_eq!(refused(""), Fault::Host);
    assert_eq!(refused("Host: a\r\nHost: a\r\n"), Fault::Host);
    assert_eq!(refused("Host: a@b\r\n"), Fault::Host);
    assert_eq!(refused("Host: a b\r\n"), Fault::Host);
    assert_eq!(refused("Host: a/b\r\n"), Fault::Host);
    for host in
        ["a:b", "a:1:2", "[::1", "::1]", "[]", "[::1]a", "[::1]1", "[::1]:a", "a%zz", "a[1]", "a\"b", "a<b"]
    {
        assert_eq!(refused(&format!("Host: {host}\r\n")), Fault::Host, "{host}");
    }
    let refused = |fields: &str| refused(&format!("Host: a\r\n{fields}"));
    assert_eq!(refused("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), Fault::Framing);
    for value in ["", "+1", "-1", "1, 1", "0x1", "1 1", "99999999999999999999", "1\r\nContent-Length: 1"] {
        assert_eq!(refused(&format!("Content-Length: {value}\r\n")), Fault::ContentLength, "{value}");
    }
    for value in ["", "gzip", "gzip, chunked", "chunked, chunked", "xchunked", "\u{b}chunked", "identity"] {
        let fault = refused(&format!("Transfer-Encoding: {value}\r\n"));
        assert!(matches!(fault, Fault::TransferCoding | Fault::Field), "{value}: {fault}");
    }
    assert_eq!(
        refused("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        Fault::TransferCoding
    );
    for line in ["A : b", " A: b", "A", "A\0: b", ": b", "A: b\0", "A: b\r\n folded", "A\t: b", "(: b"] {
        assert_eq!(refused(&format!("{line}\r\n")), Fault::Field, "{line:?}");
    }
    assert!(matches!(refused("A: b\rc: d\r\n"), Fault::Field | Fault::LineEnd));
    assert_eq!(refused("Expect: 200-maybe\r\n"), Fault::Expectation);
    assert_eq!(refused("Connection: content-length\r\nContent-Length: 1\r\n"), Fault::Field);
    for framing in ["Content-Length: 1", "Transfer-Encoding: chunked"] {
        let tunnel = format!("CONNECT y:1 HTTP/1.1\r\nHost: y:1\r\n{framing}\r\n\r\n");
        assert_eq!(through(&tunnel), Err(Fault::Framing));
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(through(old), Err(Fault::Framing));
    for line in
        ["GET / HTTP/2.0", "GET / HTTP/1.2", "GET / http/1.1", "GET /", "G<T / HTTP/1.1", "GET  / HTTP/1.1"]
    {
        let head = format!("{line}\r\nHost: a\r\n\r\n");
        assert!(matches!(through(&head), Err(Fault::Version | Fault::StartLine | Fault::LineEnd)), "{line}");
    }
}

#[test]
fn connections_are_kept_as_the_version_and_the_client_say() {
    let keeps = |version: &str, connection: &str| {
        with(&format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n"), |h| h.is_keep_alive)
    };
    assert!(keeps("1.1", ""));
    assert!(!keeps("1.1", "Connection: close\r\n"));
    assert!(!keeps("1.1", "Connection: keep-alive, Close\r\n"));
    assert!(!keeps("1.0", ""));
    assert!(keeps("1.0", "Connection: Keep-Alive\r\n"));
    let connect = "CONNECT y:1 HTTP/1.1\r\nHost: y:1\r\n\r\n";
    assert!(!with(connect, |h| h.is_keep_alive), "what a client sends ahead into a tunnel is no request");
}

#[test]
fn upgrades_are_passed_on_unless_they_would_hide_requests() {
    let upgrade = |fields: &str| {
        with(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), |h| h.upgrade.map(str::to_owned))
    };
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(upgrade(websocket).as_deref(), Some("websocket"));
    assert_eq!(upgrade("Upgrade: websocket\r\n"), None, "only if Connection says so");
    assert_eq!(upgrade("Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"), None);
    assert_eq!(upgrade(&format!("{websocket}Content-Length: 1\r\n")), None);
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{websocket}Sec-WebSocket-Key: x\r\n\r\n");
    assert_eq!(
        through(&head).unwrap(),
        "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
}

#[test]
fn hosts_are_names_and_addresses_with_and_without_ports() {
    for host in [
        "",
        "a",
        "a.",
        "A_b-1~!",
        "a:",
        "a:80",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:80",
        "[fe80::1%eth0]:",
        "[v1.x]",
    ] {
        assert!(is_authority(host), "{host}");
        assert_eq!(with(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), |h| h.host.to_owned()), host);
    }
}
