//! What bytes can rely on, in both lanes and over every family.

use std::time::Duration;

use proxy_tests::client::number;
use proxy_tests::config::{self, Grid, Lane, PORT, SERVER_PORT};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::upstream::{End, Server};
use proxy_tests::world::World;
use serde_json::Value;

/// Time for a server to see the end of a stream.
const SEEN: Duration = Duration::from_secs(20);

#[test]
fn a_gigabyte_arrives_unchanged_both_ways() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    grid.path(&world, Lane::Proxy, Family::V4).carries(1 << 30);
    grid.path(&world, Lane::Proxy, Family::V6).carries(1 << 30);
    grid.path(&world, Lane::Proxy, Family::Mapped).carries(128 << 20);
    for family in Family::ALL {
        grid.path(&world, Lane::Direct, family).carries(128 << 20);
    }
}

#[test]
fn small_pieces_are_answered_one_by_one() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    for (lane, _, path) in grid.paths(&world) {
        let bytes = if lane == Lane::Proxy { 2 << 20 } else { 1 << 18 };
        path.trades(bytes, 4000, 4);
        path.trades(10_000, 1, 1);
    }
}

#[test]
fn either_side_may_end_first() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    grid.paths(&world).for_each(|(_, _, path)| path.half_closes());
}

#[test]
fn a_reset_of_either_side_reaches_the_other() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    grid.paths(&world).for_each(|(_, _, path)| path.resets());
}

#[test]
fn servers_may_speak_first() {
    let Some(world) = World::new() else { return };
    let host = Family::V4.host(11, SERVER_PORT);
    let _server = Server::start_first(&world.net, host, "polite", "220 ready").unwrap();
    let vip = |lane| Family::V4.vip(if lane == Lane::Direct { 3 } else { 4 }, PORT);
    let services =
        Lane::ALL.map(|lane| config::service(lane.as_str(), vip(lane), &[host], lane, Value::Null));
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    for lane in Lane::ALL {
        let said = world.app().run("banner", &[&vip(lane)]);
        assert!(said["banner"] == "220 ready" && said["answer"] == "polite x", "{lane:?}: {said}");
    }
}

#[test]
fn a_slow_reader_holds_its_sender_back_and_not_our_memory() {
    /// More than any buffer of any hop may take.
    const BYTES: u64 = 256 << 20;
    /// What a connection in the proxy lane may cost beside the kernel's own socket buffers, and what the allocator may take at once for
    /// sizes that nobody had wanted before.
    const MOST_BYTES: u64 = 16 << 20;
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    for family in [Family::V4, Family::V6] {
        let path = grid.path(&world, Lane::Proxy, family);
        // a first connection pays for what is kept afterwards
        path.carries(8 << 20);
        let before = weir.memory_bytes();

        let mut client = path.place.start("push", &[&path.address, &BYTES]);
        let held = number(&client.next(), "sent");
        assert!(held < BYTES / 2, "{held} bytes were taken from a client whose server reads nothing");
        let grown = weir.memory_bytes().saturating_sub(before);
        assert!(grown < MOST_BYTES, "{grown} bytes more for one connection");
        path.server.resume();
        client.go_on("the rest");
        let said = client.next();
        assert_eq!(said["answer"], format!("{BYTES} ok"), "{said}");
        assert_eq!(path.server.seen(SEEN).end, End::Fin);

        let mut client = path.place.start("pull", &[&path.address, &BYTES]);
        assert_eq!(client.next()["asked"], true);
        let said = path.place.run("upload", &[&path.address, &(16 << 20)]);
        assert_eq!(said["answer"], format!("{} ok", 16 << 20), "others are not held back: {said}");
        assert_eq!(path.server.seen(SEEN).end, End::Fin);
        let grown = weir.memory_bytes().saturating_sub(before);
        assert!(grown < MOST_BYTES, "{grown} bytes more for one connection");
        client.go_on("read");
        let said = client.next();
        assert!(said["intact"] == true && number(&said, "bytes") == BYTES, "{said}");
        assert_eq!(path.server.seen(SEEN).end, End::Fin);
    }
}

#[test]
fn five_thousand_connections_are_open_at_once() {
    const CONNECTIONS: u64 = 5000;
    /// Most that a connection may cost while it waits. The figure of the release build is the bench's business.
    const MOST_BYTES_EACH: u64 = 8 << 10;
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    for (lane, family) in [(Lane::Proxy, Family::V4), (Lane::Proxy, Family::V6), (Lane::Direct, Family::V4)] {
        let path = grid.path(&world, lane, family);
        let before = weir.memory_bytes();
        let mut client = path.place.start("hold", &[&path.address, &CONNECTIONS]);
        let said = client.next();
        assert_eq!(number(&said, "answered"), CONNECTIONS, "{lane:?} {family:?}: {said}");
        let grown = weir.memory_bytes().saturating_sub(before);
        assert!(grown < CONNECTIONS * MOST_BYTES_EACH, "{lane:?}: {} bytes for each", grown / CONNECTIONS);
        client.go_on("ask");
        let said = client.next();
        assert_eq!(number(&said, "answered"), CONNECTIONS, "{lane:?} {family:?}: {said}");
        assert_eq!(client.next()["closed"], true);
    }
}
