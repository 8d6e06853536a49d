//! Pods as scopes: by namespace and label, as the kubelet tells them.

use std::net::SocketAddr;
use std::time::Duration;

use proxy_tests::cgroup::Cgroup;
use proxy_tests::client::{Client, Place};
use proxy_tests::config::{self, Grid, Lane, SERVER_PORT};
use proxy_tests::kubelet::{Kubelet, pod, pod_cgroups};
use proxy_tests::net::{Family, Net, Side};
use proxy_tests::node::{Weir, binary};
use proxy_tests::scratch::Scratch;
use proxy_tests::upstream::Server;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// Uids that nobody else's pods on this machine have: two of pods, and the hash of a static pod's file.
struct Uids {
    web: String,
    db: String,
    of_file: String,
}

impl Uids {
    fn new() -> Self {
        let own = std::process::id();
        let uid = |number: u8| format!("{own:08x}-8f0e-4a63-9d0b-2f1f3a9f7c{number:02x}");
        Self { web: uid(1), db: uid(2), of_file: format!("{own:08x}bd0d6e3f5d9b7e1a2c3d4e5f") }
    }
}

/// What kubelets make all cgroups of pods in.
fn kubepods(world: &World) -> Cgroup {
    world.app.child("kubepods.slice").expect("root may")
}

/// A pod with a sandbox that runs.
struct Pod<'a> {
    net: &'a Net,
    number: u8,
    /// Ends before its cgroup goes.
    pause: Client,
    /// Of the container, of the sandbox, of the pod: removed in this order.
    cgroups: [Cgroup; 3],
}

impl<'a> Pod<'a> {
    fn new(world: &'a World, above: &Cgroup, number: u8, uid: &str) -> Self {
        let [whole, sandbox, container] = pod_cgroups(above, uid);
        let pause = Place { cgroup: Some(&sandbox), ..world.pod(number) }.start("sleep", &[]);
        assert_eq!(pause.next()["started"], true);
        Self { net: &world.net, number, pause, cgroups: [container, sandbox, whole] }
    }

    fn place(&self) -> Place<'_> {
        let side = Side::Pod(self.number);
        Place { net: self.net, side, cgroup: Some(&self.cgroups[0]) }
    }
}

/// An address that exists, and means another server for those who are caught.
struct Moved {
    grid: Grid,
    real: SocketAddr,
    _untouched: Server,
}

impl Moved {
    fn new(world: &World) -> Self {
        let real = Family::V4.host(12, SERVER_PORT);
        Self { grid: Grid::new(world), real, _untouched: world.server(real, "untouched") }
    }

    fn config(&self, world: &World, scopes: Value, kubelet: Option<&Kubelet<'_>>) -> Value {
        let to = [self.grid.server(Family::V4).0.address()];
        let moved = config::service("moved", self.real, &to, Lane::Proxy, Value::Null);
        let mut config = config::config(world, [moved]);
        config["intercept"] = json!({"scopes": scopes});
        if let Some(kubelet) = kubelet {
            config["intercept"]["kubelet"] = kubelet.config();
        }
        config
    }

    fn is_caught(&self, pod: &Pod<'_>) -> bool {
        let said = pod.place().run("ask", &[&self.real]);
        match said["names"][0].as_str() {
            Some("four") => true,
            Some("untouched") => false,
            _ => panic!("{said}"),
        }
    }
}

fn pods(weir: &Weir<'_>, state: &str) -> f64 {
    weir.metrics().sum("weir_pods", &[("state", state)])
}

fn asked(weir: &Weir<'_>, result: &str) -> f64 {
    weir.metrics().sum("weir_kubelet_requests_total", &[("result", result)])
}

fn served(weir: &Weir<'_>) -> f64 {
    weir.metrics().sum("weir_map_entries", &[("map", "NETNS")])
}

/// Has the kubelet tell of two pods, with these labels.
fn tell_shop(kubelet: &Kubelet, uids: &Uids, of_web: Value, of_db: Value) {
    kubelet.tell(&[pod("shop", "web-1", &uids.web, of_web), pod("shop", "db-0", &uids.db, of_db)]);
}

