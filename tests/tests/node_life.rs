//! Start, reload, crash, restart and end of Weir, under traffic.

use std::fs;
use std::process::Command;
use std::time::Duration;

use proxy_tests::client::{Client, Place, number};
use proxy_tests::config::{self, Grid, Lane, PORT, SERVER_PORT};
use proxy_tests::net::Family;
use proxy_tests::node::{self, Weir};
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

fn vip(lane: Lane) -> std::net::SocketAddr {
    Family::V4.vip(if lane == Lane::Direct { 1 } else { 2 }, PORT)
}

fn both_lanes(endpoints: &[std::net::SocketAddr], more: &Value) -> [Value; 2] {
    Lane::ALL.map(|lane| config::service(lane.as_str(), vip(lane), endpoints, lane, more.clone()))
}

#[test]
fn a_hundred_reloads_under_load_fail_no_connection() {
    let Some(world) = World::new() else { return };
    let servers = [(10, "a"), (11, "b"), (12, "c")]
        .map(|(n, name)| world.server(Family::V4.host(n, SERVER_PORT), name));
    let at = |index: usize| servers[index].address();
    let configs =
        [[at(0), at(1)], [at(1), at(2)]].map(|to| config::config(&world, both_lanes(&to, &Value::Null)));
    let Some(weir) = Weir::start(&world.net, &configs[0]) else { return };
    let mut clients = Lane::ALL.map(|lane| world.app().start("load", &[&vip(lane), &"3"]));
    for client in &clients {
        assert_eq!(client.next()["started"], true);
    }
    for round in 1..=100 {
        weir.reload(&configs[round % 2]);
    }
    for (client, lane) in clients.iter_mut().zip(Lane::ALL) {
        client.go_on("so far");
        let said = client.next();
        assert_eq!(said["errors"], json!([]), "{lane:?}: {said}");
        assert!(number(&said, "good") > 100, "{lane:?}: {said}");
        for name in ["a", "b", "c"] {
            assert!(
                said["names"][name].as_u64().is_some_and(|n| n > 0),
                "{lane:?}: {name} got nothing: {said}"
            );
        }
    }
    // the last one is the first config again: nobody may get to the third server any more
    for (client, lane) in clients.iter_mut().zip(Lane::ALL) {
        // what was on its way meanwhile comes first
        after_more_connections(client);
        let said = after_more_connections(client);
        assert_eq!(said["names"]["c"], Value::Null, "{lane:?}: {said}");
        client.go_on("stop");
        let said = client.next();
        assert_eq!(said["errors"], json!([]), "{lane:?}: {said}");
    }
}

