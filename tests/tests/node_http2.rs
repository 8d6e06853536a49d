//! HTTP/2 and gRPC between programs that know nothing of Weir.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use proxy_tests::client::Place;
use proxy_tests::net::Family;
use proxy_tests::nginx::Nginx;
use proxy_tests::node::Weir;
use proxy_tests::pki::{Pki, ROOT};
use proxy_tests::process::{self, Running};
use proxy_tests::python::{self, has_module};
use proxy_tests::world::World;
use proxy_tests::{config, wait};
use serde_json::{Value, json};

/// A body that fits into no window.
const BIG_BYTES: usize = 5 << 20;
/// Longer than any step needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(10);
const GRPC_SERVER: &str = include_str!("../src/python/grpc_server.py");
const GRPC_CLIENT: &str = include_str!("../src/python/grpc_client.py");
const ATTACK: &str = include_str!("../src/python/http2_attack.py");
/// Memory that a flood may cost, allocator and all.
const MOST_GROWTH_BYTES: u64 = 32 << 20;

fn edge() -> SocketAddr {
    "10.77.0.1:8000".parse().unwrap()
}

fn vip() -> SocketAddr {
    Family::V4.vip(1, 80)
}

fn host() -> SocketAddr {
    Family::V4.host(10, 8080)
}

/// A service whose endpoints speak this, caught at its address and offered at the edge.
fn speaking(world: &World, protocol: &str, more: Value) -> Value {
    let mut service = json!({
        "name": "web", "protocol": protocol, "addresses": [vip().to_string()],
        "endpoints": [{"address": host().to_string()}],
    });
    config::merge(&mut service, more);
    let mut config = config::config(world, [service]);
    let listener = json!({"address": edge().to_string(), "protocol": "http", "service": "web"});
    config::merge(&mut config, json!({"listeners": [listener]}));
    config
}

/// Both ways to Weir: where the client runs, and what it asks for.
fn ways(world: &World) -> [(Place<'_>, SocketAddr); 2] {
    [(world.outside(), edge()), (world.app(), vip())]
}

/// Bytes that no shift leaves alike.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn every_version_reaches_every_version() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    for (protocol, listens, spoken) in [("http", "", "HTTP/1.1"), ("http2", "http2", "HTTP/2.0")] {
        let Some(nginx) = Nginx::start(&world, host(), listens, "") else { return };
        let big = noise(BIG_BYTES);
        let big_file = nginx.scratch().file("big.bin", &big);
        let out = nginx.path("out").display().to_string();
        let Some(_weir) = Weir::start(&world.net, &speaking(&world, protocol, json!({}))) else { return };
        for (place, address) in ways(&world) {
            for version in ["--http1.1", "--http2-prior-knowledge"] {
                let url = |path: &str| format!("http://{address}{path}");
                let run = |arguments: &[&str]| {
                    let all = [&["-sS", "--fail", "--max-time", "30", version], arguments].concat();
                    place.output(&curl, &all).unwrap()
                };
                let what = format!("{version} to {protocol} at {address}");
                let host = address.ip();
                assert_eq!(run(&["-b", "a=1; b=2", &url("/")]), format!("{spoken} GET {host} a=1; b=2"));
                let wanted = if version == "--http1.1" { "1.1" } else { "2" };
                // This curl uses a connection of HTTP/2 for one request only, and fails with the second whoever serves it.
                let root = url("/");
                let urls: &[&str] = if wanted == "2" { &[] } else { &["-o", "/dev/null", &root] };
                let said = run(&[&["-o", "/dev/null", "-w", "%{http_version} ", &root], urls].concat());
                assert_eq!(said.split_whitespace().next(), Some(wanted), "{what}");
                assert_eq!(said.split_whitespace().count(), 1 + urls.len() / 3, "{what}");
                run(&["-o", &out, &url("/big.bin")]);
                assert!(fs::read(&out).unwrap() == big, "{what}: every byte of a large file");
                let head = run(&["-I", &url("/big.bin")]).to_lowercase();
                assert!(head.contains(&format!("content-length: {BIG_BYTES}")), "{what}: {head}");
                run(&["-r", "1000-1999", "-o", &out, &url("/big.bin")]);
                assert!(fs::read(&out).unwrap() == big[1000..2000], "{what}: a range");
                run(&["-T", &big_file, &url("/new/put.bin")]);
                assert!(
                    fs::read(nginx.path("new/put.bin")).unwrap() == big,
                    "{what}: an upload of known length"
                );
                let piped = format!(
                    "cat {big_file} | {} -sS --fail --max-time 30 {version} -T - {}",
                    curl.display(),
                    url("/new/piped.bin")
                );
                place.output(Path::new("/bin/sh"), &["-c", &piped]).unwrap();
                assert!(
                    fs::read(nginx.path("new/piped.bin")).unwrap() == big,
                    "{what}: and of unknown length"
                );
                run(&["-X", "DELETE", &url("/new/put.bin")]);
                assert!(!nginx.path("new/put.bin").exists());
                let of =
                    |path: &str| run(&["-o", "/dev/null", "-w", "%{http_code} %{size_download}", &url(path)]);
                assert_eq!(of("/none"), "204 0", "{what}");
                let moved = run(&["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", &url("/moved")]);
                assert_eq!(moved, format!("302 {root}"), "{what}");
                let missing = ["-s", "-o", "/dev/null", "-w", "%{http_code}", version, &url("/missing")];
                assert_eq!(place.output(&curl, &missing).unwrap(), "404", "{what}");
            }
        }
    }
}

