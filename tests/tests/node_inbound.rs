//! Connections that come to applications in network namespaces of their own.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_tests::cgroup::Cgroup;
use proxy_tests::client::Place;
use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::net::{Family, Side};
use proxy_tests::node::Weir;
use proxy_tests::process::{self, Running};
use proxy_tests::scratch::Scratch;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const SOURCE: &str = include_str!("../src/python/inbound.py");
const PORT: u16 = 8080;

/// One end of a connection; killed when dropped.
struct Python(Running);

impl Python {
    fn start(place: Place<'_>, arguments: &[&str]) -> Self {
        let python = process::find("python3").expect("the world has it");
        let mut command = place.command(&python);
        Self(Running::start(command.args(["-c", SOURCE]).args(arguments)).unwrap())
    }

    /// An application that listens.
    fn application(place: Place<'_>, family: &str, more: &[&str]) -> Self {
        let port = PORT.to_string();
        let this = Self::start(place, &[&["application", family, &port], more].concat());
        assert_eq!(this.next()["listening"], true);
        this
    }

    fn next(&self) -> Value {
        serde_json::from_str(&self.0.line(SOON).expect("it says something")).unwrap()
    }
}

/// Asks an application from the far side.
fn ask(world: &World, to: SocketAddr, more: &[&str]) -> Value {
    let (host, port) = (to.ip().to_string(), to.port().to_string());
    Python::start(world.far(), &[&["client", &host, &port], more].concat()).next()
}

fn pod(family: Family, number: u8) -> SocketAddr {
    SocketAddr::new(family.pod(number), PORT)
}

fn config(world: &World, pods: &[u8], inbound: Value) -> Value {
    let mut config = config::config(world, []);
    let scopes = pods.iter().map(|number| json!({"netns": world.net.path(Side::Pod(*number))}));
    config["intercept"] = json!({"scopes": scopes.collect::<Vec<_>>(), "inbound": [inbound]});
    config
}

fn taken(weir: &Weir) -> f64 {
    weir.metrics().sum("weir_connections_opened_total", &[("service", "web"), ("lane", "inbound")])
}

fn closed(weir: &Weir, reason: &str) -> f64 {
    weir.metrics().sum("weir_connections_closed_total", &[("lane", "inbound"), ("reason", reason)])
}

/// Waits until connections to a pod are taken.
fn wait_taken(world: &World, weir: &Weir, to: SocketAddr) {
    wait::until_true("connections to be taken", SOON, || {
        let before = taken(weir);
        ask(world, to, &[])["heard"].is_object() && taken(weir) > before
    });
}

#[test]
fn applications_see_their_clients() {
    let Some(world) = World::new() else { return };
    let places = [(1, world.pod(1), "dual"), (2, world.pod(2), "four")];
    let apps = places.map(|(_, place, family)| Python::application(place, family, &[]));
    let log = std::env::temp_dir().join(format!("weir-inbound-{}.log", std::process::id()));
    let mut config = config(&world, &[1, 2], json!({"name": "web", "ports": [PORT]}));
    config::merge(&mut config, json!({"access_log": {"path": log}}));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let mut count = 0.0;
    for (number, _, family) in &places {
        wait_taken(&world, &weir, pod(Family::V4, *number));
        let families = if *family == "dual" { &[Family::V4, Family::V6][..] } else { &[Family::V4] };
        for family in families {
            let to = pod(*family, *number);
            let before = taken(&weir);
            let said = ask(&world, to, &[]);
            let (own, heard) = (&said["own"], &said["heard"]);
            for call in ["accept", "getpeername", "peername"] {
                assert_eq!(&heard[call], own, "{call} in {family:?}: {said}");
            }
            assert_eq!(heard["own"], to.to_string(), "its own address is what it was");
            assert!((taken(&weir) - before - 1.0).abs() < 0.5, "by a worker");
            count += 1.0;
        }
    }
    wait::until_true("their ends to be counted", SOON, || closed(&weir, "fin") >= count);
    for app in &apps {
        let said = app.next();
        assert_eq!(said["late"], said["early"], "as long as the socket lives");
    }
    // while it is open
    let open = Python::start(world.far(), &["client", "10.78.1.2", "8080", "", "none", "1", "yes"]);
    let own = open.next()["own"].clone();
    let page: Value = serde_json::from_str(&weir.ask("/connections?service=web").unwrap().1).unwrap();
    let row = &page["connections"][0];
    assert_eq!((&row["lane"], &row["source"]), (&json!("inbound"), &own), "{page}");
    assert_eq!(row["original_dst"], "10.78.1.2:8080");
    drop(open);
    drop(weir);
    let lines = std::fs::read_to_string(&log).unwrap();
    let mut lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert!(lines.any(|line| {
        line["lane"] == "inbound"
            && line["direction"] == "inbound"
            && line["src.addr"] == own
            && line["dst.original"] == "10.78.1.2:8080"
            && line["dst.service"] == "web"
    }));
    std::fs::remove_file(log).unwrap();
}

