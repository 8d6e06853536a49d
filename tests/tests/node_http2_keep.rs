//! How connections of HTTP/2 are checked, kept and ended, between programs that know nothing of Weir.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use proxy_tests::net::Family;
use proxy_tests::nginx::{Nginx, Site};
use proxy_tests::node::Weir;
use proxy_tests::pki::{Pki, ROOT};
use proxy_tests::process::{self, Running};
use proxy_tests::python::{PYTHON, has_module};
use proxy_tests::scratch::Scratch;
use proxy_tests::web::{edge, vip, ways};
use proxy_tests::world::World;
use proxy_tests::{config, grpc, wait};
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
    let mut command = world.far().command(Path::new(PYTHON));
    let running = Running::start(command.args(["-c", program]).args(arguments)).unwrap();
    assert_eq!(running.line(LIMIT).as_deref(), Some("ready"));
    running
}

/// A service with one endpoint that is checked often.
fn checked(name: &str, number: u8, endpoint: SocketAddr, probe: Value, more: Value) -> Value {
    let mut health = json!({"interval": "500ms", "timeout": "500ms"});
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

/// A service of HTTP/2, caught at its address and offered at the edge.
fn web(world: &World, endpoints: &[SocketAddr], http: &Value, more: Value) -> Value {
    let endpoints: Vec<Value> = endpoints.iter().map(|at| json!({"address": at.to_string()})).collect();
    let mut service = json!({
        "name": "web", "protocol": "http2", "addresses": [vip().to_string()], "endpoints": endpoints,
        "balance": {"policy": "round_robin"}, "http": http,
    });
    config::merge(&mut service, more);
    let mut config = config::config(world, [service]);
    let listener = json!({"address": edge().to_string(), "protocol": "http", "service": "web", "http": http});
    config::merge(&mut config, json!({"listeners": [listener]}));
    config
}

/// A server of HTTP/2 that is one process.
fn nghttpd(world: &World, address: SocketAddr, folder: &Scratch) -> Option<Running> {
    let program = world.program("nghttpd")?;
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let folder = folder.path().display().to_string();
    Some(world.serve(&program, &["--no-tls", "-d", &folder, "-a", &ip, &port], address))
}

fn ended(weir: &Weir<'_>, reason: &str) -> f64 {
    weir.metrics().sum("weir_http_requests_ended_total", &[("reason", reason)])
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
    let Some(_http1) = Nginx::start(&world, other, Site::PLAIN) else { return };
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
    let good = || weir.metrics().sum("weir_health_checks_total", &[("service", "whole"), ("result", "good")]);
    wait::until_true("a good check", LIMIT, || good() > 0.0);

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
    // It says which version it was asked in.
    let server = "location = / { return 200 \"$server_protocol $request_method\"; }";
    let start = |address, listen, http| Nginx::start(&world, address, Site { listen, http, server });
    let Some(_plain) = start(plain, "http2", "") else { return };
    let Some(_tls) = start(tls, "ssl http2", &ssl) else { return };
    let Some(_http1) = start(http1, "", "") else { return };
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
        wait::until_true(&format!("a good check of {service}"), LIMIT, || {
            let good = &[("service", service), ("result", "good")];
            weir.metrics().sum("weir_health_checks_total", good) > 0.0
        });
    }
}

#[test]
fn an_endpoint_that_does_not_answer_pings_loses_its_requests_to_another() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    let folder = Scratch::new("nghttpd");
    let _ = folder.file("index.html", "here");
    let addresses = [far(10, 8080), far(11, 8080)];
    let (Some(frozen), Some(_other)) =
        (nghttpd(&world, addresses[0], &folder), nghttpd(&world, addresses[1], &folder))
    else {
        return;
    };
    let http = json!({"ping": {"timeout": "1s"}});
    let of_service = json!({"http": {"ping": {"endpoints": "1s", "timeout": "1s"}}, "routes": ["web"]});
    let mut config = web(&world, &addresses, &http, of_service);
    let rule = json!({"backends": [{"service": "web"}], "retry": {"attempts": 1, "on": ["reset"]}});
    let never = json!({"match": {"path": {"prefix": "/once"}}, "backends": [{"service": "web"}]});
    config["routes"] = json!([{"name": "web", "rules": [never, rule]}]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let get = |path: &str, what: &str| {
        let url = format!("http://{}{path}", edge());
        let arguments = ["-sS", "--max-time", "30", "-o", "/dev/null", "-w", what, &url];
        world.outside().output(&curl, &arguments).unwrap()
    };
    for _ in 0..4 {
        assert_eq!(get("/", "%{http_code}"), "200");
    }
    // It does not read any more, but its kernel takes what comes.
    process::signal(frozen.pid(), "-STOP").unwrap();
    for _ in 0..2 {
        assert_eq!(get("/", "%{http_code}"), "200");
    }
    let retries = weir.metrics().sum("weir_http_retries_total", &[("service", "web"), ("result", "made")]);
    assert!(retries >= 1.0, "those that it had went to the other");
    let answers: Vec<String> = (0..2).map(|_| get("/once", "%{http_code} %header{x-weir-reason}")).collect();
    assert!(answers.contains(&"504 upstream_silent".to_owned()), "{answers:?}");
    assert_eq!(ended(&weir, "upstream_silent"), 1.0);
    process::signal(frozen.pid(), "-CONT").unwrap();
    wait::until_true("it to be used again", LIMIT, || get("/once", "%{http_code}") == "404");
}

