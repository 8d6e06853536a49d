//! What Weir tells about connections: the kernel's table, the metrics, the access log.

use std::fs;
use std::process::Command;
use std::time::Duration;

use proxy_tests::config::{self, Grid, Lane, PORT, SERVER_PORT};
use proxy_tests::net::Family;
use proxy_tests::node::{self, Weir};
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);
const LINE: &str = "sink\n";

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
