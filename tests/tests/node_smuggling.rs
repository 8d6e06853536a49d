//! Ambiguous requests through Weir to servers with parsers of their own: nobody behind it sees a request that the client
//! did not plainly send. How other proxies read the same is printed.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_tests::http::{Backend, Message, Peer, ok};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::origin::{Kind, Origin};
use proxy_tests::scratch::Scratch;
use proxy_tests::smuggling::{Case, Verdict, cases};
use proxy_tests::world::World;
use proxy_tests::{config, process};
use serde_json::{Value, json};

/// Silence after which another proxy is taken to wait for more.
const SILENCE: Duration = Duration::from_millis(150);
/// Cases that one thread asks another proxy.
const CASES_AT_ONCE: usize = 12;

fn edge() -> SocketAddr {
    "10.77.0.1:8000".parse().unwrap()
}

fn host(number: u8) -> SocketAddr {
    Family::V4.host(number, 8080)
}

fn weir_config(world: &World, endpoint: SocketAddr) -> Value {
    let service =
        json!({"name": "web", "protocol": "http", "endpoints": [{"address": endpoint.to_string()}]});
    let mut config = config::config(world, [service]);
    let listener = json!({"address": edge().to_string(), "protocol": "http", "service": "web"});
    config::merge(&mut config, json!({"listeners": [listener]}));
    config
}

/// Says a case to Weir and checks what comes back.
fn check(world: &World, case: &Case) {
    let label = format!("{} {}", case.number, case.name);
    let mut client = Peer::connect(&world.net, edge());
    client.try_say(&case.bytes);
    let method = if case.bytes.starts_with(b"HEAD") { "HEAD" } else { "GET" };
    let mut answer = || {
        // the server may say "go on" where it was asked to
        let first = client.answer_to(method).unwrap_or_else(|error| panic!("{label}: {error}"));
        if first.status() == 100 { client.answer() } else { first }
    };
    match case.verdict {
        Verdict::Refused(status) => {
            let refusal = answer();
            assert_eq!((refusal.status(), refusal.header("connection")), (status, Some("close")), "{label}");
            assert!(refusal.header("x-weir-reason").is_some(), "{label}: {refusal:?}");
        }
        Verdict::Inside => assert_eq!(answer().status(), 200, "{label}"),
        Verdict::Pipelined => {
            for _ in 0..2 {
                let answer = answer();
                assert_eq!((answer.status(), answer.header("x-weir-reason")), (200, None), "{label}");
            }
        }
        Verdict::Last => {
            let last = answer();
            let is_tunnel = case.bytes.starts_with(b"CONNECT");
            let status = if is_tunnel { 405 } else { 200 };
            assert_eq!((last.status(), last.header("connection")), (status, Some("close")), "{label}");
        }
        Verdict::Waiting => {}
    }
    client.finish();
    // A body that never ends is cut off with a reset; everything else ends in order.
    let rest = client.rest();
    if case.verdict != Verdict::Waiting {
        assert_eq!(rest.unwrap(), b"", "{label}");
    }
}

/// Checks what a server behind Weir took for requests: their targets, in order, by number of the case.
fn check_seen(seen: &[String], weir: &Weir<'_>, all: &[Case]) {
    for case in all {
        let suffix = format!("-{}", case.number);
        let own: Vec<&str> =
            seen.iter().filter(|t| t.trim_end_matches(":1").ends_with(&suffix)).map(String::as_str).collect();
        let (first, second) = (case.target(), case.smuggled());
        let first =
            if case.bytes.starts_with(b"CONNECT") { format!("case-{}:1", case.number) } else { first };
        let expected: &[&str] = match case.verdict {
            Verdict::Refused(_) | Verdict::Waiting => &[],
            Verdict::Inside | Verdict::Last => &[&first],
            Verdict::Pipelined => &[&first, &second],
        };
        assert_eq!(own, expected, "{suffix} {}", case.name);
    }
    let sent = weir.metrics().sum("weir_http_upstream_connections_total", &[]);
    assert!(seen.len() as f64 <= sent, "{} requests arrived, {sent} were sent", seen.len());
}

#[test]
fn what_parsers_read_differently_reaches_no_parser() {
    let Some(world) = World::new() else { return };
    let all = cases();
    for (number, kind) in [(10, Kind::H11), (11, Kind::Library)] {
        let Some(origin) = Origin::start(&world, host(number), kind) else { continue };
        let Some(weir) = Weir::start(&world.net, &weir_config(&world, host(number))) else { return };
        all.iter().for_each(|case| check(&world, case));
        let seen = origin.take_seen(&world.net);
        let targets: Vec<_> = seen.iter().map(|said| said["target"].as_str().unwrap().to_owned()).collect();
        check_seen(&targets, &weir, &all);
    }
}

#[test]
fn what_leaves_weir_can_be_read_in_one_way_only() {
    let Some(world) = World::new() else { return };
    let all = cases();
    let backend = Backend::answering(&world.net, host(10), |request| {
        let is_tunnel = request.start_line().starts_with("CONNECT");
        Some(if is_tunnel { "HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n".to_owned() } else { ok("") })
    });
    let Some(weir) = Weir::start(&world.net, &weir_config(&world, host(10))) else { return };
    all.iter().for_each(|case| check(&world, case));
    let seen = backend.take_seen();
    for request in &seen {
        check_plain(request);
    }
    let targets: Vec<_> =
        seen.iter().map(|m| m.start_line().split(' ').nth(1).unwrap_or_default().to_owned()).collect();
    check_seen(&targets, &weir, &all);
    let absolute = seen.iter().find(|m| m.header("host") == Some("y"));
    assert!(
        absolute.is_some_and(|m| m.start_line().starts_with("GET /case-")),
        "Host says what the target said"
    );
}

