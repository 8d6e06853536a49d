//! What Weir tells about connections: the kernel's table, the metrics, the access log.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use proxy_io::sock;
use proxy_tests::client::Place;
use proxy_tests::config::{self, Grid, Lane, PORT, SERVER_PORT};
use proxy_tests::http::{Backend, Peer, ok};
use proxy_tests::net::Family;
use proxy_tests::node::{self, Weir};
use proxy_tests::pki::Pki;
use proxy_tests::process::Running;
use proxy_tests::python::{PYTHON, has_module};
use proxy_tests::world::World;
use proxy_tests::{wait, web};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);
const LINE: &str = "sink\n";
/// Longer than any step of a program takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const COUNTING: &str = include_str!("../src/python/counting.py");

/// Waits until a sum of the metrics is what it should be.
fn expect(weir: &Weir<'_>, name: &str, labels: &[(&str, &str)], wanted: f64) {
    let mut last = 0.0;
    let what = format!("{name} {labels:?} to be {wanted}");
    wait::until_true(&what, SOON, || {
        last = weir.metrics().sum(name, labels);
        assert!(last <= wanted || name.ends_with("active"), "{what}, but it is {last}");
        (last - wanted).abs() < 0.5
    });
}

#[test]
fn open_connections_of_both_lanes_are_listed_with_all_their_addresses() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    for (lane, family, path) in grid.paths(&world) {
        let mut client = path.place.start("hold", &[&path.address, &"3"]);
        assert_eq!(client.next()["answered"], 3);
        let page = weir.connections();
        assert_eq!(page["total"], 3, "{page}");
        for connection in page["connections"].as_array().expect("a list") {
            let what = format!("{lane:?} {family:?}: {connection}");
            let text = |key: &str| connection[key].as_str().unwrap_or_default().to_owned();
            let address = |key: &str| -> std::net::SocketAddr { text(key).parse().expect("an address") };
            assert_eq!(text("lane"), lane.as_str(), "{what}");
            assert_eq!(
                text("service"),
                format!("grid/{}-{}", lane.as_str(), grid.server(family).1),
                "{what}"
            );
            assert_eq!(text("cgroup"), world.app.scope(), "{what}");
            assert_eq!(address("source").ip().to_canonical(), family.own().to_canonical(), "{what}");
            let asked = std::net::SocketAddr::new(path.address.ip().to_canonical(), path.address.port());
            assert_eq!(address("original_dst"), asked, "{what}");
            assert_eq!(address("destination"), path.server.address(), "{what}");
            assert_eq!(address("endpoint"), path.server.address(), "{what}");
            assert!(connection["rtt_us"].as_u64().is_some_and(|rtt| rtt > 0), "{what}");
            assert!(connection["received_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{what}");
        }
        client.go_on("close");
        assert_eq!(client.next()["closed"], true);
        wait::until_true("an empty table", SOON, || weir.connections()["total"] == 0);
    }
}

#[test]
fn connections_that_are_followed_but_not_touched_are_listed() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    let host = grid.server(Family::V4).0.address();
    let client = world.app().start("hold", &[&host, &"2"]);
    assert_eq!(client.next()["answered"], 2);
    let outside = world.outside().start("hold", &[&host, &"2"]);
    assert_eq!(outside.next()["answered"], 2);
    let page = weir.connections();
    assert_eq!(page["total"], 2, "those outside of the scope are nobody's business: {page}");
    assert!(
        page["connections"][0]["lane"] == "none" && page["connections"][0]["service"].is_null(),
        "{page}"
    );
    let output = Command::new(node::binary()).args(["connections", "-o", "json"]).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["total"], 2, "{said}");
    let output = Command::new(node::binary()).arg("connections").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&host.to_string()));
}

#[test]
fn connections_and_bytes_are_counted_once_by_service_lane_and_reason() {
    const BYTES: u64 = 3 << 20;
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    for lane in Lane::ALL {
        let service = format!("grid/{}-four", lane.as_str());
        let labels = [("service", service.as_str()), ("lane", lane.as_str())];
        let path = grid.path(&world, lane, Family::V4);
        for _ in 0..2 {
            let said = path.place.run("upload", &[&path.address, &BYTES]);
            assert_eq!(said["answer"], format!("{BYTES} ok"), "{said}");
        }
        expect(&weir, "weir_connections_opened_total", &labels, 2.0);
        let fin = [labels[0], labels[1], ("reason", "fin")];
        expect(&weir, "weir_connections_closed_total", &fin, 2.0);
        expect(&weir, "weir_connections_active", &labels, 0.0);
        let sent = 2 * (BYTES + LINE.len() as u64);
        let received = 2 * format!("{BYTES} ok\n").len();
        expect(&weir, "weir_bytes_sent_total", &labels, f64::from(u32::try_from(sent).unwrap()));
        expect(&weir, "weir_bytes_received_total", &labels, f64::from(u32::try_from(received).unwrap()));
        expect(&weir, "weir_connect_duration_seconds_count", &labels, 2.0);

        let mut client = path.place.start("client_resets", &[&path.address, &"1000"]);
        expect(&weir, "weir_connections_active", &labels, 1.0);
        client.go_on("reset");
        assert_eq!(client.next()["done"], true);
        let reason = if lane == Lane::Direct { "aborted" } else { "downstream_reset" };
        expect(&weir, "weir_connections_closed_total", &[labels[0], labels[1], ("reason", reason)], 1.0);
        let mut client = path.place.start("server_resets", &[&path.address, &"1000"]);
        client.go_on("read");
        assert_eq!(client.next()["ended"], "ECONNRESET");
        let reason = if lane == Lane::Direct { "reset" } else { "upstream_reset" };
        expect(&weir, "weir_connections_closed_total", &[labels[0], labels[1], ("reason", reason)], 1.0);
        expect(&weir, "weir_connections_active", &labels, 0.0);
    }
}

