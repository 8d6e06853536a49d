//! A Weir that is killed again and again under load: who is refused, who is cut, and who is served.

use std::time::Duration;

use proxy_tests::client::{Client, number};
use proxy_tests::config::{self, Grid, Lane, PORT};
use proxy_tests::net::Family;
use proxy_tests::node::{self, Weir};
use proxy_tests::world::World;
use serde_json::{Value, json};

/// Enough to meet a client at every point of its connect.
const KILLS: usize = 30;
/// Threads of each client, which connect, ask and close without a pause.
const THREADS: usize = 3;
/// Longest time for a refusal: it comes from connect() itself.
const AT_ONCE: f64 = 0.5;

/// What became of a client's connections.
#[derive(Debug, Default)]
struct Toll {
    served: u64,
    /// By connect(): between the kernel's look at the listener and the SYN.
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
    let vip = Family::V4.vip(5, PORT);
    let host = grid.server(Family::V4).0.address();
    let closed = config::service("closed", vip, &[host], Lane::Proxy, json!({"fail": "closed"}));
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
            let said = place.run("ask", &[&open]);
            assert_eq!(said["names"], json!(["four"]), "goes directly: {said}");
            let said = place.run("timed_connect", &[&vip]);
            assert_eq!(said["connect"], "ECONNREFUSED", "{said}");
            assert!(said["seconds"].as_f64().is_some_and(|seconds| seconds < AT_ONCE), "{said}");
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
        // One that is between the look at the listener and its SYN: at most one for each thread and kill. It takes some
        // microseconds of the hundreds of a whole connection, so most kills meet nobody there.
        assert!(toll.refused <= KILLS * THREADS / 10, "{toll:?}");
        // A process's listeners close one after the other: until the last has, a thread may meet several.
        assert!(toll.cut <= KILLS * THREADS * 8, "{toll:?}");
        assert!(toll.served > 1000, "{toll:?}");
    }
    assert!(weir.terminate().success(), "{}", weir.log());
    assert!(!node::has_pins());
    proxy_tests::wait::until_true("the programs to go", Duration::from_secs(20), || {
        node::attached_programs() == before
    });
}

/// Connections that each next process found not accepted.
fn waiting(log: &str) -> usize {
    let lines = log.lines().filter(|line| line.contains("were not accepted yet"));
    let counts = lines.filter_map(|line| line.rsplit_once("count=")?.1.trim().parse::<usize>().ok());
    counts.sum()
}
