//! Two nodes, each with a Weir of its own.
//!
//! Both run on this machine and its one kernel, as far from each other as nodes are: a network namespace of their own, and a `/run/weir` and
//! a bpffs of their own in a mount namespace. Their programs sit side by side on the root of all cgroups, and each
//! catches the pods of its own node.

use std::time::Duration;

use proxy_tests::client::Place;
use proxy_tests::config::{self, Lane, PORT, SERVER_PORT};
use proxy_tests::net::{Family, Net, Side};
use proxy_tests::node::Weir;
use proxy_tests::upstream::Server;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// Starts a Weir that shares neither its run folder nor its pins with another one.
const APART: [&str; 6] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mkdir -p /run/weir && mount -t tmpfs tmpfs /run/weir && mount -t bpf bpf /sys/fs/bpf && exec \"$@\"",
    "sh",
];
/// Endpoints of a service.
#[derive(Clone, Copy, PartialEq)]
enum To {
    First,
    Second,
    Both,
}

/// One node: a pod that asks and a pod that serves.
struct Node<'a> {
    net: &'a Net,
    client: (u8, Side),
    servers: [Server; 2],
}

impl<'a> Node<'a> {
    fn new(net: &'a Net, name: &str, [client, server]: [u8; 2]) -> Self {
        net.connect_pods().expect("root may");
        let [client_side, server_side] =
            [client, server].map(|number| net.add_pod(number, number).expect("root may"));
        let servers = [Family::V4, Family::V6].map(|family| {
            let address = (family.pod(server), SERVER_PORT).into();
            Server::start_in(net, server_side, address, name).expect("the address is free")
        });
        Self { net, client: (client, client_side), servers }
    }

    fn place(&self) -> Place<'_> {
        Place { net: self.net, side: self.client.1, cgroup: None }
    }

    fn server(&self, family: Family) -> &Server {
        &self.servers[usize::from(family == Family::V6)]
    }
}

fn address(lane: Lane, to: To, family: Family) -> std::net::SocketAddr {
    family.vip(40 + 3 * u8::from(lane == Lane::Proxy) + to as u8, PORT)
}

fn config(world: &World, nodes: [&Node; 2], own: &Node) -> Value {
    let mut services = Vec::new();
    for (lane, family) in Lane::ALL.into_iter().flat_map(|lane| [Family::V4, Family::V6].map(|f| (lane, f))) {
        let all = nodes.map(|node| node.server(family).address());
        for (to, endpoints) in [(To::First, &all[..1]), (To::Second, &all[1..]), (To::Both, &all[..])] {
            let name = format!("{}-{}-{family:?}", lane.as_str(), to as u8);
            services.push(config::service(&name, address(lane, to, family), endpoints, lane, Value::Null));
        }
    }
    let mut config = config::config(world, services);
    config["intercept"]["scopes"] = json!([{"netns": own.net.path(own.client.1)}]);
    config
}

#[test]
fn pods_of_two_nodes_reach_each_other_through_services() {
    let Some(world) = World::new() else { return };
    if world.program("unshare").is_none() {
        return;
    }
    let other = Net::new().expect("root can make network namespaces");
    world.net.join(&other).expect("root may");
    let nodes = [Node::new(&world.net, "first", [1, 2]), Node::new(&other, "second", [3, 4])];
    let both = [&nodes[0], &nodes[1]];
    // The one that keeps to itself ends last, so that the other leaves as much as it found.
    let Some(second) = Weir::start_with(&other, &config(&world, both, both[1]), &APART, &[]) else { return };
    let Some(first) = Weir::start(&world.net, &config(&world, both, both[0])) else { return };
    let weirs = [&first, &second];
    for weir in weirs {
        let served = || weir.metrics().sum("weir_map_entries", &[("map", "NETNS")]);
        wait::until_true("its pod to be served", SOON, || served() > 0.5);
    }
    for (node, lane, family) in both
        .into_iter()
        .flat_map(|node| Lane::ALL.map(|lane| (node, lane)))
        .flat_map(|(node, lane)| Family::ALL.map(|family| (node, lane, family)))
    {
        let place = node.place();
        for (to, serving) in [(To::First, both[0]), (To::Second, both[1])] {
            let said = place.run("upload", &[&address(lane, to, family), &"100000"]);
            let seen = serving.server(family).seen(SOON);
            assert!(seen.is_intact && seen.bytes == 100_000, "{lane:?} {family:?}: {said}, {seen:?}");
            let own = family.pod(node.client.0).to_canonical();
            assert_eq!(seen.peer.ip().to_canonical(), own, "{lane:?} {family:?}: the pod's own address");
        }
        // a draw may take the same one several times
        let said = place.run("ask", &[&address(lane, To::Both, family), &"40"]);
        let names = said["names"].as_array().expect("a list");
        assert_eq!(names.len(), 40, "{lane:?} {family:?}: {said}");
        for name in ["first", "second"] {
            assert!(names.iter().any(|one| one == name), "{lane:?} {family:?}: nobody asked {name}: {said}");
        }
    }
    for weir in weirs {
        for lane in ["direct", "proxy"] {
            let of_lane = weir.metrics().sum("weir_connections_opened_total", &[("lane", lane)]);
            assert!((of_lane - 3.0 * 42.0).abs() < 0.5, "each sees its own pod's connections: {of_lane}");
        }
    }
}
