//! A limit that follows its service: with more than that can work on, it is kept busy and answers soon.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use proxy_tests::config;
use proxy_tests::http::{Backend, Peer, ok};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

/// Clients, each with one request at a time.
const CLIENTS: usize = 48;
/// Requests that the server works on at once; the others wait in it.
const PLACES: usize = 4;
/// What the work of one takes.
const WORK: Duration = Duration::from_millis(20);
/// What clients that are refused do before they ask again.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How long each load lasts.
const TIME: Duration = Duration::from_secs(6);
const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

fn edge() -> SocketAddr {
    "10.77.0.1:8000".parse().unwrap()
}

fn host() -> SocketAddr {
    Family::V4.host(10, 8080)
}

fn config(world: &World, limits: Value) -> Value {
    let web = json!({
        "name": "web", "protocol": "http", "endpoints": [{"address": host().to_string()}], "limits": limits,
    });
    let mut config = config::config(world, [web]);
    let listener = json!({"address": edge().to_string(), "protocol": "http", "service": "web"});
    config::merge(&mut config, json!({"listeners": [listener], "workers": 2}));
    config
}

/// A server's places, and who waits for one: who came first goes first.
#[derive(Clone)]
struct Places(Arc<(Mutex<Queue>, Condvar)>);

struct Queue {
    places: usize,
    came: usize,
    ended: usize,
}

impl Places {
    fn new(places: usize) -> Self {
        Self(Arc::new((Mutex::new(Queue { places, came: 0, ended: 0 }), Condvar::new())))
    }

    fn change(&self, change: impl FnOnce(&mut Queue)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// Waits for a place, and works there.
    fn work(&self) {
        let mut queue = self.0.0.lock().unwrap();
        let before = queue.came;
        queue.came += 1;
        drop(self.0.1.wait_while(queue, |queue| before >= queue.ended + queue.places).unwrap());
        // This is the work.
        std::thread::sleep(WORK);
        self.change(|queue| queue.ended += 1);
    }
}

/// What clients saw.
#[derive(Debug, Default)]
struct Seen {
    served: Vec<Duration>,
    refused: usize,
}

impl Seen {
    /// The time that so many percent of the answers took at most.
    fn percentile(&mut self, percent: usize) -> Duration {
        self.served.sort_unstable();
        self.served[(self.served.len() - 1) * percent / 100]
    }
}

/// Asks as fast as answers come until it is over.
fn ask(mut client: Peer, is_over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        client.say(GET);
        let answer = client.answer();
        if answer.status() == 200 {
            seen.served.push(began.elapsed());
            continue;
        }
        assert_eq!((answer.status(), answer.header("x-weir-reason")), (503, Some("concurrency_limit")));
        assert_eq!(answer.header("retry-after"), Some("1"));
        seen.refused += 1;
        // Part of the load: clients that do not wait at all are not what this is about.
        std::thread::sleep(BACK_OFF);
    }
    seen
}

/// Lets all clients ask while something is done; gives what they saw.
fn load(world: &World, meanwhile: impl FnOnce()) -> Seen {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| Peer::connect(&world.net, edge())).collect();
        let asking: Vec<_> =
            clients.into_iter().map(|client| scope.spawn(|| ask(client, &is_over))).collect();
        meanwhile();
        is_over.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for seen in asking.into_iter().map(|thread| thread.join().unwrap()) {
            all.served.extend(seen.served);
            all.refused += seen.refused;
        }
        all
    })
}

#[test]
fn a_service_that_gets_slow_under_load_gets_less_and_answers_soon() {
    let Some(world) = World::new() else { return };
    let places = Places::new(PLACES);
    let working = places.clone();
    let _backend = Backend::answering(&world.net, host(), move |_| {
        working.work();
        Some(ok("done"))
    });
    let Some(weir) = Weir::start(&world.net, &config(&world, json!({}))) else { return };
    let mut without = load(&world, || std::thread::sleep(TIME));
    assert_eq!(without.refused, 0);
    assert!(!weir.metrics().has("weir_http_adaptive_limit"));

    let adaptive = json!({"adaptive": {"min": 2, "max": 200, "measure_interval": "3s"}});
    weir.reload(&config(&world, adaptive));
    let web = [("service", "web")];
    let limit = || weir.metrics().sum("weir_http_adaptive_limit", &web);
    // It finds the limit first.
    load(&world, || wait::until_true("the limit to come down", TIME, || limit() < CLIENTS as f64 / 2.0));
    let mut with = load(&world, || std::thread::sleep(TIME));
    let (slow, soon) = (without.percentile(50), with.percentile(50));
    assert!(soon * 3 < slow, "{soon:?} with the limit, {slow:?} without");
    assert!(with.percentile(90) * 2 < without.percentile(90));
    assert!(with.served.len() * 4 > without.served.len() * 3, "the service is kept busy");
    let refused = [("service", "web"), ("reason", "concurrency_limit")];
    assert!(with.refused > 0 && weir.metrics().sum("weir_http_requests_ended_total", &refused) > 0.5);
    let best = weir.metrics().sum("weir_http_adaptive_best_seconds", &web);
    // Times are kept to 4 %.
    assert!(best > WORK.as_secs_f64() * 0.95 && best < slow.as_secs_f64() / 3.0, "{best}");
    let narrow = limit();
    assert!(narrow < CLIENTS as f64 / 2.0, "{narrow}");

    // As if it had got more machines.
    places.change(|queue| queue.places += CLIENTS);
    load(&world, || wait::until_true("the limit to go up", TIME * 3, || limit() > narrow * 2.0));
}
