//! Services whose protocol nobody has declared.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy_tests::config;
use proxy_tests::http::{Backend, Peer, ok};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::world::World;
use serde_json::json;

fn listener(port: u16) -> SocketAddr {
    SocketAddr::new(Family::V4.own(), port)
}

#[test]
fn the_first_words_decide_and_nobody_is_held_up_for_long() {
    let Some(world) = World::new() else { return };
    let host = |number| Family::V4.host(number, 8080);
    let web = Backend::answering(&world.net, host(10), |request| Some(ok(request.start_line())));
    let _greeting = Backend::start(&world.net, host(11), |peer, _| {
        peer.say("220 ready\r\n");
        while let Ok(word) = peer.take(4) {
            peer.say(word);
        }
    });
    let _echo = Backend::start(&world.net, host(12), |peer, _| {
        while let Ok(word) = peer.take(4) {
            peer.say(word);
        }
        peer.say("end");
    });
    let names = [("web", 10, 8001), ("greeting", 11, 8002), ("echo", 12, 8003)];
    let services = names.map(|(name, number, _)| {
        json!({"name": name, "protocol": "auto", "endpoints": [{"address": host(number).to_string()}]})
    });
    let mut config = config::config(&world, services);
    let listeners = names.map(
        |(name, _, port)| json!({"address": listener(port).to_string(), "protocol": "auto", "service": name}),
    );
    config::merge(&mut config, json!({"listeners": listeners, "workers": 1}));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    // requests are seen as such, also byte by byte, and by themselves
    let mut client = Peer::connect(&world.net, listener(8001));
    for byte in b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" {
        client.say([*byte]);
    }
    assert_eq!(client.answer().text(), "GET /a HTTP/1.1");
    client.say("GET /b HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.answer().text(), "GET /b HTTP/1.1");
    assert!(web.seen()[0].header("x-request-id").is_some());
    assert_eq!(web.connections(), 1, "the connection that was made to see who speaks is used");
    // a server that speaks first is heard at once
    let mut client = Peer::connect(&world.net, listener(8002));
    assert_eq!(client.take(11).unwrap(), b"220 ready\r\n");
    client.say("ping");
    assert_eq!(client.take(4).unwrap(), b"ping");
    // what is no HTTP goes through as it is, half-close included
    let mut client = Peer::connect(&world.net, listener(8003));
    client.say("\x01\x02\x03\x04");
    assert_eq!(client.take(4).unwrap(), b"\x01\x02\x03\x04");
    client.finish();
    assert_eq!(client.rest().unwrap(), b"end");
    // two that are both silent are taken for what they are, and that is remembered
    let mut client = Peer::connect(&world.net, listener(8003));
    std::thread::sleep(Duration::from_millis(200));
    client.say("late");
    assert_eq!(client.take(4).unwrap(), b"late");
    let began = Instant::now();
    let mut client = Peer::connect(&world.net, listener(8003));
    client.say("GET ");
    assert_eq!(client.take(4).unwrap(), b"GET ", "a request line is not waited for any more");
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(weir);
}
