//! Clocks that are not what they seem: a wall clock that is set, and a monotonic one that a namespace has shifted.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proxy_tests::client::number;
use proxy_tests::config::{self, Grid, Lane, PORT};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::scratch::Scratch;
use proxy_tests::world::World;
use proxy_tests::{process, skip, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// A name of Debian's multiarch folders comes between the two.
const FAKETIME: [&str; 2] = ["/usr/lib", "faketime/libfaketimeMT.so.1"];

/// Both lanes, and a service that is refused as soon as no worker seems to be alive.
fn config(world: &World, grid: &Grid) -> (SocketAddr, Value) {
    let vip = Family::V4.vip(5, PORT);
    let host = grid.server(Family::V4).0.address();
    let health = json!({"interval": "500ms", "timeout": "300ms"});
    let more = json!({"fail": "closed", "limits": {"idle_timeout": "1h"}, "health": health});
    let closed = config::service("closed", vip, &[host], Lane::Proxy, more);
    (vip, config::config(world, grid.services().into_iter().chain([closed])))
}

/// Seconds since the machine was started.
fn uptime() -> i64 {
    let text = fs::read_to_string("/proc/uptime").expect("every kernel has it");
    text.split('.').next().and_then(|seconds| seconds.parse().ok()).expect("seconds come first")
}

#[test]
fn in_a_time_namespace_signs_of_life_are_those_of_the_machine() {
    let Some(world) = World::new() else { return };
    if !fs::exists("/proc/self/timens_offsets").is_ok_and(|exists| exists) {
        return skip::skip("this kernel has no time namespaces");
    }
    let grid = Grid::new(&world);
    let (vip, config) = config(&world, &grid);
    // In the future a worker would never seem to hang, in the past it would never seem to be alive.
    for offset in [86_400, -uptime() / 2] {
        let starter = ["unshare", "--time", "--monotonic", &offset.to_string()];
        let Some(mut weir) = Weir::start_with(&world.net, &config, &starter, &[]) else { return };
        let offsets = fs::read_to_string(format!("/proc/{}/timens_offsets", weir.pid())).expect("it runs");
        assert!(offsets.contains(&offset.to_string()), "{offsets}");
        for (lane, family, path) in grid.paths(&world) {
            let said = path.place.run("ask", &[&path.address, &"5"]);
            let names = json!([grid.server(family).1; 5].to_vec());
            assert_eq!(said["names"], names, "{offset}: {lane:?} {family:?}: {said}");
        }
        let served = || world.app().run("ask", &[&vip, &"5"])["names"] == json!(["four"; 5].to_vec());
        assert!(served(), "{offset}: a worker is alive");
        weir.signal("-STOP");
        wait::until_true("it to be seen that it hangs", SOON, || {
            world.app().run("connect_only", &[&vip])["connect"] == "ECONNREFUSED"
        });
        weir.signal("-CONT");
        wait::until_true("it to be trusted again", SOON, served);

        // to a process that is not in the namespace
        let mut held = world.app().start("hold", &[&vip, &"3"]);
        assert_eq!(held.next()["answered"], 3);
        let mut older = weir.take_over(&config);
        assert!(older.wait(SOON).success(), "{}", weir.log());
        held.go_on("ask");
        assert_eq!(held.next()["answered"], 3, "{}", weir.log());
        let metrics = weir.metrics();
        assert!(metrics.sum("weir_takeover_connections", &[]) > 2.5);
        let pause = metrics.sum("weir_takeover_pause_seconds", &[]);
        assert!(pause > 0.0 && pause < 10.0, "{offset}: {pause}");
        assert!(served());
        assert!(weir.terminate().success(), "{}", weir.log());
    }
}

/// A wall clock that only one process sees, and that can be set.
struct WallClock {
    library: PathBuf,
    setting: Scratch,
}

impl WallClock {
    fn new() -> Option<Self> {
        let [folder, name] = FAKETIME;
        let folders = fs::read_dir(folder).into_iter().flatten().flatten();
        let library = folders.map(|folder| folder.path().join(name)).find(|path| path.is_file());
        if library.is_none() {
            skip::skip("faketime is not installed");
        }
        let clock = Self { library: library?, setting: Scratch::new("clock") };
        clock.set("+0");
        Some(clock)
    }

    /// Sets it to so much from the time that it is.
    fn set(&self, distance: &str) {
        let next = self.setting.file("next", distance);
        fs::rename(next, self.setting.path().join("now")).expect("the folder is ours");
    }

    /// What a command begins with that is to see it: its monotonic clock is the machine's, as it would be.
    fn environment(&self) -> Vec<String> {
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}/now", self.setting.path().display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "NO_FAKE_STAT=1".to_owned(),
        ]
    }
}

#[test]
fn a_wall_clock_that_is_set_changes_dates_and_nothing_else() {
    let (Some(world), Some(clock)) = (World::new(), WallClock::new()) else { return };
    let grid = Grid::new(&world);
    let (vip, mut config) = config(&world, &grid);
    let log = clock.setting.path().join("access.log");
    config["access_log"] = json!({"path": log});
    let environment = clock.environment();
    let starter: Vec<&str> = environment.iter().map(String::as_str).collect();
    let Some(mut weir) = Weir::start_with(&world.net, &config, &starter, &[]) else { return };
    let mut held = world.app().start("hold", &[&vip, &"3"]);
    assert_eq!(held.next()["answered"], 3);
    let addresses = [vip, Grid::address(Lane::Proxy, Family::V4), Grid::address(Lane::Direct, Family::V4)];
    let mut loads = addresses.map(|address| {
        let load = world.app().start("load", &[&address, &"1"]);
        assert_eq!(load.next()["started"], true);
        load
    });
    let started = process::output(std::process::Command::new("date").arg("+%Y")).expect("it is everywhere");
    let year: i64 = started.trim().parse().expect("a year");
    let checks = || weir.metrics().sum("weir_health_checks_total", &[]);
    for distance in [5, -20, 1, 10, -3, 0] {
        clock.set(&format!("{:+}", distance * 31_557_600));
        // Years differ in length, and it may be the last day of one.
        let years = [-1, 0, 1].map(|more| (year + distance + more).to_string());
        wait::until_true("a line with the new date", SOON, || {
            let lines = fs::read_to_string(&log).unwrap_or_default();
            lines
                .lines()
                .last()
                .is_some_and(|line| years.iter().any(|year| line.contains(&format!("{year}-"))))
        });
        let before = checks();
        wait::until_true("health checks to go on", SOON, || checks() > before + 1.5);
        weir.reload(&config);
    }
    held.go_on("ask");
    assert_eq!(held.next()["answered"], 3, "nothing has timed out");
    assert_eq!(held.next()["closed"], true);
    for load in &mut loads {
        load.go_on("stop");
        let said = load.next();
        assert_eq!(said["errors"], json!([]), "{said}");
        assert!(number(&said, "good") > 100, "{said}");
    }
    let status: Value = serde_json::from_str(&weir.ask("/status").expect("it answers").1).expect("JSON");
    assert_eq!((&status["panics"], &status["phase"]), (&json!(0), &json!("ready")), "{status}");
    assert!(weir.terminate().success(), "{}", weir.log());
}
