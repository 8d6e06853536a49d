//! Living with others: their programs on the same hooks, their pins and files under our names, their sockets on our ports.

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use proxy_io::mount;
use proxy_tests::config::{self, Grid, Lane};
use proxy_tests::foreign::Foreign;
use proxy_tests::net::Family;
use proxy_tests::node::{self, Weir};
use proxy_tests::process::{self, Running};
use proxy_tests::scratch::Scratch;
use proxy_tests::world::World;
use proxy_tests::{cgroup, wait};
use proxy_user::takeover::ABI_VERSION;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const BPFFS: &str = "/sys/fs/bpf";
const PINS: &str = "/sys/fs/bpf/weir";

/// What `weir doctor` says of one thing.
fn doctor(world: &World, what: &str, more: &[&str]) -> Vec<Value> {
    let arguments = [&["doctor", "-o", "json"], more].concat();
    let output =
        world.outside().command(&node::binary()).args(arguments).output().expect("it can be started");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let findings = report["findings"].as_array().expect("a list").iter();
    findings.filter(|finding| finding["what"] == what).cloned().collect()
}

fn says(findings: &[Value], parts: &[&str]) -> bool {
    let text = |finding: &Value| format!("{} {}", finding["found"], finding["advice"]);
    findings.iter().any(|finding| parts.iter().all(|part| text(finding).contains(part)))
}

/// Runs a Weir that must refuse to start.
fn refused(world: &World, config: &Value) -> String {
    let folder = Scratch::new("refused");
    let file = folder.file("weir.yaml", config.to_string());
    let mut command = world.outside().command(&node::binary());
    let Output { status, stderr, .. } =
        command.args(["run", "-c", &file]).output().expect("it can be started");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success(), "{said}");
    said
}

fn serves(world: &World, grid: &Grid) {
    for (lane, family, path) in grid.paths(world) {
        let said = path.place.run("ask", &[&path.address, &"2"]);
        assert_eq!(said["names"], json!([grid.server(family).1; 2].to_vec()), "{lane:?} {family:?}: {said}");
    }
}

#[test]
fn programs_of_others_run_beside_ours_stay_when_we_go_and_doctor_names_them() {
    const WHAT: &str = "other BPF programs on our hooks";
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let before = node::attached_programs();
    let root = cgroup::mount().expect("cgroup v2 is mounted");
    let early = Foreign::program(world.outside(), "cil_sock4_connect", &[&root, world.app.path()]);
    let Some(mut weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    let late = Foreign::program(world.outside(), "somebodys", &[&root]);
    serves(&world, &grid);
    let found = doctor(&world, WHAT, &[]);
    assert!(says(&found, &["cil_sock4_conne", "connect4", "cgroup /,", "Cilium", "socketLB"]), "{found:?}");
    assert!(says(&found, &["cil_sock4_conne", &world.app.scope()]), "{found:?}");
    assert!(says(&found, &["somebodys", "comes first decides"]), "{found:?}");
    assert!(!says(&found, &["weir_"]), "ours are not others': {found:?}");
    assert!(weir.terminate().success(), "{}", weir.log());
    wait::until_true("our programs to go, and only those", SOON, || node::attached_programs() == before + 2);
    let found = doctor(&world, WHAT, &[]);
    assert!(says(&found, &["somebodys"]), "{found:?}");
    drop((early, late));
    wait::until_true("theirs to go", SOON, || node::attached_programs() == before);
}

/// A bpffs that somebody else has mounted, as on most machines.
struct Bpffs {
    is_ours: bool,
}

impl Bpffs {
    fn new() -> Self {
        let is_ours = !mount::is_bpffs(Path::new(BPFFS));
        if is_ours {
            process::output(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS])).expect("root may");
        }
        Self { is_ours }
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = process::output(Command::new("umount").arg(BPFFS));
        }
    }
}

