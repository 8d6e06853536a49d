//! Applications in network namespaces of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use proxy_tests::battery::Path;
use proxy_tests::client::Place;
use proxy_tests::config::{self, Grid, Lane, PORT, SERVER_PORT};
use proxy_tests::kubelet::pod_cgroups;
use proxy_tests::net::{Family, Side};
use proxy_tests::node::Weir;
use proxy_tests::swarm::Swarm;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// A config whose scopes are pods.
fn config(world: &World, pods: &[u8], services: impl IntoIterator<Item = Value>) -> Value {
    let mut config = config::config(world, services);
    let scopes = pods.iter().map(|number| json!({"netns": world.net.path(Side::Pod(*number))}));
    config["intercept"]["scopes"] = scopes.collect();
    config
}

fn opened(weir: &Weir, lane: &str) -> f64 {
    weir.metrics().sum("weir_connections_opened_total", &[("lane", lane)])
}

/// Namespaces in which the kernel programs know of listeners.
fn served(weir: &Weir) -> f64 {
    weir.metrics().sum("weir_map_entries", &[("map", "NETNS")])
}

#[test]
fn both_lanes_serve_pods_and_keep_their_addresses() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let pods = [(1, world.pod(1)), (2, world.pod(2))];
    let mut config = config(&world, &[1, 2], grid.services());
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    for source in ["pod", "node"] {
        config["intercept"]["source"] = json!(source);
        weir.reload(&config);
        for (number, place) in pods {
            for (lane, family) in Lane::ALL.into_iter().flat_map(|l| Family::ALL.map(|f| (l, f))) {
                let address = Grid::address(lane, family);
                let (server, name) = grid.server(family);
                let said = place.run("addresses", &[&address]);
                let expected = (json!(name), json!(address.to_string()));
                assert_eq!((&said["name"], &said["peer"]), (&expected.0, &expected.1), "{lane:?} {family:?}");
                let own: std::net::SocketAddr =
                    said["own"].as_str().expect("text").parse().expect("an address");
                assert_eq!(own.ip(), family.pod(number), "{lane:?} {family:?}: {said}");
                // the server's view
                let _ = place.run("upload", &[&address, &"1000"]);
                let peer = server.seen(SOON).peer.ip().to_canonical();
                let is_pods = source == "pod" || lane == Lane::Direct;
                let from = if is_pods { family.pod(number) } else { family.own() };
                assert_eq!(peer, from.to_canonical(), "{source} {lane:?} {family:?}");
            }
        }
    }
    assert!(opened(&weir, "proxy") > 20.0, "the workers saw them");
    assert!((served(&weir) - 2.0).abs() < 0.5);
}

#[test]
fn streams_of_pods_pass_the_battery() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let place = world.pod(1);
    let Some(_weir) = Weir::start(&world.net, &config(&world, &[1], grid.services())) else { return };
    for family in Family::ALL {
        let address = Grid::address(Lane::Proxy, family);
        let path = Path { place, address, server: grid.server(family).0 };
        path.carries(64 << 20);
        path.trades(1 << 18, 4000, 4);
        path.half_closes();
        path.resets();
    }
}

#[test]
fn pods_come_and_go_and_nothing_of_them_stays() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(weir) = Weir::start(&world.net, &config(&world, &[1], grid.services())) else { return };
    let status = || weir.ask("/status").expect("an answer").1;
    wait::until_true("it to be missed", SOON, || status().contains("-pod1"));
    for round in 1..=3 {
        let place = world.pod(1);
        wait::until_true("the pod to be served", SOON, || served(&weir) > 0.5);
        let before = opened(&weir, "proxy");
        for family in Family::ALL {
            let said = place.run("ask", &[&Grid::address(Lane::Proxy, family)]);
            assert_eq!(said["names"], json!([grid.server(family).1]), "round {round}, {family:?}: {said}");
        }
        assert!(opened(&weir, "proxy") > before + 2.5, "by a worker");
        wait::until_true("it to be missed no more", SOON, || !status().contains("-pod1"));
        assert!(world.net.has_pod(1));
        world.net.remove_pod(1);
        wait::until_true("the namespace to end", SOON, || !world.net.has_pod(1));
        assert!(served(&weir) < 0.5, "round {round}");
    }
}

