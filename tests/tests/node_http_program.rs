//! HTTP between real programs that know nothing of Weir, at its edge and intercepted.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use proxy_tests::nginx::{Nginx, Site};
use proxy_tests::node::Weir;
use proxy_tests::origin::{Kind, Origin};
use proxy_tests::process::Running;
use proxy_tests::stream::noise;
use proxy_tests::wait;
use proxy_tests::web::{edge, host, speaking, ways};
use proxy_tests::world::World;
use serde_json::{Value, json};

/// A body that fits into no buffer.
const BIG_BYTES: usize = 20 << 20;
/// What becomes of processes that are asked to end.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Everything compressed.
const GZIP: Site<'static> = Site { http: "gzip on; gzip_min_length 1; gzip_types *;", ..Site::PLAIN };
const WEBSOCKET: &str = include_str!("../src/python/websocket.py");
const REQUESTS: &str = include_str!("../src/python/requests.py");

fn http_config(world: &World, http: Value) -> Value {
    let mut config = speaking(world, "http", json!({}));
    config["listeners"][0]["http"] = http;
    config
}

#[test]
fn curl_and_nginx_exchange_everything_that_they_can() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    let Some(nginx) = Nginx::start(&world, host(), GZIP) else { return };
    let big = noise(BIG_BYTES);
    let big_file = nginx.file("big.bin", &big);
    let text = "all work and no play ".repeat(5_000);
    let _ = nginx.file("text.txt", &text);
    let out = nginx.path("out").display().to_string();
    let Some(weir) = Weir::start(&world.net, &http_config(&world, json!({}))) else { return };
    for (place, address) in ways(&world) {
        let url = |path: &str| format!("http://{address}{path}");
        let run = |arguments: &[&str]| {
            let all = [&["-sS", "--fail", "--max-time", "30"], arguments].concat();
            place.output(&curl, &all).unwrap()
        };
        let out_bytes = || fs::read(&out).unwrap();

        let root = url("/");
        let said = run(&["-w", " %{num_connects}\n", &root, &root, &root]);
        assert_eq!(said, "hello 1\nhello 0\nhello 0\n", "one connection for all");
        assert_eq!(run(&["--http1.0", &root]), "hello");

        run(&["-o", &out, &url("/big.bin")]);
        assert!(out_bytes() == big, "{address}: every byte of a large file");
        let head = run(&["-I", &url("/big.bin")]).to_lowercase();
        assert!(head.contains(&format!("content-length: {BIG_BYTES}")), "{head}");
        run(&["-r", "1000-1999,5000-5001", "-o", &out, &url("/big.bin")]);
        let parts = String::from_utf8_lossy(&out_bytes()).into_owned();
        assert!(parts.contains("bytes 1000-1999/") && parts.contains("bytes 5000-5001/"), "two ranges");
        run(&["-r", "-100", "-o", &out, &url("/big.bin")]);
        assert!(out_bytes() == big[BIG_BYTES - 100..], "the last range");

        run(&["-H", "Accept-Encoding: gzip", "-o", &out, &url("/text.txt")]);
        assert!(out_bytes().starts_with(b"\x1f\x8b") && out_bytes().len() < text.len() / 10);
        assert_eq!(run(&["--compressed", &url("/text.txt")]), text);
        // in chunks, which HTTP/1.0 does not have
        assert_eq!(run(&["--http1.0", "--compressed", &url("/text.txt")]), text);

        // with its length, after 100 Continue; and in chunks, of which nobody knows how many there will be
        run(&["-T", &big_file, "-H", "Expect: 100-continue", &url("/new/length")]);
        assert!(fs::read(nginx.path("new/length")).unwrap() == big, "{address}");
        let script = format!("cat {big_file} | {} -sS --fail -T - {}", curl.display(), url("/new/chunks"));
        place.output(Path::new("/bin/sh"), &["-c", &script]).unwrap();
        assert!(fs::read(nginx.path("new/chunks")).unwrap() == big, "{address}");
        run(&["-X", "DELETE", &url("/new/length")]);
        assert!(!nginx.path("new/length").exists());
        // an answer before the body was sent: nginx takes no POST of files
        let data = format!("@{big_file}");
        let refused = ["-sS", "-o", &out, "-w", "%{http_code}", "--data-binary", &data, &url("/big.bin")];
        assert_eq!(place.output(&curl, &refused).unwrap(), "405");
    }
    let faults = weir.metrics().sum("weir_http_requests_total", &[("status", "5xx")]);
    assert!(faults.abs() < 1.0, "{faults} requests failed");
}

