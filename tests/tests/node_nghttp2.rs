//! HTTP/2 by nghttp2, whose client and server are nobody's who wrote ours.

use std::fs;
use std::path::Path;
use std::time::Duration;

use proxy_tests::nginx::{Nginx, Site};
use proxy_tests::node::Weir;
use proxy_tests::process::Running;
use proxy_tests::python::{PYTHON, has_module};
use proxy_tests::scratch::Scratch;
use proxy_tests::stream::noise;
use proxy_tests::wait;
use proxy_tests::web::{edge, host, speaking, ways};
use proxy_tests::world::World;
use serde_json::json;

/// A body that fits into no window.
const BIG_BYTES: usize = 3 << 20;
/// A body that fits into no socket: Linux lets a send buffer grow to 4 MiB and what nobody reads to little (tcp_wmem, tcp_rmem).
const ENDLESS_BYTES: usize = 16 << 20;
const LIMIT: Duration = Duration::from_secs(60);
const SLOW: &str = include_str!("../src/python/http2_slow.py");

/// Starts nghttpd at the endpoint, with files in a folder.
fn serve(world: &World, scratch: &Scratch, more: &[&str]) -> Option<Running> {
    let nghttpd = world.program("nghttpd")?;
    let (ip, port) = (host().ip().to_string(), host().port().to_string());
    let folder = scratch.path().display().to_string();
    let arguments = [&["--no-tls", "-a", &ip, "-d", &folder], more, &[port.as_str()]].concat();
    Some(world.serve(&nghttpd, &arguments, host()))
}

#[test]
fn bodies_of_any_size_pass_through_windows_of_any_size() {
    let Some(world) = World::new() else { return };
    let Some(nghttp) = world.program("nghttp") else { return };
    let scratch = Scratch::new("nghttp2-windows");
    let big = noise(BIG_BYTES);
    let file = scratch.file("big.bin", &big);
    let said = scratch.path().join("said").display().to_string();
    // In bits, of a stream and of a connection: at the client, and at the server.
    for (stream, connection) in [("16", "16"), ("10", "20"), ("30", "30"), ("20", "16")] {
        let Some(_server) = serve(&world, &scratch, &["--echo-upload", "-w", stream, "-W", connection])
        else {
            return;
        };
        let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
        for (place, address) in ways(&world) {
            let nghttp = nghttp.display();
            for options in [format!("-w {stream} -W {connection}"), "--padding=100 --continuation".to_owned()]
            {
                let what = format!("{address} {options}, server {stream} {connection}");
                let get = format!("{nghttp} -t 30 {options} http://{address}/big.bin > {said}");
                place.output(Path::new("/bin/sh"), &["-c", &get]).unwrap();
                assert!(fs::read(&said).unwrap() == big, "{what}: a download");
                let post = format!("{nghttp} -t 30 {options} -d {file} http://{address}/echo > {said}");
                place.output(Path::new("/bin/sh"), &["-c", &post]).unwrap();
                assert!(fs::read(&said).unwrap() == big, "{what}: an upload, and its echo");
            }
        }
    }
}

#[test]
fn trailers_pass_both_ways_and_nothing_is_pushed() {
    let Some(world) = World::new() else { return };
    let Some(nghttp) = world.program("nghttp") else { return };
    let scratch = Scratch::new("nghttp2-trailers");
    let file = scratch.file("page", "a page");
    let _ = scratch.file("pushed", "nobody asked for this");
    let options = ["-v", "--echo-upload", "--trailer=x-last: of the server", "-p/page=/pushed"];
    let Some(mut server) = serve(&world, &scratch, &options) else { return };
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    for (place, address) in ways(&world) {
        let url = format!("http://{address}/page");
        let arguments = ["-v", "-n", "--trailer=x-end: of the client", "-d", &file, &url];
        let said = place.output(&nghttp, &arguments).unwrap();
        assert!(said.contains("x-last: of the server"), "{said}");
        let said = place.output(&nghttp, &["-v", &url]).unwrap();
        assert!(said.contains("a page") && said.contains("x-last: of the server"), "{said}");
        assert!(!said.contains("PUSH_PROMISE"), "{said}");
    }
    server.kill();
    let heard: Vec<String> = std::iter::from_fn(|| server.line(LIMIT)).collect();
    let ends = heard.iter().filter(|line| line.contains("x-end: of the client")).count();
    assert_eq!(ends, 2, "{heard:#?}");
    assert!(heard.iter().any(|line| line.contains("SETTINGS_ENABLE_PUSH(0x02):0")), "{heard:#?}");
    assert!(!heard.iter().any(|line| line.contains("PUSH_PROMISE")), "{heard:#?}");
}