#[test]
fn what_others_pinned_under_our_names_is_refused_by_name_and_left_alone() {
    let Some(world) = World::new() else { return };
    let _bpffs = Bpffs::new();
    let grid = Grid::new(&world);
    let config = config::config(&world, grid.services());
    let maps = node::maps_folder(ABI_VERSION);
    let (link, map) = (format!("{PINS}/links/weir_connect4"), format!("{}/LOADS", maps.display()));
    fs::create_dir_all(format!("{PINS}/links")).expect("bpffs is mounted");
    Foreign::pin(world.outside(), &link);
    let before = node::attached_programs();
    let said = refused(&world, &config);
    assert!(said.contains(&link) && said.contains("not a link"), "{said}");
    assert!(Path::new(&link).exists(), "it is not ours to remove");
    assert_eq!(node::attached_programs(), before);
    assert!(says(&doctor(&world, "pins", &[]), &[&link]));
    fs::remove_file(&link).expect("it is there");

    // a map of ours that holds something else
    fs::create_dir_all(&maps).expect("bpffs is mounted");
    Foreign::pin(world.outside(), &map);
    let said = refused(&world, &config);
    assert!(said.contains(&map), "{said}");
    assert!(Path::new(&map).exists(), "it is not ours to remove");
    fs::remove_file(&map).expect("it is there");
    let Some(_weir) = Weir::start(&world.net, &config) else { return };
    serves(&world, &grid);
}

/// A machine's view of its file systems in which bpffs is not mounted.
struct Unmounted(Running);

impl Unmounted {
    fn new(world: &World) -> Self {
        let script = "if mountpoint -q /sys/fs/bpf; then umount -l /sys/fs/bpf || exit; fi; echo ready; exec sleep 1000";
        let mut command = world.outside().command(Path::new("unshare"));
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
        let holder = Running::start(&mut command).expect("unshare can be started");
        assert_eq!(holder.line(SOON).as_deref(), Some("ready"));
        Self(holder)
    }

    /// What a command begins with that is to have this view.
    fn enter(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.0.pid())]
    }

    fn run(&self, program: &Path, arguments: &[&str]) {
        let [nsenter, mount] = self.enter();
        let mut command = Command::new(nsenter);
        process::output(command.arg(mount).arg(program).args(arguments)).expect("it succeeds");
    }

    fn is_mounted(&self) -> bool {
        mount::is_bpffs(Path::new(&format!("/proc/{}/root/sys/fs/bpf", self.0.pid())))
    }
}

#[test]
fn a_bpffs_that_weir_has_mounted_goes_with_it_unless_others_use_it() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let before = node::attached_programs();
    let config = config::config(&world, grid.services());
    let view = Unmounted::new(&world);
    assert!(!view.is_mounted());
    let enter = view.enter();
    let starter = enter.each_ref().map(String::as_str);
    let start = || {
        let weir = Weir::start_with(&world.net, &config, &starter, &[])?;
        serves(&world, &grid);
        assert!(view.is_mounted(), "{}", weir.log());
        Some(weir)
    };
    let none_left = || {
        wait::until_true("our programs to go", SOON, || node::attached_programs() == before);
        assert!(!Path::new("/run/weir").exists());
    };
    let Some(mut weir) = start() else { return };
    assert!(weir.terminate().success(), "{}", weir.log());
    assert!(!view.is_mounted(), "{}", weir.log());
    none_left();

    // it is known to be Weir's after a kill, too
    let Some(mut weir) = start() else { return };
    weir.kill();
    assert!(view.is_mounted());
    view.run(&node::binary(), &["detach"]);
    assert!(!view.is_mounted());
    none_left();
    drop(weir);

    let Some(mut weir) = start() else { return };
    view.run(Path::new("mkdir"), &["/sys/fs/bpf/somebody"]);
    assert!(weir.terminate().success(), "{}", weir.log());
    assert!(view.is_mounted(), "somebody uses it");
    none_left();
    view.run(Path::new("rmdir"), &["/sys/fs/bpf/somebody"]);

    // now it is not Weir's any more, as on most machines from the start
    let Some(mut weir) = start() else { return };
    assert!(weir.terminate().success(), "{}", weir.log());
    assert!(view.is_mounted());
    none_left();
}