#[test]
fn a_client_chooses_its_version_inside_tls_and_an_endpoint_does_too() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    let pki = Pki::new();
    pki.certificate("web", &["DNS:web.shop"]);
    let (cert, key) = (pki.path("web.pem"), pki.path("web.key"));
    let more = format!("ssl_certificate {cert}; ssl_certificate_key {key};");
    let Some(_nginx) = Nginx::start(&world, host(), "ssl http2", &more) else { return };
    let ca = pki.path(&format!("{ROOT}.pem"));
    let mut config = speaking(&world, "http2", json!({"tls": {"ca": ca, "sni": "web.shop"}}));
    config["listeners"][0]["tls"] = json!({"certificates": [{"cert": cert, "key": key}]});
    let Some(_weir) = Weir::start(&world.net, &config) else { return };
    let resolve = format!("web.shop:{}:{}", edge().port(), edge().ip());
    let url = format!("https://web.shop:{}/", edge().port());
    for (option, wanted) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let arguments = ["-sS", "--fail", "--max-time", "30", option, "--cacert", &ca, "--resolve", &resolve];
        let more = ["-w", " %{http_version}", &url];
        let said = world.outside().output(&curl, &[&arguments[..], &more[..]].concat()).unwrap();
        assert_eq!(said, format!("HTTP/2.0 GET web.shop  {wanted}"));
    }
}

#[test]
fn h2load_loses_no_request() {
    let Some(world) = World::new() else { return };
    let Some(h2load) = world.program("h2load") else { return };
    let Some(_nginx) = Nginx::start(&world, host(), "http2", "http2_max_requests 500;") else { return };
    let Some(weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    let url = format!("http://{}/", edge());
    let said = world.outside().output(&h2load, &["-n", "20000", "-c", "10", "-m", "100", &url]).unwrap();
    let (_, metrics) = weir.ask("/metrics").unwrap();
    let ends: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("weir_http_requests_ended")).collect();
    assert!(said.contains("20000 succeeded, 0 failed, 0 errored"), "{said}\n{ends:#?}");
    let counted = weir.metrics().sum("weir_http_requests_total", &[("service", "web")]);
    assert!(counted >= 20_000.0, "{counted} of 20000");
}

struct Grpc {
    server: Running,
}

impl Grpc {
    fn start(world: &World) -> Option<Self> {
        if !has_module("grpc") {
            return None;
        }
        let mut command = world.far().command(Path::new(python::PROGRAM));
        command.args(["-c", GRPC_SERVER, &host().to_string()]);
        let server = Running::start(&mut command).unwrap();
        assert_eq!(server.line(LIMIT).as_deref(), Some("ready"));
        Some(Self { server })
    }
}