#[test]
fn connections_that_carry_http_count_what_their_clients_sent_and_received() {
    let Some(world) = World::new() else { return };
    if !has_module("h2") {
        return;
    }
    let pki = Pki::new();
    pki.certificate("web", &["DNS:web.shop"]);
    let body = "x".repeat(1 << 20);
    let _backend = Backend::answering(&world.net, web::host(), move |_| Some(ok(&body)));
    let secure = SocketAddr::new(web::edge().ip(), 8443);
    let tls = json!({"address": secure.to_string(), "protocol": "http", "service": "web",
        "tls": {"certificates": [pki.files("web")]}});
    let labels = [("service", "web"), ("lane", "proxy")];
    for protocol in ["http", "auto"] {
        let mut config = web::speaking(&world, protocol, json!({}));
        if protocol == "http" {
            config["listeners"].as_array_mut().unwrap().push(tls.clone());
        }
        let Some(weir) = Weir::start(&world.net, &config) else { return };
        let (mut sent, mut received, mut ended) = (0.0, 0.0, 0.0);
        let ways = [(world.app(), web::vip(), "-"), (world.outside(), secure, &*pki.path("ca.pem"))];
        let is_offered = |way: &&(Place<'_>, SocketAddr, &str)| protocol == "http" || way.2 == "-";
        for (place, address, ca) in ways.iter().filter(is_offered) {
            for version in ["1.1", "2"] {
                // An endpoint of HTTP/1.1 is not asked in HTTP/2, which `auto` would do.
                if protocol == "auto" && version == "2" {
                    continue;
                }
                let arguments =
                    ["-c", COUNTING, version, &address.ip().to_string(), &address.port().to_string(), ca];
                let mut client = Running::start(place.command(Path::new(PYTHON)).args(arguments)).unwrap();
                let counts = |client: &Running| -> Value {
                    let line = client.line(LIMIT).expect("it counts");
                    serde_json::from_str(&line).unwrap()
                };
                // While the connection is open ...
                let said = counts(&client);
                expect(&weir, "weir_connections_active", &labels, 1.0);
                expect(&weir, "weir_bytes_sent_total", &labels, sent + said["sent"].as_f64().unwrap());
                expect(
                    &weir,
                    "weir_bytes_received_total",
                    &labels,
                    received + said["received"].as_f64().unwrap(),
                );
                client.say("once more");
                let said = counts(&client);
                assert!(client.wait(LIMIT).success());
                // ... and once it has ended.
                ended += 1.0;
                sent += said["sent"].as_f64().unwrap();
                received += said["received"].as_f64().unwrap();
                assert!(received > ended * f64::from(2 << 20), "{said}");
                expect(&weir, "weir_connections_active", &labels, 0.0);
                expect(&weir, "weir_bytes_sent_total", &labels, sent);
                expect(&weir, "weir_bytes_received_total", &labels, received);
            }
        }
    }
}

#[test]
fn a_tunnel_counts_what_it_began_with_too() {
    let Some(world) = World::new() else { return };
    let _backend = Backend::start(&world.net, web::host(), |peer, _| {
        let Ok(Some(_)) = peer.request_head() else { return };
        peer.say(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nfirst",
        );
        while let Ok(bytes) = peer.take(4) {
            peer.say(bytes);
        }
    });
    let Some(weir) = Weir::start(&world.net, &web::speaking(&world, "http", json!({}))) else { return };
    let labels = [("service", "web"), ("lane", "proxy")];
    let mut client = Peer::connect(&world.net, web::edge());
    client.say("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping");
    assert_eq!(client.answer_to("HEAD").unwrap().status(), 101);
    assert_eq!(client.take(9).unwrap(), b"firstping");
    let counted = |client: &Peer| {
        let info = sock::tcp_info(client.socket()).unwrap();
        [info.bytes_sent, info.bytes_received].map(|bytes| f64::from(u32::try_from(bytes).unwrap()))
    };
    let [sent, received] = counted(&client);
    expect(&weir, "weir_bytes_sent_total", &labels, sent);
    expect(&weir, "weir_bytes_received_total", &labels, received);
    client.say("pong");
    assert_eq!(client.take(4).unwrap(), b"pong");
    let [sent, received] = counted(&client);
    client.finish();
    assert_eq!(client.rest().unwrap(), b"");
    expect(&weir, "weir_connections_active", &labels, 0.0);
    expect(&weir, "weir_bytes_sent_total", &labels, sent);
    expect(&weir, "weir_bytes_received_total", &labels, received);
}

#[test]
fn refusals_and_verdicts_are_counted_by_reason() {
    let Some(world) = World::new() else { return };
    let dead = [Family::V4.host(19, SERVER_PORT)];
    let services = [
        (1, Lane::Direct, &[][..]),
        (2, Lane::Proxy, &[][..]),
        (3, Lane::Direct, &dead[..]),
        (4, Lane::Proxy, &dead[..]),
    ];
    let services = services.map(|(number, lane, to)| {
        config::service(&format!("s{number}"), Family::V4.vip(number, PORT), to, lane, Value::Null)
    });
    let Some(weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    for number in 1..=4 {
        let said = world.app().run("ask", &[&Family::V4.vip(number, PORT), &"3"]);
        assert_eq!(said["names"], json!([]), "{said}");
    }
    expect(&weir, "weir_kernel_verdicts_total", &[("verdict", "refused_no_endpoint")], 3.0);
    expect(&weir, "weir_kernel_verdicts_total", &[("verdict", "proxy")], 6.0);
    expect(&weir, "weir_kernel_verdicts_total", &[("verdict", "direct")], 3.0);
    for (service, reason) in [("s2", "no_endpoint"), ("s3", "refused"), ("s4", "connect_refused")] {
        expect(&weir, "weir_connections_closed_total", &[("service", service), ("reason", reason)], 3.0);
    }
    expect(&weir, "weir_connect_failures_total", &[("service", "s4")], 3.0);
}

#[test]
fn health_and_configuration_show_in_the_metrics() {
    let Some(world) = World::new() else { return };
    let server = world.server(Family::V4.host(10, SERVER_PORT), "server");
    let health = json!({"interval": "200ms", "timeout": "150ms", "http": {"path": "/"}});
    let service = config::service(
        "s",
        Family::V4.vip(1, PORT),
        &[server.address()],
        Lane::Direct,
        json!({"health": health}),
    );
    let config = config::config(&world, [service]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let is_healthy = || weir.metrics().sum("weir_endpoint_healthy", &[("service", "s")]) > 0.5;
    wait::until_true("checks", SOON, || {
        weir.metrics().sum("weir_health_checks_total", &[("result", "good")]) > 2.5
    });
    assert!(is_healthy());
    server.set_status(500);
    wait::until_true("the metrics to know of it", SOON, || !is_healthy());
    let version = |state| weir.metrics().sum("weir_config_version", &[("state", state)]);
    weir.write_config("services: 1\n");
    assert!(weir.post("/reload").unwrap().0 >= 400);
    assert!(weir.metrics().sum("weir_config_reload_failures_total", &[]) > 0.5);
    assert!(weir.metrics().sum("weir_config_last_reload_successful", &[]) < 0.5);
    let before = version("applied");
    let mut changed = config;
    changed["services"][0]["balance"]["policy"] = json!("least_request");
    weir.reload(&changed);
    assert!(weir.metrics().sum("weir_config_last_reload_successful", &[]) > 0.5);
    assert!(version("applied") > before && (version("applied") - version("wanted")).abs() < 0.5);
}

#[test]
fn the_access_log_has_a_line_for_each_connection_and_can_be_rotated() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let log = std::env::temp_dir().join(format!("weir-test-access-{}.log", std::process::id()));
    let old = log.with_extension("old");
    let mut config = config::config(&world, grid.services());
    config["access_log"] = json!({"path": log, "format": "json"});
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let lines = |path: &std::path::Path| -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap_or_default();
        // the last line may be half written
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    };
    for lane in Lane::ALL {
        let path = grid.path(&world, lane, Family::V4);
        assert_eq!(path.place.run("ask", &[&path.address, &"5"])["errors"], json!([]));
    }
    wait::until_true("a line for each connection", SOON, || lines(&log).len() == 10);
    for lane in Lane::ALL {
        let count = lines(&log)
            .iter()
            .filter(|line| line.to_string().contains(&format!("grid/{}-four", lane.as_str())))
            .count();
        assert_eq!(count, 5, "{lane:?}");
    }
    fs::rename(&log, &old).unwrap();
    weir.signal("-HUP");
    wait::until_true("a new file", SOON, || log.exists());
    let path = grid.path(&world, Lane::Proxy, Family::V4);
    assert_eq!(path.place.run("ask", &[&path.address, &"2"])["errors"], json!([]));
    wait::until_true("lines in the new file", SOON, || lines(&log).len() == 2);
    assert_eq!(lines(&old).len(), 10);
    fs::remove_file(&log).unwrap();
    fs::remove_file(&old).unwrap();
}