/// Waits until a client's threads have made several connections each and says what they got since it was last asked.
fn after_more_connections(client: &mut proxy_tests::client::Client) -> Value {
    client.go_on("so far");
    let before = number(&client.next(), "good");
    let mut names = std::collections::BTreeMap::<String, u64>::new();
    wait::until("more connections", SOON, || {
        client.go_on("so far");
        let said = client.next();
        for (name, count) in said["names"].as_object().expect("names with counts") {
            *names.entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        (number(&said, "good") > before + 50).then(|| json!({"names": names}))
    })
}

#[test]
fn applications_go_on_while_weir_is_dead_and_are_caught_again_after_its_restart() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let closed = config::service(
        "closed",
        Family::V4.vip(5, PORT),
        &[grid.server(Family::V4).0.address()],
        Lane::Proxy,
        json!({"fail": "closed"}),
    );
    let config = config::config(&world, grid.services().into_iter().chain([closed]));
    let foreign = node::attached_programs();
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let attached = node::attached_programs();
    assert!(attached > foreign);
    let mut load = world.app().start("load", &[&Grid::address(Lane::Proxy, Family::V4), &"3"]);
    assert_eq!(load.next()["started"], true);
    for _ in 0..3 {
        let mut held = world.app().start("hold", &[&Grid::address(Lane::Proxy, Family::V4), &"4"]);
        assert_eq!(held.next()["answered"], 4);
        weir.kill();
        // only a connection that a worker carries dies with it
        held.go_on("read");
        let said = held.next();
        assert!(said["ends"]["data"].is_null() && number_of_ends(&said) == 4, "{said}");
        for (lane, family, path) in grid.paths(&world) {
            let said = path.place.run("ask", &[&path.address, &"5"]);
            assert_eq!(
                said["names"],
                json!([grid.server(family).1; 5].to_vec()),
                "{lane:?} {family:?}: {said}"
            );
        }
        let said = world.app().run("timed_connect", &[&Family::V4.vip(5, PORT)]);
        assert_eq!(said["connect"], "ECONNREFUSED", "fail: closed");
        weir.restart(&config);
        assert_eq!(node::attached_programs(), attached, "attached twice");
        let said = world.app().run("ask", &[&Family::V4.vip(5, PORT)]);
        assert_eq!(said["names"], json!(["four"]), "{said}");
    }
    load.go_on("stop");
    let said = load.next();
    let errors: Vec<&str> =
        said["errors"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    // Connections that a worker carried when it was killed are lost. No later one is refused; but each of the three
    // clients may have been between the kernel's look at the listener and its SYN at each of the three deaths.
    assert!(errors.iter().all(|e| ["ECONNRESET", "EOF", "EPIPE", "ECONNREFUSED"].contains(e)), "{said}");
    let refused = errors.iter().filter(|error| **error == "ECONNREFUSED").count();
    assert!(refused <= 3 * 3, "{refused} refused: {said}");
    // The eight listeners close one after the other: until the last one has, a client may meet several.
    assert!(errors.len() <= 3 * 3 * 8 && number(&said, "good") > 100, "{said}");
}

fn number_of_ends(said: &Value) -> u64 {
    said["ends"].as_object().expect("ends by kind").values().filter_map(Value::as_u64).sum()
}

#[test]
fn a_hung_weir_gets_no_new_connections_until_it_goes_on() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let host = grid.server(Family::V4).0.address();
    let vip = Family::V4.vip(5, PORT);
    let closed = config::service("closed", vip, &[host], Lane::Proxy, json!({"fail": "closed"}));
    let config = config::config(&world, grid.services().into_iter().chain([closed]));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let address = Grid::address(Lane::Proxy, Family::V4);
    let mut held = world.app().start("hold", &[&address, &"3"]);
    assert_eq!(held.next()["answered"], 3);
    weir.signal("-STOP");
    wait::until_true("it to be seen that it hangs", SOON, || {
        world.app().run("connect_only", &[&vip])["connect"] == "ECONNREFUSED"
    });
    for family in Family::ALL {
        let said = world.app().run("ask", &[&Grid::address(Lane::Proxy, family), &"5"]);
        assert_eq!(said["names"], json!([grid.server(family).1; 5].to_vec()), "{family:?}: {said}");
    }
    weir.signal("-CONT");
    held.go_on("ask");
    assert_eq!(held.next()["answered"], 3, "what it carried goes on");
    wait::until_true("it to be trusted again", SOON, || {
        world.app().run("ask", &[&vip])["names"] == json!(["four"])
    });
}

#[test]
fn a_second_weir_is_refused_with_the_pid_of_the_first() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let attached = node::attached_programs();
    let file = weir.folder().join("weir.yaml");
    for arguments in [vec!["run", "-c", file.to_str().expect("a plain path")], vec!["detach"]] {
        let output = Command::new(node::binary()).args(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(&weir.pid().to_string()), "{arguments:?}: {said}");
    }
    assert_eq!(node::attached_programs(), attached);
    let said = world.app().run("ask", &[&Grid::address(Lane::Proxy, Family::V4)]);
    assert_eq!(said["names"], json!(["four"]), "the first goes on: {said}");
}

#[test]
fn detach_removes_what_a_killed_weir_left() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let before = node::attached_programs();
    let Some(mut weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    let mut direct = hold_directly(&world);
    weir.kill();
    assert!(node::has_pins());
    let output = Command::new(node::binary()).arg("detach").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!node::has_pins());
    wait::until_true("the programs to go", SOON, || node::attached_programs() == before);
    // without Weir the address is a dead end
    let said = world.app().run("timed_connect", &[&Grid::address(Lane::Direct, Family::V4)]);
    assert_ne!(said["connect"], "connected");
    let again = Command::new(node::binary()).arg("detach").status().unwrap();
    assert!(again.success(), "nothing to remove is no failure");
    lives_on(&mut direct);
}

/// Connections of the direct lane, which are between the application and an endpoint alone.
fn hold_directly(world: &World) -> Client {
    let held = world.app().start("hold", &[&Grid::address(Lane::Direct, Family::V4), &"4"]);
    assert_eq!(held.next()["answered"], 4);
    held
}

fn lives_on(held: &mut Client) {
    held.go_on("ask");
    assert_eq!(held.next()["answered"], 4, "connections of the direct lane need no Weir");
    assert_eq!(held.next()["closed"], true);
}

#[test]
fn the_end_waits_for_open_connections_and_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let mut config = config::config(&world, grid.services());
    config["drain_timeout"] = json!("60s");
    let before = node::attached_programs();
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let mut held = world.app().start("hold", &[&Grid::address(Lane::Proxy, Family::V4), &"4"]);
    assert_eq!(held.next()["answered"], 4);
    let mut direct = hold_directly(&world);
    weir.signal("-TERM");
    wait::until_true("the programs to go", SOON, || node::attached_programs() == before);
    held.go_on("ask");
    assert_eq!(held.next()["answered"], 4, "open connections go on");
    assert_eq!(held.next()["closed"], true);
    assert!(weir.wait(SOON).success(), "{}", weir.log());
    assert!(!node::has_pins());
    lives_on(&mut direct);
}

