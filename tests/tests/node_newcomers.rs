//! Connections of network namespaces in which Weir does not listen yet: through a listener on an address of the node.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use proxy_tests::client::{Client, Place};
use proxy_tests::config::{self, Grid, Lane, PORT};
use proxy_tests::net::{Family, Side};
use proxy_tests::node::Weir;
use proxy_tests::scratch::Scratch;
use proxy_tests::swarm::Swarm;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// Services in the proxy lane whose connections are refused if no worker takes them, for the world's cgroup.
fn config(world: &World, grid: &Grid) -> Value {
    let services = [Family::V4, Family::V6].map(|family| {
        let to = [grid.server(family).0.address()];
        let closed = json!({"fail": "closed"});
        config::service(grid.server(family).1, address(family), &to, Lane::Proxy, closed)
    });
    config::config(world, services)
}

fn address(family: Family) -> SocketAddr {
    Grid::address(Lane::Proxy, family)
}

/// A pod whose namespace nobody knows before its first connection.
fn pod(world: &World, number: u8) -> Place<'_> {
    Place { cgroup: Some(&world.app), ..world.pod(number) }
}

/// What a pod's first connection gets: the name of the server, or an error.
fn ask_first(world: &World, number: u8) -> Value {
    let said = pod(world, number).run("ask", &[&address(Family::V4)]);
    said["names"][0].as_str().or(said["errors"][0].as_str()).expect("one or the other").into()
}

/// Expects that nobody is sent to the node. Some may be served all the same, because Weir is in their namespace before their first
/// connection: one of a few is late enough.
fn is_refused(world: &World, weir: &Weir, numbers: std::ops::Range<u8>) -> bool {
    let before = through_the_node(weir);
    let is_refused = numbers.into_iter().any(|number| ask_first(world, number) == "ECONNREFUSED");
    is_refused && through_the_node(weir) - before < 0.5
}

fn is_reached(weir: &Weir, expected: [u32; 2]) -> bool {
    let metrics = weir.metrics();
    let of = |family| metrics.sum("weir_node_listener_reached", &[("family", family)]);
    ["ipv4", "ipv6"].into_iter().zip(expected).all(|(family, one)| (of(family) - f64::from(one)).abs() < 0.5)
}

fn through_the_node(weir: &Weir) -> f64 {
    weir.metrics().sum("weir_kernel_verdicts_total", &[("verdict", "node")])
}

/// Where the node listeners are.
fn listeners(weir: &Weir) -> Vec<SocketAddr> {
    let (_, status) = weir.ask("/status").expect("an answer");
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let all = status["node_listeners"].as_array().expect("a list").iter();
    all.map(|one| one["address"].as_str().expect("text").parse().expect("an address")).collect()
}

/// Starts a pod that stays, and waits until others may follow it.
fn lead(world: &World, weir: &Weir) -> Client {
    let first = pod(world, 1).start("resolve", &[&address(Family::V4)]);
    assert_eq!(first.next()["started"], true);
    wait::until_true("it to reach the node", SOON, || is_reached(weir, [1, 1]));
    first
}

/// Starts a Weir that is reached by pods, with one that stays.
fn start(world: &World) -> Option<(Grid, Value, Weir<'_>, Client)> {
    world.net.connect_pods().expect("root may");
    let grid = Grid::new(world);
    let config = config(world, &grid);
    let weir = Weir::start(&world.net, &config)?;
    let first = lead(world, &weir);
    Some((grid, config, weir, first))
}

/// Expects that the first two connections of a pod are served, and as its own.
fn is_served_as_itself(place: Place<'_>, grid: &Grid, number: u8, family: Family) {
    let (server, name) = grid.server(family);
    let said = place.run("addresses", &[&address(family)]);
    let expected = (json!(name), json!(address(family).to_string()));
    assert_eq!((&said["name"], &said["peer"]), (&expected.0, &expected.1), "{family:?}: {said}");
    let own: SocketAddr = said["own"].as_str().expect("text").parse().expect("an address");
    assert_eq!(own.ip(), family.pod(number), "{family:?}: {said}");
    let _ = place.run("upload", &[&address(family), &"1000"]);
    let peer = server.seen(SOON).peer.ip().to_canonical();
    assert_eq!(peer, family.pod(number).to_canonical(), "{family:?}");
}

