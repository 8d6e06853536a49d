//! WebSocket and CONNECT where a side speaks HTTP/2, between programs that know nothing of Weir.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::Path;
use std::time::Duration;

use proxy_tests::client::Place;
use proxy_tests::http::Peer;
use proxy_tests::node::Weir;
use proxy_tests::process::Running;
use proxy_tests::python::{PYTHON, has_module};
use proxy_tests::scratch::Scratch;
use proxy_tests::wait;
use proxy_tests::web::{edge, host, speaking, ways};
use proxy_tests::world::World;
use serde_json::{Value, json};

const PROGRAM: &str = include_str!("../src/python/websocket_http2.py");
/// Longer than any step needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Bytes that fit between a server and a client that reads nothing: two sockets on each side, which the kernel lets grow to 4 MiB
/// and 6 MiB (tcp_wmem, tcp_rmem), and what Weir holds.
const MOST_HELD: u64 = 24 << 20;

/// What a service's endpoint speaks, and the server that speaks it.
const SERVERS: [(&str, &[&str]); 2] = [("http", &["echo1"]), ("http2", &["serve2", "1"])];
const ODD_SERVERS: [(&str, &[&str]); 2] = [("http", &["raw1"]), ("http2", &["serve2", "1"])];

fn begin() -> Option<World> {
    let world = World::new()?;
    ["h2", "wsproto", "websockets"].into_iter().all(has_module).then_some(world)
}

fn arguments<'a>(what: &'a str, address: &'a [String; 2], more: &[&'a str]) -> Vec<&'a str> {
    [&["-c", PROGRAM, what, &address[0], &address[1]], more].concat()
}

fn text(address: std::net::SocketAddr) -> [String; 2] {
    [address.ip().to_string(), address.port().to_string()]
}

fn serve(world: &World, server: &[&str]) -> Running {
    let address = text(host());
    world.serve(Path::new(PYTHON), &arguments(server[0], &address, &server[1..]), host())
}

/// Runs a client at the edge to its end; gives what it said.
fn run(place: &Place<'_>, what: &str, address: std::net::SocketAddr, more: &[&str]) -> String {
    let address = text(address);
    place.output(Path::new(PYTHON), &arguments(what, &address, more)).unwrap().trim().to_owned()
}

/// Opens something by HTTP/2, says what is to be said, and tells how it went.
fn odd(world: &World, path: &str, protocol: &str, says: &str) -> Value {
    serde_json::from_str(&run(&world.outside(), "odd2", edge(), &[path, protocol, says])).unwrap()
}

