//! What routes decide, seen from both ends.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::time::Duration;

use proxy_tests::config;
use proxy_tests::http::{Backend, Message, Peer, ok};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

/// Time for things that happen in the background.
const SOON: Duration = Duration::from_secs(10);

fn edge() -> SocketAddr {
    "10.77.0.1:8000".parse().unwrap()
}

fn service(name: &str, number: u8) -> Value {
    let endpoint = Family::V4.host(number, 8080).to_string();
    json!({"name": name, "protocol": "http", "endpoints": [{"address": endpoint}]})
}

fn backend(world: &World, number: u8, name: &'static str) -> Backend {
    Backend::answering(&world.net, Family::V4.host(number, 8080), move |_| Some(ok(name)))
}

fn with_routes(world: &World, services: Vec<Value>, routes: Value) -> Value {
    let names: Vec<_> = routes.as_array().unwrap().iter().map(|route| route["name"].clone()).collect();
    let mut config = config::config(world, services);
    config::merge(
        &mut config,
        json!({
            "listeners": [{"address": edge().to_string(), "protocol": "http", "routes": names}],
            "routes": routes,
        }),
    );
    config
}

/// Asks on a connection of its own.
fn ask(world: &World, line: &str, host: &str, headers: &str) -> Message {
    let mut client = Peer::connect(&world.net, edge());
    client.say(format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"));
    client.answer()
}

#[test]
fn requests_go_where_their_routes_say() {
    let Some(world) = World::new() else { return };
    let _backends = [backend(&world, 10, "web"), backend(&world, 11, "api"), backend(&world, 12, "beta")];
    let routes = json!([
        {"name": "shop", "hosts": ["shop.test", "*.shop.test"], "rules": [
            {"backends": [{"service": "web"}]},
            {"match": {"path": {"prefix": "/api"}}, "backends": [{"service": "api"}]},
            {"match": {"path": {"prefix": "/api"}, "headers": {"x-beta": "1"}}, "backends": [{"service": "beta"}]},
            {"match": {"path": {"exact": "/api/health"}, "method": ["GET"]}, "respond": {"status": 200, "body": "fine", "content_type": "text/x"}},
            {"match": {"path": {"regex": "/v[0-9]+/.*"}}, "backends": [{"service": "beta"}]},
            {"match": {"path": {"exact": "/q"}, "query": {"to": "beta"}}, "backends": [{"service": "beta"}]},
        ]},
        {"name": "old", "hosts": ["old.test"], "rules": [
            {"redirect": {"scheme": "https", "host": "shop.test", "path": {"prefix": "/new"}, "status": 308}, "match": {"path": {"prefix": "/old"}}},
        ]},
    ]);
    let services = vec![service("web", 10), service("api", 11), service("beta", 12)];
    let Some(weir) = Weir::start(&world.net, &with_routes(&world, services, routes)) else { return };
    let goes = |line: &str, host: &str, headers: &str| ask(&world, line, host, headers).text();
    assert_eq!(goes("GET /", "shop.test", ""), "web");
    assert_eq!(goes("GET /", "SHOP.test:8000", ""), "web");
    assert_eq!(goes("GET /apis", "shop.test", ""), "web", "whole elements of the path");
    assert_eq!(goes("GET /api/x", "a.b.shop.test", ""), "api");
    assert_eq!(goes("GET /api/x", "shop.test", "X-Beta: 1\r\n"), "beta");
    assert_eq!(goes("GET /v12/x", "shop.test", ""), "beta");
    assert_eq!(goes("GET /q?a=b&to=beta", "shop.test", ""), "beta");
    assert_eq!(goes("GET /q?to=web", "shop.test", ""), "web");
    let own = ask(&world, "GET /api/health", "shop.test", "");
    assert_eq!((own.text().as_str(), own.header("content-type")), ("fine", Some("text/x")));
    assert_eq!(own.header("x-weir-reason"), None);
    assert_eq!(goes("POST /api/health", "shop.test", ""), "api");
    let moved = ask(&world, "GET /old/a?b=c", "old.test", "");
    assert_eq!((moved.status(), moved.header("location")), (308, Some("https://shop.test/new/a?b=c")));
    let none = ask(&world, "GET /", "other.test", "");
    assert_eq!((none.status(), none.header("x-weir-reason")), (404, Some("no_route")));
    // the same by interception: a service's own routes
    let metrics = weir.ask("/metrics").unwrap().1;
    assert!(metrics.contains("weir_http_requests_total"), "{metrics}");
    assert!(metrics.contains("no_route"), "{metrics}");
    drop(weir);
}

#[test]
fn requests_are_changed_split_and_mirrored_as_their_rule_says() {
    let Some(world) = World::new() else { return };
    let (main, canary, shadow) =
        (backend(&world, 10, "main"), backend(&world, 11, "canary"), backend(&world, 12, "shadow"));
    let routes = json!([{"name": "all", "rules": [{
        "match": {"path": {"prefix": "/api"}},
        "rewrite": {"host": "inside.test", "path": {"prefix": "/v2"}},
        "request_headers": {"set": {"x-set": "1"}, "add": {"x-add": "2"}, "remove": ["x-gone"]},
        "response_headers": {"set": {"x-answer": "3"}},
        "mirror": {"service": "shadow", "share": "100%"},
        "backends": [{"service": "main", "weight": 75}, {"service": "canary", "weight": 25}],
    }]}]);
    let services = vec![service("main", 10), service("canary", 11), service("shadow", 12)];
    let Some(weir) = Weir::start(&world.net, &with_routes(&world, services, routes)) else { return };
    const REQUESTS: usize = 200;
    for _ in 0..REQUESTS {
        let answer = ask(&world, "GET /api/x?y=z", "outside.test", "X-Gone: 1\r\nX-Set: 0\r\n");
        assert_eq!(answer.header("x-answer"), Some("3"));
    }
    let (to_main, to_canary) = (main.seen().len(), canary.seen().len());
    assert_eq!(to_main + to_canary, REQUESTS);
    // 50 are expected, and 6 is one standard deviation
    assert!((20..=80).contains(&to_canary), "{to_canary}");
    let seen = &main.seen()[0];
    assert_eq!(seen.start_line(), "GET /v2/x?y=z HTTP/1.1");
    assert_eq!(
        ["host", "x-set", "x-add", "x-gone"].map(|name| seen.header(name)),
        [Some("inside.test"), Some("1"), Some("2"), None]
    );
    wait::until_true("all copies to arrive", SOON, || shadow.seen().len() == REQUESTS);
    drop(weir);
}

#[test]
fn a_mirror_that_hangs_holds_up_nothing() {
    let Some(world) = World::new() else { return };
    let _main = backend(&world, 10, "main");
    let _hanging = Backend::start(&world.net, Family::V4.host(12, 8080), |peer, _| {
        let _ = peer.rest();
    });
    let routes = json!([{"name": "all", "rules": [{
        "mirror": [{"service": "hanging", "share": "100%"}, {"service": "absent", "share": "100%"}],
        "backends": [{"service": "main"}],
    }]}]);
    let services = vec![service("main", 10), service("hanging", 12), service("absent", 13)];
    let Some(weir) = Weir::start(&world.net, &with_routes(&world, services, routes)) else { return };
    let mut client = Peer::connect(&world.net, edge());
    for _ in 0..1000 {
        client.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.answer().text(), "main");
    }
    drop(weir);
}

