//! What pods cost: memory, descriptors, a scrape; and what a worker pays for requests and connections from within one.
//! Of the figures only those are asserted that belong to no machine: `bench/PERFORMANCE.md` says how to read them.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use proxy_io::sock;
use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::net::{Family, Side};
use proxy_tests::node::Weir;
use proxy_tests::swarm::Swarm;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// Pods in the usual run; `WEIR_TEST_PODS=500` is a large node.
const PODS: u64 = 60;
/// Descriptors of a pod: its namespace, and a listener for each family.
const DESCRIPTORS: u64 = 3;
/// Most memory of a pod: 500 of them in 32 MiB.
const MOST_BYTES: u64 = 64 << 10;
/// What the allocator of each thread may take at once, for many pieces of sizes that nobody had wanted before.
const POOL_BYTES: u64 = 8 << 20;
/// Enough that what disturbs a few of them does not show.
const REQUESTS: u32 = 2000;
const CONNECTIONS: u32 = 500;
const ROUNDS: usize = 5;
/// Looks with the same result after which it is believed.
const SETTLED_LOOKS: u32 = 20;
/// Some looks at pods, one of which comes each second.
const RESTING: Duration = Duration::from_secs(3);

fn served(weir: &Weir<'_>) -> u64 {
    map_entries(weir, "NETNS")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it counts")]
fn map_entries(weir: &Weir<'_>, map: &str) -> u64 {
    weir.metrics().sum("weir_map_entries", &[("map", map)]) as u64
}

/// Descriptors, when those of the last questions to the admin interface are closed.
fn descriptors(weir: &Weir<'_>) -> u64 {
    let count = || fs::read_dir(format!("/proc/{}/fd", weir.pid())).map_or(0, Iterator::count) as u64;
    let (mut last, mut looks) = (count(), 0);
    wait::until("descriptors to settle", SOON, || {
        let now = count();
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        (looks == SETTLED_LOOKS).then_some(now)
    })
}

#[test]
fn a_pod_costs_little_memory_and_three_descriptors() {
    let pods = std::env::var("WEIR_TEST_PODS").map_or(PODS, |text| text.parse().expect("a number of pods"));
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let mut config = config::config(&world, grid.services());
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let address = Grid::address(Lane::Proxy, Family::V4);
    // what is made once is made now
    let _ = Swarm::run(&world, (8, 8, 0.5), &[address]).next();
    wait::until_true("nobody to be left", SOON, || served(&weir) == 0 && world.net.cables() == 0);
    let before = (weir.memory_bytes(), descriptors(&weir), scrape(&weir));
    let mut swarm = Swarm::run(&world, (pods, pods, 0.0), &[address]);
    let said = swarm.next();
    assert_eq!(said["asked"][address.to_string()], json!({"four": pods}), "{}", ends(&weir));
    wait::until_true("all of them to be served", SOON, || served(&weir) == pods);
    wait::until_true("their connections to be over", SOON, || {
        weir.metrics().sum("weir_proxied_connections", &[]) < 0.5
    });
    let after = (weir.memory_bytes(), descriptors(&weir), scrape(&weir));
    let grown = after.0.saturating_sub(before.0);
    let each = grown / pods;
    println!(
        "{pods} pods: {:.1} KiB of memory each; {} descriptors, {} of them listeners; scrape {:.1} ms, {:.1} ms without pods",
        each as f64 / 1024.0,
        after.1 - before.1,
        2 * pods,
        after.2.as_secs_f64() * 1e3,
        before.2.as_secs_f64() * 1e3,
    );
    let by_cgroup = rest(&weir);
    config["intercept"]["scopes"] = json!([{"pods": {}}]);
    weir.reload(&config);
    assert_eq!(served(&weir), pods, "chosen as pods now");
    println!("at rest {by_cgroup:?} of CPU a second, {:?} where scopes choose pods", rest(&weir));
    assert_eq!(after.1 - before.1, DESCRIPTORS * pods, "{before:?} {after:?}");
    assert!(grown <= pods * MOST_BYTES + POOL_BYTES, "{before:?} {after:?}");
    swarm.end();
    let _ = swarm.next();
    wait::until_true("nobody to be left", SOON, || served(&weir) == 0 && descriptors(&weir) == before.1);
}

/// How connections have ended so far.
fn ends(weir: &Weir<'_>) -> String {
    let metrics = weir.metrics();
    let ends = metrics.matching("weir_connections_closed_total", &[]);
    ends.map(|(series, count)| format!("{series} {count}\n")).collect()
}

/// Processor time that it takes in a second in which nobody connects.
fn rest(weir: &Weir<'_>) -> Duration {
    let (began, before) = (Instant::now(), cpu(weir, ""));
    wait::until_true("some looks to be over", SOON, || began.elapsed() > RESTING);
    (cpu(weir, "") - before).div_f64(began.elapsed().as_secs_f64())
}

/// The usual time of a scrape.
fn scrape(weir: &Weir<'_>) -> Duration {
    let once = || {
        let began = Instant::now();
        let (status, _) = weir.ask("/metrics").expect("it answers");
        assert_eq!(status, 200);
        began.elapsed()
    };
    median((0..2 * ROUNDS).map(|_| once()).collect())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_worker_pays_no_more_for_a_request_from_a_pod_and_little_for_its_source() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let pod = world.pod(1).side;
    for side in [Side::Near, pod] {
        world.net.reuse_ports(side).expect("a setting of every kernel");
    }
    let mut config = config::config(&world, grid.services());
    config["workers"] = json!(1);
    config["intercept"]["scopes"] =
        json!([{"netns": world.net.path(Side::Near)}, {"netns": world.net.path(pod)}]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    wait::until_true("the pod to be served", SOON, || served(&weir) == 1);
    let address = Grid::address(Lane::Proxy, Family::V4);
    let (mut of_host, mut of_pod) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_host.push(requests(&world, &weir, Side::Near, address));
        of_pod.push(requests(&world, &weir, pod, address));
    }
    println!("a request: {:?} of a worker from the host, {:?} from a pod", median(of_host), median(of_pod));
    let mut by_source = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (source, costs) in ["pod", "node"].into_iter().zip(&mut by_source) {
            config["intercept"]["source"] = json!(source);
            weir.reload(&config);
            costs.push(connections(&world, &weir, pod, address));
        }
    }
    let [by_pod, by_node] = by_source.map(median);
    println!("a connection: {by_pod:?} of a worker with source: pod, {by_node:?} with source: node");
    let status: Value = serde_json::from_str(&weir.ask("/status").expect("it answers").1).expect("JSON");
    assert_eq!((&status["phase"], &status["panics"]), (&json!("ready"), &json!(0)));
    let least = (ROUNDS * 2) as f64 * f64::from(CONNECTIONS);
    assert!(weir.metrics().sum("weir_connections_opened_total", &[("lane", "proxy")]) > least, "by workers");
}

