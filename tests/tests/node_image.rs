//! The image, as a DaemonSet runs it: its root file system and nothing else, with the mounts that the manifest gives.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use proxy_tests::client::Place;
use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::image::Image;
use proxy_tests::kubelet::pod_cgroups;
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
const UID: &str = "5a1f0c54-8f0e-4a63-9d0b-2f1f3a9f7c11";
const CONFIG: &str = "/etc/weir/weir.yaml";

#[test]
fn the_image_serves_as_a_daemon_set_runs_it() {
    let Some(world) = World::new() else { return };
    if ["strip", "ldd", "unshare"].iter().any(|program| world.program(program).is_none()) {
        return;
    }
    let image = Image::build().expect("the Dockerfile's commands run");
    let (binaries, libraries): (Vec<PathBuf>, Vec<PathBuf>) =
        image.files().into_iter().partition(|file| file.starts_with("/usr/bin"));
    assert_eq!(binaries, [Path::new("/usr/bin/weir")], "no other program");
    let is_library = |file: &PathBuf| file.to_string_lossy().contains(".so");
    assert!(libraries.len() <= 4 && libraries.iter().all(is_library), "{libraries:?}");
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let starter = image.starter();
    let starter: Vec<&str> = starter.iter().map(String::as_str).collect();
    let Some(weir) = Weir::start_with(&world.net, &config, &starter, &[]) else { return };
    for (lane, family, path) in grid.paths(&world) {
        let said = path.place.run("ask", &[&path.address, &"3"]);
        assert_eq!(said["names"], json!([grid.server(family).1; 3].to_vec()), "{lane:?} {family:?}: {said}");
    }
    // a pod, found by its sandbox and entered through /proc
    let [_pod, sandbox, container] = pod_cgroups(&world.app, UID);
    let place = world.pod(1);
    let pause = Place { cgroup: Some(&sandbox), ..place }.start("sleep", &[]);
    assert_eq!(pause.next()["started"], true);
    let served = || weir.metrics().sum("weir_map_entries", &[("map", "NETNS")]);
    wait::until_true("the pod to be found", SOON, || served() > 0.5);
    let before = weir.metrics().sum("weir_connections_opened_total", &[("lane", "proxy")]);
    let said = Place { cgroup: Some(&container), ..place }
        .run("addresses", &[&Grid::address(Lane::Proxy, Family::V4)]);
    assert_eq!(said["name"], "four", "{said}");
    assert!(
        weir.metrics().sum("weir_connections_opened_total", &[("lane", "proxy")]) > before + 0.5,
        "{said}"
    );
    // as kubectl exec
    let exec = |arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--target", &weir.pid().to_string(), "--mount", "--cgroup", "--net", "--root", "--wd"]);
        let output = command.arg("/usr/bin/weir").args(arguments).output().expect("nsenter runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (is_good, shown) = exec(&["check", CONFIG]);
    assert!(is_good && shown.contains("OK: 4 services"), "{shown}");
    let (is_good, shown) = exec(&["status"]);
    assert!(is_good && shown.contains("ready"), "{shown}");
    let (is_good, shown) = exec(&["doctor", "-c", CONFIG]);
    assert!(is_good && shown.contains("programs attached") && shown.contains("0 problems"), "{shown}");
    drop(pause);
}
