//! A Weir that is killed under load, again and again or by the kernel: who is refused, who is cut, and who is served.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use proxy_io::bpf::{self, RawMap};
use proxy_tests::cgroup::MemoryBound;
use proxy_tests::client::{Client, Place, number};
use proxy_tests::config::{self, Grid, Lane, PORT};
use proxy_tests::net::Family;
use proxy_tests::node::{self, Weir};
use proxy_tests::world::World;
use proxy_tests::{skip, wait};
use serde_json::{Value, json};

/// Enough to meet a client at every point of its connect.
const KILLS: usize = 30;
/// Threads of each client, which connect, ask and close without a pause.
const THREADS: usize = 3;
/// Longest time for a refusal: it comes from connect() itself.
const AT_ONCE: f64 = 0.5;

/// Less than what the next few connections take.
const NO_MEMORY_BYTES: u64 = 256 << 10;
const SOON: Duration = Duration::from_secs(30);
/// signal(7)
const SIGKILL: i32 = 9;

/// What became of a client's connections.
#[derive(Debug, Default)]
struct Toll {
    served: u64,
    /// By connect(): between the kernel's look at the sign of life and the SYN.
    refused: usize,
    /// After connect(): waiting to be accepted, or carried by a worker.
    cut: usize,
}

impl Toll {
    /// Ends a client and reads what it met; anything else than a refusal or a cut fails the test.
    fn of(load: &mut Client) -> Self {
        load.go_on("stop");
        let said = load.next();
        let errors: Vec<&str> =
            said["errors"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        let count = |names: &[&str]| errors.iter().filter(|error| names.contains(error)).count();
        let (refused, cut) = (count(&["ECONNREFUSED"]), count(&["ECONNRESET", "EPIPE", "EOF"]));
        assert_eq!(refused + cut, errors.len(), "{said}");
        Self { served: number(&said, "good"), refused, cut }
    }
}

#[test]
fn thirty_kills_refuse_nobody_who_may_go_directly_and_refuse_at_once_who_may_not() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let pod = world.pod(1);
    for place in [world.app(), pod] {
        world.net.reuse_ports(place.side).expect("a setting of every kernel");
    }
    let (vip, closed) = closed(&grid);
    let mut config = config::config(&world, grid.services().into_iter().chain([closed]));
    config["intercept"]["scopes"] =
        json!([{"cgroup": world.app.scope()}, {"netns": world.net.path(pod.side)}]);
    let before = node::attached_programs();
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let open = Grid::address(Lane::Proxy, Family::V4);
    let mut loads = [world.app(), pod].map(|place| {
        let load = place.start("load", &[&open, &THREADS]);
        assert_eq!(load.next()["started"], true);
        load
    });
    let mut direct = world.app().start("load", &[&Grid::address(Lane::Direct, Family::V4), &THREADS]);
    assert_eq!(direct.next()["started"], true);
    for round in 0..KILLS {
        weir.kill();
        // Python takes its time to start: not in every round.
        for place in [world.app(), pod].into_iter().filter(|_| round % 5 == 0) {
            check_dead(place, open, vip);
        }
        weir.restart(&config);
    }
    let waiting = waiting(&weir.log());
    let [here, there] = loads.each_mut().map(Toll::of);
    let untouched = Toll::of(&mut direct);
    let refused = here.refused + there.refused;
    let in_backlog = waiting.saturating_sub(refused);
    println!(
        "{KILLS} kills: proxy lane {} served, {refused} refused, {} cut, {in_backlog} of them in the backlog \
         (host {here:?}, pod {there:?}); direct lane {untouched:?}",
        here.served + there.served,
        here.cut + there.cut,
    );
    assert_eq!((untouched.refused, untouched.cut), (0, 0), "the direct lane needs no process");
    for toll in [here, there] {
        // Only who is stopped between the look at the sign of life and its SYN, for longer than a process takes to end.
        assert!(toll.refused <= 2, "{toll:?}");
        // Those that a worker carried or had not accepted yet when the kill came: one for each thread, and few more.
        assert!(toll.cut <= KILLS * THREADS * 4, "{toll:?}");
        assert!(toll.served > 1000, "{toll:?}");
    }
    assert!(weir.terminate().success(), "{}", weir.log());
    assert!(!node::has_pins());
    wait::until_true("the programs to go", Duration::from_secs(20), || node::attached_programs() == before);
}

