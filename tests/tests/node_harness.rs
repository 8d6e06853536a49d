//! The harness without Weir: what the battery promises holds of plain connections, so that a failure elsewhere is Weir's.

use proxy_tests::battery::{ODD_CONNECTS, Path};
use proxy_tests::net::Family;
use proxy_tests::upstream::{Server, UdpServer};
use proxy_tests::world::World;

#[test]
fn plain_connections_pass_the_battery() {
    let Some(world) = World::new() else { return };
    for family in Family::ALL {
        let server = world.server(family.host(10, 8080), "plain");
        // asked for by the address in the form of the family, there is nobody in between
        let host = server.address();
        let address = match (family, host.ip()) {
            (Family::Mapped, std::net::IpAddr::V4(ip)) => (ip.to_ipv6_mapped(), host.port()).into(),
            _ => host,
        };
        let path = Path { place: world.app(), address, server: &server };
        path.carries(64 << 20);
        path.trades(64 << 10, 1000, 4);
        path.half_closes();
        path.resets();
        path.takes_odd_connects("plain", &ODD_CONNECTS);
        path.takes_odd_connects("plain", &["ring_connect", "multipath"]);
        path.takes_short_notes(50);
    }
}

#[test]
fn servers_may_speak_first_and_die() {
    let Some(world) = World::new() else { return };
    let address = Family::V4.host(11, 8080);
    let mut server = Server::start_first(&world.net, address, "first", "hello there").unwrap();
    let said = world.app().run("banner", &[&address]);
    assert!(said["banner"] == "hello there" && said["answer"] == "first x", "{said}");
    server.stop();
    let said = world.app().run("timed_connect", &[&address]);
    assert_eq!(said["connect"], "ECONNREFUSED");

    let mut server = world.server(address, "again");
    let stream = world.app().start("stream", &[&address]);
    assert_eq!(stream.next()["started"], true);
    server.stop();
    let said = stream.next();
    assert!(said["intact"] == true && said["ended"] != "limit", "{said}");
}

#[test]
fn asked_addresses_are_a_dead_end_without_weir() {
    let Some(world) = World::new() else { return };
    let _udp = UdpServer::start(&world.net, Family::V4.host(10, 53)).unwrap();
    let said = world.app().run("udp", &[&Family::V4.host(10, 53)]);
    assert_eq!(said["answer"], "ping");
    let said = world.app().output(std::path::Path::new("ip"), &["route", "get", "10.96.0.1"]).unwrap();
    assert!(said.contains("dev lan0 src 10.77.0.1 "), "{said}");
    let outward = world.app().output(std::path::Path::new("ip"), &["route", "get", "192.0.2.1"]);
    assert!(outward.is_err(), "a test must not reach the outside: {outward:?}");
}
