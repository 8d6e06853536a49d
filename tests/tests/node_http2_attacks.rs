//! What clients of HTTP/2 send that mean harm, or cannot do better.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::Path;
use std::time::Duration;

use proxy_tests::nginx::{Nginx, Site};
use proxy_tests::node::Weir;
use proxy_tests::python::{PYTHON, has_module};
use proxy_tests::web::{edge, host, speaking};
use proxy_tests::world::World;
use proxy_tests::{process, wait};
use serde_json::json;

/// Longer than any step needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Memory that a flood may cost, allocator and all.
const MOST_GROWTH_BYTES: u64 = 32 << 20;
const ATTACK: &str = include_str!("../src/python/http2_attack.py");

/// What another client is answered meanwhile.
fn fresh(world: &World, curl: &Path) -> String {
    let url = format!("http://{}/", edge());
    world.outside().output(curl, &["-sS", "--fail", "--max-time", "5", &url]).expect("curl is answered")
}

/// What a client is told that does not keep to RFC 9113: the error that this names, and what is odd but allowed is none.
#[test]
fn each_violation_has_its_error() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    if !has_module("h2") {
        return;
    }
    let Some(_nginx) = Nginx::start(&world, host(), Site::PLAIN) else { return };
    let Some(weir) = Weir::start(&world.net, &speaking(&world, "http", json!({}))) else { return };
    let wrong: Vec<String> = attack(&world, "list", "violations")
        .lines()
        .filter_map(|line| {
            let (name, wanted) = line.split_once(' ').unwrap();
            let said = attack(&world, name, "");
            (said != wanted).then(|| format!("{name}: {said}, not {wanted}"))
        })
        .collect();
    assert_eq!(wrong, [""; 0]);
    for reason in ["protocol", "frame_size", "flow_control", "stream_closed", "compression"] {
        let ended = || weir.metrics().sum("weir_connections_closed_total", &[("reason", reason)]);
        wait::until_true(reason, LIMIT, || ended() > 1.0);
    }
    assert_eq!(fresh(&world, &curl), "hello");
}

#[test]
fn a_flood_ends_its_connection_and_nobody_else_notices() {
    const CALM: &str = "goaway 11";
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    if !has_module("h2") {
        return;
    }
    let Some(_nginx) = Nginx::start(&world, host(), Site::PLAIN) else { return };
    let Some(weir) = Weir::start(&world.net, &speaking(&world, "http", json!({}))) else { return };
    fresh(&world, &curl);
    let before = weir.memory_bytes();
    for name in attack(&world, "list", "floods").split(' ') {
        let said = attack(&world, name, "");
        // A head too large is refused before it is a flood.
        let is_right = said == CALM || said == "closed" || (name == "hpack_bomb" && said != "nothing");
        assert!(is_right, "{name}: {said}");
        fresh(&world, &curl);
        let more = weir.memory_bytes().saturating_sub(before);
        assert!(more < MOST_GROWTH_BYTES, "{name}: {more} bytes more");
    }
    let floods = weir.metrics().sum("weir_connections_closed_total", &[("reason", "flood")]);
    assert!(floods >= 6.0, "{floods} were counted");
}

fn attack(world: &World, name: &str, more: &str) -> String {
    let mut command = world.outside().command(Path::new(PYTHON));
    let (host, port) = (edge().ip().to_string(), edge().port().to_string());
    command.args(["-c", ATTACK, &host, &port, name, more]);
    process::output(&mut command).unwrap().trim().to_owned()
}