/// Processor time of a worker for one question and answer on a connection that is there.
fn requests(world: &World, weir: &Weir<'_>, side: Side, address: SocketAddr) -> Duration {
    let asked = world.net.run(side, || {
        let mut stream = connect(address);
        ask(&mut stream);
        let before = worker_cpu(weir);
        (0..REQUESTS).for_each(|_| ask(&mut stream));
        (worker_cpu(weir) - before) / REQUESTS
    });
    asked.expect("root may enter")
}

/// Processor time of a worker for one connection that asks once.
fn connections(world: &World, weir: &Weir<'_>, side: Side, address: SocketAddr) -> Duration {
    let asked = world.net.run(side, || {
        let before = worker_cpu(weir);
        for _ in 0..CONNECTIONS {
            let mut stream = connect(address);
            ask(&mut stream);
            // No port rests after this.
            sock::set_linger_reset(stream.get_ref()).expect("an option of every kernel");
        }
        (worker_cpu(weir) - before) / CONNECTIONS
    });
    asked.expect("root may enter")
}

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, SOON).expect("it is served");
    stream.set_nodelay(true).expect("an option of every kernel");
    BufReader::new(stream)
}

fn ask(stream: &mut BufReader<TcpStream>) {
    stream.get_mut().write_all(b"name x\n").expect("it is open");
    let mut answer = String::new();
    stream.read_line(&mut answer).expect("it answers");
    assert_eq!(answer, "four x\n");
}

fn worker_cpu(weir: &Weir<'_>) -> Duration {
    cpu(weir, "weir-worker")
}

/// Processor time so far of threads whose names begin so, from the scheduler (proc_pid_schedstat: nanoseconds, then others).
fn cpu(weir: &Weir<'_>, threads: &str) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", weir.pid())).expect("it runs");
    let of_task = |task: fs::DirEntry| {
        let read = |name| fs::read_to_string(task.path().join(name)).ok();
        let is_wanted = read("comm")?.starts_with(threads);
        let ns = read("schedstat")?.split_whitespace().next()?.parse().ok()?;
        is_wanted.then_some(Duration::from_nanos(ns))
    };
    tasks.flatten().filter_map(of_task).sum()
}