#[test]
fn a_call_is_silent_for_as_long_as_both_sides_answer_pings() {
    let Some(world) = World::new() else { return };
    if !has_module("grpc") {
        return;
    }
    let address = far(10, 8080);
    let server = start_python(&world, GRPC_SERVER, &[&address.to_string(), "pings"]);
    let of_listener = json!({"ping": {"clients": "1s", "timeout": "1s"}});
    let of_service = json!({"http": {"ping": {"clients": "1s", "endpoints": "1s", "timeout": "1s"}}});
    let Some(weir) = Weir::start(&world.net, &web(&world, &[address], &of_listener, of_service)) else {
        return;
    };
    for (place, address) in ways(&world) {
        // Four seconds without a word, but for the pings.
        let client = grpc::client(place, address, "quiet", &[]);
        assert_eq!(client.line(LIMIT).as_deref(), Some("ok quiet"));
        assert!(server.line(LIMIT).unwrap().starts_with("called "));
        assert_eq!(server.line(LIMIT).as_deref(), Some("cancelled"));

        let client = grpc::client(place, address, "cancel", &[]);
        assert_eq!(client.line(LIMIT).as_deref(), Some("waiting"));
        assert!(server.line(LIMIT).unwrap().starts_with("called "));
        process::signal(client.pid(), "-STOP").unwrap();
        assert_eq!(server.line(LIMIT).as_deref(), Some("cancelled"), "nobody waits for it any more");
    }
    let lost = weir.metrics().sum("weir_connections_closed_total", &[("reason", "user_timeout")]);
    assert_eq!(lost, 2.0);
    // Those that gave up may have been late for their own deadline.
    assert!(ended(&weir, "downstream_reset") >= 2.0, "their calls ended with them");

    let client = grpc::client(world.outside(), edge(), "hung", &[]);
    assert!(server.line(LIMIT).unwrap().starts_with("called "));
    process::signal(server.pid(), "-STOP").unwrap();
    assert_eq!(client.line(LIMIT).as_deref(), Some("ok hung"));
    assert_eq!(ended(&weir, "upstream_silent"), 1.0);
}

#[test]
fn old_connections_are_replaced_and_no_request_is_lost() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    if !has_module("grpc") {
        return;
    }
    let (address, page) = (far(10, 8080), far(11, 8080));
    let _server = start_python(&world, GRPC_SERVER, &[&address.to_string()]);
    let Some(_nginx) = Nginx::start(&world, page, Site { listen: "http2", ..Site::PLAIN }) else { return };
    let http = json!({"max_connection_age": "1s"});
    let mut config = web(&world, &[address], &http, json!({"routes": ["web"]}));
    let pages = json!({"name": "pages", "protocol": "http2", "endpoints": [{"address": page.to_string()}]});
    config["services"].as_array_mut().unwrap().push(pages);
    let rules = json!([
        {"match": {"path": {"exact": "/"}}, "backends": [{"service": "pages"}]},
        {"backends": [{"service": "web"}]},
    ]);
    config["routes"] = json!([{"name": "web", "rules": rules}]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let aged = || weir.metrics().sum("weir_connections_closed_total", &[("reason", "max_age")]);
    for (place, address) in ways(&world) {
        let before = aged();
        let mut client = grpc::client(place, address, "steady", &[]);
        wait::until_true("connections of several ages", LIMIT, || aged() - before >= 3.0);
        client.say("stop");
        assert_eq!(client.line(LIMIT).as_deref(), Some("ok steady"));

        let url = format!("http://{address}/?[1-25]");
        let pace = ["--rate", "10/s", "-w", "%{http_code} %{num_connects}\n"];
        let arguments = [&["-sS", "--http1.1", "--max-time", "30", "-o", "/dev/null"], &pace[..], &[&url]];
        let said = place.output(&curl, &arguments.concat()).unwrap();
        let connects = said.lines().map(|line| line.strip_prefix("200 ").unwrap().parse::<u32>().unwrap());
        let connects: u32 = connects.sum();
        assert!((2..=12).contains(&connects), "two and a half seconds: {connects} connections");
    }
    let (ok, all) = (ended(&weir, "ok"), weir.metrics().sum("weir_http_requests_ended_total", &[]));
    assert_eq!(ok, all, "every request went well");
}

#[test]
fn what_is_under_way_on_an_old_connection_gets_its_grace() {
    let Some(world) = World::new() else { return };
    if !has_module("grpc") {
        return;
    }
    let address = far(10, 8080);
    let server = start_python(&world, GRPC_SERVER, &[&address.to_string()]);
    let of_listener = json!({"max_connection_age": "1s"});
    let of_service = json!({"http": {"max_connection_age": "1s", "max_connection_age_grace": "1s"}});
    let Some(weir) = Weir::start(&world.net, &web(&world, &[address], &of_listener, of_service)) else {
        return;
    };
    // Four seconds, on a connection that has one.
    let client = grpc::client(world.outside(), edge(), "quiet", &[]);
    assert_eq!(client.line(LIMIT).as_deref(), Some("ok quiet"));
    assert!(server.line(LIMIT).unwrap().starts_with("called "));
    assert_eq!(server.line(LIMIT).as_deref(), Some("cancelled"));

    let client = grpc::client(world.app(), vip(), "hung", &[]);
    assert_eq!(client.line(LIMIT).as_deref(), Some("ok hung"));
    assert!(server.line(LIMIT).unwrap().starts_with("called "));
    assert_eq!(server.line(LIMIT).as_deref(), Some("cancelled"));
    assert_eq!(ended(&weir, "draining"), 1.0);
}