/// Checks that there is nothing in a head that anybody could stumble over.
fn check_plain(request: &Message) {
    let head = &request.head;
    assert!(!head.contains('\0') && !head.contains('\u{fffd}'), "{head}");
    assert_eq!(head.matches('\n').count(), head.matches("\r\n").count(), "{head}");
    assert_eq!(head.matches('\r').count(), head.matches("\r\n").count(), "{head}");
    let words: Vec<_> = request.start_line().split(' ').collect();
    assert!(matches!(words[..], [_, _, "HTTP/1.1"]), "{head}");
    for line in head.lines().skip(1) {
        let (name, _) = line.split_once(':').unwrap();
        assert!(!name.is_empty() && !name.contains([' ', '\t']), "{head}");
    }
    // `header` makes sure that there is one at most
    assert!(request.header("host").is_some(), "{head}");
    let framings = (request.header("content-length"), request.header("transfer-encoding"));
    assert!(!matches!(framings, (Some(_), Some(_))), "{head}");
    assert!(!head.to_lowercase().contains("h2c"), "{head}");
    assert_eq!(request.header("http2-settings"), None);
}

/// What a proxy made of a case: the statuses that the client got, and the requests that the server saw.
type Row = (Vec<u16>, Vec<String>);

/// Says all cases to another proxy.
fn ask_other<'a>(
    world: &World,
    front: SocketAddr,
    origin: &Origin,
    all: &'a [Case],
) -> BTreeMap<String, Row> {
    // Several at once: mostly they wait for silence.
    let said: Vec<(&Case, Vec<u16>)> = std::thread::scope(|scope| {
        let ask =
            |part: &'a [Case]| part.iter().map(|case| (case, statuses(world, front, &case.bytes))).collect();
        let threads: Vec<_> =
            all.chunks(CASES_AT_ONCE).map(|part| scope.spawn(move || -> Vec<_> { ask(part) })).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let seen = origin.take_seen(&world.net);
    let row = |(case, statuses): (&Case, Vec<u16>)| {
        let targets = seen.iter().filter_map(|said| said["target"].as_str());
        let own = targets.filter(|t| t.contains(&format!("-{}", case.number)));
        (case.number.clone(), (statuses, own.map(str::to_owned).collect()))
    };
    said.into_iter().map(row).collect()
}

fn statuses(world: &World, front: SocketAddr, bytes: &[u8]) -> Vec<u16> {
    let mut client = Peer::connect(&world.net, front);
    client.try_say(bytes);
    let mut socket = client.socket();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        heard.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8_lossy(&heard);
    text.split("HTTP/1.").skip(1).filter_map(|m| m.get(2..5)?.parse().ok()).collect()
}

#[test]
fn how_other_proxies_read_the_same_is_shown() {
    let Some(world) = World::new() else { return };
    let Some(origin) = Origin::start(&world, host(10), Kind::H11) else { return };
    let all = cases();
    let scratch = Scratch::new("fronts");
    let folder = scratch.path().display();
    let mut columns = Vec::new();
    if let Some(nginx) = process::find("nginx") {
        let text = format!(
            "user root; daemon off; master_process off; pid {folder}/pid; error_log /dev/null; events {{}}\n\
             http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n\
             fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
             upstream origin {{ server {}; keepalive 4; }} server {{ listen {};\n\
             location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n",
            host(10),
            host(12)
        );
        let file = scratch.file("nginx.conf", text);
        let _nginx = world.serve(&nginx, &["-c", &file], host(12));
        columns.push(("nginx", ask_other(&world, host(12), &origin, &all)));
    }
    if let Some(haproxy) = process::find("haproxy") {
        let text = format!(
            "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n\
             frontend f\n bind {}\n default_backend b\nbackend b\n server s {}\n",
            host(13),
            host(10)
        );
        let file = scratch.file("haproxy.cfg", text);
        let _haproxy = world.serve(&haproxy, &["-db", "-q", "-f", &file], host(13));
        columns.push(("HAProxy", ask_other(&world, host(13), &origin, &all)));
    }
    let mut table = format!("{:36} {:14}", "case", "Weir must");
    columns.iter().for_each(|(name, _)| write!(table, " {name:24}").unwrap());
    for case in &all {
        write!(table, "\n{} {:33} {:14}", case.number, case.name, format!("{:?}", case.verdict)).unwrap();
        for (_, rows) in &columns {
            let (statuses, seen) = &rows[&case.number];
            let words: Vec<_> = statuses.iter().map(u16::to_string).collect();
            let is_there = seen.contains(&case.smuggled()) && case.verdict != Verdict::Pipelined;
            let note = if is_there { " and the second" } else { "" };
            write!(table, " {:24}", format!("{} -> {}{note}", words.join(","), seen.len())).unwrap();
        }
    }
    println!("{table}");
    let is_plain = |rows: &BTreeMap<String, Row>| rows.values().any(|(_, seen)| !seen.is_empty());
    assert!(columns.iter().all(|(_, rows)| is_plain(rows)), "plain requests go through everywhere");
}