#[test]
fn pods_reach_each_other_and_themselves_through_a_service() {
    let Some(world) = World::new() else { return };
    world.net.connect_pods().unwrap();
    let clients = [(1, world.pod(1)), (2, world.pod(2))];
    let _app = Python::application(clients[1].1, "dual", &[]);
    let cases = Lane::ALL.into_iter().flat_map(|lane| [Family::V4, Family::V6].map(|family| (lane, family)));
    let services = cases.clone().map(|(lane, family)| {
        let name = format!("{}-{family:?}", lane.as_str());
        config::service(&name, Grid::address(lane, family), &[pod(family, 2)], lane, Value::Null)
    });
    let mut config = config(&world, &[1, 2], json!({"name": "web", "ports": [PORT]}));
    config["services"] = services.collect();
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    wait_taken(&world, &weir, pod(Family::V4, 2));
    for ((lane, family), (number, place)) in cases.flat_map(|case| clients.map(|client| (case, client))) {
        let before = taken(&weir);
        let to = Grid::address(lane, family);
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        let said = Python::start(place, &["client", &host, &port]).next();
        let heard: SocketAddr =
            said["heard"]["accept"].as_str().unwrap_or_default().parse().expect("an address");
        assert_eq!(heard.ip(), family.pod(number), "{lane:?} {family:?} from pod {number}: {said}");
        assert_eq!(said["heard"]["own"], pod(family, 2).to_string(), "{said}");
        // Both ends are served by this Weir, unless they are of one pod.
        let inbound = if number == 2 { 0.0 } else { 1.0 };
        assert!((taken(&weir) - before - inbound).abs() < 0.5, "{lane:?} {family:?} from pod {number}");
    }
}

#[test]
fn what_stays_within_a_pod_is_not_touched() {
    let Some(world) = World::new() else { return };
    let place = world.pod(1);
    let _app = Python::application(place, "dual", &[]);
    let Some(weir) = Weir::start(&world.net, &config(&world, &[1], json!({"name": "web", "ports": [PORT]})))
    else {
        return;
    };
    wait_taken(&world, &weir, pod(Family::V4, 1));
    let before = taken(&weir);
    for host in ["127.0.0.1", "10.78.1.2", "::1", "fd78:0:0:1::2"] {
        let said = Python::start(place, &["client", host, "8080"]).next();
        assert_eq!(said["heard"]["accept"], said["own"], "{host}: {said}");
    }
    assert!((taken(&weir) - before).abs() < 0.5, "directly");
}

#[test]
fn applications_get_connections_themselves_while_weir_is_dead_or_hangs() {
    let Some(world) = World::new() else { return };
    let _app = Python::application(world.pod(1), "dual", &[]);
    let config = config(&world, &[1], json!({"name": "web", "ports": [PORT]}));
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let to = pod(Family::V4, 1);
    let ask_well = || {
        let said = ask(&world, to, &["", "none", "1"]);
        assert_eq!(said["heard"]["accept"], said["own"], "{said}");
    };
    wait_taken(&world, &weir, to);
    weir.signal("-STOP");
    // two seconds without a sign of life
    std::thread::sleep(Duration::from_millis(2500));
    ask_well();
    weir.signal("-CONT");
    wait_taken(&world, &weir, to);
    weir.kill();
    ask_well();
    weir.restart(&config);
    wait_taken(&world, &weir, to);
}

