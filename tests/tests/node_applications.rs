//! What is counted of each application, and what each may have.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use proxy_tests::battery::Path;
use proxy_tests::client::{Client, Place};
use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::http::{Backend, ok};
use proxy_tests::net::{Family, Net, Side};
use proxy_tests::node::Weir;
use proxy_tests::scratch::Scratch;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// A config whose scopes are the world's cgroup and these pods, with a service of HTTP beside those of the grid.
fn config(world: &World, grid: &Grid, pods: &[u8]) -> Value {
    let web = json!({
        "name": "web",
        "protocol": "http",
        "addresses": [web().to_string()],
        "endpoints": [{"address": Family::V4.host(11, 8080).to_string()}],
    });
    let mut config = config::config(world, grid.services().into_iter().chain([web]));
    let netns = pods.iter().map(|number| json!({"netns": world.net.path(Side::Pod(*number))}));
    config["intercept"]["scopes"].as_array_mut().unwrap().extend(netns);
    config
}

fn web() -> SocketAddr {
    Family::V4.vip(20, 80)
}

/// What the metrics call a pod.
fn name(world: &World, number: u8) -> String {
    world.net.path(Side::Pod(number)).display().to_string()
}

fn figure(weir: &Weir, what: &str, application: &str, more: &[(&str, &str)]) -> f64 {
    let labels = [&[("application", application)], more].concat();
    weir.metrics().sum(&format!("weir_application_{what}"), &labels)
}

fn is(weir: &Weir, what: &str, application: &str, more: &[(&str, &str)], expected: u32) -> bool {
    (figure(weir, what, application, more) - f64::from(expected)).abs() < 0.5
}

fn served(weir: &Weir, count: u32) {
    wait::until_true("all pods to be served", SOON, || {
        weir.metrics().sum("weir_map_entries", &[("map", "NETNS")]) > f64::from(count) - 0.5
    });
}

/// Asks once over HTTP from inside a network namespace.
fn ask_web(net: &Net, side: Side) -> String {
    net.run(side, || {
        let mut stream = TcpStream::connect(web()).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .unwrap()
}

fn hold<'a>(place: Place<'a>, lane: Lane, count: u32) -> Client {
    let held = place.start("hold", &[&Grid::address(lane, Family::V4), &count]);
    assert_eq!(held.next()["answered"], count);
    held
}

#[test]
fn applications_are_counted_each_by_itself_and_forgotten_when_they_are_gone() {
    const PROXY: [(&str, &str); 1] = [("lane", "proxy")];
    const DIRECT: [(&str, &str); 1] = [("lane", "direct")];
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let _web = Backend::answering(&world.net, Family::V4.host(11, 8080), |_| Some(ok("hi")));
    let pods = [world.pod(1), world.pod(2)];
    let names = [1, 2].map(|number| name(&world, number));
    let Some(mut weir) = Weir::start(&world.net, &config(&world, &grid, &[1, 2])) else { return };
    served(&weir, 2);
    let mut held = [hold(pods[0], Lane::Proxy, 5), hold(pods[1], Lane::Proxy, 2)];
    let mut direct = hold(pods[0], Lane::Direct, 3);
    let mut at_home = hold(world.app(), Lane::Proxy, 4);
    for (name, count) in [(&*names[0], 5), (&*names[1], 2), (&world.app.scope(), 4)] {
        wait::until_true("the name to be known", SOON, || {
            is(&weir, "connections_active", name, &PROXY, count)
        });
    }
    // counted when they end: no worker sees them
    assert!(is(&weir, "connections_opened_total", &names[0], &DIRECT, 0));
    direct.go_on("close");
    assert_eq!(direct.next()["closed"], true);
    wait::until_true("the kernel's word", SOON, || {
        is(&weir, "connections_opened_total", &names[0], &DIRECT, 3)
    });
    assert!(figure(&weir, "bytes_received_total", &names[0], &DIRECT) > 10.0);
    assert!(ask_web(&world.net, Side::Pod(2)).ends_with("hi"));
    assert!(is(&weir, "http_requests_total", &names[1], &[], 1));
    // another process goes on with those that are open, and with what was counted
    let mut older = weir.take_over(&config(&world, &grid, &[1, 2]));
    assert!(older.wait(SOON).success());
    assert!(is(&weir, "connections_opened_total", &names[0], &PROXY, 5));
    assert!(is(&weir, "connections_active", &names[0], &PROXY, 5));
    for client in held.iter_mut().chain([&mut at_home]) {
        client.go_on("close");
        assert_eq!(client.next()["closed"], true);
    }
    for (name, count) in [(&*names[0], 5), (&*names[1], 3), (&world.app.scope(), 4)] {
        wait::until_true("all to be closed", SOON, || is(&weir, "connections_active", name, &PROXY, 0));
        assert!(is(&weir, "connections_opened_total", name, &PROXY, count), "{name}");
        assert!(figure(&weir, "bytes_sent_total", name, &PROXY) > 10.0, "{name}");
    }
    world.net.remove_pod(1);
    wait::until_true("the pod to be forgotten", SOON, || {
        weir.metrics()
            .matching("weir_application_connections_opened_total", &[])
            .all(|(series, _)| !series.contains(&names[0]))
    });
    assert!(is(&weir, "connections_opened_total", &names[1], &PROXY, 3));
}

/// The config of the other tests with limits, and a log.
fn limited(world: &World, grid: &Grid, limits: &Value) -> Value {
    let mut config = config(world, grid, &[1, 2]);
    config["intercept"]["limits"] = limits.clone();
    config
}

fn of_pod(world: &World, number: u8, more: Value) -> Value {
    let mut limits = json!({"scopes": [{"netns": world.net.path(Side::Pod(number))}]});
    config::merge(&mut limits, more);
    limits
}

#[test]
fn an_application_has_no_more_connections_open_than_it_may_and_its_neighbour_what_it_likes() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let pods = [world.pod(1), world.pod(2)];
    let names = [1, 2].map(|number| name(&world, number));
    let folder = Scratch::new("applications");
    let log = folder.path().join("access.log");
    let mut config = limited(&world, &grid, &json!([of_pod(&world, 1, json!({"max_connections": 3}))]));
    config["access_log"] = json!({"path": log, "format": "json"});
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    served(&weir, 2);
    let address = Grid::address(Lane::Proxy, Family::V4);
    let mut few = pods[0].start("hold", &[&address, &5]);
    assert_eq!(few.next()["answered"], 3);
    let many = hold(pods[1], Lane::Proxy, 30);
    let refused = [("reason", "application_limit")];
    assert!(is(&weir, "connections_refused_total", &names[0], &refused, 2));
    assert!(is(&weir, "connections_refused_total", &names[1], &[], 0));
    // the others are served all the time, and there is room when they have gone
    few.go_on("close");
    assert_eq!(few.next()["closed"], true);
    wait::until_true("all to be closed", SOON, || {
        is(&weir, "connections_active", &names[0], &[("lane", "proxy")], 0)
    });
    drop(hold(pods[0], Lane::Proxy, 3));
    drop(hold(pods[0], Lane::Direct, 9));
    wait::until_true("the log to say so", SOON, || {
        std::fs::read_to_string(&log).unwrap_or_default().matches("\"application_limit\"").count() == 2
    });
    // another bound is in force at once, also for those who are there
    weir.reload(&limited(&world, &grid, &json!([{"max_connections": 10}])));
    let more = pods[1].start("hold", &[&address, &5]);
    assert_eq!(more.next()["answered"], 0, "30 are open");
    drop((many, more));
}