#[test]
fn intercepted_traffic_goes_by_its_services_routes_and_a_reload_changes_them() {
    let Some(world) = World::new() else { return };
    let _backends = [backend(&world, 10, "web"), backend(&world, 11, "api")];
    let mut web = service("web", 10);
    config::merge(&mut web, json!({"addresses": ["10.96.0.1:80"], "routes": ["shop"]}));
    let config = |prefix: &str| {
        let mut config = config::config(&world, [web.clone(), service("api", 11)]);
        let rules = json!([
            {"match": {"path": {"prefix": prefix}}, "backends": [{"service": "api"}]},
            {"backends": [{"service": "web"}]},
        ]);
        config::merge(&mut config, json!({"routes": [{"name": "shop", "rules": rules}]}));
        config
    };
    let (Some(curl), Some(weir)) = (world.program("curl"), Weir::start(&world.net, &config("/api"))) else {
        return;
    };
    let get = |path: &str| {
        let mut command = world.app().command(&curl);
        command.args(["-sS", "--max-time", "10", &format!("http://10.96.0.1{path}")]);
        proxy_tests::process::output(&mut command).unwrap()
    };
    assert_eq!((get("/").as_str(), get("/api").as_str()), ("web", "api"));
    weir.reload(&config("/new"));
    assert_eq!((get("/api").as_str(), get("/new").as_str()), ("web", "api"));
    drop(weir);
}
