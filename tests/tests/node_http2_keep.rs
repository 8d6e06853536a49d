//! How connections of HTTP/2 are checked, kept and ended, between programs that know nothing of Weir.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use proxy_tests::net::Family;
use proxy_tests::nginx::Nginx;
use proxy_tests::node::Weir;
use proxy_tests::pki::{Pki, ROOT};
use proxy_tests::process::Running;
use proxy_tests::python::{self, has_module};
use proxy_tests::world::World;
use proxy_tests::{config, wait};
use serde_json::{Value, json};

/// Longer than any step needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const GRPC_SERVER: &str = include_str!("../src/python/grpc_server.py");
const HEALTH_SERVER: &str = include_str!("../src/python/grpc_health_server.py");

fn far(number: u8, port: u16) -> SocketAddr {
    Family::V4.host(number, port)
}

/// Starts a program of Python's on the far side that says when it is ready.
fn start_python(world: &World, program: &str, arguments: &[&str]) -> Running {
    let mut command = world.far().command(Path::new(python::PROGRAM));
    let running = Running::start(command.args(["-c", program]).args(arguments)).unwrap();
    assert_eq!(running.line(LIMIT).as_deref(), Some("ready"));
    running
}

/// A service with one endpoint that is checked often.
fn checked(name: &str, number: u8, endpoint: SocketAddr, probe: Value, more: Value) -> Value {
    let mut health = json!({"interval": "200ms", "timeout": "200ms"});
    config::merge(&mut health, probe);
    let mut service = json!({
        "name": name, "addresses": [Family::V4.vip(number, 80).to_string()],
        "endpoints": [{"address": endpoint.to_string()}], "health": health,
    });
    config::merge(&mut service, more);
    service
}

/// State of a service's only endpoint, and what its last check said.
fn state(weir: &Weir<'_>, service: &str) -> (String, Option<String>) {
    let (_, text) = weir.ask("/clusters").unwrap();
    let page: Value = serde_json::from_str(&text).unwrap();
    let services = page["services"].as_array().unwrap();
    let found = services.iter().find(|row| row["name"] == service).unwrap();
    let endpoint = &found["endpoints"][0];
    (endpoint["state"].as_str().unwrap().to_owned(), endpoint["last_error"].as_str().map(str::to_owned))
}

fn wait_for(weir: &Weir<'_>, service: &str, state: &str, error: Option<&str>) {
    wait::until_true(&format!("{service} to be {state}: {error:?}"), LIMIT, || {
        self::state(weir, service) == (state.to_owned(), error.map(str::to_owned))
    });
}

fn tell(server: &mut Running, name: &str, status: &str) {
    server.say(&format!("{name} {status}"));
    assert_eq!(server.line(LIMIT).as_deref(), Some("set"));
}

