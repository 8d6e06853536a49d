//! A disk that is full: logs are lost and that is counted, and nothing else happens.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::scratch::Scratch;
use proxy_tests::world::World;
use proxy_tests::{process, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// A disk of its own, small enough to be full soon; unmounted when dropped.
struct Disk(Scratch);

impl Disk {
    fn new() -> Self {
        let disk = Self(Scratch::new("disk"));
        let mount = ["-t", "tmpfs", "-o", "size=256k", "weir-test"];
        process::output(Command::new("mount").args(mount).arg(disk.path())).expect("root may");
        disk
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all the room that there is.
    fn fill(&self) {
        let mut file = File::create(self.filler()).expect("there is room for a name");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, because a Weir that is just ending may have a file open.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn serves(world: &World, grid: &Grid) {
    for lane in Lane::ALL {
        let said = world.app().run("ask", &[&Grid::address(lane, Family::V4), &"20"]);
        assert_eq!(said["names"], json!([grid.server(Family::V4).1; 20].to_vec()), "{lane:?}: {said}");
    }
}

#[test]
fn a_full_disk_costs_lines_of_the_access_log_and_they_are_counted() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let disk = Disk::new();
    let log = disk.path().join("access.log");
    let mut config = config::config(&world, grid.services());
    config["access_log"] = json!({"path": log});
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let lines = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    serves(&world, &grid);
    wait::until_true("the log to have them", SOON, || lines() >= 40);
    disk.fill();
    let dropped = || weir.metrics().sum("weir_access_log_dropped_total", &[]);
    wait::until_true("lines to be lost", SOON, || {
        serves(&world, &grid);
        dropped() > 0.5
    });
    serves(&world, &grid);
    let mentions = weir.log().matches("cannot write the access log").count();
    assert_eq!(mentions, 1, "once: {}", weir.log());
    disk.free();
    let (before, lost) = (lines(), dropped());
    serves(&world, &grid);
    wait::until_true("the log to go on", SOON, || lines() >= before + 40);
    assert!((dropped() - lost).abs() < 0.5, "nothing is lost any more");
    assert!(weir.log().contains("can be written again"), "{}", weir.log());
}

#[test]
fn a_full_disk_below_the_log_itself_ends_and_stops_nothing() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let disk = Disk::new();
    let log = disk.path().join("stderr");
    let config = config::config(&world, grid.services());
    let elsewhere = format!("exec \"$@\" 2>{}", log.display());
    let Some(mut weir) = Weir::start_with(&world.net, &config, &["sh", "-c", &elsewhere, "--"], &[]) else {
        return;
    };
    disk.fill();
    let length = || fs::metadata(&log).map_or(0, |file| file.len());
    // Each reload is a line, good or bad; a page of the file may still have room.
    wait::until_true("a line to be lost", SOON, || {
        let before = length();
        weir.reload(&config);
        weir.write_config("servces: []\n");
        assert!(weir.post("/reload").expect("it answers").0 >= 400);
        length() == before
    });
    serves(&world, &grid);
    let status: Value = serde_json::from_str(&weir.ask("/status").expect("it answers").1).expect("JSON");
    assert_eq!((&status["panics"], &status["phase"]), (&json!(0), &json!("ready")), "{status}");
    disk.free();
    weir.reload(&config);
    assert!(weir.terminate().success());
}
