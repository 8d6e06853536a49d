//! Endpoints that are dead, dying, sick or gone.

use std::time::Duration;

use proxy_tests::client::number;
use proxy_tests::config::{self, Lane, PORT, SERVER_PORT};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

/// Nobody listens there.
const DEAD: u8 = 19;
/// "At once" for an application, on a busy machine.
const AT_ONCE_SECONDS: f64 = 2.0;
/// Many health intervals of these tests.
const NOTICED: Duration = Duration::from_secs(15);

/// A quick check.
fn health(kind: &Value) -> Value {
    let mut health = json!({"interval": "200ms", "timeout": "150ms", "healthy": 2, "unhealthy": 2});
    config::merge(&mut health, kind.clone());
    health
}

fn vip(lane: Lane) -> std::net::SocketAddr {
    Family::V4.vip(if lane == Lane::Direct { 1 } else { 2 }, PORT)
}

/// One service for each lane with the same endpoints.
fn both_lanes(endpoints: &[std::net::SocketAddr], more: &Value) -> [Value; 2] {
    Lane::ALL.map(|lane| config::service(lane.as_str(), vip(lane), endpoints, lane, more.clone()))
}

/// Whether all of a number of questions in a row were answered by one of these.
fn all_answered_by(world: &World, lane: Lane, names: &[&str]) -> bool {
    let said = world.app().run("ask", &[&vip(lane), &"12"]);
    let answers = said["names"].as_array().expect("a list");
    answers.len() == 12 && answers.iter().all(|name| names.contains(&name.as_str().unwrap_or_default()))
}

/// Whether a worker took the connection and reset it. The reset may come before connect() has returned.
fn is_reset(said: &Value) -> bool {
    said["connect"] == "ECONNRESET" || (said["connect"] == "connected" && said["read"] == "ECONNRESET")
}

#[test]
fn another_endpoint_answers_for_a_dead_one() {
    let Some(world) = World::new() else { return };
    for family in [Family::V4, Family::V6] {
        let live = world.server(family.host(10, SERVER_PORT), "live");
        let endpoints = [family.host(DEAD, SERVER_PORT), live.address(), family.host(DEAD, 1)];
        let address = family.vip(2, PORT);
        // passive health must not be what helps here
        let more = json!({"outlier": {"consecutive_failures": 0}});
        let service = config::service("s", address, &endpoints, Lane::Proxy, more);
        let Some(_weir) = Weir::start(&world.net, &config::config(&world, [service])) else { return };
        let said = world.app().run("ask", &[&address, &"20"]);
        assert_eq!(said["names"], json!(["live"; 20].to_vec()), "{family:?}: {said}");
    }
}

#[test]
fn nobody_to_connect_to_is_told_at_once() {
    let Some(world) = World::new() else { return };
    let dead = [Family::V4.host(DEAD, SERVER_PORT)];
    let mut services = Vec::new();
    for (number, endpoints) in [(1u8, &[][..]), (3, &dead[..])] {
        for (number, lane) in [(number, Lane::Direct), (number + 1, Lane::Proxy)] {
            let name = format!("s{number}");
            services.push(config::service(&name, Family::V4.vip(number, PORT), endpoints, lane, Value::Null));
        }
    }
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    for (number, lane) in [(1, Lane::Direct), (2, Lane::Proxy), (3, Lane::Direct), (4, Lane::Proxy)] {
        for family in [Family::V4, Family::Mapped] {
            let said = world.app().run("timed_connect", &[&family.vip(number, PORT)]);
            match lane {
                Lane::Direct => assert_eq!(said["connect"], "ECONNREFUSED", "VIP {number}: {said}"),
                Lane::Proxy => assert!(is_reset(&said), "VIP {number}: {said}"),
            }
            assert!(said["seconds"].as_f64().is_some_and(|s| s < AT_ONCE_SECONDS), "VIP {number}: {said}");
        }
    }
}

