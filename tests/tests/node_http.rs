//! HTTP/1.1 through Weir, byte by byte: what goes through, what is refused, what is cut off.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_tests::http::{Backend, Message, Peer, ok};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::world::World;
use proxy_tests::{config, wait};
use serde_json::{Value, json};

/// Far above what any of it takes.
const SOON: Duration = Duration::from_secs(20);

/// Where Weir listens for clients that it does not intercept.
fn edge() -> SocketAddr {
    "10.77.0.1:8000".parse().unwrap()
}

fn host(number: u8) -> SocketAddr {
    Family::V4.host(number, 8080)
}

/// A config with one listener that sends everything to one service.
fn one_service(world: &World, endpoints: &[SocketAddr], more: Value) -> Value {
    let endpoints: Vec<_> = endpoints.iter().map(|e| json!({"address": e.to_string()})).collect();
    let mut service =
        json!({"name": "web", "protocol": "http", "endpoints": endpoints, "addresses": ["10.96.0.1:80"]});
    config::merge(&mut service, more);
    let mut config = config::config(world, [service]);
    let listener = json!({"address": edge().to_string(), "protocol": "http", "service": "web"});
    config::merge(&mut config, json!({"listeners": [listener]}));
    config
}

fn echo(request: &Message) -> Option<String> {
    Some(ok(&format!("{}|{}", request.start_line(), request.text())))
}

