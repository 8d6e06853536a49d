//! What Weir gives up when memory or descriptors run out, in which order, and that all of it comes back.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_io::sock;
use proxy_tests::config::{self, Lane};
use proxy_tests::http::{Backend, Message, Peer, ok};
use proxy_tests::net::{Family, Side};
use proxy_tests::node::Weir;
use proxy_tests::process::Running;
use proxy_tests::python::{PYTHON, has_module};
use proxy_tests::world::World;
use proxy_tests::{cgroup, skip, wait};
use serde_json::{Value, json};

/// Time for things that happen in the background: the ladder holds a rung for two seconds after the need is over.
const SOON: Duration = Duration::from_secs(20);
/// Descriptors that Weir may have.
const NOFILE: u64 = 1024;
const SLOW: &str = include_str!("../src/python/http2_slow.py");
const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
/// Bytes that fit into no socket's queue.
const MUCH: usize = 64 << 20;

fn edge() -> SocketAddr {
    "10.77.0.1:8000".parse().unwrap()
}

fn edge_raw() -> SocketAddr {
    "10.77.0.1:7000".parse().unwrap()
}

fn vip() -> SocketAddr {
    Family::V4.vip(1, 5432)
}

fn host(number: u8) -> SocketAddr {
    Family::V4.host(number, 8080)
}

/// A service of bytes, caught and at a listener; one of requests at a listener; and what is given up when.
fn config(world: &World, overload: Value) -> Value {
    let raw = config::service("raw", vip(), &[host(11)], Lane::Proxy, Value::Null);
    let web = json!({"name": "web", "protocol": "http", "endpoints": [{"address": host(10).to_string()}]});
    let mut config = config::config(world, [raw, web]);
    let more = json!({
        "workers": 2,
        "listeners": [
            {"address": edge().to_string(), "protocol": "http", "service": "web"},
            {"address": edge_raw().to_string(), "service": "raw"},
        ],
        "overload": overload,
    });
    config::merge(&mut config, more);
    config
}

fn backend(world: &World) -> Backend {
    Backend::answering(&world.net, host(10), |request| {
        Some(if request.start_line().contains("/much") { ok(&"x".repeat(MUCH)) } else { ok("served") })
    })
}

fn ask(world: &World) -> Message {
    let mut client = Peer::connect(&world.net, edge());
    client.say(GET);
    client.answer()
}

/// Tells whether a new connection is reset, at once or when something is said.
fn is_reset(world: &World, address: SocketAddr) -> bool {
    let connected = world.net.run(Side::Near, || TcpStream::connect_timeout(&address, SOON)).unwrap();
    let ended = connected.and_then(|mut stream| {
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(b"name x\n")?;
        stream.read(&mut [0; 1])
    });
    ended.is_err_and(|error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
}

fn is_in_force(weir: &Weir<'_>, rung: &str) -> bool {
    weir.metrics().sum("weir_overload_rung", &[("rung", rung)]) > 0.5
}

fn actions(weir: &Weir<'_>, rung: &str) -> f64 {
    weir.metrics().sum("weir_overload_actions_total", &[("rung", rung)])
}

fn used(weir: &Weir<'_>, resource: &str) -> u64 {
    let used = weir.metrics().sum("weir_overload_used", &[("resource", resource)]);
    format!("{used:.0}").parse().unwrap()
}

fn lines(weir: &Weir<'_>, text: &str) -> usize {
    weir.log().lines().filter(|line| line.contains(text)).count()
}

/// Types of the HTTP/2 frames that a server has sent (RFC 9113, 4.1).
fn frame_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        types.push(*kind);
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        bytes = rest.get(length..).unwrap_or_default();
    }
    types
}