#[test]
fn a_killed_endpoint_ends_its_streams_and_no_others() {
    let Some(world) = World::new() else { return };
    let mut doomed = world.server(Family::V4.host(10, SERVER_PORT), "doomed");
    let other = world.server(Family::V4.host(11, SERVER_PORT), "other");
    let mut services = both_lanes(&[doomed.address()], &Value::Null).to_vec();
    services.push(config::service(
        "other",
        Family::V4.vip(3, PORT),
        &[other.address()],
        Lane::Proxy,
        Value::Null,
    ));
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    let mut bystander = world.app().start("hold", &[&Family::V4.vip(3, PORT), &"5"]);
    assert_eq!(bystander.next()["answered"], 5);
    let streams = Lane::ALL.map(|lane| world.app().start("stream", &[&vip(lane)]));
    for stream in &streams {
        assert_eq!(stream.next()["started"], true);
    }
    doomed.stop();
    for (stream, lane) in streams.iter().zip(Lane::ALL) {
        let said = stream.next();
        assert!(said["ended"] == "EOF" || said["ended"] == "ECONNRESET", "{lane:?}: {said}");
    }
    bystander.go_on("ask");
    assert_eq!(bystander.next()["answered"], 5);
}

#[test]
fn an_endpoint_that_fails_its_checks_gets_no_connections_until_it_is_well() {
    let Some(world) = World::new() else { return };
    let servers =
        [(10, "sick"), (11, "well")].map(|(n, name)| world.server(Family::V4.host(n, SERVER_PORT), name));
    let endpoints = [servers[0].address(), servers[1].address()];
    let kind = json!({"http": {"path": "/healthz", "status": ["200-299"]}});
    let services = both_lanes(&endpoints, &json!({"health": health(&kind)}));
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    for lane in Lane::ALL {
        servers[0].set_status(503);
        wait::until_true("the sick one to be left alone", NOTICED, || {
            all_answered_by(&world, lane, &["well"])
        });
        assert!(all_answered_by(&world, lane, &["well"]));
        servers[0].set_status(204);
        wait::until_true("the sick one to be used again", NOTICED, || {
            !all_answered_by(&world, lane, &["well"])
        });
        assert!(all_answered_by(&world, lane, &["well", "sick"]));
    }
    for server in &servers {
        server.set_status(500);
    }
    for lane in Lane::ALL {
        wait::until_true("nobody to be used", NOTICED, || {
            let said = world.app().run("timed_connect", &[&vip(lane)]);
            if lane == Lane::Direct { said["connect"] == "ECONNREFUSED" } else { is_reset(&said) }
        });
    }
}

#[test]
fn a_body_that_lacks_the_expected_part_is_a_failed_check() {
    let Some(world) = World::new() else { return };
    let servers =
        [(10, "good"), (11, "bad")].map(|(n, name)| world.server(Family::V4.host(n, SERVER_PORT), name));
    let endpoints = [servers[0].address(), servers[1].address()];
    let kind = json!({"http": {"path": "/", "body": "oo"}});
    let services = both_lanes(&endpoints, &json!({"health": health(&kind)}));
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, services)) else { return };
    for lane in Lane::ALL {
        wait::until_true("the bad one to be left alone", NOTICED, || {
            all_answered_by(&world, lane, &["good"])
        });
    }
}

#[test]
fn a_killed_endpoint_fails_its_tcp_checks() {
    let Some(world) = World::new() else { return };
    let mut doomed = world.server(Family::V6.host(10, SERVER_PORT), "doomed");
    let well = world.server(Family::V6.host(11, SERVER_PORT), "well");
    let address = Family::V6.vip(1, PORT);
    let more = json!({"health": health(&json!({"tcp": {}}))});
    let service = config::service("s", address, &[doomed.address(), well.address()], Lane::Direct, more);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, [service])) else { return };
    doomed.stop();
    wait::until_true("the dead one to be left alone", NOTICED, || {
        let said = world.app().run("ask", &[&address, &"20"]);
        said["names"] == json!(["well"; 20].to_vec())
    });
    let said = world.app().run("ask", &[&address, &"100"]);
    assert_eq!(said["names"], json!(["well"; 100].to_vec()), "{said}");
}

#[test]
fn endpoints_whose_connections_fail_are_ejected_for_a_while() {
    let Some(world) = World::new() else { return };
    let well = world.server(Family::V4.host(11, SERVER_PORT), "well");
    let endpoints = [Family::V4.host(DEAD, SERVER_PORT), well.address()];
    let more = json!({
        "outlier": {"consecutive_failures": 3, "base_ejection": "60s", "max_ejected_percent": 50},
        "limits": {"connect_attempts": 1},
    });
    let service = config::service("s", vip(Lane::Proxy), &endpoints, Lane::Proxy, more);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, [service])) else { return };
    wait::until_true("the dead one to be ejected", NOTICED, || {
        all_answered_by(&world, Lane::Proxy, &["well"])
    });
    assert!(all_answered_by(&world, Lane::Proxy, &["well"]));
}

