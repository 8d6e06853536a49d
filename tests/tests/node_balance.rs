//! Who gets a connection, in both lanes.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proxy_tests::client::number;
use proxy_tests::config::{self, Lane, PORT, SERVER_PORT};
use proxy_tests::net::{Family, SOURCES};
use proxy_tests::node::Weir;
use proxy_tests::upstream::Server;
use proxy_tests::world::World;
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Three servers.
fn servers(world: &World, family: Family) -> Vec<Server> {
    (10..).zip(NAMES).map(|(number, name)| world.server(family.host(number, SERVER_PORT), name)).collect()
}

/// A service on these servers with these weights.
fn weighted(
    name: &str,
    address: SocketAddr,
    servers: &[Server],
    weights: [u32; 3],
    lane: Lane,
    policy: &str,
) -> Value {
    let each =
        |(server, weight): (&Server, u32)| json!({"address": server.address().to_string(), "weight": weight});
    let endpoints: Vec<Value> = servers.iter().zip(weights).map(each).collect();
    config::service(name, address, &[], lane, json!({"endpoints": endpoints, "balance": {"policy": policy}}))
}

/// How often each name occurs.
fn shares(said: &Value) -> BTreeMap<String, u64> {
    let mut shares = BTreeMap::new();
    for name in said["names"].as_array().unwrap_or_else(|| panic!("no names in {said}")) {
        *shares.entry(name.as_str().expect("names are words").to_owned()).or_default() += 1;
    }
    shares
}

#[test]
fn round_robin_goes_in_turn() {
    let Some(world) = World::new() else { return };
    let servers = servers(&world, Family::V4);
    let service = |number, name: &str, weights| {
        weighted(name, Family::V4.vip(number, PORT), &servers, weights, Lane::Proxy, "round_robin")
    };
    let services = [service(1, "even", [1, 1, 1]), service(2, "uneven", [2, 1, 0])];
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    let said = world.app().run("ask", &[&Family::V4.vip(1, PORT), &"30"]);
    let names: Vec<&str> =
        said["names"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(names.len(), 30, "{said}");
    assert!(names.iter().zip(&names[3..]).all(|(one, third_next)| one == third_next), "{names:?}");
    assert_eq!(shares(&said), NAMES.map(|name| (name.to_owned(), 10)).into());
    let said = world.app().run("ask", &[&Family::V4.vip(2, PORT), &"30"]);
    assert_eq!(shares(&said), [("a".to_owned(), 20), ("b".to_owned(), 10)].into());
}

#[test]
fn random_choice_follows_the_weights_in_both_lanes() {
    const ASKS: u64 = 600;
    let Some(world) = World::new() else { return };
    for family in [Family::V4, Family::V6] {
        let servers = servers(&world, family);
        let services = [(1, Lane::Direct), (2, Lane::Proxy)].map(|(number, lane)| {
            weighted(lane.as_str(), family.vip(number, PORT), &servers, [1, 3, 0], lane, "random")
        });
        let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
        for number in [1, 2] {
            let said = world.app().run("ask", &[&family.vip(number, PORT), &ASKS]);
            let shares = shares(&said);
            assert_eq!(shares.values().sum::<u64>(), ASKS, "{said}");
            assert!(!shares.contains_key("c"), "weight 0 gets nothing: {shares:?}");
            // a quarter of 600, give or take six standard deviations (sqrt(600 / 4 * 3 / 4) = 10.6)
            assert!((87..=213).contains(&shares["a"]), "{shares:?}");
        }
    }
}

#[test]
fn the_least_loaded_of_two_keeps_endpoints_even_in_both_lanes() {
    const HELD: u64 = 300;
    let Some(world) = World::new() else { return };
    let servers = servers(&world, Family::V4);
    let services = [(1, Lane::Direct), (2, Lane::Proxy)].map(|(number, lane)| {
        weighted(lane.as_str(), Family::V4.vip(number, PORT), &servers, [1, 1, 1], lane, "least_request")
    });
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    for vip in [1, 2] {
        // the second round shows that connections of a killed application are no longer counted
        for _ in 0..2 {
            let client = world.app().start("hold", &[&Family::V4.vip(vip, PORT), &HELD]);
            let said = client.next();
            assert_eq!(number(&said, "answered"), HELD, "{said}");
            for name in NAMES {
                // a random choice would be off by more than this in most runs (standard deviation 8)
                let share = said["names"][name].as_u64().unwrap_or(0);
                assert!((90..=110).contains(&share), "VIP {vip}: {said}");
            }
        }
    }
}

#[test]
fn the_same_source_meets_the_same_endpoint() {
    let Some(world) = World::new() else { return };
    let servers = servers(&world, Family::V4);
    let lanes = [(1, Lane::Direct, "maglev"), (2, Lane::Proxy, "maglev"), (3, Lane::Proxy, "ring_hash")];
    let services = lanes.map(|(number, lane, policy)| {
        weighted(&format!("s{number}"), Family::V4.vip(number, PORT), &servers, [1, 1, 1], lane, policy)
    });
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    for (number, lane, policy) in lanes {
        let mut chosen = Vec::new();
        for source in SOURCES {
            let source = Family::V4.host(source, 0);
            let said = world.app().run("ask", &[&Family::V4.vip(number, PORT), &"4", &source]);
            let shares = shares(&said);
            assert_eq!(
                shares.values().copied().collect::<Vec<_>>(),
                [4],
                "{lane:?} {policy} {source}: {said}"
            );
            chosen.extend(shares.into_keys());
        }
        chosen.sort_unstable();
        chosen.dedup();
        assert!(chosen.len() > 1, "{lane:?} {policy}: ten sources, and all went to {chosen:?}");
    }
}

#[test]
fn loads_of_the_direct_lane_survive_reloads_and_restarts() {
    const HELD: u64 = 200;
    /// The emptier of two drawn with replacement gets three quarters (standard deviation 6); at random it is half.
    const MOST_OF_THEM: u64 = 125;
    let Some(world) = World::new() else { return };
    let servers = servers(&world, Family::V4);
    let vip = Family::V4.vip(1, PORT);
    let config = |weights| {
        config::config(&world, [weighted("s", vip, &servers, weights, Lane::Direct, "least_request")])
    };
    let Some(mut weir) = Weir::start(&world.net, &config([1, 0, 0])) else { return };
    let hold = || {
        let client = world.app().start("hold", &[&vip, &HELD]);
        let said = client.next();
        assert_eq!(number(&said, "answered"), HELD, "{said}");
        (client, said)
    };
    let (_first, said) = hold();
    assert_eq!(said["names"], json!({"a": HELD}));
    weir.reload(&config([1, 1, 0]));
    let (_second, said) = hold();
    assert!(said["names"]["b"].as_u64().is_some_and(|b| b >= MOST_OF_THEM), "after a reload: {said}");
    weir.kill();
    weir.restart(&config([1, 0, 1]));
    let (_third, said) = hold();
    assert!(said["names"]["c"].as_u64().is_some_and(|c| c >= MOST_OF_THEM), "after a restart: {said}");
    assert_eq!(weir.connections()["total"], HELD * 3, "connections are still followed");
}