#[test]
fn short_of_descriptors_listeners_refuse_and_applications_are_served() {
    const GO_AWAY: u8 = 7;
    let Some(world) = World::new() else { return };
    let _backend = backend(&world);
    let _server = world.server(host(11), "server");
    let limit = format!("--nofile={NOFILE}:{NOFILE}");
    let starter = ["prlimit", limit.as_str()];
    let Some(weir) = Weir::start_with(&world.net, &config(&world, json!({})), &starter, &[]) else { return };
    let metrics = weir.metrics();
    assert!((metrics.sum("weir_overload_max", &[("resource", "descriptors")]) - NOFILE as f64).abs() < 0.5);
    let percent =
        |descriptors: u64| format!("{}%", (used(&weir, "descriptors") + descriptors) * 100 / NOFILE);
    let overload = json!({
        "stop_keep_alive": percent(100), "refuse_low": percent(150), "refuse": percent(200),
        "refuse_high": "off", "reset": "off",
    });
    weir.reload(&config(&world, overload));

    let mut resting = Peer::connect(&world.net, edge());
    resting.say(GET);
    assert_eq!(resting.answer().header("connection"), None);
    let mut resting_http2 = Peer::connect(&world.net, edge());
    resting_http2.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    // Two descriptors each.
    let mut held = world.app().start("hold", &[&vip(), &"125"]);
    assert_eq!(held.next()["answered"], 125);
    wait::until_true("requests to be refused", SOON, || is_in_force(&weir, "refuse"));
    assert!(is_in_force(&weir, "stop_keep_alive") && !is_in_force(&weir, "reset"));
    assert_eq!(resting.rest().unwrap(), b"", "its connection ends in order");
    let types = frame_types(&resting_http2.rest().unwrap());
    assert!(types.contains(&GO_AWAY), "{types:?}");
    for address in [edge(), edge_raw()] {
        assert!(is_reset(&world, address), "{address} takes no more");
    }
    assert_eq!(world.app().run("ask", &[&vip()])["names"], json!(["server"]), "applications are served");
    assert!(actions(&weir, "refuse") > 1.5 && actions(&weir, "stop_keep_alive") > 1.5);
    let closed = [("reason", "overload")];
    assert!(weir.metrics().sum("weir_connections_closed_total", &closed) > 3.5);

    held.go_on("ask");
    assert_eq!(held.next()["answered"], 125, "nobody who was there is cut");
    assert_eq!(held.next()["closed"], true);
    wait::until_true("all to be well again", SOON, || !is_in_force(&weir, "stop_keep_alive"));
    assert_eq!(ask(&world).text(), "served");
    let (entered, left) = (lines(&weir, "a rung is entered"), lines(&weir, "a rung is left"));
    assert!((1..=2).contains(&entered) && (1..=2).contains(&left), "{entered}, {left}: no flapping");
}

/// A memory cgroup of its own, in whichever version of cgroups has the controller here.
struct MemoryCgroup {
    path: PathBuf,
    limit: &'static str,
}