#[test]
fn pods_are_caught_by_the_labels_that_the_kubelet_tells() {
    let Some(world) = World::new() else { return };
    let (moved, kubelet) = (Moved::new(&world), Kubelet::start(&world.net, false));
    let uids = Uids::new();
    let above = kubepods(&world);
    let (web, db) = (Pod::new(&world, &above, 1, &uids.web), Pod::new(&world, &above, 2, &uids.db));
    let tell = |of_web: &str, of_db: &str| {
        let app = |value: &str| json!({"app": value, "pod-template-hash": "7d9f8c6b5"});
        tell_shop(&kubelet, &uids, app(of_web), app(of_db));
    };
    tell("web", "db");
    let scopes = json!([{"pods": {"namespaces": ["shop", "bank"], "labels": {"app": "web"}}}]);
    let config = moved.config(&world, scopes, Some(&kubelet));
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    assert_eq!((pods(&weir, "chosen"), pods(&weir, "other")), (1.0, 1.0), "from the start");
    wait::until_true("the pod's namespace to be served", SOON, || served(&weir) > 0.5);
    assert!(moved.is_caught(&web) && !moved.is_caught(&db));
    // a pod that comes is asked for at once, and one that is static bears the hash of its file
    let mut mirror =
        pod("bank", "etcd-node-1", "0b8d2b5e-5c4a-4b0b-9a56-0c2f1a7d3e21", json!({"app": "web"}));
    mirror["metadata"]["annotations"] =
        json!({"kubernetes.io/config.hash": uids.of_file, "kubernetes.io/config.source": "file"});
    kubelet.tell(&[pod("shop", "web-1", &uids.web, json!({"app": "web"})), mirror]);
    let of_file = Pod::new(&world, &above, 3, &uids.of_file);
    wait::until_true("it to be chosen", SOON, || pods(&weir, "chosen") > 1.5 && served(&weir) > 1.5);
    assert!(moved.is_caught(&of_file));
    assert_eq!(pods(&weir, "other"), 1.0, "what was known of the pod that was left out stays");
    drop(of_file);
    world.net.remove_pod(3);
    wait::until_true("it to be forgotten", SOON, || pods(&weir, "chosen") < 1.5 && served(&weir) < 1.5);
    // labels change
    tell("old", "web");
    wait::until_true("them to change places", SOON, || moved.is_caught(&db) && !moved.is_caught(&web));
    wait::until_true("one namespace to be served", SOON, || (served(&weir) - 1.0).abs() < 0.5);
    let why = |pod: &Pod<'_>| {
        let pid = pod.pause.pid();
        weir.ask(&format!("/why?address={}&process={pid}", moved.real)).expect("an answer").1
    };
    assert!(why(&db).contains("pods in bank or shop with app=web"), "{}", why(&db));
    assert!(why(&web).contains("in no scope"), "{}", why(&web));
    assert_eq!(asked(&weir, "bad"), 0.0);
    // a newer process knows them before it takes over
    let before = asked(&weir, "good");
    let mut older = weir.take_over(&config);
    assert!(moved.is_caught(&db) && !moved.is_caught(&web), "{}", weir.log());
    assert!(older.wait(SOON).success() && asked(&weir, "good") > before, "counters go on");
}