#[test]
fn a_pod_that_goes_with_open_connections_takes_only_them_along() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let (leaving, staying) = (world.pod(1), world.pod(2));
    let Some(weir) = Weir::start(&world.net, &config(&world, &[1, 2], grid.services())) else { return };
    let address = Grid::address(Lane::Proxy, Family::V4);
    let mut other = staying.start("hold", &[&address, &"5"]);
    assert_eq!(other.next()["answered"], 5);
    let stream = leaving.start("stream", &[&address]);
    assert_eq!(stream.next()["started"], true);
    world.net.remove_pod(1);
    wait::until_true("its listeners to be closed", SOON, || served(&weir) < 1.5);
    drop(stream);
    wait::until_true("the namespace to end", SOON, || !world.net.has_pod(1));
    other.go_on("ask");
    assert_eq!(other.next()["answered"], 5);
    assert_eq!(staying.run("ask", &[&address])["names"], json!(["four"]));
}

#[test]
fn pods_with_equal_addresses_are_not_mixed_up() {
    const EACH: u64 = 100;
    let Some(world) = World::new() else { return };
    let mut servers = Vec::new();
    let (mut services, mut targets) = (Vec::new(), Vec::new());
    for (number, name) in [(10, "a"), (11, "b"), (12, "c"), (13, "d")] {
        let vip = Family::V4.vip(number, PORT);
        servers.push(world.server(Family::V4.host(number, SERVER_PORT), name));
        let host = Family::V4.host(number, SERVER_PORT);
        services.push(config::service(name, vip, &[host], Lane::Proxy, Value::Null));
        targets.push(format!("{vip}={name}"));
    }
    let twins = [1, 2].map(|number| {
        let side = world.net.add_pod(number, 9).expect("root can make a network namespace");
        Place { net: &world.net, side, cgroup: None }
    });
    let mut config = config(&world, &[1, 2], services);
    config["intercept"]["source"] = json!("node");
    let Some(_weir) = Weir::start(&world.net, &config) else { return };
    let mut arguments: Vec<&dyn std::fmt::Display> = vec![&EACH, &8];
    arguments.extend(targets.iter().map(|target| target as &dyn std::fmt::Display));
    let storms = twins.map(|place| place.start("storm", &arguments));
    for storm in storms {
        assert_eq!(storm.next()["good"], EACH * 8);
    }
}

#[test]
fn one_pod_uses_all_workers() {
    const WORKERS: u32 = 3;
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let place = world.pod(1);
    let mut config = config(&world, &[1], grid.services());
    config["workers"] = json!(WORKERS);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let mut held = place.start("hold", &[&Grid::address(Lane::Proxy, Family::V4), &"90"]);
    assert_eq!(held.next()["answered"], 90);
    wait::until_true("every worker to have its share", SOON, || {
        let sockets = |worker: u32| {
            weir.metrics().sum("weir_driver_sockets", &[("worker", worker.to_string().as_str())])
        };
        (0..WORKERS).all(|worker| sockets(worker) > 30.0)
    });
    held.go_on("ask");
    assert_eq!(held.next()["answered"], 90);
}

#[test]
fn pods_go_on_while_weir_is_dead_and_are_caught_again() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let place = world.pod(1);
    let config = config(&world, &[1], grid.services());
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let address = Grid::address(Lane::Proxy, Family::V4);
    assert_eq!(place.run("ask", &[&address])["names"], json!(["four"]));
    weir.kill();
    assert_eq!(place.run("ask", &[&address, &"5"])["names"], json!(["four"; 5].to_vec()), "fail: open");
    weir.restart(&config);
    assert_eq!(place.run("ask", &[&address])["names"], json!(["four"]));
    assert!(opened(&weir, "proxy") > 0.5, "by a worker again");
}

#[test]
fn direct_connections_of_pods_to_a_lost_endpoint_are_reset() {
    let Some(world) = World::new() else { return };
    let servers =
        [(10, "lost"), (11, "kept")].map(|(n, name)| world.server(Family::V4.host(n, SERVER_PORT), name));
    let place = world.pod(1);
    let vip = Family::V4.vip(1, PORT);
    let with = |endpoints: &[std::net::SocketAddr]| {
        let more = json!({"on_endpoint_loss": "reset"});
        config(&world, &[1], [config::service("s", vip, endpoints, Lane::Direct, more)])
    };
    let Some(weir) = Weir::start(&world.net, &with(&[servers[0].address()])) else { return };
    let mut held = place.start("hold", &[&vip, &"4"]);
    assert_eq!(held.next()["answered"], 4);
    weir.reload(&with(&[servers[1].address()]));
    held.go_on("read");
    let said = held.next();
    assert_eq!(said["ends"]["ECONNABORTED"], 4, "{said}");
    assert_eq!(place.run("ask", &[&vip])["names"], json!(["kept"]));
}

