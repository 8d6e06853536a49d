//! The live upgrade, for those who are connected: their connections go on in the newer process, and so do all counters.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proxy_tests::client::{Client, Place, number};
use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::http::{Backend, ok};
use proxy_tests::net::{Family, Net, Side};
use proxy_tests::node::{self, Weir};
use proxy_tests::process;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const ROUNDS: u32 = 30;
/// Far more than all buffers on the way hold.
const MUCH: u64 = 64 << 20;
/// More than a slow reader takes while all the takeovers last.
const LONG: u64 = 2 << 30;
const IDLE: u64 = 50;
const BODY: &str = "served";

fn edge() -> SocketAddr {
    "10.77.0.1:8000".parse().unwrap()
}

/// Both families in the proxy lane, a pod, HTTP at the edge, and a log of every connection. Nobody is cut off by a drain: what has
/// to end with its process keeps that from ending, and the test sees it.
fn config(world: &World, grid: &Grid, pod: Side, backend: SocketAddr) -> Value {
    let health = json!({"interval": "1s", "timeout": "500ms"});
    let web = json!({
        "name": "web", "protocol": "http", "endpoints": [{"address": backend.to_string()}], "health": health,
    });
    let mut config = config::config(world, grid.services().into_iter().chain([web]));
    config["intercept"]["scopes"] = json!([{"cgroup": world.app.scope()}, {"netns": world.net.path(pod)}]);
    let listener = json!({"address": edge().to_string(), "protocol": "http", "service": "web"});
    config::merge(&mut config, json!({"listeners": [listener], "drain_timeout": "600s"}));
    config
}

