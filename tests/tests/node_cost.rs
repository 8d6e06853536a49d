//! What the kernel programs cost a connect, by the kernel's own count. Nothing is asserted of the figures, which belong to a machine:
//! `bench/PERFORMANCE.md` says how to read them.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use proxy_io::{bpf, sock};
use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::net::{Family, Side};
use proxy_tests::node::Weir;
use proxy_tests::world::World;
use serde_json::{Value, json};

/// Counts runs and times of every program on the machine while it is 1 (Linux 5.1).
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
const LINK: &str = "/sys/fs/bpf/weir/links/weir_connect4";
/// Enough that what disturbs a few of them does not show.
const CONNECTS: u64 = 5000;
const ROUNDS: usize = 5;
const SOON: Duration = Duration::from_secs(20);

/// The kernel's statistics, until this is dropped.
struct Counting(String);

impl Counting {
    fn start() -> Self {
        let before = fs::read_to_string(STATISTICS).expect("every kernel has it");
        fs::write(STATISTICS, "1").expect("root may");
        Self(before)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = fs::write(STATISTICS, self.0.trim());
    }
}

/// Nanoseconds and runs so far of the program for connect() of IPv4.
fn runs(process: u32) -> (u64, u64) {
    let link = bpf::obj_get(Path::new(LINK)).expect("it is attached");
    let program = bpf::field(link.as_fd(), "prog_id").expect("a link has a program").to_string();
    let files = fs::read_dir(format!("/proc/{process}/fdinfo")).expect("it runs");
    let read = |text: String| {
        let field =
            |name| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let number = |name| field(name)?.parse().ok();
        // A link has the program's number, too, but no times.
        if field("prog_id") == Some(&program) {
            Some((number("run_time_ns")?, number("run_cnt")?))
        } else {
            None
        }
    };
    let mut found = files.flatten().filter_map(|file| read(fs::read_to_string(file.path()).ok()?));
    found.next().expect("Weir holds its programs")
}

/// Connects and lets go, many times; gives how long the program took each time, in nanoseconds.
fn cost(world: &World, weir: &Weir<'_>, address: SocketAddr) -> f64 {
    let (time_before, count_before) = runs(weir.pid());
    let connects = world.net.run(Side::Near, || {
        for _ in 0..CONNECTS {
            let stream = TcpStream::connect_timeout(&address, SOON).expect("it is served");
            // No port rests after this.
            sock::set_linger_reset(&stream).expect("an option of every kernel");
        }
    });
    connects.expect("root may enter");
    let (time, count) = runs(weir.pid());
    assert!(count - count_before >= CONNECTS, "it has seen all of them");
    (time - time_before) as f64 / (count - count_before) as f64
}

#[test]
fn what_a_connect_costs_is_counted_by_the_kernel() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let mut config = config::config(&world, grid.services());
    config["intercept"]["scopes"] = json!([{"netns": world.net.path(Side::Near)}]);
    let _counting = Counting::start();
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    for lane in Lane::ALL {
        let address = Grid::address(lane, Family::V4);
        let mut costs: Vec<f64> = (0..ROUNDS).map(|_| cost(&world, &weir, address)).collect();
        costs.sort_by(f64::total_cmp);
        println!(
            "{} lane: {:.0} ns for each connect in weir_connect4 ({:.0} to {:.0})",
            lane.as_str(),
            costs[ROUNDS / 2],
            costs[0],
            costs[ROUNDS - 1]
        );
    }
    let said: Value = serde_json::from_str(&weir.ask("/status").expect("it answers").1).expect("JSON");
    assert_eq!(said["phase"], "ready", "{said}");
}