#[test]
fn open_connections_to_a_removed_endpoint_are_kept_or_reset_as_the_config_says() {
    const HELD: u64 = 8;
    let Some(world) = World::new() else { return };
    let old = world.server(Family::V4.host(10, SERVER_PORT), "old");
    let new = world.server(Family::V4.host(11, SERVER_PORT), "new");
    for (policy, command, key) in [("keep", "ask", "answered"), ("reset", "read", "ends")] {
        let config = |to: std::net::SocketAddr| {
            let more = json!({"on_endpoint_loss": policy});
            config::config(&world, both_lanes(&[to], &more))
        };
        let Some(weir) = Weir::start(&world.net, &config(old.address())) else { return };
        let mut clients = Lane::ALL.map(|lane| world.app().start("hold", &[&vip(lane), &HELD]));
        for client in &clients {
            assert_eq!(client.next()["answered"], HELD);
        }
        weir.reload(&config(new.address()));
        for lane in Lane::ALL {
            assert!(all_answered_by(&world, lane, &["new"]), "{policy} {lane:?}");
        }
        for (client, lane) in clients.iter_mut().zip(Lane::ALL) {
            client.go_on(command);
            let said = client.next();
            match policy {
                "keep" => assert_eq!(said[key], HELD, "{policy} {lane:?}: {said}"),
                // SOCK_DESTROY ends a socket with ECONNABORTED
                _ => {
                    let count = |end: &str| said[key][end].as_u64().unwrap_or(0);
                    assert_eq!(
                        count("ECONNRESET") + count("ECONNABORTED"),
                        HELD,
                        "{policy} {lane:?}: {said}"
                    );
                }
            }
        }
    }
}

#[test]
fn drained_connections_are_reset_when_their_time_is_over() {
    let Some(world) = World::new() else { return };
    let old = world.server(Family::V4.host(10, SERVER_PORT), "old");
    let new = world.server(Family::V4.host(11, SERVER_PORT), "new");
    let config = |to: std::net::SocketAddr| {
        let more = json!({"on_endpoint_loss": "drain", "drain_timeout": "2s"});
        config::config(&world, both_lanes(&[to], &more))
    };
    let Some(weir) = Weir::start(&world.net, &config(old.address())) else { return };
    let in_time = Lane::ALL.map(|lane| world.app().start("hold", &[&vip(lane), &"3"]));
    let too_late = Lane::ALL.map(|lane| world.app().start("hold", &[&vip(lane), &"3"]));
    for client in in_time.iter().chain(&too_late) {
        assert_eq!(client.next()["answered"], 3);
    }
    weir.reload(&config(new.address()));
    for (mut client, lane) in in_time.into_iter().zip(Lane::ALL) {
        client.go_on("ask");
        assert_eq!(client.next()["answered"], 3, "{lane:?}: they have time left");
    }
    for (mut client, lane) in too_late.into_iter().zip(Lane::ALL) {
        client.go_on("read");
        let said = client.next();
        let count = |end: &str| said["ends"][end].as_u64().unwrap_or(0);
        assert_eq!(count("ECONNRESET") + count("ECONNABORTED"), 3, "{lane:?}: {said}");
    }
}

#[test]
fn open_connections_to_an_endpoint_that_fails_its_checks_are_reset_if_the_config_says_so() {
    const HELD: u64 = 4;
    let Some(world) = World::new() else { return };
    let servers =
        [(10, "sick"), (11, "well")].map(|(n, name)| world.server(Family::V4.host(n, SERVER_PORT), name));
    let endpoints = [servers[0].address(), servers[1].address()];
    let more = json!({"health": health(&json!({"http": {"path": "/"}})), "on_endpoint_loss": "reset"});
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, both_lanes(&endpoints, &more))) else {
        return;
    };
    for lane in Lane::ALL {
        // many, so that both get some
        let mut client = world.app().start("hold", &[&vip(lane), &(HELD * 5)]);
        let said = client.next();
        let (sick, well) = (number(&said["names"], "sick"), number(&said["names"], "well"));
        assert_eq!(sick + well, HELD * 5, "{said}");
        servers[0].set_status(500);
        wait::until_true("the sick one to be left alone", NOTICED, || {
            all_answered_by(&world, lane, &["well"])
        });
        client.go_on("ask");
        assert_eq!(
            number(&client.next(), "answered"),
            well,
            "{lane:?}: those of the well one go on, the others do not"
        );
        servers[0].set_status(200);
        wait::until_true("the sick one to be used again", NOTICED, || {
            !all_answered_by(&world, lane, &["well"])
        });
    }
}
