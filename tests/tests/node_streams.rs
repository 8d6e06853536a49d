//! Requests side by side: what ends one of them ends no other, and connections to endpoints do not become more and more.

use std::path::Path;
use std::time::Duration;

use proxy_tests::http::{Backend, ok};
use proxy_tests::node::Weir;
use proxy_tests::process::Running;
use proxy_tests::python::{PYTHON, has_module};
use proxy_tests::wait;
use proxy_tests::web::{edge, host, speaking};
use proxy_tests::world::World;
use serde_json::json;

const PROGRAM: &str = include_str!("../src/python/streams.py");
/// Longer than any step needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Answers side by side, beside the one that is given up.
const OTHERS: usize = 4;

/// Runs a client that asks for the paths; gives how each ended.
fn check(world: &World, client: &str, paths: &[&str]) -> Vec<String> {
    let (ip, port) = (edge().ip().to_string(), edge().port().to_string());
    let arguments = [&["-c", PROGRAM, client, &ip, &port], paths].concat();
    let said = world.outside().output(Path::new(PYTHON), &arguments).expect("it tells");
    said.split_whitespace().map(str::to_owned).collect()
}

/// The next line that does not tell of a connection.
fn told(server: &Running) -> Option<String> {
    loop {
        match server.line(LIMIT) {
            Some(line) if line == "connected" => {}
            line => return line,
        }
    }
}

#[test]
fn one_answer_that_is_given_up_at_either_end_leaves_all_others_whole() {
    let Some(world) = World::new() else { return };
    if !has_module("h2") {
        return;
    }
    for (protocol, serves) in [("http", "serve1"), ("http2", "serve2")] {
        let (ip, port) = (host().ip().to_string(), host().port().to_string());
        let server = world.serve(Path::new(PYTHON), &["-c", PROGRAM, serves, &ip, &port], host());
        let mut config = speaking(&world, protocol, json!({}));
        // All on the same connections.
        config["workers"] = json!(1);
        let Some(weir) = Weir::start(&world.net, &config) else { return };
        for client in ["check1", "check2"] {
            let what = format!("{client} to {serves}");
            for (path, end) in [("/left", "left"), ("/broken", "reset")] {
                let paths = ["/whole", "/whole", path, "/whole", "/whole"];
                let ends = check(&world, client, &paths);
                let wanted = paths.map(|one| if one == path { end } else { "whole" });
                assert_eq!(ends, wanted, "{what}: {path}");
            }
            assert_eq!(told(&server).as_deref(), Some("reset /left"), "{what}: its endpoint hears of it");
        }
        let ended =
            |reason: &str| weir.metrics().sum("weir_http_requests_ended_total", &[("reason", reason)]);
        wait::until_true("all to be counted", LIMIT, || ended("downstream_reset") >= 2.0);
        let counted = [ended("ok"), ended("downstream_reset"), ended("response_cut")];
        let whole = u32::try_from(2 * 2 * OTHERS).expect("a few");
        assert_eq!(counted, [f64::from(whole), 2.0, 2.0], "{protocol}");
    }
}

#[test]
fn connections_to_endpoints_do_not_become_more_and_more() {
    const AT_ONCE: u32 = 200;
    const CLIENTS: u32 = 4;
    let Some(world) = World::new() else { return };
    let Some(h2load) = world.program("h2load") else { return };
    if !has_module("h2") {
        return;
    }
    let url = format!("http://{}/", edge());
    let load = |more: &[&str]| {
        let said = world.outside().output(&h2load, &[more, &[url.as_str()]].concat()).expect("it runs");
        assert!(said.contains(" 0 failed, 0 errored"), "{said}");
    };
    let sequential = |version: &[&str]| load(&[&["-n", "1000", "-c", "1", "-m", "1"], version].concat());
    let at_once =
        || load(&["-n", "2000", "-c", &CLIENTS.to_string(), "-m", &(AT_ONCE / CLIENTS).to_string()]);

    // An endpoint of HTTP/1.1 needs one for each request at a time. Each worker has connections of its own, so there is one.
    let mut backend = Backend::answering(&world.net, host(), |_| Some(ok("served")));
    let mut config = speaking(&world, "http", json!({}));
    config["workers"] = json!(1);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    sequential(&["--h1"]);
    sequential(&[]);
    assert_eq!(backend.connections(), 1, "for one at a time");
    for _ in 0..3 {
        at_once();
    }
    assert!(backend.connections() <= AT_ONCE, "{} for {AT_ONCE} at a time", backend.connections());
    let before = backend.connections();
    sequential(&[]);
    sequential(&["--h1"]);
    assert_eq!(backend.connections(), before, "what rests is used again");
    drop(weir);
    backend.stop(&world.net);

    // One of HTTP/2 takes many on one connection.
    let Some(nghttpd) = world.program("nghttpd") else { return };
    let (ip, port) = (host().ip().to_string(), host().port().to_string());
    let scratch = proxy_tests::scratch::Scratch::new("streams-pool");
    let _ = scratch.file("index.html", b"served");
    let folder = scratch.path().display().to_string();
    let _server = world.serve(&nghttpd, &["--no-tls", "-a", &ip, "-d", &folder, &port], host());
    let mut config = speaking(&world, "http2", json!({}));
    config["workers"] = json!(1);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let opened = || {
        let labels = [("service", "web"), ("lane", "upstream")];
        weir.metrics().sum("weir_connections_opened_total", &labels)
    };
    sequential(&["--h1"]);
    sequential(&[]);
    for _ in 0..3 {
        at_once();
    }
    // It says how many at a time: nghttpd 100.
    let most = AT_ONCE.div_ceil(100);
    assert!(opened() >= 1.0 && opened() <= f64::from(most), "{} for {AT_ONCE} at a time", opened());
}
