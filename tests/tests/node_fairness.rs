//! One application's flood and what its neighbours on the same worker notice of it.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use proxy_tests::config::{self, Lane};
use proxy_tests::net::{Family, Net, Side};
use proxy_tests::node::Weir;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// Time of each measurement: thousands of questions in the quiet case.
const TIME: Duration = Duration::from_secs(2);
/// The quiet one must get this part of what it gets beside its equal. Without turns it gets a thousandth or less, in both floods; with
/// them a fourth to a tenth on two cores, that the clients of the flood and its server need, too.
const LEAST_SHARE: u64 = 30;
const FLOODING: Side = Side::Pod(1);
const QUIET: Side = Side::Pod(2);

fn echo() -> SocketAddr {
    Family::V4.vip(1, 80)
}

fn sink() -> SocketAddr {
    Family::V4.vip(2, 80)
}

/// Listens on the far side and gives each connection a thread; they end with their clients.
fn listen(net: &Net, address: SocketAddr, serve: fn(TcpStream)) {
    let listener = net.run(Side::Far, || TcpListener::bind(address)).unwrap().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            thread::spawn(move || serve(stream));
        }
    });
}

fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut bytes = [0; 64];
    while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
}

fn swallow(mut stream: TcpStream) {
    let mut bytes = vec![0; 1 << 20];
    while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
}

/// One question after the other, from inside of a pod; gives how many were answered.
fn ask(net: &Net, side: Side, is_over: &AtomicBool) -> u64 {
    net.run(side, || {
        let mut stream = TcpStream::connect(echo()).unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut bytes, mut count) = ([7; 64], 0);
        while !is_over.load(Ordering::Relaxed) {
            stream.write_all(&bytes).unwrap();
            stream.read_exact(&mut bytes).unwrap();
            count += 1;
        }
        count
    })
    .unwrap()
}

/// How much a quiet pod gets while `threads` threads in the other one do something.
fn quiet_beside(net: &Net, threads: usize, flood: impl Fn(&Net, &AtomicBool) + Sync) -> u64 {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| flood(net, &is_over));
        }
        // the flood has risen
        thread::sleep(Duration::from_millis(300));
        let quiet = scope.spawn(|| ask(net, QUIET, &is_over));
        thread::sleep(TIME);
        is_over.store(true, Ordering::Relaxed);
        quiet.join().unwrap()
    })
}

fn pour(net: &Net, is_over: &AtomicBool) {
    net.run(FLOODING, || {
        let mut streams: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(sink()).unwrap()).collect();
        let bytes = vec![7; 256 << 10];
        for stream in &streams {
            stream.set_nonblocking(true).unwrap();
        }
        while !is_over.load(Ordering::Relaxed) {
            for stream in &mut streams {
                let _ = stream.write(&bytes);
            }
        }
    })
    .unwrap();
}

fn knock(net: &Net, is_over: &AtomicBool) {
    net.run(FLOODING, || {
        while !is_over.load(Ordering::Relaxed) {
            // on loopback a connect waits for nobody, so all of them wait in the listener's queue
            let begun = (0..500).map(|_| TcpStream::connect_timeout(&sink(), Duration::from_millis(200)));
            drop(begun.collect::<Vec<_>>());
        }
    })
    .unwrap();
}

#[test]
fn a_flood_leaves_a_quiet_neighbour_its_share() {
    let Some(world) = World::new() else { return };
    let [answering, swallowing] = [10, 11].map(|number| Family::V4.host(number, 8080));
    listen(&world.net, answering, answer);
    listen(&world.net, swallowing, swallow);
    for number in [1, 2] {
        let _ = world.pod(number);
    }
    let services = [("echo", echo(), answering), ("sink", sink(), swallowing)]
        .map(|(name, vip, server)| config::service(name, vip, &[server], Lane::Proxy, Value::Null));
    let mut config = config::config(&world, services);
    let pods = [FLOODING, QUIET].map(|side| json!({"netns": world.net.path(side)}));
    config["intercept"]["scopes"] = json!(pods);
    config["workers"] = json!(1);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    wait::until_true("both to be served", SOON, || {
        weir.metrics().sum("weir_map_entries", &[("map", "NETNS")]) > 1.5
    });
    let net = &world.net;
    let equal = quiet_beside(net, 1, |net, is_over| {
        ask(net, FLOODING, is_over);
    });
    let bulk = quiet_beside(net, 4, pour);
    let connections = quiet_beside(net, 4, knock);
    let said =
        format!("{equal} questions beside an equal, {bulk} beside bytes, {connections} beside connections");
    assert!(bulk * LEAST_SHARE > equal, "{said}");
    assert!(connections * LEAST_SHARE > equal, "{said}");
    // and it was a flood: what is not asked for by others is had by whoever wants it
    let of = |what: &str, side| {
        let path = net.path(side).display().to_string();
        weir.metrics().sum(&format!("weir_application_{what}"), &[("application", &path)])
    };
    wait::until_true("its connections to end", SOON, || of("connections_active", FLOODING) < 0.5);
    assert!(of("bytes_sent_total", FLOODING) > 20.0 * of("bytes_sent_total", QUIET), "{said}");
    assert!(of("connections_opened_total", FLOODING) > 500.0, "{said}");
}
