//! Bounds: on connections, on time, on maps, and explicit listeners.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy_tests::client::{Place, number};
use proxy_tests::config::{self, Grid, Lane, PORT, SERVER_PORT};
use proxy_tests::net::{Family, Net, Side};
use proxy_tests::nginx::{Nginx, Site};
use proxy_tests::node::Weir;
use proxy_tests::upstream::Server;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);

#[test]
fn connections_beyond_the_limit_are_reset_and_counted() {
    const MOST: u64 = 5;
    let Some(world) = World::new() else { return };
    let server = world.server(Family::V4.host(10, SERVER_PORT), "server");
    let vip = Family::V4.vip(1, PORT);
    let limits = json!({"limits": {"max_connections": MOST}});
    let service = config::service("s", vip, &[server.address()], Lane::Proxy, limits);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, [service])) else { return };
    let mut held = world.app().start("hold", &[&vip, &MOST]);
    assert_eq!(held.next()["answered"], MOST);
    let said = world.app().run("ask", &[&vip, &"4"]);
    assert_eq!(said["names"], json!([]), "{said}");
    let limited = [("service", "s"), ("reason", "limit")];
    wait::until_true("the four to be counted", SOON, || {
        (weir.metrics().sum("weir_connections_closed_total", &limited) - 4.0).abs() < 0.5
    });
    held.go_on("close");
    assert_eq!(held.next()["closed"], true);
    wait::until_true("room for another one", SOON, || {
        world.app().run("ask", &[&vip])["names"] == json!(["server"])
    });
}

/// Opens a connection whose client vanishes and one whose server does, and waits until both are given up.
fn assert_given_up(user_timeout: &str, lose: impl Fn(&Net) -> anyhow::Result<()>) {
    let Some(world) = World::new() else { return };
    let server = world.server(Family::V4.host(10, SERVER_PORT), "server");
    // it stays and goes on sending: a client is missed only if something is on its way to it
    let stays = world.net.run(Side::Near, || Server::start_local("10.77.0.1:0".parse()?, "stays"));
    let stays = stays.expect("root may enter").expect("a port is free");
    let vip = Family::V4.vip(1, PORT);
    let limits = json!({"limits": {"user_timeout": user_timeout}});
    let services = [(vip, "written", &server), (Family::V4.vip(2, PORT), "read", &stays)]
        .map(|(vip, name, to)| config::service(name, vip, &[to.address()], Lane::Proxy, limits.clone()));
    let mut config = config::config(&world, services);
    config["listeners"] = json!([{"address": "10.77.0.1:7000", "service": "read"}]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let reader = world.far().start("stream", &[&"10.77.0.1:7000"]);
    assert_eq!(reader.next()["started"], true);
    let writer = world.app().start("upload", &[&vip, &(1_u64 << 40)]);
    wait::until_true("the server to be connected to", SOON, || {
        weir.metrics().sum("weir_connections_active", &[("service", "written"), ("lane", "upstream")]) > 0.5
    });
    lose(&world.net).expect("root may");
    wait::until_true("both to be given up", SOON, || {
        let ended = weir.metrics();
        ["written", "read"].iter().all(|service| {
            let closed = [("service", *service), ("reason", "user_timeout")];
            ended.sum("weir_connections_closed_total", &closed) > 0.5
        })
    });
    drop((reader, writer));
}

#[test]
fn a_peer_that_vanishes_ends_its_connection_after_the_user_timeout() {
    assert_given_up("2s", Net::lose_far);
}

/// The kernel notices that nobody is at the address before the time is over, and gives that as its reason.
#[test]
fn a_peer_whose_cable_is_cut_ends_its_connection_after_the_user_timeout() {
    assert_given_up("6s", Net::cut_cable);
}

#[test]
fn every_worker_gets_connections_however_many_there_are() {
    const WORKERS: u32 = 11;
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let mut config = config::config(&world, grid.services());
    config["workers"] = json!(WORKERS);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    for family in Family::ALL {
        let mut held = world.app().start("hold", &[&Grid::address(Lane::Proxy, family), &"200"]);
        assert_eq!(held.next()["answered"], 200, "{family:?}");
        wait::until_true("sockets on every worker", SOON, || {
            let metrics = weir.metrics();
            (0..WORKERS).all(|worker| {
                metrics.sum("weir_driver_sockets", &[("worker", worker.to_string().as_str())]) > 0.5
            })
        });
        held.go_on("close");
        assert_eq!(held.next()["closed"], true);
        wait::until_true("no sockets", SOON, || weir.metrics().sum("weir_driver_sockets", &[]) < 0.5);
    }
}

#[test]
fn idle_connections_are_closed_after_their_time_and_busy_ones_are_not() {
    let Some(world) = World::new() else { return };
    let server = world.server(Family::V4.host(10, SERVER_PORT), "server");
    let vip = Family::V4.vip(1, PORT);
    let limits = json!({"limits": {"idle_timeout": "2s"}});
    let service = config::service("s", vip, &[server.address()], Lane::Proxy, limits);
    let Some(weir) = Weir::start(&world.net, &config::config(&world, [service])) else { return };
    let busy = world.app().start("stream", &[&vip]);
    assert_eq!(busy.next()["started"], true);
    let began = Instant::now();
    let mut idle = world.app().start("hold", &[&vip, &"3"]);
    assert_eq!(idle.next()["answered"], 3);
    idle.go_on("read");
    let said = idle.next();
    assert!(said["ends"]["data"].is_null() && said["ends"]["TIMEOUT"].is_null(), "{said}");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    wait::until_true("the three to be counted", SOON, || {
        (weir.metrics().sum("weir_connections_closed_total", &[("reason", "idle_timeout")]) - 3.0).abs() < 0.5
    });
    let active = weir.metrics().sum("weir_connections_active", &[("service", "s"), ("lane", "proxy")]);
    assert!((active - 1.0).abs() < 0.5, "the stream goes on: {active}");
}

#[test]
fn endpoints_that_do_not_answer_cost_the_connect_timeout_and_another_one_answers() {
    let Some(world) = World::new() else { return };
    let server = world.server(Family::V4.host(10, SERVER_PORT), "server");
    let vip = Family::V4.vip(1, PORT);
    // nobody is at this address, so that connects to it hang
    let silent = Family::V4.silent(SERVER_PORT);
    let more = json!({"limits": {"connect_timeout": "300ms"}, "outlier": {"consecutive_failures": 0}});
    let service = config::service("s", vip, &[silent, server.address()], Lane::Proxy, more);
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, [service])) else { return };
    let began = Instant::now();
    let said = world.app().run("ask", &[&vip, &"4"]);
    assert_eq!(said["names"], json!(["server"; 4].to_vec()), "{said}");
    assert!(began.elapsed() >= Duration::from_millis(600), "in turn, two of four try the silent one first");
}