#[test]
fn pods_with_equal_addresses_are_not_mixed_up() {
    let Some(world) = World::new() else { return };
    let twins = [1, 2].map(|number| {
        let side = world.net.add_pod(number, 9).unwrap();
        Place { net: &world.net, side, cgroup: None }
    });
    // only one of the two expects a header, which tells them apart
    let _apps =
        [Python::application(twins[0], "four", &["no"]), Python::application(twins[1], "four", &["yes"])];
    let mut config = config(&world, &[1, 2], Value::Null);
    let scope = |number| json!([{"netns": world.net.path(Side::Pod(number))}]);
    config["intercept"]["inbound"] = json!([
        {"name": "one", "ports": [PORT], "scopes": scope(1)},
        {"name": "two", "ports": [PORT], "scopes": scope(2), "proxy_protocol": {"out": "v1"}},
    ]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let opened = |name| weir.metrics().sum("weir_connections_opened_total", &[("service", name)]);
    let to = pod(Family::V4, 9);
    for (name, device, header) in [("one", "pod1", false), ("two", "pod2", true)] {
        wait::until_true(name, SOON, || {
            let before = opened(name);
            // a client gives up on an application that waits for a header which nobody sends
            let header = if header { "v1" } else { "none" };
            let _ = ask(&world, to, &[device, if before < 0.5 { header } else { "none" }]);
            opened(name) > before
        });
        let said = ask(&world, to, &[device, "none", "1"]);
        let heard = &said["heard"];
        assert_eq!(heard["accept"], said["own"], "{name}: {said}");
        let announced = heard["header"].as_str().unwrap();
        assert_eq!(announced.starts_with("PROXY TCP4 10.78.9.1 10.78.9.2 "), header, "{name}: {said}");
    }
}

#[test]
fn a_header_in_front_says_who_the_client_is_and_limits_are_kept() {
    let Some(world) = World::new() else { return };
    let _app = Python::application(world.pod(1), "dual", &[]);
    let inbound = json!({
        "name": "web", "ports": [PORT], "limits": {"max_connections": 3}, "proxy_protocol": {"in": "required"},
    });
    let Some(weir) = Weir::start(&world.net, &config(&world, &[1], inbound)) else { return };
    let to = pod(Family::V4, 1);
    wait::until_true("connections to be taken", SOON, || {
        let _ = ask(&world, to, &["", "v1"]);
        taken(&weir) > 0.5
    });
    let said = ask(&world, to, &["", "v1"]);
    assert_eq!(
        (&said["heard"]["accept"], &said["heard"]["word"]),
        (&json!("192.0.2.7:1234"), &json!("word0"))
    );
    let said = ask(&world, to, &["", "none"]);
    assert_eq!(said["end"], "ConnectionResetError", "{said}");
    // A client may hear of its end before that is counted.
    wait::until_true("the header to be counted", SOON, || closed(&weir, "proxy_header") > 0.5);
    let active = || weir.metrics().sum("weir_connections_active", &[("service", "web"), ("lane", "inbound")]);
    wait::until_true("all to be closed", SOON, || active() < 0.5);
    let many = Python::start(world.far(), &["client", "10.78.1.2", "8080", "", "v1", "5", "yes"]);
    let heard = (0..5).filter(|_| many.next()["heard"].is_object()).count();
    assert_eq!(heard, 3);
    wait::until_true("the limit to be counted", SOON, || (closed(&weir, "limit") - 2.0).abs() < 0.5);
}

#[test]
fn ports_come_and_go_and_nothing_of_a_pod_stays() {
    let Some(world) = World::new() else { return };
    let inbound = |port: u16| json!({"name": "web", "ports": [port]});
    let Some(weir) = Weir::start(&world.net, &config(&world, &[1], inbound(PORT))) else { return };
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", weir.pid())).map_or(0, Iterator::count);
    let before = descriptors();
    let to = pod(Family::V4, 1);
    for round in 1..=3 {
        let app = Python::application(world.pod(1), "dual", &[]);
        wait_taken(&world, &weir, to);
        weir.reload(&config(&world, &[1], inbound(PORT + 1)));
        let seen = taken(&weir);
        let said = ask(&world, to, &[]);
        assert_eq!(said["heard"]["accept"], said["own"], "round {round}: {said}");
        assert!((taken(&weir) - seen).abs() < 0.5, "not taken any more");
        weir.reload(&config(&world, &[1], inbound(PORT)));
        wait_taken(&world, &weir, to);
        let open = Python::start(world.far(), &["client", "10.78.1.2", "8080", "", "none", "1", "yes"]);
        assert!(open.next()["heard"].is_object());
        world.net.remove_pod(1);
        drop((app, open));
        wait::until_true("the namespace to end", SOON, || !world.net.has_pod(1));
    }
    wait::until_true("descriptors to be given back", SOON, || descriptors() <= before + 2);
    assert!(steered().is_empty(), "{:?}", steered());
}

/// Links to programs in network namespaces, as the kernel lists them; empty where bpftool is not installed.
fn steered() -> Vec<String> {
    let Some(bpftool) = process::find("bpftool") else { return Vec::new() };
    let listed = process::output(std::process::Command::new(bpftool).args(["link", "list"]));
    listed.unwrap_or_default().lines().filter(|l| l.contains("sk_lookup")).map(str::to_owned).collect()
}

#[test]
fn a_takeover_loses_no_connection_to_an_application() {
    let Some(world) = World::new() else { return };
    let _app = Python::application(world.pod(1), "dual", &[]);
    let config = config(&world, &[1], json!({"name": "web", "ports": [PORT]}));
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    wait_taken(&world, &weir, pod(Family::V4, 1));
    let load = Python::start(world.far(), &["client", "10.78.1.2", "8080", "", "none", "600"]);
    assert!(load.next()["heard"].is_object());
    let mut older = weir.take_over(&config);
    for number in 1..600 {
        let said = load.next();
        assert_eq!(said["heard"]["accept"], said["own"], "{number}: {said}");
    }
    older.wait(SOON);
    wait_taken(&world, &weir, pod(Family::V4, 1));
}

const UID: &str = "0f3c1b2a-1111-2222-3333-444455556666";

#[test]
fn pods_are_found_by_their_cgroups_and_named() {
    let Some(world) = World::new() else { return };
    let pod_cgroup = world.app.child(&format!("kubepods-pod{}.slice", UID.replace('-', "_"))).unwrap();
    let container: Cgroup = pod_cgroup.child("cri-containerd-bbbb.scope").unwrap();
    let place = Place { cgroup: Some(&container), ..world.pod(1) };
    let _app = Python::application(place, "dual", &[]);
    let scratch = Scratch::new("inbound");
    let log: PathBuf = scratch.path().join("access.log");
    let mut config = config::config(&world, []);
    let below =
        json!({"cgroup": format!("{}/kubepods-pod{}.slice", world.app.scope(), UID.replace('-', "_"))});
    config["intercept"]["inbound"] = json!([{"name": "web", "ports": [PORT], "scopes": [below]}]);
    config::merge(&mut config, json!({"access_log": {"path": log}}));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    wait_taken(&world, &weir, pod(Family::V4, 1));
    let open = Python::start(world.far(), &["client", "10.78.1.2", "8080", "", "none", "1", "yes"]);
    assert!(open.next()["heard"].is_object());
    let page: Value = serde_json::from_str(&weir.ask("/connections?service=web").unwrap().1).unwrap();
    let cgroup = page["connections"][0]["cgroup"].as_str().unwrap_or_default();
    assert!(cgroup.ends_with(&format!("kubepods-pod{}.slice", UID.replace('-', "_"))), "{page}");
    drop(open);
    drop(weir);
    let lines = read(&log);
    assert!(lines.contains("\"dst.cgroup\":\"/") && lines.contains("kubepods-pod"), "{lines}");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