/// One scrape, whoever answers.
fn scrape(net: &Net) -> Option<BTreeMap<String, f64>> {
    let address: SocketAddr = ([127, 0, 0, 1], 15000).into();
    let asked = net.run(Side::Near, || {
        let mut stream = TcpStream::connect_timeout(&address, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    let text = asked.unwrap().ok().filter(|text| text.starts_with("HTTP/1.0 200"))?;
    let counters = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        let ends = ["_total", "_bucket", "_sum", "_count"];
        let is_counter = ends.iter().any(|end| name.ends_with(end)) && !name.starts_with("process_");
        is_counter.then(|| Some((series.to_owned(), value.parse().ok()?))).flatten()
    });
    Some(counters.collect())
}

/// Scrapes all the time, and gives every counter that ever went back.
fn watch_counters(net: &Net, is_over: &AtomicBool) -> (u32, Vec<String>) {
    let (mut known, mut scrapes, mut faults) = (BTreeMap::<String, f64>::new(), 0, Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        let Some(now) = scrape(net) else {
            faults.push("no answer".to_owned());
            continue;
        };
        scrapes += 1;
        for (series, before) in &known {
            let after = now.get(series).copied().unwrap_or(0.0);
            if after < *before {
                faults.push(format!("{series} from {before} to {after}"));
            }
        }
        known = now;
    }
    (scrapes, faults)
}

/// Asks over HTTP all the time, each time on a new connection; gives how often that was answered, and what else happened.
fn browse(net: &Net, is_over: &AtomicBool) -> (u32, Vec<String>) {
    let (mut good, mut errors) = (0, Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        let asked = net.run(Side::Near, || {
            let mut stream = TcpStream::connect_timeout(&edge(), SOON)?;
            stream.set_read_timeout(Some(SOON))?;
            write!(stream, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        match asked.unwrap() {
            Ok(text) if text.starts_with("HTTP/1.1 200") && text.ends_with(BODY) => good += 1,
            other => errors.push(format!("{other:?}")),
        }
    }
    (good, errors)
}

/// Lets a thread end, also when the test fails before: a scope waits for it.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connections of every kind that outlive many processes.
struct Company {
    creeping: Client,
    stuck_down: Client,
    stuck_up: Client,
    half_closed: Client,
    idle: Client,
}

impl Company {
    fn gather(place: Place<'_>, address: SocketAddr) -> Self {
        let creeping = place.start("creep", &[&address, &LONG]);
        let stuck_down = place.start("pull", &[&address, &MUCH]);
        let stuck_up = place.start("push", &[&address, &MUCH]);
        let half_closed = place.start("half_closed", &[&address, &(1 << 20), &MUCH]);
        let idle = place.start("hold", &[&address, &IDLE]);
        assert_eq!(creeping.next()["started"], true);
        assert_eq!(stuck_down.next()["asked"], true);
        assert_eq!(half_closed.next()["sent"], true);
        assert!(number(&stuck_up.next(), "sent") < MUCH);
        assert_eq!(number(&idle.next(), "answered"), IDLE);
        Self { creeping, stuck_down, stuck_up, half_closed, idle }
    }

    /// Lets all of them end, and checks that nothing was lost. The server has been told to read.
    fn end(mut self, what: &str) {
        self.idle.go_on("ask");
        assert_eq!(number(&self.idle.next(), "answered"), IDLE, "{what}");
        assert_eq!(self.idle.next()["closed"], true);
        self.stuck_up.go_on("the rest");
        let said = self.stuck_up.next();
        assert_eq!(said["answer"], format!("{MUCH} ok"), "{what}: {said}");
        for client in [&mut self.stuck_down, &mut self.half_closed] {
            client.go_on("read");
            let said = client.next();
            let seen = (number(&said, "bytes"), &said["intact"], &said["ended"]);
            assert_eq!(seen, (MUCH, &json!(true), &json!("EOF")), "{what}: {said}");
        }
        self.creeping.go_on("hurry");
        let said = self.creeping.next();
        let seen = (number(&said, "bytes"), &said["intact"], &said["ended"]);
        assert_eq!(seen, (LONG, &json!(true), &json!("EOF")), "{what}: {said}");
        assert!(number(&said, "hurried") > 0, "{what}: it ended too soon to have seen everything: {said}");
    }
}

#[test]
fn thirty_takeovers_under_load_break_no_connection_lose_no_byte_and_turn_no_counter_back() {
    let Some(world) = World::new() else { return };
    let programs_before = node::attached_programs();
    let grid = Grid::new(&world);
    let pod = world.pod(1);
    let backend = Backend::answering(&world.net, Family::V4.host(11, 8080), |_| Some(ok(BODY)));
    let mut config = config(&world, &grid, pod.side, backend.address());
    let log = std::env::temp_dir().join(format!("weir-handover-{}.log", std::process::id()));
    config["access_log"] = json!({"path": log, "format": "json"});
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    wait::until_true("the pod to be served", SOON, || {
        weir.metrics().sum("weir_map_entries", &[("map", "NETNS")]) > 0.5
    });
    let [four, six] = [Family::V4, Family::V6].map(|family| Grid::address(Lane::Proxy, family));
    let companies = [
        ("application", Company::gather(world.app(), four)),
        ("application, IPv6", Company::gather(world.app(), six)),
        ("pod", Company::gather(pod, four)),
    ];
    let mut loads = [
        ("proxy", world.app().start("load", &[&four, &"2"])),
        ("direct", world.app().start("load", &[&Grid::address(Lane::Direct, Family::V4), &"1"])),
        ("pod", pod.start("load", &[&four, &"1"])),
    ];
    for (_, load) in &loads {
        assert_eq!(load.next()["started"], true);
    }
    let began = Instant::now();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = Over(&is_over);
        let watcher = scope.spawn(|| watch_counters(&world.net, &is_over));
        let browser = scope.spawn(|| browse(&world.net, &is_over));
        for round in 1..=ROUNDS {
            let mut older = weir.take_over(&config);
            // It carries nothing that could keep it.
            assert!(older.wait(SOON).success(), "round {round}: {}", weir.log());
            let least = 3.0 * (IDLE as f64 + 4.0);
            wait::until_true("all of them to be served by the newer one", SOON, || {
                weir.metrics().sum("weir_takeover_connections", &[]) >= least
            });
            assert_eq!(node::attached_programs() - programs_before, node::HOOKS.len(), "attached twice");
        }
        drop(over);
        let (good, errors) = browser.join().unwrap();
        println!("{ROUNDS} takeovers in {:?}: {good} HTTP requests at the edge answered", began.elapsed());
        assert!(good > 100 && errors.is_empty(), "{good} requests answered: {errors:?}");
        let (scrapes, faults) = watcher.join().unwrap();
        assert!(faults.is_empty(), "of {scrapes} scrapes: {faults:#?}");
        assert!(scrapes > ROUNDS, "{scrapes}");
    });
    let lasted = began.elapsed();
    for (what, load) in &mut loads {
        load.go_on("stop");
        let said = load.next();
        println!("{what}: {} connections served, none failed", said["good"]);
        assert_eq!(said["errors"], json!([]), "{what}: {said}");
        assert!(number(&said, "good") > 100, "{what}: {said}");
    }
    grid.server(Family::V4).0.resume();
    grid.server(Family::V6).0.resume();
    for (what, company) in companies {
        company.end(what);
    }
    wait::until_true("every connection to be counted as ended", SOON, || {
        let metrics = weir.metrics();
        metrics.sum("weir_connections_active", &[("lane", "proxy")]) < 0.5
            && metrics.sum("weir_proxied_connections", &[]) < 0.5
    });
    // At its end every line has been written.
    assert!(weir.terminate().success(), "{}", weir.log());
    assert!(!node::has_pins());
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let long = lines.iter().filter(|line| line["duration"].as_f64().unwrap() >= lasted.as_secs_f64());
    assert_eq!(long.count() as u64, 3 * (IDLE + 4), "one line for each that lived through all of it");
    fs::remove_file(log).unwrap();
}

/// Connections that rest while everything happens around them.
fn hold(world: &World, count: u64) -> Client {
    let held = world.app().start("hold", &[&Grid::address(Lane::Proxy, Family::V4), &count]);
    let said = held.next();
    assert_eq!(number(&said, "answered"), count, "{said}");
    held
}

/// A number that the log says of the hand-over.
fn said_of_handover(weir: &Weir, key: &str) -> Option<u64> {
    let log = weir.log();
    let line = log.lines().rev().find(|line| line.contains("app::carry: "))?;
    let (_, rest) = line.split_once(&format!(" {key}="))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_newer_process_that_hangs_and_dies_in_the_middle_costs_only_what_it_had_said_to_have_taken() {
    const COUNT: u64 = 1500;
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let mut config = config::config(&world, grid.services());
    config::merge(&mut config, json!({"drain_timeout": "600s"}));
    for delay in [Duration::ZERO, Duration::from_millis(30)] {
        let Some(weir) = Weir::start(&world.net, &config) else { return };
        let mut held = hold(&world, COUNT);
        let mut stuck = world.app().start("pull", &[&Grid::address(Lane::Proxy, Family::V4), &MUCH]);
        assert_eq!(stuck.next()["asked"], true);
        let mut newer = weir.beside(&config.to_string(), &["--takeover"]);
        let mut newer = newer.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        wait::until_true("it to have everything", SOON, || {
            weir.log().contains("a newer process has taken over")
        });
        std::thread::sleep(delay);
        process::signal(newer.id(), "-STOP").unwrap();
        // The older one waits for its word for some seconds and then goes on by itself.
        let taken = wait::until("the older one to have seen it", SOON, || said_of_handover(&weir, "taken"));
        process::signal(newer.id(), "-KILL").unwrap();
        newer.wait().unwrap();
        held.go_on("ask");
        let answered = number(&held.next(), "answered");
        println!(
            "stopped {delay:?} after the switch: {taken} were taken over, {answered} of {COUNT} live on"
        );
        // The download may be among those that were taken.
        assert!(
            (COUNT - taken..=COUNT - taken + 1).contains(&answered),
            "{taken} taken, {answered} answered"
        );
        assert_eq!(held.next()["closed"], true);
        stuck.go_on("read");
        let said = stuck.next();
        assert!(said["intact"] == true, "{said}");
        assert!(answered > COUNT - taken || number(&said, "bytes") == MUCH, "{said}");
    }
}

#[test]
fn a_thousand_connections_move_and_go_on() {
    const COUNT: u64 = 1000;
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let mut config = config::config(&world, grid.services());
    config::merge(&mut config, json!({"drain_timeout": "600s"}));
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let mut held = hold(&world, COUNT);
    let (older_before, ended_before) = (cpu(weir.pid()), cpu_of_ended());
    let mut older = weir.take_over(&config);
    assert!(older.wait(SOON).success(), "{}", weir.log());
    wait::until_true("all of them to be served by the newer one", SOON, || {
        weir.metrics().sum("weir_takeover_connections", &[]) >= COUNT as f64
    });
    let (newer, older) = (cpu(weir.pid()), cpu_of_ended() - ended_before - older_before);
    let pause = weir.metrics().sum("weir_takeover_pause_seconds", &[]);
    println!(
        "{COUNT} connections: longest pause {:.1} ms; CPU {newer:?} of the newer process, {older:?} of the older one",
        pause * 1e3
    );
    assert!(pause > 0.0);
    held.go_on("ask");
    assert_eq!(number(&held.next(), "answered"), COUNT);
    assert_eq!(held.next()["closed"], true);
}

/// Time on CPUs of a process; `/proc` counts it in hundredths of seconds.
fn cpu(process: u32) -> Duration {
    ticks(&format!("/proc/{process}/stat"), 13)
}

/// The same of all processes that this one has waited for.
fn cpu_of_ended() -> Duration {
    ticks("/proc/self/stat", 15)
}

/// Adds up two fields of proc_pid_stat(5), the first of them by its number from 0.
fn ticks(file: &str, field: usize) -> Duration {
    let text = fs::read_to_string(file).unwrap();
    let after_name = text.rsplit_once(')').unwrap().1;
    let two = after_name.split_whitespace().skip(field - 2).take(2);
    Duration::from_millis(two.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>() * 10)
}
