//! What is counted of each application, and what each may have.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use proxy_tests::client::{Client, Place};
use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::http::{Backend, ok};
use proxy_tests::net::{Family, Net, Side};
use proxy_tests::node::Weir;
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
