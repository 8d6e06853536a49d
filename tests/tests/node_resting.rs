//! Connections of HTTP/1.1 that rest between two requests, for long enough to need no task: they go on as any other.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_tests::faults::Faults;
use proxy_tests::http::{Backend, Message, Peer, ok};
use proxy_tests::node::Weir;
use proxy_tests::pki::Pki;
use proxy_tests::process::Running;
use proxy_tests::web::{edge, host, speaking};
use proxy_tests::world::World;
use proxy_tests::{config, wait};
use serde_json::{Value, json};

/// Far above what any of it takes.
const SOON: Duration = Duration::from_secs(20);

fn echo(request: &Message) -> Option<String> {
    Some(ok(&format!("{}|{}\n", request.start_line(), request.text())))
}

/// Another listener for the same service.
fn listener(port: u16, more: Value) -> Value {
    let mut listener = json!({"address": at(port).to_string(), "protocol": "http", "service": "web"});
    config::merge(&mut listener, more);
    listener
}

/// Where it listens.
fn at(port: u16) -> SocketAddr {
    SocketAddr::new(edge().ip(), port)
}

/// More than the two ticks after which a connection is parked.
const RESTED: Duration = Duration::from_millis(3500);

/// Clients with a connection that has been used, and has rested for long enough to be parked.
fn rested<const N: usize>(world: &World) -> [Peer; N] {
    let clients = [(); N].map(|()| {
        let mut client = Peer::connect(&world.net, edge());
        asks(&mut client, "/first");
        client
    });
    std::thread::sleep(RESTED);
    clients
}

fn asks(client: &mut Peer, path: &str) {
    client.say(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(client.answer().text(), format!("GET {path} HTTP/1.1|\n"));
}

fn are_parked(weir: &Weir<'_>, count: u32) {
    wait::until_true("so many to be parked", SOON, || {
        (weir.metrics().sum("weir_http_connections_parked", &[]) - f64::from(count)).abs() < 0.5
    });
}

#[test]
fn connections_that_have_rested_go_on_as_any_other() {
    let Some(world) = World::new() else { return };
    let _backend = Backend::answering(&world.net, host(), echo);
    // The service's own bound counts those that rest, too.
    let mut config = speaking(&world, "http", json!({"limits": {"max_connections": 6}}));
    config["listeners"][0]["http"] = json!({"idle_timeout": "8s"});
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let closed = |reason| {
        let of = [("service", "web"), ("reason", reason)];
        weir.metrics().sum("weir_connections_closed_total", &of)
    };
    let [mut asking, mut slow, ended, reset, mut tired, mut asking_for_the_end] = rested(&world);
    are_parked(&weir, 6);
    let mut refused = Peer::connect(&world.net, edge());
    let _ = refused.try_say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(refused.rest().is_err(), "the seventh is reset");
    for n in 0..3 {
        asking.say(format!("POST /{n} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{n}!"));
        assert_eq!(asking.answer().text(), format!("POST /{n} HTTP/1.1|{n}!\n"));
    }
    for byte in "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n".bytes() {
        slow.say([byte]);
    }
    assert_eq!(slow.answer().text(), "GET /slow HTTP/1.1|\n");
    asking_for_the_end.say("GET /end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(asking_for_the_end.answer().text(), "GET /end HTTP/1.1|\n");
    assert_eq!(asking_for_the_end.rest().unwrap(), b"");
    drop(ended);
    wait::until_true("both ends", SOON, || closed("fin") > 1.5);
    proxy_io::sock::set_linger_reset(reset.socket()).unwrap();
    drop(reset);
    wait::until_true("a reset", SOON, || closed("downstream_reset") > 0.5);
    assert_eq!(tired.rest().unwrap(), b"", "closed without a word");
    wait::until_true("its end to be counted", SOON, || closed("idle_timeout") > 0.5);
    let [mut twice] = rested(&world);
    for _ in 0..2 {
        asks(&mut twice, "/again");
        std::thread::sleep(RESTED);
    }
    let mut resting = rested::<2>(&world);
    assert!(weir.terminate().success());
    for client in &mut resting {
        assert_eq!(client.rest().unwrap(), b"", "a drain ends it in order");
    }
}

#[test]
fn whatever_a_connection_began_with_it_goes_on_after_a_rest() {
    let Some(world) = World::new() else { return };
    let Some(openssl) = world.program("openssl") else { return };
    let pki = Pki::new();
    pki.certificate("web", &["DNS:web.shop"]);
    let backend = Backend::answering(&world.net, host(), echo);
    let mut config = speaking(&world, "auto", Value::Null);
    config["listeners"] = json!([
        listener(8000, json!({"proxy_protocol": "required", "trusted_proxies": ["10.77.0.0/16"]})),
        listener(8001, json!({"protocol": "auto"})),
        listener(8443, json!({"tls": {"certificates": [pki.files("web")]}})),
    ]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let mut announced = Peer::connect(&world.net, at(8000));
    announced.say("PROXY TCP4 192.0.2.7 192.0.2.8 1000 80\r\n");
    let mut detected = Peer::connect(&world.net, at(8001));
    let mut s_client = world.outside().command(&openssl);
    s_client.args(["s_client", "-quiet", "-verify_quiet", "-servername", "web.shop"]);
    s_client.args(["-CAfile", &pki.path("ca.pem"), "-connect", &at(8443).to_string()]);
    let mut encrypted = Running::start(&mut s_client).unwrap();
    for path in ["/first", "/second", "/third"] {
        asks(&mut announced, path);
        asks(&mut detected, path);
        // Line by line, each a record: what wakes the connection is not the whole request.
        for line in [&format!("GET {path} HTTP/1.1\r"), "Host: web.shop\r", "\r"] {
            encrypted.say(line);
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut lines = std::iter::from_fn(|| encrypted.line(SOON));
        assert!(lines.any(|line| line.trim() == format!("GET {path} HTTP/1.1|")), "{path}");
        std::thread::sleep(RESTED);
        are_parked(&weir, 3);
    }
    let seen = backend.take_seen();
    let is_announced = |request: &&Message| request.header("x-forwarded-for") == Some("192.0.2.7");
    assert_eq!((seen.len(), seen.iter().filter(is_announced).count()), (9, 3));
}

#[test]
fn those_that_rest_on_a_worker_that_fails_are_ended_and_counted() {
    let (Some(world), Some(faults)) = (World::new(), Faults::new("resting")) else { return };
    let _backend = Backend::answering(&world.net, host(), echo);
    let mut config = speaking(&world, "http", Value::Null);
    config["workers"] = json!(1);
    let Some(weir) = faults.start(&world, &config) else { return };
    let mut resting = rested::<3>(&world);
    are_parked(&weir, 3);
    faults.panic("worker-0");
    for client in &mut resting {
        match client.rest() {
            Ok(bytes) => assert_eq!(bytes, b"", "nothing but its end"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    let of = [("service", "web"), ("reason", "internal")];
    wait::until_true("their ends to be counted", SOON, || {
        weir.metrics().sum("weir_connections_closed_total", &of) > 2.5
    });
    are_parked(&weir, 0);
    let [mut next] = rested(&world);
    are_parked(&weir, 1);
    asks(&mut next, "/next");
}
