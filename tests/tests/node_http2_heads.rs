//! Heads and trailers of HTTP/2 that are longer than allowed: refused by name, and nothing of them left out unseen.

use std::path::Path;
use std::time::Duration;

use proxy_tests::node::Weir;
use proxy_tests::python::{PYTHON, has_module};
use proxy_tests::wait;
use proxy_tests::web::{edge, host, speaking};
use proxy_tests::world::World;
use serde_json::{Value, json};

const PROGRAM: &str = include_str!("../src/python/http2_heads.py");
const LIMIT: Duration = Duration::from_secs(30);
/// What the listener and the service allow.
const MOST: u64 = 16 << 10;

/// Asks, with a head and trailers of so many bytes, for a head and trailers of so many; tells how that went, and how the next
/// request on the same connection did.
fn ask(world: &World, shape: &str, asks: [u64; 2], wants: [u64; 2]) -> Value {
    let (ip, port) = (edge().ip().to_string(), edge().port().to_string());
    let path = format!("/asked/{}/{}/{shape}", wants[0], wants[1]);
    let [head, tail] = asks.map(|bytes| bytes.to_string());
    let arguments = ["-c", PROGRAM, "ask", &ip, &port, &path, &head, &tail, shape];
    let said = world.outside().output(Path::new(PYTHON), &arguments).expect("it tells");
    serde_json::from_str(&said).expect("in JSON")
}

#[test]
fn what_is_too_long_is_refused_by_name_and_costs_no_other_request() {
    let Some(world) = World::new() else { return };
    if !has_module("h2") {
        return;
    }
    let (ip, port) = (host().ip().to_string(), host().port().to_string());
    let _server = world.serve(Path::new(PYTHON), &["-c", PROGRAM, "serve", &ip, &port], host());
    let http = json!({"max_head": "16KiB"});
    let mut config = speaking(&world, "http2", json!({"http": http}));
    config["listeners"][0]["http"] = http;
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let ended = |reason: &str| weir.metrics().sum("weir_http_requests_ended_total", &[("reason", reason)]);
    let ok = json!({"status": "200", "reason": null, "body": "other 0", "trailers": 0, "end": "end", "goaway": null});
    let (mut head_too_large, mut upstream_head_too_large) = (0.0, 0.0);
    for shape in ["one", "many"] {
        let said = ask(&world, shape, [15_000, 15_000], [15_000, 15_000]);
        assert_eq!(said["offers"], MOST, "{said}");
        let told = &said["told"][0];
        assert_eq!((&told["status"], &told["body"]), (&json!("200"), &json!("asked 15000")), "{said}");
        assert_eq!((&told["trailers"], &told["end"]), (&json!(15_000), &json!("end")), "{said}");
        // Just too long, and beyond what a codec with the same bound would keep: one field, and many.
        for long in [17_000, 30_000] {
            let whole = |said: &Value| assert_eq!(said["told"][1], ok, "the next one: {said}");
            let said = ask(&world, shape, [long, 0], [0, 0]);
            let refused = json!(["431", "head_too_large"]);
            assert_eq!(json!([said["told"][0]["status"], said["told"][0]["reason"]]), refused, "{said}");
            whole(&said);
            let said = ask(&world, shape, [0, long], [0, 0]);
            assert_eq!(json!([said["told"][0]["status"], said["told"][0]["reason"]]), refused, "{said}");
            whole(&said);
            let said = ask(&world, shape, [0, 0], [long, 0]);
            let broken = json!(["502", "upstream_head_too_large"]);
            assert_eq!(json!([said["told"][0]["status"], said["told"][0]["reason"]]), broken, "{said}");
            whole(&said);
            // The answer has begun: INTERNAL_ERROR.
            let said = ask(&world, shape, [0, 0], [0, long]);
            assert_eq!(
                json!([said["told"][0]["end"], said["told"][0]["trailers"]]),
                json!(["reset 2", 0]),
                "{said}"
            );
            whole(&said);
            (head_too_large, upstream_head_too_large) = (head_too_large + 2.0, upstream_head_too_large + 2.0);
        }
    }
    wait::until_true("all to be counted", LIMIT, || {
        ended("upstream_head_too_large") >= upstream_head_too_large
    });
    let counted = [ended("head_too_large"), ended("upstream_head_too_large")];
    assert_eq!(counted, [head_too_large, upstream_head_too_large]);
    // What a codec would not even count ends its connection: ENHANCE_YOUR_CALM, and all that is on an endpoint's.
    let said = ask(&world, "one", [0, 300_000], [0, 0]);
    assert_eq!(said["told"][0]["goaway"], 11, "{said}");
    let said = ask(&world, "one", [0, 0], [300_000, 0]);
    assert_eq!(said["told"][0]["reason"], "upstream_head_too_large", "{said}");
    assert_eq!(said["told"][1], ok, "{said}");
}

#[test]
fn nothing_follows_an_answer_that_has_no_body_whatever_its_endpoint_sends() {
    let Some(world) = World::new() else { return };
    if !has_module("h2") {
        return;
    }
    let (ip, port) = (host().ip().to_string(), host().port().to_string());
    let _server = world.serve(Path::new(PYTHON), &["-c", PROGRAM, "serve", &ip, &port], host());
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    let (ip, port) = (edge().ip().to_string(), edge().port().to_string());
    let ask = |method: &str, path: &str| -> String {
        let said =
            world.outside().output(Path::new(PYTHON), &["-c", PROGRAM, "ask1", &ip, &port, method, path]);
        serde_json::from_str(&said.expect("it tells")).expect("in JSON")
    };
    for (method, status) in [("HEAD", "200"), ("GET", "204"), ("GET", "304")] {
        let said = ask(method, &format!("/bare/{status}/0/late"));
        let (first, next) = said.split_once("\r\n\r\n").expect("a head");
        assert!(first.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {status}: {said}");
        assert!(!first.contains("chunked") && !first.contains("content-length"), "{said}");
        assert!(next.starts_with("HTTP/1.1 200 OK\r\n") && next.contains("other 0"), "{said}");
        for shape in ["late", "length"] {
            let said = ask(method, &format!("/bare/{status}/1/{shape}"));
            assert!(!said.contains("smuggle"), "{method} {status} {shape}: {said}");
            assert!(status != "204" || !said.contains("content-length"), "{said}");
        }
    }
}