#[test]
fn a_kubelet_that_dies_or_talks_nonsense_changes_nothing() {
    let Some(world) = World::new() else { return };
    let (moved, mut kubelet) = (Moved::new(&world), Kubelet::start(&world.net, false));
    let uids = Uids::new();
    let above = kubepods(&world);
    let (web, db) = (Pod::new(&world, &above, 1, &uids.web), Pod::new(&world, &above, 2, &uids.db));
    let list = [
        pod("shop", "web-1", &uids.web, json!({"app": "web"})),
        pod("shop", "db-0", &uids.db, json!({"app": "db"})),
    ];
    kubelet.tell(&list);
    let scopes = json!([{"pods": {"labels": {"app": "web"}}}]);
    let config = moved.config(&world, scopes, Some(&kubelet));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    wait::until_true("the pod's namespace to be served", SOON, || served(&weir) > 0.5);
    // what others have left on this machine
    let strangers = pods(&weir, "unknown");
    let status = || weir.ask("/status").expect("an answer").1;
    let stays = |what: &str, is_bad: bool| {
        let (good, bad) = (asked(&weir, "good"), asked(&weir, "bad"));
        wait::until_true(what, SOON, || {
            if is_bad { asked(&weir, "bad") > bad + 0.5 } else { asked(&weir, "good") > good + 0.5 }
        });
        assert_eq!((pods(&weir, "chosen"), pods(&weir, "other")), (1.0, 1.0), "{what}");
        assert!(moved.is_caught(&web) && !moved.is_caught(&db), "{what}");
    };
    for (text, said) in
        [("nonsense", "no list of pods"), (r#"{"kind":"PodList","items":[{}]}"#, "no list of pods")]
    {
        kubelet.tell_text(text);
        stays(text, true);
        assert!(status().contains(said), "{}", status());
    }
    kubelet.tell(&[]);
    stays("a kubelet that has just begun", false);
    assert!(status().contains("\"kubelet_error\": null"), "{}", status());
    kubelet.give_token(Some("another"));
    stays("a token that it does not know", true);
    assert!(status().contains("does not know the token"), "{}", status());
    kubelet.kill();
    stays("a dead kubelet", true);
    let shown = doctor(&world, &config);
    assert!(shown.contains("does not tell the labels of pods: cannot connect"), "{shown}");
    let warned = |log: &str| log.lines().filter(|line| line.contains("does not tell the labels")).count();
    let said = warned(&weir.log());
    stays("the same again", true);
    assert_eq!(warned(&weir.log()), said, "said once");
    // a new pod cannot be known, and is left alone
    let new = Pod::new(&world, &above, 3, &uids.of_file);
    wait::until_true("it to be seen", SOON, || pods(&weir, "unknown") > strangers + 0.5);
    assert!(!moved.is_caught(&new));
    kubelet.give_token(None);
    kubelet.tell(&[&list[..], &[pod("shop", "web-2", &uids.of_file, json!({"app": "web"}))]].concat());
    kubelet.restart();
    wait::until_true("it to be chosen", SOON, || pods(&weir, "chosen") > 1.5);
    assert_eq!(pods(&weir, "unknown"), strangers);
    wait::until_true("it to be caught", SOON, || moved.is_caught(&new));
    assert!(weir.log().contains("the kubelet answers again"), "{}", weir.log());
    let shown = doctor(&world, &config);
    assert!(
        shown.contains("tells the labels of 3 pods") && shown.contains("with app=web (2 here)"),
        "{shown}"
    );
}

/// What `weir doctor` prints on Weir's side.
fn doctor(world: &World, config: &Value) -> String {
    let scratch = Scratch::new("doctor");
    let file = scratch.file("weir.yaml", config.to_string());
    let mut command = world.outside().command(&binary());
    let output = command.args(["doctor", "-c", &file]).output().expect("it runs");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn namespaces_are_known_without_a_kubelet_and_the_read_only_port_is_enough_for_labels() {
    let Some(world) = World::new() else { return };
    let (moved, kubelet) = (Moved::new(&world), Kubelet::start(&world.net, true));
    let uids = Uids::new();
    let above = kubepods(&world);
    let (web, db) = (Pod::new(&world, &above, 1, &uids.web), Pod::new(&world, &above, 2, &uids.db));
    let logs = Logs::new(&[("weir-test-shop", &uids.web), ("weir-test-bank", &uids.db)]);
    let by_name = json!([{"pods": {"namespaces": ["weir-test-bank"]}}]);
    let Some(weir) = Weir::start(&world.net, &moved.config(&world, by_name, Some(&kubelet))) else { return };
    assert_eq!(pods(&weir, "chosen"), 1.0);
    wait::until_true("the pod's namespace to be served", SOON, || served(&weir) > 0.5);
    assert!(!moved.is_caught(&web) && moved.is_caught(&db));
    assert_eq!(asked(&weir, "good") + asked(&weir, "bad"), 0.0, "nobody asked");
    kubelet.tell(&[
        pod("weir-test-shop", "web-1", &uids.web, json!({"app": "web"})),
        pod("weir-test-bank", "db-0", &uids.db, json!({"app": "db"})),
    ]);
    weir.reload(&moved.config(&world, json!([{"pods": {"labels": {"app": "web"}}}]), Some(&kubelet)));
    wait::until_true("the other one to be caught", SOON, || moved.is_caught(&web));
    assert!(!moved.is_caught(&db) && asked(&weir, "good") > 0.5);
    // a pod may be chosen, and named by its cgroup as well
    let chosen = json!({"pods": {"namespaces": ["weir-test-bank"]}});
    let named = json!({"cgroup": db.cgroups[2].scope()});
    for scopes in [json!([chosen, named]), json!([named]), json!([named, chosen]), json!([chosen])] {
        weir.reload(&moved.config(&world, scopes.clone(), Some(&kubelet)));
        assert!(moved.is_caught(&db) && !moved.is_caught(&web), "{scopes}");
    }
    weir.reload(&moved.config(&world, json!([]), None));
    assert!(!moved.is_caught(&web) && !moved.is_caught(&db));
    let left = |map| weir.metrics().sum("weir_map_entries", &[("map", map)]);
    assert_eq!(left("SCOPE_CGROUPS"), 0.0);
    wait::until_true("no namespace to be served", SOON, || left("NETNS") < 0.5);
    drop(logs);
}

#[test]
fn what_a_pod_may_have_follows_its_labels() {
    let Some(world) = World::new() else { return };
    let (moved, kubelet) = (Moved::new(&world), Kubelet::start(&world.net, false));
    let uids = Uids::new();
    let above = kubepods(&world);
    let (web, db) = (Pod::new(&world, &above, 1, &uids.web), Pod::new(&world, &above, 2, &uids.db));
    let tell = |of_web: &str, of_db: &str| {
        let tier = |value: &str| json!({"app": "weir-test", "tier": value});
        tell_shop(&kubelet, &uids, tier(of_web), tier(of_db));
    };
    tell("bulk", "front");
    let scopes = json!([{"pods": {"labels": {"app": "weir-test"}}}]);
    let mut config = moved.config(&world, scopes, Some(&kubelet));
    config["intercept"]["limits"] = json!([{"scopes": [{"pods": {"labels": {"app": "weir-test", "tier": "bulk"}}}], "max_connections": 2}]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    wait::until_true("both to be served", SOON, || served(&weir) > 1.5);
    let open = |pod: &Pod<'_>| {
        let mut held = pod.place().start("hold", &[&moved.real, &5]);
        let answered = held.next()["answered"].as_u64();
        held.go_on("close");
        assert_eq!(held.next()["closed"], true);
        let active = || weir.metrics().sum("weir_proxied_connections", &[]);
        wait::until_true("them to be closed", SOON, || active() < 0.5);
        answered.expect("a number")
    };
    assert_eq!((open(&web), open(&db)), (2, 5));
    tell("front", "bulk");
    wait::until_true("them to change places", SOON, || (open(&web), open(&db)) == (5, 2));
    tell("bulk", "front");
    wait::until_true("and back", SOON, || (open(&web), open(&db)) == (2, 5));
}

/// Folders of logs of pods, as a kubelet makes them.
struct Logs(Vec<std::path::PathBuf>);

impl Logs {
    fn new(pods: &[(&str, &str)]) -> Self {
        let folder = |(namespace, uid): &(&str, &str)| format!("/var/log/pods/{namespace}_app_{uid}").into();
        let this = Self(pods.iter().map(folder).collect());
        this.0.iter().for_each(|folder| std::fs::create_dir_all(folder).expect("root may"));
        this
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        for folder in &self.0 {
            let _ = std::fs::remove_dir(folder);
        }
        // not if a kubelet has others in it
        let _ = std::fs::remove_dir("/var/log/pods");
    }
}
