//! What Weir does when endpoints fail, and what it must never do.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use proxy_io::sock;
use proxy_tests::config;
use proxy_tests::http::{Backend, Message, Peer, ok};
use proxy_tests::net::Family;
use proxy_tests::node::Weir;
use proxy_tests::wait;
use proxy_tests::world::World;
use serde_json::{Value, json};

/// Time for things that happen in the background.
const SOON: Duration = Duration::from_secs(10);

fn edge() -> SocketAddr {
    "10.77.0.1:8000".parse().unwrap()
}

fn host(number: u8) -> SocketAddr {
    Family::V4.host(number, 8080)
}

/// One service behind one rule.
fn config(world: &World, endpoints: &[SocketAddr], service: Value, rule: Value) -> Value {
    let endpoints: Vec<_> = endpoints.iter().map(|e| json!({"address": e.to_string()})).collect();
    let mut web = json!({
        "name": "web", "protocol": "http", "endpoints": endpoints,
        "balance": {"policy": "round_robin"}, "outlier": {"consecutive_failures": 0},
    });
    config::merge(&mut web, service);
    let mut one = json!({"backends": [{"service": "web"}]});
    config::merge(&mut one, rule);
    let mut config = config::config(world, [web]);
    config::merge(
        &mut config,
        json!({
            "listeners": [{"address": edge().to_string(), "protocol": "http", "routes": ["all"]}],
            "routes": [{"name": "all", "rules": [one]}],
            // each has connections of its own to the endpoint
            "workers": 1,
        }),
    );
    config
}

