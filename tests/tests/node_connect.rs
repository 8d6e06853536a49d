//! Which connections are caught, how they may be made, and what the application sees of it.

use proxy_tests::battery::ODD_CONNECTS;
use proxy_tests::client::number;
use proxy_tests::config::{self, Grid, Lane, PORT, SERVER_PORT};
use proxy_tests::net::{Family, Side};
use proxy_tests::node::Weir;
use proxy_tests::skip;
use proxy_tests::upstream::UdpServer;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: std::time::Duration = std::time::Duration::from_secs(30);
/// Protocol number of MPTCP (IPPROTO_MPTCP).
const MPTCP: &str = "262";

#[test]
fn every_kind_of_connect_is_caught() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    for (_, family, path) in grid.paths(&world) {
        path.takes_odd_connects(grid.server(family).1, &ODD_CONNECTS);
    }
}

#[test]
fn connects_by_io_uring_are_caught() {
    let Some(world) = World::new() else { return };
    if let Err(reason) = proxy_io::driver::probe::ring() {
        return skip::skip(&reason.to_string());
    }
    let grid = Grid::new(&world);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    for (_, family, path) in grid.paths(&world) {
        path.takes_odd_connects(grid.server(family).1, &["ring_connect"]);
    }
}

#[test]
fn connect_write_and_close_loses_nothing() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    grid.paths(&world).for_each(|(_, _, path)| path.takes_short_notes(200));
}

#[test]
fn applications_see_the_addresses_that_they_expect() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    let has_mptcp =
        std::fs::read_to_string("/proc/sys/net/mptcp/enabled").is_ok_and(|text| text.trim() == "1");
    let protocols = if has_mptcp { vec!["0", MPTCP] } else { vec!["0"] };
    for (lane, family, path) in grid.paths(&world) {
        for protocol in &protocols {
            let said = path.place.run("addresses", &[&path.address, protocol]);
            let what = format!("{lane:?} {family:?} protocol {protocol}: {said}");
            assert_eq!(said["name"], grid.server(family).1, "{what}");
            assert_eq!(said["peer"], path.address.to_string(), "{what}");
            let own: std::net::SocketAddr =
                said["own"].as_str().expect("an address").parse().expect("an address");
            assert_eq!(own.ip(), family.own(), "{what}");
        }
    }
    if !has_mptcp {
        skip::skip("this kernel has no MPTCP");
    }
}

#[test]
fn an_address_that_the_application_bound_is_kept() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    for lane in Lane::ALL {
        let path = grid.path(&world, lane, Family::V4);
        let source = Family::V4.host(25, 0);
        let said = path.place.run("addresses", &[&path.address, &"0", &source]);
        assert_eq!(said["name"], "four", "{lane:?}: {said}");
        assert!(said["own"].as_str().is_some_and(|own| own.starts_with("10.77.0.25:")), "{lane:?}: {said}");
    }
}

#[test]
fn cgroups_below_a_scope_are_caught_and_others_are_untouched() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    // what is asked for really exists, so that "untouched" is an answer and not a failure
    let real = Family::V4.host(12, SERVER_PORT);
    let _untouched = world.server(real, "untouched");
    let moved =
        config::service("moved", real, &[grid.server(Family::V4).0.address()], Lane::Proxy, Value::Null);
    let services = grid.services().into_iter().chain([moved]);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    let inner = world.app.child("inner").unwrap();
    let inner_place = proxy_tests::client::Place { cgroup: Some(&inner), ..world.app() };
    assert_eq!(world.app().run("ask", &[&real])["names"], json!(["four"]));
    assert_eq!(inner_place.run("ask", &[&real])["names"], json!(["four"]));
    assert_eq!(world.outside().run("ask", &[&real])["names"], json!(["untouched"]));
}

#[test]
fn sockets_that_are_bound_to_a_device_are_untouched() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let real = Family::V4.host(12, SERVER_PORT);
    let _untouched = world.server(real, "untouched");
    let to = [grid.server(Family::V4).0.address()];
    let moved = config::service("moved", real, &to, Lane::Proxy, Value::Null);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, [moved])) else { return };
    assert_eq!(world.app().run("ask", &[&real])["names"], json!(["four"]));
    // a worker on loopback could not be reached from the device
    assert_eq!(world.app().run("ask_by_device", &[&real, &"lan0"])["name"], "untouched");
    let counted = weir.metrics().sum("weir_kernel_verdicts_total", &[("verdict", "passed_bound_to_device")]);
    assert_eq!(counted, 1.0);
}

