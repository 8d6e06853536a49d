//! gRPC between programs that know nothing of Weir.

use std::time::Duration;

use proxy_tests::node::Weir;
use proxy_tests::python::has_module;
use proxy_tests::web::{edge, host, speaking, vip, ways};
use proxy_tests::world::World;
use proxy_tests::{grpc, wait};
use serde_json::json;

/// Longer than any step needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn grpc_in_every_shape() {
    let Some(world) = World::new() else { return };
    let Some(_grpc) = grpc::serve(&world, host()) else { return };
    for protocol in ["http2", "auto"] {
        let Some(_weir) = Weir::start(&world.net, &speaking(&world, protocol, json!({}))) else { return };
        for (place, address) in ways(&world) {
            // What the endpoints of `auto` speak shows only in what an intercepted client says.
            if protocol == "http2" || address == vip() {
                grpc::run(place, address, "shapes,turns,big,statuses,many");
            }
        }
    }
}

#[test]
fn a_deadline_or_a_client_that_gives_up_reaches_the_server() {
    let Some(world) = World::new() else { return };
    let Some(server) = grpc::serve(&world, host()) else { return };
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    for (place, address) in ways(&world) {
        grpc::run(place, address, "deadline");
        let called = server.line(LIMIT).unwrap();
        let left: f64 = called.strip_prefix("called ").unwrap().parse().unwrap();
        assert!(left > 0.0 && left <= 0.5, "the deadline only shrinks: {left}");
        assert_eq!(server.line(LIMIT).as_deref(), Some("cancelled"));

        let mut client = grpc::client(place, address, "cancel", &[]);
        assert_eq!(client.line(LIMIT).as_deref(), Some("waiting"));
        assert!(server.line(LIMIT).unwrap().starts_with("called "));
        client.say("go");
        assert_eq!(server.line(LIMIT).as_deref(), Some("cancelled"));
        assert_eq!(client.line(LIMIT).as_deref(), Some("ok cancel"));
    }
}

#[test]
fn a_stream_that_either_side_gives_up_ends_at_the_other_one() {
    let Some(world) = World::new() else { return };
    let Some(server) = grpc::serve(&world, host()) else { return };
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    for (place, address) in ways(&world) {
        grpc::run(place, address, "enough,given_up");
        assert_eq!(server.line(LIMIT).as_deref(), Some("began"));
        assert_eq!(server.line(LIMIT).as_deref(), Some("stopped"));
    }
}

#[test]
fn a_call_may_be_silent_for_as_long_as_its_deadline_lets_it() {
    let Some(world) = World::new() else { return };
    let Some(server) = grpc::serve(&world, host()) else { return };
    let more = json!({"http": {"body_timeout": "1s"}, "limits": {"idle_timeout": "1s"}});
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http2", more)) else { return };
    grpc::run(world.app(), vip(), "quiet");
    assert!(server.line(LIMIT).unwrap().starts_with("called "));
}