fn ask(world: &World, request: &str) -> Message {
    let mut client = Peer::connect(&world.net, edge());
    client.say(request);
    client.answer()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nwork";

#[test]
fn a_request_that_a_server_may_have_worked_on_runs_once() {
    let Some(world) = World::new() else { return };
    // answers the first request of each connection, then acts on the next one and resets
    let backend = Backend::start(&world.net, host(10), |peer, log| {
        let Ok(Some(first)) = peer.request() else { return };
        let is_rude = first.text() == "rude";
        log.push(first);
        if !is_rude {
            peer.say(ok("first"));
            let Ok(Some(second)) = peer.request() else { return };
            log.push(second);
        }
        sock::set_linger_reset(peer.socket()).unwrap();
    });
    let retry = json!({"retry": {"attempts": 3, "on": ["connect_failure", "reset", "500-599"]}});
    let Some(weir) = Weir::start(&world.net, &config(&world, &[host(10)], Value::Null, retry)) else {
        return;
    };
    // on a new connection, and on one that was used before
    let rude = POST.replace("work", "rude");
    assert_eq!(ask(&world, &rude).header("x-weir-reason"), Some("upstream_reset"));
    assert_eq!(backend.take_seen().len(), 1);
    assert_eq!(ask(&world, GET).text(), "first");
    let answer = ask(&world, POST);
    assert_eq!((answer.status(), answer.header("x-weir-reason")), (502, Some("upstream_reset")));
    let posts = backend.take_seen().iter().filter(|m| m.start_line().starts_with("POST")).count();
    assert_eq!(posts, 1, "it ran exactly once");
    // what may be repeated is, on a connection of its own
    assert_eq!(ask(&world, GET).text(), "first");
    assert_eq!(ask(&world, GET).text(), "first", "the connection that was reset was replaced");
    drop(weir);
}

#[test]
fn a_connection_that_was_closed_between_two_requests_is_nobodys_business() {
    let Some(world) = World::new() else { return };
    let closed = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&closed);
    let closing = Backend::start(&world.net, host(11), move |peer, log| {
        if let Ok(Some(request)) = peer.request() {
            log.push(request);
            peer.say(ok("once"));
            // both ways: whatever comes later is answered with a reset
            peer.socket().shutdown(std::net::Shutdown::Both).unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let no_retry = json!({"retry": {"attempts": 0, "on": []}});
    let Some(weir) = Weir::start(&world.net, &config(&world, &[host(11)], Value::Null, no_retry)) else {
        return;
    };
    for number in 1..=200 {
        assert_eq!(ask(&world, POST).text(), "once");
        wait::until_true("the server to close", SOON, || closed.load(Ordering::Relaxed) == number);
    }
    assert_eq!(closing.seen().len(), 200);
    drop(weir);
}

#[test]
fn failed_tries_go_to_another_endpoint() {
    let Some(world) = World::new() else { return };
    let _bad = Backend::answering(&world.net, host(10), |_| {
        Some("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".into())
    });
    let _good = Backend::answering(&world.net, host(11), |_| Some(ok("good")));
    let _rude = Backend::start(&world.net, host(12), |peer, _| {
        let _ = peer.request();
    });
    let retry = json!({"retry": {"attempts": 3, "on": ["connect_failure", "reset", "503"], "back_off": {"base": "1ms", "max": "2ms"}}});
    // the fourth one refuses connections
    let endpoints = [host(10), host(11), host(12), host(13)];
    let Some(weir) = Weir::start(&world.net, &config(&world, &endpoints, Value::Null, retry)) else { return };
    for _ in 0..12 {
        assert_eq!(ask(&world, GET).text(), "good");
    }
    // a POST goes on only where nobody can have worked on it
    let answers: Vec<_> = (0..12).map(|_| ask(&world, POST)).collect();
    let statuses: Vec<_> = answers.iter().map(Message::status).collect();
    assert!([200, 502, 503].iter().all(|status| statuses.contains(status)), "{statuses:?}");
    assert!(
        answers.iter().all(|answer| answer.header("x-weir-reason") != Some("connect_refused")),
        "{answers:?}"
    );
    drop(weir);
}

#[test]
fn retries_never_multiply_the_load() {
    const REQUESTS: usize = 60;
    let Some(world) = World::new() else { return };
    let backend = Backend::start(&world.net, host(10), |peer, log| {
        while let Ok(Some(request)) = peer.request() {
            log.push(request);
            // long enough for all of them to be under way at once
            std::thread::sleep(Duration::from_millis(300));
            if !peer.try_say("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") {
                return;
            }
        }
    });
    let retry = json!({"retry": {"attempts": 5, "on": ["503"], "budget": "20%", "back_off": {"base": "1ms", "max": "2ms"}}});
    let Some(weir) = Weir::start(&world.net, &config(&world, &[host(10)], Value::Null, retry)) else {
        return;
    };
    let mut clients: Vec<_> = (0..REQUESTS).map(|_| Peer::connect(&world.net, edge())).collect();
    clients.iter_mut().for_each(|client| client.say(GET));
    for client in &mut clients {
        assert_eq!(client.answer().status(), 503);
    }
    // a fifth of them at a time, each of which may try five times
    let most = REQUESTS + REQUESTS / 5 * 5;
    let seen = backend.seen().len();
    assert!((REQUESTS + 1..=most).contains(&seen), "{seen} requests for {REQUESTS}");
    drop(weir);
}

#[test]
fn times_are_kept() {
    let Some(world) = World::new() else { return };
    let tries = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&tries);
    let _slow = Backend::start(&world.net, host(10), move |peer, _| {
        let Ok(Some(request)) = peer.request() else { return };
        let number = count.fetch_add(1, Ordering::Relaxed);
        let path = request.start_line().split(' ').nth(1).unwrap_or_default().to_owned();
        if path == "/second" && number > 0 {
            peer.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nsecond");
        }
        if path == "/half" {
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        }
        // holds on until the other end has had enough
        let _ = peer.rest();
    });
    let rule = json!({
        "timeout": {"request": "1s", "per_try": "300ms"},
        "retry": {"attempts": 1, "on": ["timeout"], "back_off": {"base": "1ms", "max": "1ms"}},
    });
    let Some(weir) = Weir::start(&world.net, &config(&world, &[host(10)], Value::Null, rule)) else { return };
    let get = |path: &str| GET.replace("GET /", &format!("GET {path}"));
    assert_eq!(ask(&world, &get("/second")).text(), "second", "the second try is quick");
    tries.store(0, Ordering::Relaxed);
    let late = ask(&world, &get("/never"));
    assert_eq!((late.status(), late.header("x-weir-reason")), (504, Some("per_try_timeout")));
    assert_eq!(tries.load(Ordering::Relaxed), 2);
    let mut client = Peer::connect(&world.net, edge());
    client.say(get("/half"));
    assert!(client.answer_to("GET").is_err(), "the time is over within the body: it is cut off");
    drop(weir);
}

#[test]
fn limits_on_requests_are_kept_and_said() {
    let Some(world) = World::new() else { return };
    let may_answer = Arc::new(AtomicBool::new(false));
    let is_told = Arc::clone(&may_answer);
    let backend = Backend::start(&world.net, host(10), move |peer, log| {
        while let Ok(Some(request)) = peer.request() {
            log.push(request);
            wait::until_true("word that it may answer", SOON, || is_told.load(Ordering::Relaxed));
            if !peer.try_say(ok("done")) {
                return;
            }
        }
    });
    let limits = json!({"limits": {"max_requests": 4}});
    let Some(weir) = Weir::start(&world.net, &config(&world, &[host(10)], limits, Value::Null)) else {
        return;
    };
    let mut clients: Vec<_> = (0..10).map(|_| Peer::connect(&world.net, edge())).collect();
    clients.iter_mut().for_each(|client| client.say(GET));
    wait::until_true("six to be refused", SOON, || {
        weir.metrics().sum("weir_http_requests_ended_total", &[("reason", "limit")]) > 5.5
    });
    may_answer.store(true, Ordering::Relaxed);
    let answers: Vec<_> = clients.iter_mut().map(Peer::answer).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status() == 503).collect();
    assert_eq!((refused.len(), backend.seen().len()), (6, 4));
    assert!(refused.iter().all(|answer| answer.header("x-weir-reason") == Some("limit")));
    assert_eq!(ask(&world, GET).text(), "done", "there is room again");
    drop(weir);
}

#[test]
fn an_endpoint_that_only_fails_is_taken_out() {
    let Some(world) = World::new() else { return };
    let bad = Backend::answering(&world.net, host(10), |_| {
        Some("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".into())
    });
    let _good = Backend::answering(&world.net, host(11), |_| Some(ok("good")));
    let outlier = json!({"outlier": {"consecutive_5xx": 3, "base_ejection": "60s"}});
    let config = config(&world, &[host(10), host(11)], outlier, Value::Null);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    wait::until_true("the bad endpoint to be ejected", SOON, || {
        let before = bad.seen().len();
        let all_good = (0..8).all(|_| ask(&world, GET).status() == 200);
        all_good && bad.seen().len() == before
    });
    drop(weir);
}