#[test]
fn the_first_connection_of_a_namespace_is_served_and_seen_as_its_own() {
    let Some(world) = World::new() else { return };
    world.net.connect_pods().expect("root may");
    let (grid, scratch) = (Grid::new(&world), Scratch::new("newcomers"));
    let log = scratch.path().join("access.log");
    let mut config = config(&world, &grid);
    config["access_log"] = json!({"path": log});
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let _first = lead(&world, &weir);
    let mut pods = Vec::new();
    for family in Family::ALL {
        // Some are not early enough: Weir is in their namespace between socket() and connect().
        wait::until_true("one to be sent to the node", SOON, || {
            let number = 2 + u8::try_from(pods.len()).expect("a few");
            pods.push((number, family));
            let before = through_the_node(&weir);
            is_served_as_itself(pod(&world, number), &grid, number, family);
            through_the_node(&weir) > before + 0.5
        });
    }
    let application = [("application", world.app.scope())];
    let labels = application.each_ref().map(|(key, value)| (*key, value.as_str()));
    wait::until_true("the name to be known", SOON, || {
        weir.metrics().sum("weir_application_connections_opened_total", &labels)
            > 2.0 * pods.len() as f64 - 0.5
    });
    drop(weir);
    let lines = std::fs::read_to_string(log).expect("it was written");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for (number, family) in pods {
        let ip = family.pod(number).to_canonical();
        let is_own = |line: &&Value| {
            let source: SocketAddr = line["src.addr"].as_str().expect("text").parse().expect("an address");
            source.ip() == ip && line["lane"] == "proxy" && line["src.cgroup"] == world.app.scope()
        };
        assert_eq!(lines.iter().filter(is_own).count(), 2, "{ip}: {lines:#?}");
    }
}

#[test]
fn a_namespace_in_which_nobody_can_listen_is_served_through_the_node_for_good() {
    let Some(world) = World::new() else { return };
    let Some((grid, _config, weir, _first)) = start(&world) else { return };
    for (number, family) in (2..).zip(Family::ALL) {
        let place = pod(&world, number);
        world.net.set_loopback(number, "down").expect("root may");
        let before = through_the_node(&weir);
        is_served_as_itself(place, &grid, number, family);
        assert!((through_the_node(&weir) - before - 2.0).abs() < 0.5, "{family:?}");
    }
    assert!(is_reached(&weir, [1, 1]));
}

#[test]
fn who_does_not_reach_the_node_gets_what_its_service_says_and_so_do_those_who_follow() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    world.net.connect_pods().expect("root may");
    let Some(weir) = Weir::start(&world.net, &config(&world, &grid)) else { return };
    let first = lead(&world, &weir);
    let address = address(Family::V4);
    // one that a policy keeps from the node: its first connection does not wait for ever
    let lost = (2..10).find_map(|number| {
        let place = pod(&world, number);
        world.net.cut_pod_from_near(number).expect("root may");
        let mut held = place.start("hold", &[&address, &"1"]);
        wait::until_true("it to be missed", SOON, || is_reached(&weir, [0, 0]));
        let said = held.next();
        if said["answered"] == 0 {
            assert_eq!(said["failed"], json!({"ECONNABORTED": 1}), "{said}");
            return Some((number, place, held));
        }
        // Weir was in its namespace between socket() and connect().
        held.go_on("close");
        drop(held);
        world.net.remove_pod(number);
        wait::until_true("it to be forgotten", SOON, || is_reached(&weir, [1, 1]));
        None
    });
    let (number, place, mut held) = lost.expect("one of a few is early enough");
    let status = weir.ask("/status").expect("an answer").1;
    assert!(status.contains("no answer in 3.5 s"), "{status}");
    assert_eq!(place.run("ask", &[&address])["names"], json!(["four"]), "by the listener in its namespace");
    // whoever comes while it lives is refused at once
    assert!(is_refused(&world, &weir, 10..20));
    held.go_on("close");
    drop(held);
    world.net.remove_pod(number);
    wait::until_true("the others to be sent there again", SOON, || is_reached(&weir, [1, 1]));
    assert_eq!(ask_first(&world, 20), "four");
    drop(first);
}

#[test]
fn where_nobody_reaches_the_node_all_get_what_their_service_says() {
    const PODS: u64 = 32;
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let (open, closed) = (Family::V4.vip(5, PORT), address(Family::V4));
    let mut config = config(&world, &grid);
    let to = [grid.server(Family::V4).0.address()];
    let service = config::service("open", open, &to, Lane::Proxy, json!({"fail": "open"}));
    config["services"].as_array_mut().expect("a list").push(service);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let said = Swarm::run(&world, (PODS, 8, 1.0), &[open, closed]).next();
    assert_eq!(said["asked"][open.to_string()], json!({"four": 2 * PODS}), "{said}");
    let of_closed = &said["asked"][closed.to_string()];
    let count = |what: &str| of_closed[what].as_u64().unwrap_or(0);
    assert_eq!(count("four") + count("ECONNREFUSED"), 2 * PODS, "{said}");
    assert!(count("ECONNREFUSED") > 0 && through_the_node(&weir) < 0.5, "{said}");
}

