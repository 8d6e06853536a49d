//! The interfaces for operators: who may ask what, and the command line.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::net::{Family, Side};
use proxy_tests::node::{self, Weir};
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);

/// Runs `weir` beside the one under test.
fn weir(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(node::binary()).args(arguments).output().expect("the binary runs");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, said)
}

/// Sends a request as it is written to the admin address and returns the status.
fn status_of(world: &World, request: &str) -> u16 {
    let answer = world.net.run(Side::Near, || {
        let mut stream = TcpStream::connect(("127.0.0.1", 15000))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    });
    let answer = answer.expect("the namespace is there").expect("the admin address answers");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn the_admin_address_only_reads_and_only_for_this_machine() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    let ask = |method: &str, path: &str, host: &str| {
        status_of(&world, &format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    };
    for path in ["/healthz/live", "/healthz/ready", "/config_dump", "/clusters", "/connections", "/metrics"] {
        assert_eq!(ask("GET", path, "127.0.0.1:15000"), 200, "{path}");
        assert_eq!(ask("GET", path, "localhost:15000"), 200, "{path}");
        // as a browser sends it whom somebody's DNS has sent here
        assert_eq!(ask("GET", path, "evil.example"), 403, "{path}");
    }
    for path in ["/reload", "/drain"] {
        assert!((400..500).contains(&ask("POST", path, "127.0.0.1:15000")), "{path}");
        assert!((400..500).contains(&ask("GET", path, "127.0.0.1:15000")), "{path}");
    }
    assert_eq!(ask("GET", "/healthz/ready", "127.0.0.1:15000"), 200, "nothing was drained");
    let mode = fs::metadata("/run/weir/admin.sock").unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (_, text) = weir.ask("/clusters").unwrap();
    assert!(text.contains("grid/proxy-four") && text.contains("10.77.0.10:8080"), "{text}");
    let (_, text) = weir.ask("/config_dump").unwrap();
    assert!(text.contains("grid/direct-six"), "{text}");
}

#[test]
fn metrics_have_an_address_of_their_own_if_the_config_says_so() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let mut config = config::config(&world, grid.services());
    config["metrics"] = json!({"address": "0.0.0.0:15020"});
    let Some(_weir) = Weir::start(&world.net, &config) else { return };
    let Some(curl) = world.program("curl") else { return };
    // a collector on another machine
    let get = |path: &str| {
        let url = format!("http://10.77.0.1:15020{path}");
        world
            .far()
            .output(&curl, &["-s", "-o", "/dev/null", "-w", "%{http_code} %{content_type}", &url])
            .unwrap()
    };
    let said = get("/metrics");
    assert!(said.starts_with("200 application/openmetrics-text"), "{said}");
    assert!(get("/config_dump").starts_with("404"), "{}", get("/config_dump"));
}

#[test]
fn the_command_line_reloads_drains_and_tells_where_weir_stands() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let Some(mut running) = Weir::start(&world.net, &config) else { return };
    let (output, said) = weir(&["status"]);
    assert!(output.status.success() && said.contains("ready"), "{said}");
    let (output, said) = weir(&["status", "-o", "json"]);
    assert!(output.status.success(), "{said}");
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(status.to_string().contains(&running.pid().to_string()) || status.is_object(), "{status}");
    let (output, said) = weir(&["reload"]);
    assert!(output.status.success(), "{said}");
    running.write_config("services: 7\n");
    let (output, said) = weir(&["reload"]);
    assert!(!output.status.success() && said.contains("services"), "{said}");
    let (output, said) = weir(&["drain"]);
    assert!(output.status.success(), "{said}");
    assert!(running.wait(SOON).success());
    assert!(!node::has_pins());
    let (output, said) = weir(&["status"]);
    assert!(!output.status.success(), "nobody is there to ask: {said}");
}

#[test]
fn why_says_what_becomes_of_a_connection() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    let proxied = Grid::address(Lane::Proxy, Family::V4).to_string();
    let held = world.app().start("hold", &[&proxied, &"1"]);
    assert_eq!(held.next()["answered"], 1);
    let (inside, outside) = (held.pid().to_string(), std::process::id().to_string());
    let (output, said) = weir(&["why", &proxied, "--process", &inside]);
    assert!(output.status.success(), "{said}");
    for part in
        ["grid/proxy-four", "proxy: the config names the lane", "10.77.0.10:8080, usable", &world.app.scope()]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let ask = |arguments: &[&str]| -> Value {
        let (output, said) = weir(&[&["why", "-o", "json"], arguments].concat());
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    assert_eq!(ask(&[&proxied, "-p", &inside])["verdict"], "a worker connects to the only usable endpoint");
    assert_eq!(ask(&[&proxied, "-p", &outside])["verdict"], "untouched: the process is in no scope");
    let hint = ask(&["10.96.0.2:81"])["hint"].as_str().unwrap_or_default().to_owned();
    assert!(hint.contains(&proxied), "{hint}");
    for wrong in [&["why", "10.96.0.2"][..], &["why", &proxied, "-p", "4194304"]] {
        let (output, said) = weir(wrong);
        assert!(!output.status.success() && said.lines().count() < 12, "{said}");
    }
}

#[test]
fn the_doctor_finds_a_healthy_machine_healthy_and_names_old_sockets() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    // connected before Weir was there
    let old = world.app().start("hold", &[&grid.server(Family::V4).0.address(), &"2"]);
    assert_eq!(old.next()["answered"], 2);
    let Some(running) = Weir::start(&world.net, &config) else { return };
    let file = running.folder().join("weir.yaml").display().to_string();
    let (output, said) = weir(&["doctor", "-c", &file]);
    assert!(output.status.success(), "{said}");
    let lines = |word: &str| said.lines().filter(|line| line.trim_start().starts_with(word)).count();
    assert!(lines("ok") >= 5 && lines("problem") == 0, "{said}");
    wait::until_true("the application to be caught", SOON, || {
        world.app().run("ask", &[&Grid::address(Lane::Proxy, Family::V4)])["names"] == json!(["four"])
    });
}