#[test]
fn many_streams_with_priorities_are_all_served() {
    let Some(world) = World::new() else { return };
    let Some(nghttp) = world.program("nghttp") else { return };
    let scratch = Scratch::new("nghttp2-many");
    let _ = scratch.file("page", noise(10_000));
    let Some(_server) = serve(&world, &scratch, &[]) else { return };
    let Some(weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    for (place, address) in ways(&world) {
        let url = format!("http://{address}/page");
        for priority in [&["-p", "1"][..], &["-H", "priority: u=0"], &["--no-dep"]] {
            let arguments = [&["-n", "-s", "-t", "30", "-m", "240"], priority, &[url.as_str()]].concat();
            let said = place.output(&nghttp, &arguments).unwrap();
            assert_eq!(said.matches(" 200 ").count(), 240, "{priority:?}: {said}");
        }
    }
    let ended = weir.metrics().sum("weir_http_requests_total", &[("status", "2xx")]);
    assert_eq!(ended, 2.0 * 3.0 * 240.0);
}

/// Answers that nobody reads wait at their server, also where others come by the same connection.
#[test]
fn slow_readers_of_many_streams_hold_up_nobody_and_are_bounded() {
    const CONNECTIONS: u32 = 4;
    const STREAMS: u32 = 100;
    // What waits of a stream: its window, and as much on its way out, in allocations that pieces share; and what the rest needs.
    const MOST_BYTES: u64 = (CONNECTIONS * STREAMS) as u64 * (256 << 10) + (16 << 20);
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    if !has_module("h2") {
        return;
    }
    for (protocol, listen) in [("http", ""), ("http2", "http2")] {
        let Some(nginx) = Nginx::start(&world, host(), Site { listen, ..Site::PLAIN }) else { return };
        let _ = nginx.file("big.bin", noise(ENDLESS_BYTES));
        let Some(weir) = Weir::start(&world.net, &speaking(&world, protocol, json!({}))) else { return };
        let fresh = |address| {
            let url = format!("http://{address}/");
            let arguments = ["-sS", "--fail", "--max-time", "20", "--http2-prior-knowledge", &url];
            let said = world.outside().output(&curl, &arguments);
            assert_eq!(said.as_deref().ok(), Some("hello"), "{protocol}: {said:?}");
        };
        fresh(edge());
        let before = weir.memory_bytes();
        let mut command = world.outside().command(Path::new(PYTHON));
        let (ip, port) = (edge().ip().to_string(), edge().port().to_string());
        let (connections, streams) = (CONNECTIONS.to_string(), STREAMS.to_string());
        command.args(["-c", SLOW, &ip, &port, "/big.bin", &connections, &streams]);
        let mut slow = Running::start(&mut command).unwrap();
        assert_eq!(slow.line(LIMIT).as_deref(), Some("asked"));
        let active = || weir.metrics().sum("weir_http_requests_active", &[("service", "web")]);
        wait::until_true("all of them", LIMIT, || active() >= f64::from(CONNECTIONS * STREAMS));
        for _ in 0..20 {
            fresh(edge());
            let more = weir.memory_bytes().saturating_sub(before);
            assert!(more < MOST_BYTES, "{protocol}: {more} bytes more");
        }
        slow.kill();
        wait::until_true("their end", LIMIT, || active() < 1.0);
    }
}