#[test]
fn new_connections_that_come_too_fast_wait_and_only_those_that_would_wait_too_long_are_refused() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let pods = [world.pod(1), world.pod(2)];
    let Some(weir) = Weir::start(
        &world.net,
        &limited(&world, &grid, &json!([of_pod(&world, 1, json!({"connections_per_second": 5}))])),
    ) else {
        return;
    };
    served(&weir, 2);
    let address = Grid::address(Lane::Proxy, Family::V4);
    let began = Instant::now();
    let fast = pods[0].start("hold", &[&address, &30]);
    let said = fast.next();
    let (answered, time) = (said["answered"].as_u64().unwrap(), began.elapsed().as_secs_f64());
    // five at once, and as many as a second has room for; one more for every fifth of a second that it took to open them
    assert!(answered >= 10 && (answered as f64) < 11.0 + 5.0 * time, "{said} in {time} s");
    let refused =
        figure(&weir, "connections_refused_total", &name(&world, 1), &[("reason", "application_rate")]);
    assert!((refused - (30 - answered) as f64).abs() < 0.5, "{refused}");
    drop(hold(pods[1], Lane::Proxy, 60));
}

#[test]
fn bytes_are_held_back_whatever_is_spoken_and_none_is_lost() {
    const RATE: u64 = 8 << 20;
    const COUNT: u64 = 8 << 20;
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let body = "x".repeat(8 << 20);
    let _web = Backend::answering(&world.net, Family::V4.host(11, 8080), move |_| Some(ok(&body)));
    let pods = [world.pod(1), world.pod(2)];
    let limits =
        json!([of_pod(&world, 1, json!({"bytes_per_second": "8MiB"})), {"bytes_per_second": "1GiB"}]);
    let Some(weir) = Weir::start(&world.net, &limited(&world, &grid, &limits)) else { return };
    served(&weir, 2);
    let server = grid.server(Family::V4).0;
    // clients and servers check each byte
    let path = |place| Path { place, address: Grid::address(Lane::Proxy, Family::V4), server };
    let least = |bytes: u64| Duration::from_secs_f64((bytes - bytes / 10) as f64 / RATE as f64);
    let began = Instant::now();
    path(pods[0]).carries(COUNT);
    assert!(began.elapsed() >= least(2 * COUNT), "{:?}", began.elapsed());
    path(pods[1]).carries(64 << 20);
    let began = Instant::now();
    assert_eq!(ask_web(&world.net, Side::Pod(1)).len() as u64 >> 20, 8);
    assert!(began.elapsed() >= least(8 << 20), "{:?}", began.elapsed());
    path(pods[0]).half_closes();
    path(pods[0]).resets();
}

/// Each waits its turn for longer than it may be idle.
#[test]
fn who_waits_for_his_turn_is_not_idle() {
    const STREAMS: u64 = 16;
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let [place, _] = [1, 2].map(|number| world.pod(number));
    let limits = json!([{"bytes_per_second": "64KiB"}]);
    let mut config = limited(&world, &grid, &limits);
    for service in config["services"].as_array_mut().unwrap() {
        if service["lane"] == "proxy" {
            service["limits"] = json!({"idle_timeout": "1s"});
        }
    }
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    served(&weir, 2);
    let server = grid.server(Family::V4).0;
    let began = Instant::now();
    Path { place, address: Grid::address(Lane::Proxy, Family::V4), server }.trades(10 << 10, 2048, STREAMS);
    // 20 KiB for each; what it bought last and did not use is given back
    assert!(began.elapsed() > Duration::from_secs(4), "{:?}", began.elapsed());
}
