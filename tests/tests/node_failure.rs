//! What fails inside a running Weir takes nothing else with it: a connection, a listener, a worker, the control task.
//!
//! A debug build fails on purpose where a file says so.

use std::net::SocketAddr;
use std::time::Duration;

use proxy_tests::client::number;
use proxy_tests::config::{self, Grid, Lane, PORT, SERVER_PORT};
use proxy_tests::faults::Faults;
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::upstream::Server;
use proxy_tests::world::World;
use proxy_tests::{node, process, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// A service that refuses whenever no worker can be had.
fn closed(server: &Server) -> (SocketAddr, Value) {
    named("closed", 5, server)
}

fn named(name: &str, number: u8, server: &Server) -> (SocketAddr, Value) {
    let vip = Family::V4.vip(number, PORT);
    (vip, config::service(name, vip, &[server.address()], Lane::Proxy, json!({"fail": "closed"})))
}

fn cut(weir: &Weir<'_>) -> f64 {
    weir.metrics().sum("weir_connections_closed_total", &[("service", "closed"), ("reason", "internal")])
}

fn open(weir: &Weir<'_>) -> f64 {
    weir.metrics().sum("weir_connections_active", &[("service", "closed"), ("lane", "proxy")])
}

/// Sockets on workers, as each of them counts once a second.
fn sockets(weir: &Weir<'_>, labels: &[(&str, &str)]) -> f64 {
    weir.metrics().sum("weir_driver_sockets", labels)
}

fn restarts(weir: &Weir<'_>, worker: &str) -> f64 {
    weir.metrics().sum("weir_worker_restarts_total", &[("worker", worker)])
}

#[test]
fn a_worker_that_fails_loses_its_connections_and_begins_again_while_the_others_go_on() {
    const HELD: u64 = 40;
    // Sockets of the load, of which each connection has two, and some that are just ending.
    const MOST_BUSY: f64 = 12.0;
    let (Some(world), Some(faults)) = (World::new(), Faults::new("worker")) else { return };
    let server = world.server(Family::V4.host(10, SERVER_PORT), "server");
    let ((vip, service), (busy, other)) = (closed(&server), named("busy", 6, &server));
    let mut config = config::config(&world, [service, other]);
    config["workers"] = json!(2);
    let Some(weir) = faults.start(&world, &config) else { return };
    let mut load = world.app().start("load", &[&busy, &"3"]);
    assert_eq!(load.next()["started"], true);
    for round in 1..=3 {
        // A worker that has failed before rests for a while, and until then the other one has them all.
        let mut held = wait::until("connections on both workers", SOON, || {
            wait::until_true("none on the worker", SOON, || sockets(&weir, &[("worker", "1")]) < MOST_BUSY);
            let held = world.app().start("hold", &[&vip, &HELD]);
            assert_eq!(held.next()["answered"], HELD);
            wait::until_true("workers to count", SOON, || sockets(&weir, &[]) >= 2.0 * HELD as f64);
            (sockets(&weir, &[("worker", "1")]) > MOST_BUSY).then_some(held)
        });
        wait::until_true("no others", SOON, || (open(&weir) - HELD as f64).abs() < 0.5);
        let before = cut(&weir);
        faults.panic("worker-1");
        wait::until_true("the worker to begin again", SOON, || restarts(&weir, "1") > f64::from(round) - 0.5);
        held.go_on("ask");
        let answered = number(&held.next(), "answered");
        assert!(answered > 0 && answered < HELD, "those of the other worker go on: {answered} of {HELD}");
        assert_eq!(held.next()["closed"], true);
        let (counted, lost) = (cut(&weir) - before, u32::try_from(HELD - answered).expect("40 at most"));
        assert!((counted - f64::from(lost)).abs() < 0.5, "counted {counted}, lost {lost}");
    }
    assert!(restarts(&weir, "0") < 0.5);
    load.go_on("stop");
    let said = load.next();
    let errors = said["errors"].as_array().expect("a list");
    // Refused would be ECONNREFUSED: this service fails closed, and nobody was without a worker.
    assert!(errors.iter().all(|error| ["ECONNRESET", "EPIPE"].iter().any(|e| error == e)), "{said}");
    assert!(errors.len() <= 3 * 3 && number(&said, "good") > 100, "{said}");
    let log = weir.log();
    assert_eq!(log.matches("a worker failed").count(), 3, "{log}");
    assert!(log.contains("worker 1 fails on purpose") && log.contains("worker/post.rs"), "{log}");
    assert!(log.contains("restart=3 pause=200ms"), "the rest grows: {log}");
    assert!(weir.metrics().sum("weir_panics_total", &[]) > 2.5);
    // nothing stays counted as open
    wait::until_true("no connections", SOON, || open(&weir) < 0.5);
    wait::until_true("no sockets", SOON, || sockets(&weir, &[]) < 0.5);
}

#[test]
fn the_only_worker_that_fails_refuses_nobody_and_an_edge_goes_on() {
    let (Some(world), Some(faults)) = (World::new(), Faults::new("only")) else { return };
    let server = world.server(Family::V4.host(10, SERVER_PORT), "server");
    let (vip, service) = closed(&server);
    let mut config = config::config(&world, [service]);
    config::merge(
        &mut config,
        json!({"workers": 1, "listeners": [{"address": "10.77.0.1:7000", "service": "closed"}]}),
    );
    let Some(weir) = faults.start(&world, &config) else { return };
    let mut loads = [vip.to_string(), "10.77.0.1:7000".to_owned()].map(|address| {
        let load = world.app().start("load", &[&address, &"2"]);
        assert_eq!(load.next()["started"], true);
        load
    });
    faults.panic("worker-0");
    wait::until_true("the worker to begin again", SOON, || restarts(&weir, "0") > 0.5);
    assert_eq!(world.app().run("ask", &[&vip, &"9"])["names"], json!(["server"; 9].to_vec()));
    for load in &mut loads {
        load.go_on("stop");
        let said = load.next();
        let errors = said["errors"].as_array().expect("a list");
        assert!(errors.iter().all(|error| ["ECONNRESET", "EPIPE"].iter().any(|e| error == e)), "{said}");
        assert!(errors.len() <= 2, "one of each client: {said}");
    }
    // an order that comes while it rests is not lost
    faults.panic("worker-0");
    weir.reload(&config::config(&world, [closed(&server).1]));
    wait::until_true("the edge to be closed", SOON, || {
        world.app().run("ask", &[&"10.77.0.1:7000"])["errors"] == json!(["ECONNREFUSED"])
    });
    wait::until_true("the worker to serve", SOON, || {
        world.app().run("ask", &[&vip])["names"] == json!(["server"])
    });
}

#[test]
fn a_connection_that_fails_is_cut_and_the_next_one_is_served() {
    let (Some(world), Some(faults)) = (World::new(), Faults::new("connection")) else { return };
    let server = world.server(Family::V4.host(10, SERVER_PORT), "server");
    let (vip, service) = closed(&server);
    let Some(weir) = faults.start(&world, &config::config(&world, [service])) else { return };
    let mut held = world.app().start("hold", &[&vip, &"4"]);
    assert_eq!(held.next()["answered"], 4);
    faults.order("connection-0", "panic");
    held.go_on("ask");
    assert_eq!(held.next()["answered"], 3, "one is cut, with a reset");
    assert_eq!(held.next()["closed"], true);
    // Its client hears of it first.
    wait::until_true("it to be counted", SOON, || (cut(&weir) - 1.0).abs() < 0.5);
    let stream = world.app().start("stream", &[&vip]);
    assert_eq!(stream.next()["started"], true);
    faults.order("connection-0", "panic");
    assert_eq!(stream.next()["ended"], "ECONNRESET", "nobody takes half for whole");
    for place in ["listener-0", "listener-1"] {
        faults.order(place, "panic");
        let said = world.app().run("ask", &[&vip, &"40"]);
        let errors = said["errors"].as_array().expect("a list");
        assert!(errors.len() <= 1 && said["names"].as_array().expect("a list").len() >= 39, "{said}");
    }
    assert!(restarts(&weir, "0") + restarts(&weir, "1") < 0.5, "no worker began again: {}", weir.log());
    wait::until_true("no connections", SOON, || {
        weir.metrics().sum("weir_connections_active", &[("service", "closed"), ("lane", "proxy")]) < 0.5
    });
}

#[test]
fn a_control_task_that_fails_or_hangs_stops_no_traffic_and_that_is_said() {
    let (Some(world), Some(faults)) = (World::new(), Faults::new("control")) else { return };
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let Some(weir) = faults.start(&world, &config) else { return };
    let serves = || {
        for (lane, family, path) in grid.paths(&world) {
            let said = path.place.run("ask", &[&path.address, &"3"]);
            let names = json!([grid.server(family).1; 3].to_vec());
            assert_eq!(said["names"], names, "{lane:?} {family:?}: {said}");
        }
    };
    faults.panic("control-0");
    serves();
    weir.reload(&config);
    assert!(weir.log().contains("a step of the control task failed"), "{}", weir.log());

    faults.order("control-0", "hang");
    let status = || serde_json::from_str::<Value>(&weir.ask("/status").expect("it answers").1).expect("JSON");
    wait::until_true("it to be seen that control hangs", SOON, || status()["control_hung_seconds"].is_f64());
    serves();
    assert!(weir.metrics().sum("weir_control_hung", &[]) > 0.5, "a scrape does not hang with it");
    assert_eq!(weir.ask("/healthz/live").expect("it answers").0, 200, "not yet");
    let shown =
        process::output(std::process::Command::new(node::binary()).arg("status")).expect("it answers");
    assert!(shown.contains("no sign of life"), "{shown}");
    faults.end("control-0");
    wait::until_true("it to be seen that control goes on", SOON, || {
        status()["control_hung_seconds"].is_null()
    });
    weir.reload(&config);
}