fn grpc_client(place: Place<'_>, address: SocketAddr, steps: &str, more: &[&str]) -> Running {
    let mut command = place.command(Path::new(python::PROGRAM));
    command.args(["-c", GRPC_CLIENT, &address.to_string(), steps]).args(more);
    Running::start(&mut command).unwrap()
}

/// Runs steps to their end.
fn grpc_steps(place: Place<'_>, address: SocketAddr, steps: &str) {
    let mut client = grpc_client(place, address, steps, &[]);
    let lines: Vec<String> = std::iter::from_fn(|| client.line(LIMIT)).collect();
    let wanted: Vec<String> = steps.split(',').map(|step| format!("ok {step}")).collect();
    assert_eq!(lines, wanted, "{address}");
    assert!(client.wait(END_LIMIT).success());
}

#[test]
fn grpc_in_every_shape() {
    let Some(world) = World::new() else { return };
    let Some(_grpc) = Grpc::start(&world) else { return };
    for protocol in ["http2", "auto"] {
        let Some(_weir) = Weir::start(&world.net, &speaking(&world, protocol, json!({}))) else { return };
        for (place, address) in ways(&world) {
            // What the endpoints of `auto` speak shows only in what an intercepted client says.
            if protocol == "http2" || address == vip() {
                grpc_steps(place, address, "shapes,turns,big,statuses,many");
            }
        }
    }
}

#[test]
fn a_deadline_or_a_client_that_gives_up_reaches_the_server() {
    let Some(world) = World::new() else { return };
    let Some(grpc) = Grpc::start(&world) else { return };
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    for (place, address) in ways(&world) {
        grpc_steps(place, address, "deadline");
        let called = grpc.server.line(LIMIT).unwrap();
        let left: f64 = called.strip_prefix("called ").unwrap().parse().unwrap();
        assert!(left > 0.0 && left <= 0.5, "the deadline only shrinks: {left}");
        assert_eq!(grpc.server.line(LIMIT).as_deref(), Some("cancelled"));

        let mut client = grpc_client(place, address, "cancel", &[]);
        assert_eq!(client.line(LIMIT).as_deref(), Some("waiting"));
        assert!(grpc.server.line(LIMIT).unwrap().starts_with("called "));
        client.say("go");
        assert_eq!(grpc.server.line(LIMIT).as_deref(), Some("cancelled"));
        assert_eq!(client.line(LIMIT).as_deref(), Some("ok cancel"));
    }
}

#[test]
fn a_call_may_be_silent_for_as_long_as_its_deadline_lets_it() {
    let Some(world) = World::new() else { return };
    let Some(grpc) = Grpc::start(&world) else { return };
    let more = json!({"http": {"body_timeout": "1s"}, "limits": {"idle_timeout": "1s"}});
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http2", more)) else { return };
    grpc_steps(world.app(), vip(), "quiet");
    assert!(grpc.server.line(LIMIT).unwrap().starts_with("called "));
}

#[test]
fn a_server_that_is_not_there_is_said_in_grpcs_own_words() {
    let Some(world) = World::new() else { return };
    if !has_module("grpc") {
        return;
    }
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    for (place, address) in ways(&world) {
        grpc_steps(place, address, "unavailable");
    }
}

#[test]
fn a_server_that_stops_loses_no_request() {
    let Some(world) = World::new() else { return };
    let Some(h2load) = world.program("h2load") else { return };
    let other = Family::V4.host(11, 8080);
    let start = |address| Nginx::start(&world, address, "http2", "");
    let (Some(mut stopping), Some(_other)) = (start(host()), start(other)) else { return };
    let endpoints = [host(), other].map(|address| json!({"address": address.to_string()}));
    let config = speaking(&world, "http2", json!({"endpoints": endpoints}));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let url = format!("http://{}/", edge());
    let mut command = world.outside().command(&h2load);
    let mut load = Running::start(command.args(["-n", "20000", "-c", "4", "-m", "50", &url])).unwrap();
    let requests = || weir.metrics().sum("weir_http_requests_total", &[("service", "web")]);
    wait::until_true("requests", LIMIT, || requests() > 1000.0);
    // It says GOAWAY, and ends what it has begun.
    process::signal(stopping.running().pid(), "-QUIT").unwrap();
    assert!(stopping.running().wait(LIMIT).success());
    let said: Vec<String> = std::iter::from_fn(|| load.line(LIMIT)).collect();
    assert!(said.iter().any(|line| line.contains("20000 succeeded, 0 failed, 0 errored")), "{said:#?}");
    assert!(load.wait(END_LIMIT).success());
}