#[test]
fn a_full_map_leaves_old_connections_alone_and_lets_new_ones_pass_untouched() {
    const ROOM: u64 = 32;
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    // what is asked for really exists, so that passing untouched is an answer
    let real = Family::V4.host(12, SERVER_PORT);
    let _untouched = world.server(real, "untouched");
    let moved =
        config::service("moved", real, &[grid.server(Family::V4).0.address()], Lane::Proxy, Value::Null);
    let config = config::config(&world, [moved]);
    let size = format!("ORIGINAL_DST={ROOM}");
    let Some(weir) = Weir::start_with(&world.net, &config, &[], &["--map-size", &size]) else { return };
    let mut old = world.app().start("hold", &[&real, &"4"]);
    assert_eq!(old.next()["names"], json!({"four": 4}));
    // nobody accepts, so nobody takes original destinations out of the map
    weir.signal("-STOP");
    let waiting = world.app().start("hold", &[&real, &(ROOM * 2), &"tell"]);
    assert_eq!(waiting.next()["connected"], ROOM * 2);
    assert_eq!(world.app().run("ask", &[&real])["names"], json!(["untouched"]));
    weir.signal("-CONT");
    let said = waiting.next();
    assert_eq!(number(&said, "answered"), ROOM * 2, "{said}");
    assert!(number(&said["names"], "untouched") > 0 && number(&said["names"], "four") > 0, "{said}");
    old.go_on("ask");
    assert_eq!(old.next()["answered"], 4);
    let passed = weir.metrics().sum("weir_kernel_verdicts_total", &[("verdict", "passed_map_full")]);
    assert!(passed > 0.5);
    let mentions = || weir.log().lines().filter(|line| line.contains("full")).count();
    wait::until_true("the log to say so", SOON, || mentions() > 0);
    assert_eq!(mentions(), 1, "once: {}", weir.log());
    assert_eq!(world.app().run("ask", &[&real, &"3"])["names"], json!(["four", "four", "four"]));
}

#[test]
fn a_small_limit_on_descriptors_is_kept_politely() {
    const DESCRIPTORS: u64 = 256;
    let Some(world) = World::new() else { return };
    if world.program("prlimit").is_none() {
        return;
    }
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let Some(weir) = Weir::start_with(&world.net, &config, &["prlimit", &limit], &[]) else { return };
    let path = grid.path(&world, Lane::Proxy, Family::V4);
    let mut held = path.place.start("hold", &[&path.address, &DESCRIPTORS]);
    let said = held.next();
    let answered = number(&said, "answered");
    assert!((20..DESCRIPTORS).contains(&answered), "{said}");
    // everything else goes on: the admin interface, the connections that are open, and the direct lane
    let cpu = || weir.metrics().sum("process_cpu_seconds_total", &[]);
    let (before, began) = (cpu(), Instant::now());
    held.go_on("ask");
    assert_eq!(held.next()["answered"], answered);
    assert_eq!(world.app().run("ask", &[&Grid::address(Lane::Direct, Family::V4)])["names"], json!(["four"]));
    let spent = cpu() - before;
    assert!(spent < began.elapsed().as_secs_f64(), "{spent} s of CPU time for nothing");
    assert_eq!(held.next()["closed"], true);
    wait::until_true("room for new ones", SOON, || {
        world.app().run("ask", &[&path.address])["names"] == json!(["four"])
    });
}