#[test]
fn requests_of_every_shape_go_through() {
    let Some(world) = World::new() else { return };
    let backend = Backend::answering(&world.net, host(10), echo);
    let Some(weir) = Weir::start(&world.net, &one_service(&world, &[host(10)], Value::Null)) else { return };
    let mut client = Peer::connect(&world.net, edge());
    // one after the other on the same connection, and on the same one to the endpoint
    client.say("GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().text(), "GET /a?b=c HTTP/1.1|");
    client.say("POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.answer().text(), "POST /b HTTP/1.1|hello");
    client.say("POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 9\r\n\r\n");
    assert_eq!(client.answer().text(), "POST /c HTTP/1.1|abcde");
    // byte by byte
    for byte in
        "POST /d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".bytes()
    {
        client.say([byte]);
    }
    assert_eq!(client.answer().text(), "POST /d HTTP/1.1|abc");
    // several at once are answered in order
    let many: String = (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
    client.say(many);
    for n in 0..50 {
        assert_eq!(client.answer().text(), format!("GET /{n} HTTP/1.1|"));
    }
    client.say("GET http://other/abs HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().text(), "GET /abs HTTP/1.1|");
    client.say("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().text(), "OPTIONS * HTTP/1.1|");
    client.say("GET /end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let last = client.answer();
    assert_eq!((last.text().as_str(), last.header("connection")), ("GET /end HTTP/1.1|", Some("close")));
    assert_eq!(client.rest().unwrap(), b"");
    assert_eq!(backend.connections(), 1, "the connection to the endpoint is used again");
    let seen = backend.take_seen();
    let first = &seen[0];
    assert_eq!(first.header("host"), Some("x"));
    assert_eq!(first.header("x-forwarded-for"), Some("10.77.0.1"));
    assert_eq!(first.header("x-request-id").unwrap().len(), 36);
    assert_eq!(seen[2].trailers, "X-Sum: 9\r\n");
    assert_eq!(seen.iter().find(|m| m.start_line().contains("/abs")).unwrap().header("host"), Some("other"));
    // a client that speaks HTTP/1.0
    let mut old = Peer::connect(&world.net, edge());
    old.say("GET /old HTTP/1.0\r\n\r\n");
    let answer = old.answer();
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("GET /old HTTP/1.1|", Some("close")));
    assert_eq!(old.rest().unwrap(), b"");
    let mut old = Peer::connect(&world.net, edge());
    for _ in 0..2 {
        old.say("GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = old.answer();
        assert_eq!((answer.status(), answer.header("connection")), (200, Some("keep-alive")));
    }
    drop(weir);
}

#[test]
fn answers_of_every_shape_go_through() {
    let Some(world) = World::new() else { return };
    let backend = Backend::start(&world.net, host(10), |peer, log| {
        while let Ok(Some(request)) = peer.request() {
            let path = request.start_line().split(' ').nth(1).unwrap_or_default().to_owned();
            log.push(request);
            let said = match path.as_str() {
                "/chunked" => {
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
                }
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
                "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
                "/early" => {
                    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
                }
                "/close" => {
                    let _ = peer.try_say("HTTP/1.1 200 OK\r\n\r\nuntil the end");
                    return;
                }
                "/empty" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                _ => "HTTP/1.1 404 Not Here\r\nContent-Length: 4\r\n\r\nnone",
            };
            if !peer.try_say(said) {
                return;
            }
        }
    });
    let Some(weir) = Weir::start(&world.net, &one_service(&world, &[host(10)], Value::Null)) else { return };
    let mut client = Peer::connect(&world.net, edge());
    let mut ask = |method: &str, path: &str| {
        client.say(format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        client.answer_to(method).unwrap()
    };
    let chunked = ask("GET", "/chunked");
    assert_eq!((chunked.text().as_str(), chunked.trailers.as_str()), ("abcde", "X-T: 1\r\n"));
    assert_eq!(ask("GET", "/204").status(), 204);
    assert_eq!(ask("GET", "/304").header("content-length"), Some("10"));
    let head = ask("HEAD", "/head");
    assert_eq!((head.header("content-length"), head.body.len()), (Some("10"), 0));
    assert_eq!(ask("GET", "/empty").body.len(), 0);
    assert_eq!(ask("GET", "/none").start_line(), "HTTP/1.1 404 Not Here");
    let early = ask("GET", "/early");
    assert_eq!((early.status(), early.header("link")), (103, Some("</a>")));
    assert_eq!(client.answer().text(), "x");
    assert_eq!(backend.connections(), 1);
    client.say("GET /close HTTP/1.1\r\nHost: x\r\n\r\n");
    let close = client.answer();
    assert_eq!((close.text().as_str(), close.header("connection")), ("until the end", Some("close")));
    // a client of HTTP/1.0 never sees chunks, or an answer before the answer
    let mut old = Peer::connect(&world.net, edge());
    old.say("GET /chunked HTTP/1.0\r\n\r\n");
    let answer = old.answer();
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("abcde", None));
    let mut old = Peer::connect(&world.net, edge());
    old.say("GET /early HTTP/1.0\r\n\r\n");
    assert_eq!(old.answer().text(), "x");
    drop(weir);
}

#[test]
fn large_bodies_go_both_ways_and_the_client_may_wait_for_100() {
    const BYTES: usize = 3 << 20;
    let Some(world) = World::new() else { return };
    let backend = Backend::start(&world.net, host(10), |peer, _| {
        while let Ok(Some(request)) = peer.request_head() {
            let expects = request.header("expect").is_some();
            let count: usize = request.header("content-length").unwrap().parse().unwrap();
            if expects && !peer.try_say("HTTP/1.1 100 Continue\r\n\r\n") {
                return;
            }
            let Ok(body) = peer.take(count) else { return };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            if !peer.try_say([head.as_bytes(), &body].concat()) {
                return;
            }
        }
    });
    let Some(weir) = Weir::start(&world.net, &one_service(&world, &[host(10)], Value::Null)) else { return };
    let body: Vec<u8> = (0..BYTES).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let mut client = Peer::connect(&world.net, edge());
    for _ in 0..2 {
        client.say(format!("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {BYTES}\r\n\r\n"));
        client.say(&body);
        assert!(client.answer().body == body, "not a byte is lost");
    }
    client
        .say(format!("PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {BYTES}\r\n\r\n"));
    assert_eq!(client.answer().status(), 100);
    client.say(&body);
    assert!(client.answer().body == body);
    assert_eq!(backend.connections(), 1);
    drop(weir);
}

#[test]
fn who_asks_for_the_end_gets_all_of_the_last_answer_and_then_the_end() {
    // More than the kernel keeps for a client that does not read.
    const BODY: usize = 24 << 20;
    let Some(world) = World::new() else { return };
    let _backend = Backend::answering(&world.net, host(10), |request| {
        let answer = ok(&"x".repeat(BODY));
        let is_tunnel = request.start_line().starts_with("CONNECT");
        Some(if is_tunnel { answer.replacen("200 OK", "403 Forbidden", 1) } else { answer })
    });
    let Some(weir) = Weir::start(&world.net, &one_service(&world, &[host(10)], Value::Null)) else { return };
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    // What a client sends behind that against the rules must not become a reset that overtakes the answer.
    let more = format!("{request}{}", "GET /more HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100));
    let old = "GET / HTTP/1.0\r\nHost: x\r\n\r\n";
    let connect = "CONNECT other:1 HTTP/1.1\r\nHost: other:1\r\n\r\n";
    for (asked, behind) in
        [(request, ""), (old, ""), (&more, ""), (request, "GET / HTTP/1.1\r\n"), (connect, "hello")]
    {
        let mut client = Peer::connect(&world.net, edge());
        client.say(asked);
        std::thread::sleep(Duration::from_millis(50));
        client.say(behind);
        // What it has not read by then is left to the kernel.
        std::thread::sleep(Duration::from_millis(300));
        let answer = client.answer();
        assert_eq!((answer.body.len(), answer.header("connection")), (BODY, Some("close")), "{asked}");
        assert_eq!(client.rest().unwrap(), b"", "an end and no reset: {asked}");
    }
    wait::until_true("all to be counted", SOON, || {
        let of = [("service", "web"), ("reason", "fin")];
        weir.metrics().sum("weir_connections_closed_total", &of) > 4.5
    });
}

#[test]
fn what_could_smuggle_a_request_is_refused_and_nobody_hears_of_it() {
    let Some(world) = World::new() else { return };
    let backend = Backend::answering(&world.net, host(10), echo);
    let Some(weir) = Weir::start(&world.net, &one_service(&world, &[host(10)], Value::Null)) else { return };
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let cases: &[(u16, &str)] = &[
        (
            400,
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (400, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd"),
        (400, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd"),
        (501, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n"),
        (400, "GET / HTTP/1.1\nHost: x\n\n"),
        (400, "GET / HTTP/1.1\r\nHost: x\r\nA: b\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"),
        (505, "GET / HTTP/2.0\r\nHost: x\r\n\r\n"),
        (417, "GET / HTTP/1.1\r\nHost: x\r\nExpect: nothing\r\n\r\n"),
    ];
    for (status, request) in cases {
        let mut client = Peer::connect(&world.net, edge());
        client.say(format!("{request}{smuggled}"));
        let answer = client.answer();
        assert_eq!((answer.status(), answer.header("connection")), (*status, Some("close")), "{request}");
        assert!(answer.header("x-weir-reason").is_some());
        assert_eq!(client.rest().unwrap(), b"", "{request}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(101));
    for request in [long, many] {
        let mut client = Peer::connect(&world.net, edge());
        client.try_say(request);
        assert_eq!(client.answer().status(), 431);
    }
    assert_eq!(backend.seen(), []);
    // a body that turns out to be malformed takes the endpoint's connection with it
    for body in ["x\r\n", "1\r\nab\r\n", "1\na\r\n", "0\r\nno trailer\r\n\r\n"] {
        let mut client = Peer::connect(&world.net, edge());
        client.say("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.say(format!("{body}{smuggled}"));
        assert_eq!(client.answer().status(), 400, "{body:?}");
        assert_eq!(client.rest().unwrap(), b"");
    }
    assert_eq!(backend.seen(), [], "none of them was ever complete");
    drop(weir);
}

#[test]
fn an_answer_that_is_cut_off_is_passed_on_as_cut_off() {
    let Some(world) = World::new() else { return };
    let _backend = Backend::start(&world.net, host(10), |peer, _| {
        let Ok(Some(request)) = peer.request() else { return };
        let said = match request.start_line().split(' ').nth(1).unwrap_or_default() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "/head" => "HTTP/1.1 200 OK\r\nContent-",
            "/bad" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "/none" => "",
            "/chunk" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalfX",
            "/more" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab and what nobody asked for",
            _ => return,
        };
        let _ = peer.try_say(said);
    });
    let Some(weir) = Weir::start(&world.net, &one_service(&world, &[host(10)], Value::Null)) else { return };
    let ask = |path: &str| {
        let mut client = Peer::connect(&world.net, edge());
        client.say(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        client.answer_to("GET")
    };
    for path in ["/length", "/chunked"] {
        let kind = ask(path).unwrap_err().kind();
        assert!(
            matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof),
            "{path}: {kind}"
        );
    }
    for path in ["/head", "/bad", "/none", "/chunk"] {
        assert_eq!(ask(path).unwrap().status(), 502, "{path}");
    }
    assert_eq!(ask("/more").unwrap().text(), "a");
    drop(weir);
}

#[test]
fn connections_are_upgraded_and_tunnelled() {
    let Some(world) = World::new() else { return };
    let _backend = Backend::start(&world.net, host(10), |peer, _| {
        let Ok(Some(request)) = peer.request_head() else { return };
        let is_upgrade = request.header("upgrade") == Some("websocket");
        let said = if is_upgrade {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nfirst"
        } else if request.start_line().starts_with("CONNECT") {
            "HTTP/1.1 200 Connected\r\n\r\nfirst"
        } else {
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
        };
        peer.say(said);
        while let Ok(bytes) = peer.take(4) {
            peer.say(bytes);
        }
    });
    let Some(weir) = Weir::start(&world.net, &one_service(&world, &[host(10)], Value::Null)) else { return };
    for head in [
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping",
        "CONNECT y:1 HTTP/1.1\r\nHost: y:1\r\n\r\nping",
    ] {
        let mut client = Peer::connect(&world.net, edge());
        client.say(head);
        let answer = client.answer_to("HEAD").unwrap();
        assert!(matches!(answer.status(), 101 | 200), "{answer:?}");
        assert_eq!(client.take(9).unwrap(), b"firstping");
        client.say("pong");
        assert_eq!(client.take(4).unwrap(), b"pong");
        client.finish();
        assert_eq!(client.rest().unwrap(), b"");
    }
    drop(weir);
}

#[test]
fn slow_and_silent_clients_are_given_up() {
    let Some(world) = World::new() else { return };
    let backend = Backend::answering(&world.net, host(10), echo);
    let http = json!({"head_timeout": "1s", "idle_timeout": "1s", "body_timeout": "1s"});
    let mut config = one_service(&world, &[host(10)], Value::Null);
    config["listeners"][0]["http"] = http;
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let mut silent = Peer::connect(&world.net, edge());
    let mut half_head = Peer::connect(&world.net, edge());
    half_head.say("GET / HTTP/1.1\r\nHo");
    let mut half_body = Peer::connect(&world.net, edge());
    half_body.say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe");
    assert_eq!(silent.rest().unwrap(), b"", "closed without a word");
    for (mut slow, reason) in [(half_head, "head_timeout"), (half_body, "body_timeout")] {
        let answer = slow.answer();
        assert_eq!((answer.status(), answer.header("x-weir-reason")), (408, Some(reason)));
        assert_eq!(slow.rest().unwrap(), b"");
    }
    assert_eq!(backend.seen(), []);
    let mut good = Peer::connect(&world.net, edge());
    good.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(good.answer().status(), 200, "nobody else noticed");
    drop(weir);
}