impl MemoryCgroup {
    fn new() -> Option<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (mount, limit) = if v1.join("memory.limit_in_bytes").exists() {
            (v1.to_owned(), "memory.limit_in_bytes")
        } else {
            (cgroup::mount()?, "memory.max")
        };
        let path = mount.join(format!("weir-test-memory-{}", std::process::id()));
        let made = fs::create_dir(&path);
        if made.is_err() || !path.join(limit).exists() {
            let _ = fs::remove_dir(&path);
            skip::skip("no memory cgroup can be made");
            return None;
        }
        Some(Self { path, limit })
    }

    fn set_limit(&self, bytes: u64) {
        fs::write(self.path.join(self.limit), bytes.to_string()).unwrap();
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

#[test]
fn short_of_memory_requests_are_refused_until_there_is_more() {
    const PAGE: u64 = 4096;
    const LIMIT: u64 = 1 << 30;
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    let Some(memory) = MemoryCgroup::new() else { return };
    memory.set_limit(LIMIT);
    let _backend = backend(&world);
    let into = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", memory.path.display());
    // A machine's memory is never that short.
    let overload = json!({
        "stop_keep_alive": "40%", "refuse_low": "45%", "refuse": "50%", "refuse_high": "off", "reset": "off",
    });
    let config = config(&world, overload);
    let Some(weir) = Weir::start_with(&world.net, &config, &["sh", "-c", &into], &[]) else { return };
    let bound = [("resource", "memory")];
    assert!(
        (weir.metrics().sum("weir_overload_max", &bound) - LIMIT as f64).abs() < 0.5,
        "the cgroup's limit"
    );
    let mut client = Peer::connect(&world.net, edge());
    client.say(GET);
    assert_eq!(client.answer().text(), "served");

    memory.set_limit(used(&weir, "memory") * 100 / 60 / PAGE * PAGE);
    wait::until_true("requests to be refused", SOON, || is_in_force(&weir, "refuse"));
    let refused = ask(&world);
    assert_eq!((refused.status(), refused.header("x-weir-reason")), (503, Some("overload")));
    assert_eq!(refused.header("connection"), Some("close"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((2..=5).contains(&wait), "{wait}");
    let url = format!("http://{}/shop.Cart/Add", edge());
    let grpc =
        ["-s", "-i", "--http2-prior-knowledge", "-H", "content-type: application/grpc", "-d", "", &url];
    let said = world.outside().output(&curl, &grpc).unwrap();
    assert!(said.contains("grpc-status: 14") && said.contains("grpc-message: overload"), "{said}");
    assert!(said.contains("grpc-retry-pushback-ms: "), "{said}");
    let ended = [("service", "web"), ("reason", "overload")];
    assert!(weir.metrics().sum("weir_http_requests_ended_total", &ended) > 1.5);

    memory.set_limit(LIMIT);
    wait::until_true("all to be well again", SOON, || !is_in_force(&weir, "stop_keep_alive"));
    assert_eq!(ask(&world).text(), "served");
    assert_eq!((lines(&weir, "a rung is left"), lines(&weir, "a rung is entered")), (1, 1));
}

#[test]
fn the_streams_that_hold_most_are_reset_and_no_others() {
    let Some(world) = World::new() else { return };
    let _backend = backend(&world);
    let _server = world.server(host(11), "server");
    let mut off = json!({"reset": "off"});
    for rung in ["stop_keep_alive", "refuse_low", "refuse", "refuse_high"] {
        off[rung] = json!("off");
    }
    let Some(weir) = Weir::start(&world.net, &config(&world, off.clone())) else { return };
    let mut light = world.app().start("hold", &[&vip(), &"20"]);
    assert_eq!(light.next()["answered"], 20);
    // Two that ask for much and read nothing of it: one of bytes, and one request.
    let mut heavy = world.app().start("pull", &[&vip(), &MUCH]);
    assert_eq!(heavy.next()["asked"], true);
    let mut slow = Peer::connect(&world.net, edge());
    slow.say("GET /much HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(slow.take(4).unwrap(), b"HTTP");

    // As if next to no memory were there.
    let mut scarce = off.clone();
    config::merge(&mut scarce, json!({"reset": "1%", "max_memory": "32MiB"}));
    weir.reload(&config(&world, scarce));
    let of = |name: &str, labels: &[(&str, &str)]| weir.metrics().sum(name, labels);
    wait::until_true("both to be reset", SOON, || {
        of("weir_connections_closed_total", &[("service", "raw"), ("reason", "overload")]) > 0.5
            && of("weir_http_requests_ended_total", &[("service", "web"), ("reason", "overload")]) > 0.5
    });
    // Two more looks: who holds nothing is nobody's burden.
    let before = lines(&weir, "the heaviest stream is reset");
    assert_eq!(before, 2);
    assert_eq!(ask(&world).text(), "served");
    weir.reload(&config(&world, off));
    wait::until_true("the rung to be left", SOON, || !is_in_force(&weir, "reset"));
    assert!((actions(&weir, "reset") - 2.0).abs() < 0.5);
    assert!(slow.rest().is_err(), "a part is not taken for the whole");
    heavy.go_on("read");
    let said = heavy.next();
    // What it had not read is gone with the connection.
    assert!(said["error"] == "ENOTCONN" || said["error"] == "ECONNRESET", "{said}");
    light.go_on("ask");
    assert_eq!(light.next()["answered"], 20);
    assert_eq!(light.next()["closed"], true);
}

#[test]
fn what_waits_to_be_sent_in_http2_is_weighed() {
    // Each answer fits into its stream's window, all of them into no socket.
    const ANSWER: usize = 60 << 10;
    const STREAMS: &str = "240";
    let Some(world) = World::new() else { return };
    if !has_module("h2") {
        return;
    }
    let _backend = Backend::start(&world.net, host(10), |peer, _| {
        let body = ok(&"x".repeat(ANSWER));
        while let Ok(Some(request)) = peer.request() {
            if !request.start_line().contains("/hang") && !peer.try_say(&body) {
                return;
            }
        }
    });
    let mut off = json!({"reset": "off"});
    for rung in ["stop_keep_alive", "refuse_low", "refuse", "refuse_high"] {
        off[rung] = json!("off");
    }
    let Some(weir) = Weir::start(&world.net, &config(&world, off.clone())) else { return };
    let (ip, port) = (edge().ip().to_string(), edge().port().to_string());
    let arguments = ["-c", SLOW, &ip, &port, "/some", "1", STREAMS, "/hang"];
    let mut slow = Running::start(world.outside().command(Path::new(PYTHON)).args(arguments)).unwrap();
    assert_eq!(slow.line(SOON).as_deref(), Some("asked"));
    let of = |name: &str, labels: &[(&str, &str)]| weir.metrics().sum(name, labels);
    let active = || of("weir_http_requests_active", &[("service", "web")]);
    wait::until_true("answers to wait for their client", SOON, || active() > 100.0);
    let mut scarce = off;
    config::merge(&mut scarce, json!({"reset": "1%", "max_memory": "32MiB"}));
    weir.reload(&config(&world, scarce));
    let overload = || of("weir_http_requests_ended_total", &[("service", "web"), ("reason", "overload")]);
    wait::until_true("two of them to be reset", SOON, || overload() > 1.5);
    let (reset, said) = (overload(), lines(&weir, "the heaviest stream is reset"));
    assert!(reset <= said as f64, "one at a time: {reset} were reset, {said} times");
    slow.kill();
}

#[test]
fn what_matters_less_is_refused_first_and_leaves_room() {
    let Some(world) = World::new() else { return };
    // Requests whose path says so are never answered.
    let _backend = Backend::start(&world.net, host(10), |peer, _| {
        while let Ok(Some(request)) = peer.request() {
            if !request.start_line().contains("/hang") {
                peer.say(ok("served"));
            }
        }
    });
    let rule = |prefix: &str, priority: &str| json!({"match": {"path": {"prefix": prefix}}, "priority": priority, "backends": [{"service": "web"}]});
    let with = |overload: Value| {
        let mut config = config(&world, overload);
        config["listeners"] = json!([{"address": edge().to_string(), "protocol": "http", "routes": ["all"]}]);
        config["services"][1]["limits"] = json!({"max_requests": 4});
        let rules = [rule("/low", "low"), rule("/high", "high"), json!({"backends": [{"service": "web"}]})];
        config["routes"] = json!([{"name": "all", "rules": rules}]);
        config
    };
    let Some(weir) = Weir::start(&world.net, &with(json!({}))) else { return };
    let open = |path: &str| {
        let mut client = Peer::connect(&world.net, edge());
        client.say(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        client
    };
    let reason = |path: &str| open(path).answer().header("x-weir-reason").map(str::to_owned);
    // A request that was answered may be counted for a moment more.
    let settle = |count: f64| {
        let active = || weir.metrics().sum("weir_http_requests_active", &[("service", "web")]);
        wait::until_true("so many to be under way", SOON, || (active() - count).abs() < 0.5);
    };
    let reasons_beside = |count: f64| {
        ["/low", "/", "/high"].map(|path| {
            settle(count);
            reason(path).unwrap_or_default()
        })
    };
    assert_eq!(reasons_beside(0.0), ["", "", ""]);

    settle(0.0);
    let hanging: Vec<Peer> = (0..3).map(|_| open("/low/hang")).collect();
    assert_eq!(reasons_beside(3.0), ["limit", "", ""], "the last place is not theirs");
    settle(3.0);
    let last = open("/hang");
    assert_eq!(reasons_beside(4.0), ["limit"; 3]);
    // A mere end could be that of a client that waits for its answer.
    hanging.iter().chain([&last]).for_each(|client| sock::set_linger_reset(client.socket()).unwrap());
    drop((hanging, last));
    settle(0.0);

    for (rung, expected) in [
        ("refuse_low", ["overload", "", ""]),
        ("refuse", ["overload", "overload", ""]),
        ("refuse_high", ["overload"; 3]),
    ] {
        // As if next to no memory were there.
        let mut overload = json!({"max_memory": "32MiB"});
        for other in ["stop_keep_alive", "refuse_low", "refuse", "refuse_high", "reset"] {
            overload[other] = json!(if other == rung { "1%" } else { "off" });
        }
        weir.reload(&with(overload));
        wait::until_true("it to be in force", SOON, || is_in_force(&weir, rung));
        assert_eq!(reasons_beside(0.0), expected, "{rung}");
    }
    let mut overload = json!({"max_memory": "32MiB", "stop_keep_alive": "1%"});
    for other in ["refuse_low", "refuse", "refuse_high", "reset"] {
        overload[other] = json!("off");
    }
    weir.reload(&with(overload));
    wait::until_true("it to be in force", SOON, || is_in_force(&weir, "stop_keep_alive"));
    let answer = open("/").answer();
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("served", Some("close")));
    assert_eq!(["refuse_low", "refuse", "refuse_high"].map(|rung| actions(&weir, rung)), [3.0, 2.0, 1.0]);
}