#[test]
fn a_server_that_is_not_there_is_said_in_grpcs_own_words() {
    let Some(world) = World::new() else { return };
    if !has_module("grpc") {
        return;
    }
    let Some(_weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    for (place, address) in ways(&world) {
        grpc::run(place, address, "unavailable");
    }
}

#[test]
fn a_drain_lets_every_call_end() {
    let Some(world) = World::new() else { return };
    let Some(_grpc) = grpc::serve(&world, host()) else { return };
    let Some(mut weir) = Weir::start(&world.net, &speaking(&world, "http2", json!({}))) else { return };
    let mut client = grpc::client(world.outside(), edge(), "cancel", &[]);
    assert_eq!(client.line(LIMIT).as_deref(), Some("waiting"));
    let active = || weir.metrics().sum("weir_http_requests_active", &[("service", "web")]);
    wait::until_true("a call", LIMIT, || active() > 0.0);
    weir.signal("-TERM");
    client.say("go");
    assert_eq!(client.line(LIMIT).as_deref(), Some("ok cancel"));
    assert!(weir.wait(LIMIT).success());
}

#[test]
fn takeovers_let_every_call_end_where_it_began_and_cut_what_takes_too_long() {
    let Some(world) = World::new() else { return };
    let Some(server) = grpc::serve(&world, host()) else { return };
    let mut config = speaking(&world, "http2", json!({}));
    config["drain_timeout"] = json!("60s");
    let Some(mut weir) = Weir::start(&world.net, &config) else { return };
    let steady = ways(&world).map(|(place, address)| grpc::client(place, address, "steady", &[]));
    let calls = |weir: &Weir<'_>| weir.metrics().sum("weir_grpc_calls_total", &[("status", "ok")]);
    for round in 1..=3 {
        let before = calls(&weir);
        wait::until_true("calls", LIMIT, || calls(&weir) > before + 20.0);
        let mut older = weir.take_over(&config);
        // Its clients have gone to the newer one, because it told them to.
        assert!(older.wait(LIMIT).success(), "{round}: {}", weir.log());
    }
    let mut client = grpc::client(world.outside(), edge(), "cancel", &[]);
    assert_eq!(client.line(LIMIT).as_deref(), Some("waiting"));
    assert!(server.line(LIMIT).unwrap().starts_with("called "));
    let mut older = weir.take_over(&config);
    let before = calls(&weir);
    wait::until_true("calls", LIMIT, || calls(&weir) > before + 20.0);
    assert!(older.runs(), "it has a call under way: {}", weir.log());
    client.say("go");
    assert_eq!(client.line(LIMIT).as_deref(), Some("ok cancel"));
    assert_eq!(server.line(LIMIT).as_deref(), Some("cancelled"));
    assert!(older.wait(LIMIT).success(), "{}", weir.log());
    for mut client in steady {
        client.say("stop");
        assert_eq!(client.line(LIMIT).as_deref(), Some("ok steady"), "not one has failed");
    }

    config["drain_timeout"] = json!("1s");
    weir.reload(&config);
    let client = grpc::client(world.outside(), edge(), "hung", &[]);
    assert!(server.line(LIMIT).unwrap().starts_with("called "));
    let mut older = weir.take_over(&config);
    assert_eq!(client.line(LIMIT).as_deref(), Some("ok hung"), "it is told in gRPC's words");
    assert!(older.wait(LIMIT).success(), "{}", weir.log());
}

#[test]
fn a_call_that_fails_is_tried_again_if_its_status_is_named() {
    let Some(world) = World::new() else { return };
    let Some(_grpc) = grpc::serve(&world, host()) else { return };
    let mut config = speaking(&world, "http2", json!({"routes": ["calls"]}));
    let retry = json!({"attempts": 2, "on": ["unavailable"]});
    let rules = json!([
        {"match": {"grpc": {"service": "test.Service", "method": "Flaky"}}, "retry": retry,
         "backends": [{"service": "web"}]},
        {"backends": [{"service": "web"}]},
    ]);
    config["routes"] = json!([{"name": "calls", "rules": rules}]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    for (key, fails, wanted) in [("a", "2", "ok"), ("b", "3", "UNAVAILABLE")] {
        let client = grpc::client(world.app(), vip(), "flaky", &[key, fails, wanted]);
        let said: Vec<String> = std::iter::from_fn(|| client.line(LIMIT)).collect();
        let wanted: &[&str] = if wanted == "ok" { &["3", "ok flaky"] } else { &["ok flaky"] };
        assert_eq!(said, wanted);
    }
    let calls =
        |status: &str| weir.metrics().sum("weir_grpc_calls_total", &[("service", "web"), ("status", status)]);
    assert_eq!((calls("ok"), calls("unavailable")), (1.0, 1.0));
    let retries = weir.metrics().sum("weir_http_retries_total", &[("service", "web"), ("result", "made")]);
    assert_eq!(retries, 4.0);
}

#[test]
fn what_comes_too_early_is_told_when_to_come_again() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    let Some(_grpc) = grpc::serve(&world, host()) else { return };
    // A burst, and nothing more within the time of a test.
    let rate = json!({"requests": "10/h", "burst": 3, "per": "client"});
    let config = speaking(&world, "http2", json!({"limits": {"rate": rate}}));
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    let url = format!("http://{}/", edge());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let asked =
            || world.outside().output(&curl, &["-sS", "-i", "--max-time", "30", version, &url]).unwrap();
        let answers: Vec<String> = (0..4).map(|_| asked().to_lowercase()).collect();
        let last = answers.last().unwrap();
        assert!(last.contains(" 429") && last.contains("x-weir-reason: rate_limited"), "{last}");
        let after = last.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
        let seconds: u64 = after.trim().parse().unwrap();
        assert!((1..=360).contains(&seconds), "one in six minutes: {seconds}");
    }
    // The application has the same address; its calls are told in their own words.
    grpc::run(world.app(), vip(), "exhausted");
    let refused = weir.metrics().sum("weir_http_requests_ended_total", &[("reason", "rate_limited")]);
    assert_eq!(refused, 5.0 + 1.0);
}

#[test]
fn faults_happen_where_the_config_allows_them() {
    let Some(world) = World::new() else { return };
    let Some(curl) = world.program("curl") else { return };
    let Some(_grpc) = grpc::serve(&world, host()) else { return };
    let mut config = speaking(&world, "http2", json!({"routes": ["calls"]}));
    let backends = json!([{"service": "web"}]);
    let meant = json!({"x-fault": "yes"});
    let rules = json!([
        {"match": {"path": {"prefix": "/slow"}}, "backends": backends,
         "fault": {"delay": {"share": "100%", "time": "300ms"}, "abort": {"share": "100%", "status": 418}}},
        {"match": {"grpc": {"service": "test.Service", "method": "Fail"}}, "backends": backends,
         "fault": {"abort": {"share": "100%", "grpc": "unavailable"}}},
        {"backends": backends, "fault": {"headers": meant, "abort": {"share": "100%", "status": 500}}},
    ]);
    config["allow_faults"] = json!(true);
    config["routes"] = json!([{"name": "calls", "rules": rules}]);
    let Some(weir) = Weir::start(&world.net, &config) else { return };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let url = format!("http://{}/slow", vip());
        let more = ["-o", "/dev/null", "-w", "%{http_code} %{time_total}", version, &url];
        let said = world.app().output(&curl, &[&["-sS", "--max-time", "30"], &more[..]].concat()).unwrap();
        let (status, seconds) = said.split_once(' ').unwrap();
        assert_eq!(status, "418");
        assert!(seconds.parse::<f64>().unwrap() >= 0.3, "{seconds}");
    }
    grpc::run(world.app(), vip(), "shapes,failed");
    let injected = weir.metrics().sum("weir_http_requests_ended_total", &[("reason", "fault_injected")]);
    assert_eq!(injected, 3.0);
}