#[test]
fn every_version_reaches_a_websocket_of_every_version() {
    let Some(world) = begin() else { return };
    for (protocol, server) in SERVERS {
        let _server = serve(&world, server);
        let mut config = speaking(&world, protocol, json!({}));
        // What goes through a tunnel is no body, and may rest for longer.
        config["listeners"][0]["http"] =
            json!({"max_request_body": "1KiB", "max_response_body": "1KiB", "body_timeout": "1s"});
        let folder = Scratch::new("websocket");
        let log = folder.path().join("access.log");
        config["access_log"] = json!({"path": log, "format": "json"});
        let Some(weir) = Weir::start(&world.net, &config) else { return };
        for (place, address) in ways(&world) {
            for client in ["check1", "check2"] {
                let silence_s = if address == edge() { "3" } else { "0" };
                let said = run(&place, client, address, &[silence_s]);
                assert_eq!(said, "ok", "{client} to {protocol} at {address}");
            }
        }
        let ended = |reason: &str| {
            weir.metrics().sum("weir_http_requests_ended_total", &[("service", "web"), ("reason", reason)])
        };
        // Of HTTP/1.1 one for each client, of HTTP/2 three.
        wait::until_true("all to be counted", LIMIT, || ended("ok") >= 8.0);
        assert!(
            (weir.metrics().sum("weir_http_requests_ended_total", &[("service", "web")]) - 8.0).abs() < 0.5
        );
        let bytes = weir.metrics().sum("weir_http_bytes_received_total", &[("service", "web")]);
        assert!(bytes > f64::from(3 << 20), "{bytes} through streams");
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        // Between two sides of HTTP/1.1 it is the connection that has the bytes, and a line of its own at its end.
        let tunnels_told = if protocol == "http" { 2 } else { 0 };
        let is_told = |text: &str| text.lines().count() == 8 + tunnels_told && text.ends_with('\n');
        wait::until_true("all to be in the log", LIMIT, || is_told(&said()));
        let lines: Vec<Value> = said().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().all(|line| line["dst.addr"] == host().to_string()), "{lines:?}");
        let statuses = |version: &str| {
            let of_version = lines.iter().filter(|line| line["http.version"] == version);
            of_version.map(|line| line["http.status"].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((statuses("1.1"), statuses("2")), (vec![101; 2], vec![200; 6]), "{lines:?}");
        let tunnels = lines.iter().filter(|line| line.get("http.version").is_none());
        assert_eq!(tunnels.count(), tunnels_told, "{lines:?}");
        let bytes = |line: &Value| line["bytes_recv"].as_u64().unwrap() > 1 << 20;
        assert_eq!(lines.iter().filter(|line| bytes(line)).count(), 8, "{lines:?}");
    }
}

#[test]
fn a_tunnel_counts_for_its_endpoint_as_long_as_it_is_open() {
    let Some(world) = begin() else { return };
    let _server = serve(&world, &["echo1"]);
    let config = speaking(&world, "http", json!({"limits": {"max_connections_per_endpoint": 1}}));
    let Some(_weir) = Weir::start(&world.net, &config) else { return };
    let open = || {
        let mut client = Peer::connect(&world.net, edge());
        client.say(
            "GET /chat HTTP/1.1\r\nHost: web.shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        let status = client.answer().status();
        (client, status)
    };
    let (first, status) = open();
    assert_eq!(status, 101);
    assert_eq!([(); 3].map(|()| open().1), [503; 3]);
    drop(first);
    wait::until_true("room for another", LIMIT, || open().1 == 101);
}

#[test]
fn a_client_that_reads_nothing_holds_its_server_back() {
    let Some(world) = begin() else { return };
    let server = serve(&world, &["echo1"]);
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http", json!({}))) else { return };
    let address = text(edge());
    let mut command = world.outside().command(Path::new(PYTHON));
    let mut client = Running::start(command.args(arguments("slow2", &address, &[]))).unwrap();
    assert_eq!(client.line(LIMIT).as_deref(), Some("asked"));
    let said = server.line(LIMIT).unwrap();
    let held: u64 = said.strip_prefix("stalled ").unwrap().parse().unwrap();
    assert!(held < MOST_HELD, "{held} bytes");
    client.say("read");
    assert_eq!(client.line(LIMIT).as_deref(), Some("ok"), "every byte comes then");
}

#[test]
fn each_end_of_a_tunnel_reaches_the_other_side_and_no_other_stream() {
    let Some(world) = begin() else { return };
    for (protocol, server) in ODD_SERVERS {
        let server = serve(&world, server);
        let Some(weir) = Weir::start(&world.net, &speaking(&world, protocol, json!({}))) else { return };
        let told = |path: &str, kind: &str, says: &str| {
            let told = odd(&world, path, kind, says);
            assert_eq!(told["other"], "403", "{protocol} {path}: {told}");
            [told["status"].clone(), told["data"].clone(), told["end"].clone()]
        };
        assert_eq!(told("/half", "websocket", "said"), [json!("200"), json!("late:said"), json!("end")]);
        assert_eq!(told("/half", "-", "said"), [json!("200"), json!("late:said"), json!("end")], "CONNECT");
        // CANCEL is what a reset is called.
        assert_eq!(told("/reset", "websocket", "heard"), [json!("200"), json!("first"), json!("reset 8")]);
        assert_eq!(told("/wait", "websocket", "reset")[..2], [json!("200"), json!("first")]);
        assert_eq!(
            server.line(LIMIT).as_deref(),
            Some("reset"),
            "{protocol}: the server hears of the client's"
        );
        let ended = |reason: &str| {
            weir.metrics().sum("weir_http_requests_ended_total", &[("service", "web"), ("reason", reason)])
        };
        // Two tunnels that ended in order, and the other stream of each client.
        wait::until_true("all to be counted", LIMIT, || ended("downstream_reset") >= 1.0);
        assert_eq!([ended("ok"), ended("response_cut"), ended("downstream_reset")], [6.0, 1.0, 1.0]);
    }
}

#[test]
fn a_tunnel_that_a_client_of_http1_opens_leads_to_either_version() {
    let Some(world) = begin() else { return };
    for (protocol, server) in ODD_SERVERS {
        let _server = serve(&world, server);
        let Some(_weir) = Weir::start(&world.net, &speaking(&world, protocol, json!({}))) else { return };
        for (place, address) in ways(&world) {
            let told = |authority: &str| -> Value {
                serde_json::from_str(&run(&place, "odd1", address, &[authority])).unwrap()
            };
            let opened = told("there:1");
            let said = [&opened["status"], &opened["data"], &opened["end"]];
            assert_eq!(said, ["200", "late:said", "end"], "{protocol} at {address}: {opened}");
            let fields = opened["fields"].to_string();
            assert!(!fields.contains("upgrade") && !fields.contains("transfer-encoding"), "{fields}");
            let refused = told("refused:1");
            assert_eq!(refused["status"], "403", "{protocol} at {address}: {refused}");
        }
    }
}

#[test]
fn what_cannot_be_opened_is_refused_by_name() {
    let Some(world) = begin() else { return };
    let server = serve(&world, &["raw1"]);
    let weir = Weir::start(&world.net, &speaking(&world, "http", json!({})));
    let Some(weir) = weir else { return };
    let told = |path: &str, protocol: &str| {
        let told = odd(&world, path, protocol, "");
        [told["status"].clone(), told["reason"].clone()]
    };
    assert_eq!(told("/", "connect-udp"), [json!("501"), json!("unsupported_tunnel")]);
    assert_eq!(
        told("/wrong", "websocket"),
        [json!("502"), json!("upstream_malformed")],
        "it did not read the key"
    );
    assert_eq!(told("/refused", "websocket"), [json!("403"), Value::Null]);
    drop((server, weir));
    let _server = serve(&world, &["serve2", "0"]);
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    assert_eq!(told("/", "websocket"), [json!("503"), json!("upstream_no_tunnel")]);
}