#[test]
fn grpc_checks_go_by_what_the_health_service_says() {
    let Some(world) = World::new() else { return };
    if !has_module("grpc") || !has_module("google/protobuf") {
        return;
    }
    let pki = Pki::new();
    pki.certificate("web", &["DNS:web.shop"]);
    let (plain, tls, without, other) = (far(10, 8080), far(10, 8443), far(10, 8081), far(11, 8080));
    let mut server = start_python(&world, HEALTH_SERVER, &[&plain.to_string()]);
    let of_tls = [tls.to_string(), pki.path("web.key"), pki.path("web.pem")];
    let mut secure = start_python(&world, HEALTH_SERVER, &of_tls.each_ref().map(String::as_str));
    let _without = start_python(&world, GRPC_SERVER, &[&without.to_string()]);
    let Some(_http1) = Nginx::start(&world, other, "", "") else { return };
    let (whole, cart) = (json!({"grpc": {}}), json!({"grpc": {"service": "shop.v1.Cart"}}));
    let http2 = json!({"protocol": "http2"});
    let ca = pki.path(&format!("{ROOT}.pem"));
    let through_tls = json!({"protocol": "http2", "tls": {"ca": ca, "sni": "web.shop"}});
    let wrong_name = json!({"protocol": "http2", "tls": {"ca": ca, "sni": "db.shop"}});
    let services = [
        checked("whole", 1, plain, whole.clone(), http2.clone()),
        // Whatever lane calls take: here the kernel connects.
        checked("cart", 2, plain, cart.clone(), json!({"lane": "direct"})),
        checked("tls", 3, tls, whole.clone(), through_tls),
        checked("wrong", 4, tls, whole.clone(), wrong_name),
        checked("without", 5, without, whole.clone(), http2.clone()),
        checked("http1", 6, other, whole, http2),
    ];
    let Some(weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    wait_for(&weir, "whole", "healthy", None);
    wait_for(&weir, "tls", "healthy", None);
    wait_for(&weir, "cart", "unhealthy", Some("the server knows no service \"shop.v1.Cart\": not_found"));
    let unimplemented = "the server has no health service (grpc.health.v1.Health): unimplemented";
    wait_for(&weir, "without", "unhealthy", Some(unimplemented));
    wait_for(&weir, "http1", "unhealthy", Some("the answer is not HTTP/2"));
    wait::until_true("a certificate that is not believed", LIMIT, || {
        state(&weir, "wrong").1.is_some_and(|error| error.starts_with("TLS failed: "))
    });
    let good = weir.metrics().sum("weir_health_checks_total", &[("service", "whole"), ("result", "good")]);
    assert!(good > 0.0, "checks are counted");

    tell(&mut server, "shop.v1.Cart", "SERVING");
    wait_for(&weir, "cart", "healthy", None);
    tell(&mut server, "-", "NOT_SERVING");
    tell(&mut secure, "-", "UNKNOWN");
    wait_for(&weir, "whole", "unhealthy", Some("the server says NOT_SERVING"));
    wait_for(&weir, "tls", "unhealthy", Some("the server says UNKNOWN"));
    assert_eq!(state(&weir, "cart").0, "healthy", "one service's answer is not another's");
    tell(&mut server, "-", "SERVING");
    wait_for(&weir, "whole", "healthy", None);
}

#[test]
fn http_checks_speak_what_the_service_speaks() {
    let Some(world) = World::new() else { return };
    let pki = Pki::new();
    pki.certificate("web", &["DNS:web.shop"]);
    let ssl =
        format!("ssl_certificate {}; ssl_certificate_key {};", pki.path("web.pem"), pki.path("web.key"));
    let (plain, tls, http1) = (far(10, 8080), far(10, 8443), far(11, 8080));
    let start = |address, listens, more| Nginx::start(&world, address, listens, more);
    let Some(_plain) = start(plain, "http2", "") else { return };
    let Some(_tls) = start(tls, "ssl http2", &ssl) else { return };
    let Some(_http1) = start(http1, "", "") else { return };
    // nginx says which version it was asked in.
    let asks = |version: &str, port: Option<u16>| {
        let mut probe = json!({"http": {"path": "/", "body": version}});
        config::merge(&mut probe, port.map_or(Value::Null, |port| json!({"port": port})));
        probe
    };
    let http2 = json!({"protocol": "http2"});
    let through_tls =
        json!({"protocol": "http2", "tls": {"ca": pki.path(&format!("{ROOT}.pem")), "sni": "web.shop"}});
    let services = [
        checked("plain", 1, plain, asks("HTTP/2.0 GET", None), http2.clone()),
        checked("tls", 2, tls, asks("HTTP/2.0 GET", None), through_tls),
        checked("http1", 3, http1, asks("HTTP/1.1 GET", None), json!({"protocol": "http"})),
        checked("beside", 4, far(11, 9), asks("HTTP/1.1 GET", Some(http1.port())), http2.clone()),
        checked("wrong", 5, http1, asks("HTTP", None), http2),
    ];
    let Some(weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    wait_for(&weir, "wrong", "unhealthy", Some("the answer is not HTTP/2"));
    for service in ["plain", "tls", "http1", "beside"] {
        wait::until_true(&format!("a check of {service}"), LIMIT, || {
            weir.metrics().sum("weir_health_checks_total", &[("service", service)]) > 0.0
        });
        assert_eq!(state(&weir, service), ("healthy".to_owned(), None), "{service}");
    }
}