#[test]
fn a_weir_that_the_kernel_kills_for_its_memory_leaves_the_node_as_any_other() {
    let (Some(world), Some(bound)) = (World::new(), MemoryBound::new("oom")) else {
        skip::skip("a Weir without memory: there is no memory controller");
        return;
    };
    let grid = Grid::new(&world);
    let (vip, closed) = closed(&grid);
    let config = config::config(&world, grid.services().into_iter().chain([closed]));
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let open = Grid::address(Lane::Proxy, Family::V4);
    let mut load = world.app().start("load", &[&open, &THREADS]);
    assert_eq!(load.next()["started"], true);
    bound.set_limit(NO_MEMORY_BYTES);
    bound.admit(weir.pid());
    let status = weir.wait(SOON);
    assert_eq!((status.signal(), bound.kills()), (Some(SIGKILL), 1), "{status}: {}", weir.log());
    check_dead(world.app(), open, vip);
    weir.restart(&config);
    let said = world.app().run("ask", &[&vip]);
    assert_eq!(said["names"], json!(["four"]), "served again: {said}");
    let toll = Toll::of(&mut load);
    println!("out of memory: {toll:?}");
    assert!(toll.refused <= THREADS && toll.served > 100, "{toll:?}");
}

#[test]
fn a_killed_process_has_taken_back_its_signs_of_life_before_its_sockets_go() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let Some(mut weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    let beats = heartbeats(weir.pid());
    let beat = |worker: u32| {
        let mut time = [0; 8];
        beats.lookup(&worker.to_ne_bytes(), &mut time).expect("an element of an array");
        u64::from_ne_bytes(time)
    };
    wait::until_true("a sign of life", SOON, || beat(0) > 0);
    weir.kill();
    let alive: Vec<u32> = (0..WORKER_MAX).filter(|worker| beat(*worker) != 0).collect();
    assert!(alive.is_empty(), "workers {alive:?}");
}

/// Most workers that the kernel programs know.
const WORKER_MAX: u32 = 1024;
/// BPF_MAP_TYPE_ARRAY
const ARRAY: u32 = 2;

/// The signs of life that a process gives; the map lives for as long as this is held.
fn heartbeats(pid: u32) -> RawMap {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("it runs");
    let said = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let ids = said.filter_map(|said| {
        let field = |name| said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
        let shape = ["map_type:", "value_size:", "max_entries:"].map(field);
        (shape == [Some(ARRAY), Some(8), Some(WORKER_MAX)]).then(|| field("map_id:"))?
    });
    let id = ids.last().expect("a map of this shape");
    RawMap::new(bpf::map_get(id).expect("it is there"), 4, 8, None).expect("it has this shape")
}

/// A service that refuses whenever nobody serves it.
fn closed(grid: &Grid) -> (SocketAddr, Value) {
    let vip = Family::V4.vip(5, PORT);
    let host = grid.server(Family::V4).0.address();
    (vip, config::service("closed", vip, &[host], Lane::Proxy, json!({"fail": "closed"})))
}

/// While nobody serves them, a service that is open goes directly, and one that is closed refuses at once.
fn check_dead(place: Place<'_>, open: SocketAddr, closed: SocketAddr) {
    let said = place.run("ask", &[&open]);
    assert_eq!(said["names"], json!(["four"]), "goes directly: {said}");
    let said = place.run("timed_connect", &[&closed]);
    assert_eq!(said["connect"], "ECONNREFUSED", "{said}");
    assert!(said["seconds"].as_f64().is_some_and(|seconds| seconds < AT_ONCE), "{said}");
}

/// Connections that each next process found not accepted.
fn waiting(log: &str) -> usize {
    let lines = log.lines().filter(|line| line.contains("were not accepted yet"));
    let counts = lines.filter_map(|line| line.rsplit_once("count=")?.1.trim().parse::<usize>().ok());
    counts.sum()
}