#[test]
fn a_drain_lets_every_call_end() {
    let Some(world) = World::new() else { return };
    let Some(_grpc) = Grpc::start(&world) else { return };
    let Some(mut weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    let mut client = grpc_client(world.outside(), edge(), "cancel", &[]);
    assert_eq!(client.line(LIMIT).as_deref(), Some("waiting"));
    let active = || weir.metrics().sum("weir_http_requests_active", &[("service", "web")]);
    wait::until_true("a call", LIMIT, || active() > 0.0);
    weir.signal("-TERM");
    client.say("go");
    assert_eq!(client.line(LIMIT).as_deref(), Some("ok cancel"));
    assert!(weir.wait(LIMIT).success());
}

fn attack(world: &World, name: &str, more: &str) -> String {
    let mut command = world.outside().command(Path::new(python::PROGRAM));
    let (host, port) = (edge().ip().to_string(), edge().port().to_string());
    command.args(["-c", ATTACK, &host, &port, name, more]);
    process::output(&mut command).unwrap().trim().to_owned()
}

/// What a client is told that does not keep to RFC 9113: the error that this names, and what is odd but allowed is none.
#[test]
fn each_violation_has_its_error() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    if !has_module("h2") {
        return;
    }
    let Some(_nginx) = Nginx::start(&world, host(), "", "") else { return };
    let Some(weir) = Weir::start(&world.net, &speaking(&world, "http", json!({}))) else { return };
    let wrong: Vec<String> = attack(&world, "list", "violations")
        .lines()
        .filter_map(|line| {
            let (name, wanted) = line.split_once(' ').unwrap();
            let said = attack(&world, name, "");
            (said != wanted).then(|| format!("{name}: {said}, not {wanted}"))
        })
        .collect();
    assert_eq!(wrong, [""; 0]);
    for reason in ["protocol", "frame_size", "flow_control", "stream_closed", "compression"] {
        let ended = || weir.metrics().sum("weir_connections_closed_total", &[("reason", reason)]);
        wait::until_true(reason, LIMIT, || ended() > 1.0);
    }
    let url = format!("http://{}/", edge());
    let said = world.outside().output(&curl, &["-sS", "--fail", "--max-time", "5", &url]).unwrap();
    assert!(said.starts_with("HTTP/1.1"), "{said}");
}

#[test]
fn a_flood_ends_its_connection_and_nobody_else_notices() {
    const CALM: &str = "goaway 11";
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    if !has_module("h2") {
        return;
    }
    let Some(_nginx) = Nginx::start(&world, host(), "", "") else { return };
    let Some(weir) = Weir::start(&world.net, &speaking(&world, "http", json!({}))) else { return };
    let url = format!("http://{}/", edge());
    let fresh = || world.outside().output(&curl, &["-sS", "--fail", "--max-time", "5", &url]).unwrap();
    fresh();
    let before = weir.memory_bytes();
    for name in attack(&world, "list", "floods").split(' ') {
        let said = attack(&world, name, "");
        // A head too large is refused before it is a flood.
        let is_right = said == CALM || said == "closed" || (name == "hpack_bomb" && said != "nothing");
        assert!(is_right, "{name}: {said}");
        fresh();
        let more = weir.memory_bytes().saturating_sub(before);
        assert!(more < MOST_GROWTH_BYTES, "{name}: {more} bytes more");
    }
    let floods = weir.metrics().sum("weir_connections_closed_total", &[("reason", "flood")]);
    assert!(floods >= 6.0, "{floods} were counted");
}