#[test]
fn strangers_gain_nothing() {
    let Some(world) = World::new() else { return };
    let Some((_grid, _config, weir, _first)) = start(&world) else { return };
    let refused = || weir.metrics().sum("weir_connections_closed_total", &[("reason", "no_original_dst")]);
    let listeners = listeners(&weir);
    assert_eq!(listeners.len(), 2);
    let mut expected = refused();
    for (listener, side) in
        listeners.iter().flat_map(|one| [Side::Far, Side::Pod(1), Side::Near].map(|s| (one, s)))
    {
        let read = || {
            let mut stream = TcpStream::connect_timeout(listener, SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            stream.read(&mut [0])
        };
        let ended = world.net.run(side, read).expect("root may enter");
        let error = ended.expect_err("nothing is said");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{side:?}");
        expected += 1.0;
        wait::until_true("it to be counted", SOON, || refused() > expected - 0.5);
    }
    assert_eq!(ask_first(&world, 2), "four", "the others are served");
}

#[test]
fn a_node_listener_is_where_the_config_says() {
    let Some(world) = World::new() else { return };
    let Some((_grid, mut config, weir, _first)) = start(&world) else { return };
    assert_eq!(
        listeners(&weir).iter().map(SocketAddr::ip).collect::<Vec<_>>(),
        [Family::V4.own(), Family::V6.own()]
    );
    config["intercept"]["node_listener"] = json!("off");
    weir.reload(&config);
    wait::until_true("it to be closed", SOON, || is_reached(&weir, [0, 0]) && listeners(&weir).is_empty());
    assert!(is_refused(&world, &weir, 10..20));
    let other = Family::V4.host(20, 0).ip();
    config["intercept"]["node_listener"] = json!([other]);
    weir.reload(&config);
    wait::until_true("it to be reached", SOON, || is_reached(&weir, [1, 0]));
    assert_eq!(listeners(&weir).iter().map(SocketAddr::ip).collect::<Vec<_>>(), [other]);
    assert_eq!(ask_first(&world, 3), "four");
    // one that this node does not have
    config["intercept"]["node_listener"] = json!(["10.77.0.99"]);
    weir.reload(&config);
    wait::until_true("it to be missed", SOON, || weir.log().contains("cannot listen on 10.77.0.99:0"));
    assert!(is_refused(&world, &weir, 20..30));
}

#[test]
fn no_newcomer_is_lost_between_two_weirs() {
    const TAKEOVERS: usize = 8;
    let Some(world) = World::new() else { return };
    let Some((_grid, config, mut weir, _first)) = start(&world) else { return };
    let (next, is_over) = (AtomicU8::new(0), AtomicBool::new(false));
    let asked = std::thread::scope(|scope| {
        let ask = || {
            let mut asked = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let number = 10 + next.fetch_add(1, Ordering::Relaxed) % 200;
                asked.push(ask_first(&world, number));
                world.net.remove_pod(number);
            }
            asked
        };
        let asking = [(); 2].map(|()| scope.spawn(ask));
        for _ in 0..TAKEOVERS {
            let mut older = weir.take_over(&config);
            assert!(older.wait(SOON).success());
        }
        is_over.store(true, Ordering::Relaxed);
        asking.map(|asking| asking.join().expect("it asks")).concat()
    });
    assert!(asked.len() > 2 * TAKEOVERS && asked.iter().all(|one| one == "four"), "{asked:?}");
}

#[test]
fn a_hung_or_dead_weir_gets_no_newcomers_and_a_newer_one_has_them_at_once() {
    let Some(world) = World::new() else { return };
    let Some((_grid, config, mut weir, _first)) = start(&world) else { return };
    let before = listeners(&weir);
    // in the middle of a takeover and after it
    let asked = std::thread::scope(|scope| {
        let pods = scope.spawn(|| (10..22).map(|number| ask_first(&world, number)).collect::<Vec<_>>());
        let mut older = weir.take_over(&config);
        assert!(is_reached(&weir, [1, 1]), "from the start: {}", weir.log());
        assert!(older.wait(SOON).success());
        pods.join().expect("it asks")
    });
    assert!(asked.iter().all(|one| one == "four"), "{asked:?}");
    assert_eq!(listeners(&weir), before, "the same sockets");
    assert_eq!(ask_first(&world, 2), "four");
    weir.signal("-STOP");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(ask_first(&world, 3), "ECONNREFUSED", "while it hangs");
    weir.signal("-CONT");
    wait::until_true("it to go on", SOON, || is_reached(&weir, [1, 1]));
    assert_eq!(ask_first(&world, 4), "four");
    weir.kill();
    assert_eq!(ask_first(&world, 5), "ECONNREFUSED", "while it is dead");
    weir.restart(&config);
    wait::until_true("somebody to reach it again", SOON, || is_reached(&weir, [1, 1]));
    assert_eq!(ask_first(&world, 6), "four");
}