#[test]
fn a_pod_that_cannot_be_served_is_named_and_disturbs_nobody() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let (broken, sound) = (world.pod(1), world.pod(2));
    world.net.set_loopback(1, "down").expect("root may");
    let Some(weir) = Weir::start(&world.net, &config(&world, &[1, 2], grid.services())) else { return };
    let address = Grid::address(Lane::Proxy, Family::V4);
    for place in [broken, sound] {
        assert_eq!(place.run("ask", &[&address])["names"], json!(["four"]), "directly or by a worker");
    }
    assert!((served(&weir) - 1.0).abs() < 0.5 && (opened(&weir, "proxy") - 1.0).abs() < 0.5);
    let named = |log: &str| log.lines().filter(|l| l.contains("cannot serve") && l.contains("-pod1")).count();
    assert_eq!(named(&weir.log()), 1, "{}", weir.log());
    world.net.set_loopback(1, "up").expect("root may");
    wait::until_true("it to be served", SOON, || served(&weir) > 1.5);
    assert_eq!(broken.run("ask", &[&address])["names"], json!(["four"]));
    assert!((opened(&weir, "proxy") - 2.0).abs() < 0.5);
    assert_eq!(named(&weir.log()), 1, "said once");
}

const UID: &str = "0f3c1b2a-1111-2222-3333-444455556666";

#[test]
fn a_pod_is_found_by_its_sandbox_before_it_connects() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    let [_pod, sandbox, container] = pod_cgroups(&world.app, UID);
    let place = world.pod(1);
    let pause = Place { cgroup: Some(&sandbox), ..place }.start("sleep", &[]);
    assert_eq!(pause.next()["started"], true);
    wait::until_true("the pod to be found", SOON, || served(&weir) > 0.5);
    let app = Place { cgroup: Some(&container), ..place };
    for family in Family::ALL {
        let said = app.run("addresses", &[&Grid::address(Lane::Proxy, family)]);
        assert_eq!(said["name"], grid.server(family).1, "{family:?}: {said}");
        assert!(said["own"].as_str().is_some_and(|own| own.contains("78:") || own.contains("10.78.1.2")));
    }
    assert!((opened(&weir, "proxy") - 3.0).abs() < 0.5, "by a worker from the first one on");
    // the sandbox ends, but a container lives on: another witness takes its place
    let running = app.start("sleep", &[]);
    assert_eq!(running.next()["started"], true);
    drop(pause);
    std::thread::sleep(Duration::from_millis(2500));
    assert!(served(&weir) > 0.5);
    drop(running);
    world.net.remove_pod(1);
    wait::until_true("the namespace to end", SOON, || !world.net.has_pod(1));
    assert!(served(&weir) < 0.5);
}

#[test]
fn the_first_socket_makes_a_namespace_known() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    // settled for long: looks do not go in here any more
    let old = world.app.child("old.service").expect("root may");
    let Some(weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    std::thread::sleep(Duration::from_secs(11));
    let address = Grid::address(Lane::Proxy, Family::V4);
    let [early, late] = [1, 2].map(|pod| Place { cgroup: Some(&old), ..world.pod(pod) });
    let mut first = early.start("resolve", &[&address]);
    assert_eq!(first.next()["started"], true);
    wait::until_true("the namespace to be served", SOON, || served(&weir) > 0.5);
    first.go_on("ask");
    assert_eq!(first.next()["names"], json!(["four"]));
    assert!((opened(&weir, "proxy") - 1.0).abs() < 0.5, "by a worker from the first one on");
    // who connects with the first socket may be too early for a worker, but not for an answer
    let mut held = late.start("hold", &[&address, &"1"]);
    assert_eq!(held.next()["answered"], 1, "fail: open");
    wait::until_true("the other namespace to be served", SOON, || served(&weir) > 1.5);
    let before = opened(&weir, "proxy");
    assert_eq!(late.run("ask", &[&address])["names"], json!(["four"]));
    assert!((opened(&weir, "proxy") - before - 1.0).abs() < 0.5);
    held.go_on("close");
    assert_eq!(held.next()["closed"], true);
}

/// Pods that come and go in the usual run; `WEIR_TEST_PODS=1000` is a minute of a large node.
const PODS: u64 = 150;
/// Of them at once.
const TOGETHER: u64 = 16;