#[test]
fn a_call_that_fails_is_tried_again_if_its_status_is_named() {
    let Some(world) = World::new() else { return };
    let Some(_grpc) = Grpc::start(&world) else { return };
    let mut config = speaking(&world, "http2", json!({"routes": ["calls"]}));
    let retry = json!({"attempts": 2, "on": ["unavailable"]});
    let rules = json!([
        {"match": {"grpc": {"service": "test.Service", "method": "Flaky"}}, "retry": retry,
         "backends": [{"service": "web"}]},
        {"backends": [{"service": "web"}]},
    ]);
    config["routes"] = json!([{"name": "calls", "rules": rules}]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    for (key, fails, wanted) in [("a", "2", "ok"), ("b", "3", "UNAVAILABLE")] {
        let client = grpc_client(world.app(), vip(), "flaky", &[key, fails, wanted]);
        let said: Vec<String> = std::iter::from_fn(|| client.line(LIMIT)).collect();
        let wanted: &[&str] = if wanted == "ok" { &["3", "ok flaky"] } else { &["ok flaky"] };
        assert_eq!(said, wanted);
    }
    let calls =
        |status: &str| weir.metrics().sum("weir_grpc_calls_total", &[("service", "web"), ("status", status)]);
    assert_eq!((calls("ok"), calls("unavailable")), (1.0, 1.0));
    let retries = weir.metrics().sum("weir_http_retries_total", &[("service", "web"), ("result", "made")]);
    assert_eq!(retries, 4.0);
}

#[test]
fn what_comes_too_early_is_told_when_to_come_again() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    let Some(_grpc) = Grpc::start(&world) else { return };
    // A burst, and nothing more within the time of a test.
    let rate = json!({"requests": "10/h", "burst": 3, "per": "client"});
    let config = speaking(&world, "http2", json!({"limits": {"rate": rate}}));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let url = format!("http://{}/", edge());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let asked =
            || world.outside().output(&curl, &["-sS", "-i", "--max-time", "30", version, &url]).unwrap();
        let answers: Vec<String> = (0..4).map(|_| asked().to_lowercase()).collect();
        let last = answers.last().unwrap();
        assert!(last.contains(" 429") && last.contains("x-weir-reason: rate_limited"), "{last}");
        let after = last.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
        let seconds: u64 = after.trim().parse().unwrap();
        assert!((1..=360).contains(&seconds), "one in six minutes: {seconds}");
    }
    // The application has the same address; its calls are told in their own words.
    grpc_steps(world.app(), vip(), "exhausted");
    let refused = weir.metrics().sum("weir_http_requests_ended_total", &[("reason", "rate_limited")]);
    assert_eq!(refused, 5.0 + 1.0);
}

#[test]
fn faults_happen_where_the_config_allows_them() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    let Some(_grpc) = Grpc::start(&world) else { return };
    let mut config = speaking(&world, "http2", json!({"routes": ["calls"]}));
    let backends = json!([{"service": "web"}]);
    let meant = json!({"x-fault": "yes"});
    let rules = json!([
        {"match": {"path": {"prefix": "/slow"}}, "backends": backends,
         "fault": {"delay": {"share": "100%", "time": "300ms"}, "abort": {"share": "100%", "status": 418}}},
        {"match": {"grpc": {"service": "test.Service", "method": "Fail"}}, "backends": backends,
         "fault": {"abort": {"share": "100%", "grpc": "unavailable"}}},
        {"backends": backends, "fault": {"headers": meant, "abort": {"share": "100%", "status": 500}}},
    ]);
    config["allow_faults"] = json!(true);
    config["routes"] = json!([{"name": "calls", "rules": rules}]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let url = format!("http://{}/slow", vip());
        let more = ["-o", "/dev/null", "-w", "%{http_code} %{time_total}", version, &url];
        let said = world.app().output(&curl, &[&["-sS", "--max-time", "30"], &more[..]].concat()).unwrap();
        let (status, seconds) = said.split_once(' ').unwrap();
        assert_eq!(status, "418");
        assert!(seconds.parse::<f64>().unwrap() >= 0.3, "{seconds}");
    }
    grpc_steps(world.app(), vip(), "shapes,failed");
    let injected = weir.metrics().sum("weir_http_requests_ended_total", &[("reason", "fault_injected")]);
    assert_eq!(injected, 3.0);
}