#[test]
fn thousands_of_requests_fail_nowhere_though_their_server_closes_often() {
    const REQUESTS: f64 = 2_000.0;
    let Some(world) = World::new() else { return };
    let Some(wrk) = world.program("wrk") else { return };
    for (more, kept) in [("", 1_000.0), ("keepalive_requests 5;", 5.0)] {
        let Some(_nginx) = Nginx::start(&world, host(), Site { http: more, ..Site::PLAIN }) else { return };
        let Some(weir) = Weir::start(&world.net, &http_config(&world, json!({}))) else { return };
        for (place, address) in ways(&world) {
            let url = format!("http://{address}/");
            let mut count = 0.0;
            while count < REQUESTS {
                let said = place.output(&wrk, &["-t", "1", "-c", "16", "-d", "1s", &url]).unwrap();
                assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{address}: {said}");
                let requests = said.lines().find_map(|line| line.trim().split_once(" requests in"));
                let requests: f64 = requests.unwrap().0.parse().unwrap();
                assert!(requests > 0.0, "{said}");
                count += requests;
            }
        }
        let metrics = weir.metrics();
        let ended = metrics.sum("weir_http_requests_total", &[]);
        assert!((ended - metrics.sum("weir_http_requests_total", &[("status", "2xx")])).abs() < 40.0);
        let opened = metrics.sum("weir_http_upstream_connections_total", &[("how", "opened")]);
        assert!(opened <= ended / kept * 1.5 + 64.0, "{opened} connections for {ended} requests");
        assert!(opened >= ended / kept / 1.5 - 64.0, "{opened} connections for {ended} requests");
    }
}

#[test]
fn pythons_client_speaks_to_pythons_servers() {
    let Some(world) = World::new() else { return };
    for kind in [Kind::H11, Kind::Library] {
        let Some(origin) = Origin::start(&world, host(), kind) else { continue };
        let Some(_weir) = Weir::start(&world.net, &http_config(&world, json!({}))) else { return };
        for (place, address) in ways(&world) {
            let (ip, port) = (address.ip().to_string(), address.port().to_string());
            let said = place.output(Path::new("python3"), &["-c", REQUESTS, &ip, &port, "40"]).unwrap();
            assert_eq!(said, "ok\n", "{kind:?} {address}");
        }
        assert_eq!(origin.take_seen(&world.net).len(), 2 * 5 * 40, "{kind:?} saw each once");
    }
}

#[test]
fn websockets_go_through() {
    let Some(world) = World::new() else { return };
    let python = Path::new("python3");
    let (ip, port) = (host().ip().to_string(), host().port().to_string());
    let _server = world.serve(python, &["-c", WEBSOCKET, "serve", &ip, &port], host());
    let Some(_weir) = Weir::start(&world.net, &http_config(&world, json!({}))) else { return };
    for (place, address) in ways(&world) {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let said = place.output(python, &["-c", WEBSOCKET, "check", &ip, &port]).unwrap();
        assert_eq!(said, "ok\n", "{address}");
    }
}

#[test]
fn slow_attackers_keep_nobody_from_being_served() {
    const ATTACKERS: f64 = 200.0;
    let Some(world) = World::new() else { return };
    let (Some(attack), Some(curl)) = (world.program("slowhttptest"), world.program("curl")) else { return };
    // it answers when it has the whole body
    let Some(_origin) = Origin::start(&world, host(), Kind::Library) else { return };
    let http = json!({"head_timeout": "2s", "body_timeout": "2s"});
    let Some(weir) = Weir::start(&world.net, &http_config(&world, http)) else { return };
    let url = format!("http://{}/", edge());
    for (kind, reason) in [("-H", "head_timeout"), ("-B", "body_timeout")] {
        let mut command = world.outside().command(&attack);
        // a few bytes every three seconds, on 200 connections
        command.args([kind, "-c", "200", "-r", "200", "-i", "3", "-l", "6", "-x", "8", "-u", &url]);
        let mut attacker = Running::start(command.stderr(Stdio::null())).unwrap();
        let mut served = 0;
        let ended = [("reason", reason)];
        wait::until_true(&format!("the end of attackers by {reason}"), END_LIMIT, || {
            let began = Instant::now();
            let said = world.outside().output(&curl, &["-sS", "--fail", "--max-time", "5", &url]);
            assert!(said.unwrap().contains("GET"), "{kind}");
            assert!(began.elapsed() < Duration::from_secs(1), "{kind}: {:?}", began.elapsed());
            served += 1;
            weir.metrics().sum("weir_http_requests_ended_total", &ended) >= ATTACKERS
        });
        assert!(served > 10, "{served} requests during the attack");
        attacker.kill();
    }
}