#[test]
fn excluded_ports_and_networks_are_untouched() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let (by_port, by_net) = (Family::V4.host(12, 9090), Family::V6.host(12, SERVER_PORT));
    let _servers = [world.server(by_port, "port"), world.server(by_net, "net")];
    let mut config = config::config(&world, grid.services());
    config["intercept"]["exclude"] = json!({"ports": [9090], "cidrs": ["fd77::c/128"]});
    let Some(_weir) = Weir::start(&world.net, &config) else { return };
    assert_eq!(world.app().run("ask", &[&by_port])["names"], json!(["port"]));
    assert_eq!(world.app().run("ask", &[&by_net])["names"], json!(["net"]));
    for (_, family, path) in grid.paths(&world) {
        assert_eq!(path.place.run("ask", &[&path.address])["names"], json!([grid.server(family).1]));
    }
}

#[test]
fn addresses_of_no_service_and_udp_are_untouched() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let real = Family::V4.host(12, SERVER_PORT);
    let _untouched = world.server(real, "untouched");
    // a service at the same address, but of TCP
    let _udp = UdpServer::start(&world.net, real).unwrap();
    let to = [grid.server(Family::V4).0.address()];
    let services = Lane::ALL.map(|lane| {
        let address = if lane == Lane::Direct { real } else { Family::V4.vip(5, PORT) };
        config::service(lane.as_str(), address, &to, lane, Value::Null)
    });
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    let said = world.app().run("udp", &[&real]);
    assert!(said["answer"] == "ping" && said["peer"] == real.to_string(), "{said}");
    assert_eq!(world.app().run("ask", &[&real])["names"], json!(["four"]), "TCP to it is caught");
    let other = Family::V4.host(12, 8081);
    let _other = world.server(other, "untouched");
    assert_eq!(world.app().run("ask", &[&other])["names"], json!(["untouched"]));
}

#[test]
fn a_storm_of_connects_reaches_the_right_services() {
    const EACH: u64 = 150;
    const THREADS: u64 = 16;
    let Some(world) = World::new() else { return };
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut servers = Vec::new();
    let mut services = Vec::new();
    let mut targets = Vec::new();
    for (number, name) in (10u8..).zip(names) {
        // every other one over IPv6; lanes in pairs
        let family = if number % 2 == 0 { Family::V4 } else { Family::V6 };
        let lane = if number % 4 < 3 { Lane::Proxy } else { Lane::Direct };
        servers.push(world.server(family.host(number, SERVER_PORT), name));
        let (address, host) = (family.vip(number, PORT), family.host(number, SERVER_PORT));
        services.push(config::service(name, address, &[host], lane, Value::Null));
        targets.push(format!("{address}={name}"));
        if family == Family::V4 {
            targets.push(format!("{}={name}", Family::Mapped.vip(number, PORT)));
        }
    }
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    let mut arguments: Vec<&dyn std::fmt::Display> = vec![&EACH, &THREADS];
    arguments.extend(targets.iter().map(|target| target as &dyn std::fmt::Display));
    let said = world.app().run("storm", &arguments);
    assert_eq!(number(&said, "good"), EACH * THREADS, "{said}");
}

#[test]
fn sockets_of_another_address_form_reach_every_endpoint_through_the_proxy_lane() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let hosts = [Family::V4, Family::V6].map(|family| grid.server(family).0.address());
    let services = [Family::V4, Family::V6].map(|family| {
        let mut service = config::service(
            &format!("mixed-{family:?}"),
            family.vip(6, PORT),
            &hosts,
            Lane::Proxy,
            Value::Null,
        );
        config::merge(&mut service, json!({"lane": "auto", "balance": {"policy": "random"}}));
        service
    });
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    for family in Family::ALL {
        let said = world.app().run("ask", &[&family.vip(6, PORT), &"40"]);
        let names = said["names"].as_array().expect("a list");
        assert_eq!(names.len(), 40, "{said}");
        assert!(names.contains(&json!("four")) && names.contains(&json!("six")), "{family:?}: {said}");
    }
}

#[test]
fn a_scope_may_be_a_network_namespace() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let mut config = config::config(&world, grid.services());
    config["intercept"]["scopes"] = json!([{"netns": world.net.path(Side::Near)}]);
    let Some(_weir) = Weir::start(&world.net, &config) else { return };
    for (lane, family, path) in grid.paths(&world) {
        for place in [world.app(), world.outside()] {
            let said = place.run("ask", &[&path.address]);
            assert_eq!(said["names"], json!([grid.server(family).1]), "{lane:?} {family:?}: {said}");
        }
    }
}

#[test]
fn a_cgroup_that_comes_later_is_caught_when_it_is_there() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let mut config = config::config(&world, grid.services());
    config["intercept"]["scopes"] = json!([{"cgroup": format!("{}/late", world.app.scope())}]);
    let Some(_weir) = Weir::start(&world.net, &config) else { return };
    let late = world.app.child("late").unwrap();
    let place = proxy_tests::client::Place { cgroup: Some(&late), ..world.app() };
    for lane in Lane::ALL {
        let address = Grid::address(lane, Family::V4);
        wait::until_true("the cgroup to be taken up", SOON, || {
            place.run("ask", &[&address])["names"] == json!(["four"])
        });
    }
}