#[test]
fn many_pods_whose_first_instruction_is_connect_come_and_go() {
    let pods = std::env::var("WEIR_TEST_PODS").map_or(PODS, |text| text.parse().expect("a number of pods"));
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let (open, direct) = (Grid::address(Lane::Proxy, Family::V4), Grid::address(Lane::Direct, Family::V4));
    let closed = Family::V4.vip(5, PORT);
    let to = [grid.server(Family::V4).0.address()];
    let service = config::service("closed", closed, &to, Lane::Proxy, json!({"fail": "closed"}));
    let services = grid.services().into_iter().chain([service]);
    world.net.connect_pods().expect("root may");
    let Some(weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    let swarm = |pods: u64| Swarm::run(&world, (pods, TOGETHER, 1.0), &[open, direct, closed]).next();
    // what is made once is made now
    swarm(TOGETHER);
    let rest = Rest::of_a_quiet(&world, &weir);
    let passed_by = weir.metrics().sum("weir_kernel_verdicts_total", &[("verdict", "fail_open")]);
    let said = swarm(pods);
    println!("{pods} pods in {:.1} s; {}", said["seconds"].as_f64().expect("a number"), said["asked"]);
    let asked = 2 * pods;
    for address in [open, direct, closed] {
        assert_eq!(said["asked"][address.to_string()], json!({"four": asked}), "{address}: {said}");
    }
    let passed_by = weir.metrics().sum("weir_kernel_verdicts_total", &[("verdict", "fail_open")]) - passed_by;
    assert!(passed_by < 0.5, "each by a worker from the first one on");
    assert_eq!(Rest::of_a_quiet(&world, &weir), rest, "nothing of them stays");
}

/// What a Weir at rest holds.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    /// Namespaces of pods that the kernel has not ended, by their cables.
    cables: usize,
    /// Entries of the maps that know of namespaces, connections and cgroups.
    entries: Vec<(&'static str, u64)>,
    /// Descriptors of each kind.
    descriptors: BTreeMap<String, usize>,
    /// Connections that are open, and those that hold descriptors.
    connections: [u64; 2],
}

impl Rest {
    /// Waits until nothing of pods is left.
    fn of_a_quiet(world: &World, weir: &Weir<'_>) -> Self {
        let mut last = Self::of(world, weir);
        wait::until_true("nothing of pods to be left", SOON, || {
            let is_quiet =
                last.cables == 0 && last.entries.iter().all(|(map, entries)| *entries == Self::least(map));
            let before = std::mem::replace(&mut last, Self::of(world, weir));
            is_quiet && last == before
        });
        last
    }

    /// Entries of a map that have nothing to do with pods; listeners are eight of each family, and the node's, which pods of IPv4
    /// have reached.
    fn least(map: &str) -> u64 {
        match map {
            "LISTENERS" => 17,
            "SCOPE_CGROUPS" => 1,
            _ => 0,
        }
    }

    fn of(world: &World, weir: &Weir<'_>) -> Self {
        let metrics = weir.metrics();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it counts")]
        let count = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels) as u64;
        let maps = ["NETNS", "LISTENERS", "TOLD", "ORIGINAL_DST", "SCOPE_CGROUPS", "SCOPE_NETNS"];
        let mut descriptors = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fd", weir.pid())).expect("it runs").flatten() {
            // one that is closed meanwhile has no target
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let kind = target.to_string_lossy().split(['[', '/']).next().unwrap_or_default().to_owned();
            *descriptors.entry(kind).or_default() += 1;
        }
        Self {
            cables: world.net.cables(),
            entries: maps.map(|map| (map, count("weir_map_entries", &[("map", map)]))).to_vec(),
            descriptors,
            connections: [count("weir_connections_active", &[]), count("weir_proxied_connections", &[])],
        }
    }
}

#[test]
fn a_pods_flood_of_connections_leaves_room_for_the_others() {
    let Some(world) = World::new() else { return };
    if world.program("prlimit").is_none() {
        return;
    }
    let grid = Grid::new(&world);
    let (flooding, quiet) = (world.pod(1), world.pod(2));
    let config = config(&world, &[1, 2], grid.services());
    let limit = ["prlimit", "--nofile=512:512"];
    let Some(weir) = Weir::start_with(&world.net, &config, &limit, &[]) else { return };
    wait::until_true("both to be served", SOON, || served(&weir) > 1.5);
    let address = Grid::address(Lane::Proxy, Family::V4);
    let mut flood = flooding.start("hold", &[&address, &"300"]);
    let answered = flood.next()["answered"].as_u64().expect("a number");
    assert!((60..120).contains(&answered), "three quarters of about 125: {answered}");
    let said = quiet.run("ask", &[&address, &"10"]);
    assert_eq!(said["names"], json!(["four"; 10].to_vec()), "{said}");
    let mut held = quiet.start("hold", &[&address, &"20"]);
    assert_eq!(held.next()["answered"], 20);
    flood.go_on("ask");
    assert_eq!(flood.next()["answered"], answered, "the connections of the flood live on");
    held.go_on("close");
    assert_eq!(held.next()["closed"], true);
}