#[test]
fn a_changed_file_is_taken_up_by_itself_and_on_sighup() {
    let Some(world) = World::new() else { return };
    let [old, new] =
        [(10, "old"), (11, "new")].map(|(n, name)| world.server(Family::V4.host(n, SERVER_PORT), name));
    let config = |to: std::net::SocketAddr| config::config(&world, both_lanes(&[to], &Value::Null));
    let Some(weir) = Weir::start(&world.net, &config(old.address())) else { return };
    let answers = |lane| world.app().run("ask", &[&vip(lane)])["names"][0].clone();
    for lane in Lane::ALL {
        assert_eq!(answers(lane), "old");
    }
    weir.write_config(&config(new.address()).to_string());
    for lane in Lane::ALL {
        wait::until_true("the renamed file to be taken up", SOON, || answers(lane) == "new");
    }
    // written in place
    fs::write(weir.folder().join("weir.yaml"), config(old.address()).to_string()).unwrap();
    weir.signal("-HUP");
    for lane in Lane::ALL {
        wait::until_true("the written file to be taken up", SOON, || answers(lane) == "old");
    }
}

#[test]
fn a_bad_file_changes_nothing_and_shows() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    weir.write_config("servces: []\n");
    let (status, text) = weir.post("/reload").unwrap();
    assert!(status >= 400, "{status} {text}");
    assert!(text.contains("servces"), "the mistake is named: {text}");
    wait::until_true("the mistake to be logged", SOON, || weir.log().contains("servces"));
    let status = Command::new(node::binary()).arg("status").output().unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains("servces"), "weir status: {said}");
    for (_, family, path) in grid.paths(&world) {
        let said = path.place.run("ask", &[&path.address]);
        assert_eq!(said["names"], json!([grid.server(family).1]), "{said}");
    }
    weir.reload(&config::config(&world, grid.services()));
}

#[test]
fn without_root_there_is_one_sentence_and_exit_code_2() {
    let Some(world) = World::new() else { return };
    let Some(setpriv) = world.program("setpriv") else { return };
    let folder = std::env::temp_dir();
    let file = folder.join(format!("weir-test-noroot-{}.yaml", std::process::id()));
    fs::write(&file, "services: []\n").unwrap();
    // a binary in a home directory may be out of reach for others
    let binary = folder.join(format!("weir-test-noroot-{}", std::process::id()));
    fs::copy(node::binary(), &binary).unwrap();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let run =
        Command::new(&setpriv).args(nobody).arg(&binary).args(["run", "-c"]).arg(&file).output().unwrap();
    let check = Command::new(&setpriv).args(nobody).arg(&binary).arg("check").arg(&file).output().unwrap();
    fs::remove_file(&file).unwrap();
    fs::remove_file(&binary).unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    assert_eq!(check.status.code(), Some(0), "a check needs no root");
}

#[test]
fn scopes_that_fail_closed_are_refused_whatever_their_services_say() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let cgroup = world.app.child("strict").expect("root may");
    let [lax_pod, strict_pod] = [world.pod(1), world.pod(2)];
    let strict_app = Place { cgroup: Some(&cgroup), ..world.app() };
    let netns = |pod: Place<'_>| json!({"netns": world.net.path(pod.side)});
    let mut config = config::config(&world, grid.services());
    config["intercept"]["scopes"] = json!([{"cgroup": world.app.scope()}, netns(lax_pod), netns(strict_pod)]);
    config["intercept"]["fail_closed"] = json!([{"cgroup": cgroup.scope()}, netns(strict_pod)]);
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let check = |places: &[Place<'_>], lane, is_served: bool| {
        for place in places {
            let said = place.run("ask", &[&Grid::address(lane, Family::V4)]);
            let (names, errors) =
                if is_served { (&["four"][..], &[][..]) } else { (&[][..], &["ECONNREFUSED"][..]) };
            assert_eq!(
                (&said["names"], &said["errors"]),
                (&json!(names), &json!(errors)),
                "{lane:?}: {said}"
            );
        }
    };
    let (lax, strict) = ([world.app(), lax_pod], [strict_app, strict_pod]);
    let both = [lax, strict].concat();
    check(&both, Lane::Proxy, true);
    weir.kill();
    check(&lax, Lane::Proxy, true);
    check(&strict, Lane::Proxy, false);
    check(&both, Lane::Direct, true);
    weir.restart(&config);
    check(&both, Lane::Proxy, true);
    // and without the rule
    config["intercept"]["fail_closed"] = json!([netns(strict_pod)]);
    weir.reload(&config);
    weir.kill();
    check(&strict[..1], Lane::Proxy, true);
    check(&strict[1..], Lane::Proxy, false);
    weir.restart(&config);
}