#[test]
fn explicit_listeners_serve_who_is_not_intercepted() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let mut config = config::config(&world, grid.services());
    let listeners = ["10.77.0.1:7000", "[::]:7001", "127.0.0.1:7002"];
    let services = ["grid/proxy-four", "grid/proxy-six", "grid/direct-four"];
    let each = listeners
        .iter()
        .zip(services)
        .map(|(address, service)| json!({"address": address, "service": service}));
    config["listeners"] = each.collect();
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    for (address, name) in [
        ("10.77.0.1:7000", "four"),
        ("[fd77::1]:7001", "six"),
        ("[::1]:7001", "six"),
        ("127.0.0.1:7002", "four"),
    ] {
        for place in [world.outside(), world.app()] {
            assert_eq!(place.run("ask", &[&address])["names"], json!([name]), "{address}");
        }
    }
    // from another machine
    assert_eq!(world.far().run("ask", &[&"10.77.0.1:7000"])["names"], json!(["four"]));
    config["listeners"] = json!([{"address": "10.77.0.1:7003", "service": "grid/proxy-four"}]);
    weir.reload(&config);
    assert_eq!(world.outside().run("ask", &[&"10.77.0.1:7003"])["names"], json!(["four"]));
    wait::until_true("the old listener to be closed", SOON, || {
        world.outside().run("ask", &[&"10.77.0.1:7000"])["errors"] == json!(["ECONNREFUSED"])
    });
}

#[test]
fn too_little_locked_memory_for_rings_means_epoll_unless_rings_were_asked_for() {
    let Some(world) = World::new() else { return };
    if ["prlimit", "setpriv"].into_iter().any(|name| world.program(name).is_none()) {
        return;
    }
    if let Err(reason) = proxy_io::driver::probe::ring() {
        return proxy_tests::skip::skip(&format!("there are no rings to be short of: {reason}"));
    }
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    // Root may lock what it likes but for this. The probe's ring fits, a worker's does not.
    let starter = ["prlimit", "--memlock=65536:65536", "setpriv", "--bounding-set=-ipc_lock", "--"];
    let Some(weir) = Weir::start_with(&world.net, &config, &starter, &["--io", "auto"]) else { return };
    let status: Value = serde_json::from_str(&weir.ask("/status").expect("it answers").1).expect("JSON");
    assert_eq!(status["driver"], "epoll", "{status}");
    assert!(status["driver_note"].as_str().is_some_and(|note| note.contains("LimitMEMLOCK")), "{status}");
    assert!(weir.log().contains("workers use epoll"), "{}", weir.log());
    let said = world.app().run("ask", &[&Grid::address(Lane::Proxy, Family::V4), &"5"]);
    assert_eq!(said["names"], json!(["four"; 5].to_vec()));
    drop(weir);
    let file = proxy_tests::scratch::Scratch::new("memlock");
    let file = (file.file("weir.yaml", config.to_string()), file);
    let mut command = world.outside().command(std::path::Path::new(starter[0]));
    command.args(&starter[1..]).arg(proxy_tests::node::binary()).args(["run", "--io", "ring", "-c", &file.0]);
    let output = command.output().expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("LimitMEMLOCK"), "{said}");
}

#[test]
fn a_network_of_ipv6_is_one_client_and_an_application_of_this_node_is_its_own() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    let (host, vip) = (Family::V6.host(10, SERVER_PORT), Family::V6.vip(1, PORT));
    let Some(_nginx) = Nginx::start(&world, host, Site::PLAIN) else { return };
    let edge: SocketAddr = "[fd77::1]:8000".parse().expect("an address");
    // One each, and nothing more within the time of a test.
    let rate = json!({"requests": "1/h", "per": "client"});
    let service = json!({
        "name": "web", "protocol": "http", "addresses": [vip.to_string()],
        "endpoints": [{"address": host.to_string()}], "limits": {"rate": rate},
    });
    let mut config = config::config(&world, [service]);
    let listener = json!({"address": edge.to_string(), "protocol": "http", "service": "web"});
    config::merge(&mut config, json!({"listeners": [listener]}));
    let Some(_weir) = Weir::start(&world.net, &config) else { return };
    let ask = |place: Place<'_>, address: SocketAddr, source: u8| {
        let (url, source) = (format!("http://{address}/"), Family::V6.host(source, 0).ip().to_string());
        let what = ["-sS", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}"];
        place.output(&curl, &[&what[..], &["--interface", &source, &url]].concat()).expect("curl answers")
    };
    // These count by their own addresses, which are in one network with the others'.
    for (source, wanted) in [(20, "200"), (21, "200"), (20, "429")] {
        assert_eq!(ask(world.app(), vip, source), wanted, "{source}");
    }
    for (source, wanted) in [(22, "200"), (23, "429"), (22, "429")] {
        assert_eq!(ask(world.outside(), edge, source), wanted, "{source}");
    }
}