#[test]
fn what_dead_processes_left_in_run_weir_is_stepped_around() {
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let run = Path::new("/run/weir");
    fs::create_dir_all(run).expect("root may");
    for name in ["admin.sock", "takeover.sock"] {
        let path = run.join(name);
        let _ = fs::remove_file(&path);
        drop(UnixListener::bind(&path).expect("root may"));
    }
    fs::write(run.join("names.json"), "{\"service\":[1,\"grid/direct-four\"]}\n{\"serv").expect("root may");
    fs::write(run.join("names.new"), "half").expect("root may");
    fs::write(run.join("weir.pid"), "not a number").expect("root may");
    let Some(mut weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    serves(&world, &grid);
    assert!(
        doctor(&world, "Weir", &[])[0]["found"].as_str().is_some_and(|found| found.contains("is running"))
    );
    weir.signal("-STOP");
    assert!(says(&doctor(&world, "Weir", &[]), &["does not answer"]));
    weir.signal("-CONT");
    assert!(weir.terminate().success(), "{}", weir.log());
    let left: Vec<_> =
        fs::read_dir(run).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "nothing stays: {left:?}");
    // a socket of somebody who does not speak our language
    fs::create_dir_all(run).expect("root may");
    let other = UnixDatagram::bind(run.join("admin.sock")).expect("root may");
    let Some(_weir) = Weir::start(&world.net, &config::config(&world, grid.services())) else { return };
    serves(&world, &grid);
    drop(other);
}

#[test]
fn an_application_on_one_of_our_ports_is_named() {
    const WHAT: &str = "ports of the proxy lane";
    let Some(world) = World::new() else { return };
    let grid = Grid::new(&world);
    let pod = world.pod(1);
    let mut config = config::config(&world, grid.services());
    config["intercept"]["scopes"] =
        json!([{"cgroup": world.app.scope()}, {"netns": world.net.path(pod.side)}]);
    let taker = Foreign::listen(world.outside(), "0.0.0.0", "61500");
    let found = doctor(&world, WHAT, &[]);
    assert!(says(&found, &["python", &taker.pid().to_string(), "0.0.0.0:61500"]), "{found:?}");
    let said = refused(&world, &config);
    assert!(said.contains("61500") && said.contains("weir doctor"), "{said}");
    let left = [PINS, "/run/weir"].map(|path| Path::new(path).exists());
    assert_eq!(left, [false; 2], "a start that fails leaves nothing");
    drop(taker);
    let taker = Foreign::listen(pod, "0.0.0.0", "61500");
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    serves(&world, &grid);
    wait::until_true("the log to say so", SOON, || weir.log().contains("cannot serve a network namespace"));
    let said = pod.run("ask", &[&Grid::address(Lane::Proxy, Family::V4)]);
    assert_eq!(said["names"], json!(["four"]), "the direct lane: {said}");
    assert!(!says(&doctor(&world, WHAT, &[]), &["weir"]), "our own are not others'");
    drop(taker);
    wait::until_true("the namespace to be served", SOON, || {
        weir.log().contains("network namespace is served")
    });
}

#[test]
fn a_scope_that_is_a_cgroup_of_v1_only_is_a_problem_with_a_way_out() {
    let Some(world) = World::new() else { return };
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("it is mounted");
    let v1 = mounts.lines().find(|line| line.contains(" - cgroup ")).and_then(|line| line.split(' ').nth(4));
    let Some(v1) = v1 else { return proxy_tests::skip::skip("cgroup v1 is not mounted here") };
    let name = format!("weir-test-v1-{}", std::process::id());
    let dir = Path::new(v1).join(&name);
    fs::create_dir(&dir).expect("root may");
    let folder = Scratch::new("v1");
    let config = json!({"intercept": {"scopes": [{"cgroup": format!("/{name}")}]}, "services": []});
    let file = folder.file("weir.yaml", config.to_string());
    let found = doctor(&world, &format!("scope /{name}"), &["-c", &file]);
    fs::remove_dir(&dir).expect("it is empty");
    assert!(says(&found, &["v1 only", "netns"]), "{found:?}");
    assert_eq!(found[0]["level"], "problem");
}
