//! gRPC-Web of clients that speak it byte by byte, to a server that speaks gRPC and knows nothing of it.

use std::net::SocketAddr;
use std::time::Duration;

use proxy_tests::client::Place;
use proxy_tests::grpc;
use proxy_tests::http::Peer;
use proxy_tests::node::Weir;
use proxy_tests::origin::{Kind, Origin};
use proxy_tests::python::has_module;
use proxy_tests::web::{edge, host, speaking, vip, ways};
use proxy_tests::world::World;
use serde_json::{Value, json};

/// Longer than any step needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Both versions of HTTP in both forms: so often a client goes through each step.
const TIMES: u32 = 4;

fn run(place: Place<'_>, address: SocketAddr, steps: &str) {
    grpc::goes_through(grpc::web_client(place, address, steps, &[]), address, steps);
}

/// A world, unless what clients need is missing.
fn world() -> Option<World> {
    if has_module("h2") && has_module("grpc") { World::new() } else { None }
}

fn calls(weir: &Weir, status: &str) -> f64 {
    weir.metrics().sum("weir_grpc_calls_total", &[("service", "web"), ("status", status)])
}

/// What is counted if so many steps were gone through.
fn times(steps: u32) -> f64 {
    (steps * TIMES).into()
}

#[test]
fn browsers_reach_a_server_that_speaks_nothing_but_grpc() {
    let Some(world) = world() else { return };
    let Some(server) = grpc::serve(&world, host()) else { return };
    let Some(weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    for (place, address) in ways(&world) {
        run(place, address, "shapes,turns,split,accept,statuses,long_trailers,deadline,malformed");
        for _ in 0..TIMES {
            let called = server.line(LIMIT).unwrap();
            let left: f64 = called.strip_prefix("called ").unwrap().parse().unwrap();
            assert!(left > 0.0 && left <= 0.5, "the deadline only shrinks: {left}");
            assert_eq!(server.line(LIMIT).as_deref(), Some("cancelled"));
        }
    }
    for status in ["not_found", "unimplemented", "aborted", "deadline_exceeded"] {
        assert_eq!(calls(&weir, status), times(2), "{status}");
    }
    let bad = weir.metrics().sum("weir_http_requests_ended_total", &[("reason", "bad_encoding")]);
    assert_eq!(bad, times(3), "three bodies, in text only, both ways");
}

#[test]
fn what_weir_refuses_a_browser_is_said_in_grpc_web() {
    let Some(world) = world() else { return };
    {
        let Some(weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
        for (place, address) in ways(&world) {
            run(place, address, "unavailable");
        }
        assert_eq!(calls(&weir, "unavailable"), times(2));
    }
    let Some(_grpc) = grpc::serve(&world, host()) else { return };
    let refusing = |more: Value, step: &str| {
        let Some(weir) = Weir::start(&world.net, &speaking(&world, "http2", more)) else { return };
        run(world.app(), vip(), step);
        assert_eq!(calls(&weir, "resource_exhausted"), times(1), "{step}");
    };
    refusing(json!({"http": {"max_request_body": "100B"}}), "too_long");
    refusing(json!({"http": {"max_grpc_message": "100B"}}), "too_long");
}

#[test]
fn a_browsers_call_that_fails_is_tried_again_if_its_status_is_named() {
    let Some(world) = world() else { return };
    let Some(_grpc) = grpc::serve(&world, host()) else { return };
    let mut config = speaking(&world, "http2", json!({"routes": ["calls"]}));
    let rules = json!([{
        "match": {"grpc": {"service": "test.Service", "method": "Flaky"}},
        "retry": {"attempts": 2, "on": ["unavailable"], "budget": "100%"}, "backends": [{"service": "web"}],
    }]);
    config["routes"] = json!([{"name": "calls", "rules": rules}]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    grpc::goes_through(grpc::web_client(world.app(), vip(), "flaky", &["a"]), vip(), "flaky");
    assert_eq!((calls(&weir, "ok"), calls(&weir, "unavailable")), (times(1), 0.0));
    let retries = weir.metrics().sum("weir_http_retries_total", &[("service", "web"), ("result", "made")]);
    assert_eq!(retries, times(2));
}

#[test]
fn a_browser_is_told_of_a_server_that_dies_between_two_messages() {
    let Some(world) = world() else { return };
    let Some(server) = grpc::serve(&world, host()) else { return };
    let Some(weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    let mut client = grpc::web_client(world.outside(), edge(), "broken,dead", &[]);
    assert_eq!(client.line(LIMIT).as_deref(), Some("ok broken"));
    assert_eq!(client.line(LIMIT).as_deref(), Some("waiting"));
    drop(server);
    client.say("go");
    assert_eq!(client.line(LIMIT).as_deref(), Some("ok dead"));
    assert_eq!(calls(&weir, "unavailable"), times(1));
}

#[test]
fn who_is_not_said_to_speak_http2_gets_what_the_browser_says() {
    let Some(world) = World::new() else { return };
    let Some(origin) = Origin::start(&world, host(), Kind::H11) else { return };
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http", json!({}))) else { return };
    let mut client = Peer::connect(&world.net, edge());
    client.say(
        "POST /test.Service/Unary HTTP/1.1\r\nhost: web\r\ncontent-type: application/grpc-web-text\r\n\
         content-length: 3\r\n\r\nno!",
    );
    assert_eq!(client.answer().status(), 200);
    let seen = origin.take_seen(&world.net);
    assert_eq!(seen[0]["bytes"], 3);
    let headers = seen[0]["headers"].to_string();
    assert!(headers.contains("application/grpc-web-text") && !headers.contains("trailers"), "{headers}");
}
