//! What the file says of gRPC, of rates and of faults.

use proxy_core::grpc::Status;
use proxy_core::http2::Pings;
use proxy_core::load::RetryThrottle;
use proxy_core::rate::{Per, RateLimit};
use proxy_core::route::fault::{Abort, Delay, FaultAnswer, FaultPolicy, RateLimited};
use proxy_core::route::{Action, PathPattern, Request, TextPattern};

use super::messages::bad;
use super::routes::rules;
use super::*;

fn rule(text: &str) -> RuleConfig {
    let config = good(&rules(&format!("  - {text}")));
    assert_eq!(good(&config.to_json().to_string()), config, "it prints to the same");
    config.routes[0].rules[0].clone()
}

#[test]
fn pings_are_of_whoever_is_asked() {
    let text = |of_listener: &str, of_service: &str| {
        format!(
            "services: [{{name: a, protocol: http2, endpoints: [], http: {{ping: {of_service}}}}}]\n\
             listeners: [{{address: '10.0.0.9:80', protocol: http, service: a, http: {{ping: {of_listener}}}}}]"
        )
    };
    let config = good(&text("{clients: 10m}", "{endpoints: off, timeout: 5s}"));
    assert_eq!(good(&config.to_json().to_string()), config);
    let (second, usual) = (Duration::from_secs(1), Pings::DEFAULT);
    assert_eq!(config.listeners[0].http.pings, Pings { clients: Some(600 * second), ..usual });
    let of_service = Pings { endpoints: None, timeout: 5 * second, ..usual };
    assert_eq!(config.services[0].http.pings, of_service);
    bad(
        &text("{endpoints: 1m}", "{}"),
        &[
            "w:2:91: listeners[0].http.ping.endpoints: a listener asks clients; endpoints are asked as their services say, \
           expected it in the http of a service",
        ],
    );
}

#[test]
fn retries_go_by_statuses_of_grpc_and_are_throttled() {
    let rule = rule(
        "{retry: {on: [unavailable, reset, aborted, 503], throttle: {max_tokens: 10, token_ratio: 12.5%}}, \
         backends: [{service: a}]}",
    );
    assert_eq!(rule.retry.on.grpc, [Status::Aborted, Status::Unavailable].into_iter().collect());
    assert!(rule.retry.on.reset && rule.retry.on.statuses == [(503, 503)]);
    assert_eq!(rule.retry.throttle, Some(RetryThrottle { max_tokens: 10, token_ratio: 1250 }));
}

#[test]
fn a_call_is_matched_as_the_path_that_it_is() {
    let exact = |path: &str| PathPattern::Exact(path.into());
    let prefix = |path: &str| PathPattern::Prefix(path.into());
    let regex = |path: &str| PathPattern::Regex(path.into());
    for (grpc, path) in [
        ("service: shop.v1.Cart, method: AddItem", exact("/shop.v1.Cart/AddItem")),
        ("service: shop.v1.Cart", prefix("/shop.v1.Cart")),
        ("method: AddItem", regex("/[^/]+/AddItem")),
        ("service: {regex: 'shop|cart'}", regex("/(?:shop|cart)/[^/]+")),
        ("service: shop.v1.Cart, method: {regex: Add.*}", regex(r"/shop\.v1\.Cart/(?:Add.*)")),
        ("service: {regex: .*Cart}, method: {exact: AddItem}", regex("/(?:.*Cart)/AddItem")),
    ] {
        let rule = rule(&format!("{{match: {{grpc: {{{grpc}}}}}, backends: [{{service: a}}]}}"));
        assert_eq!(rule.matches[0].path, Some(path), "{grpc}");
    }
}

/// GRPCRoute, GRPCRouteRule.matches: the longest service first, then the method; what says less comes after.
#[test]
fn the_most_specific_condition_on_a_call_wins() {
    let config = good(&rules(
        "  - {match: {grpc: {method: Add}}, respond: {status: 201}}\n  \
         - {match: {grpc: {service: shop.Cart}}, respond: {status: 202}}\n  \
         - {match: {grpc: {service: shop.Cart, method: Add}}, respond: {status: 203}}\n  \
         - {match: {grpc: {service: shop.Cart, method: Add}, headers: {x-beta: '1'}}, respond: {status: 204}}\n  \
         - {respond: {status: 205}}",
    ));
    let snapshot = config.snapshot(&mut Registry::default(), Version(1), None);
    let router = snapshot.router(&["r".into()]).expect("the listener names it");
    for (path, beta, status) in [
        ("/shop.Cart/Add", None, 203),
        ("/shop.Cart/Add", Some("1"), 204),
        ("/shop.Cart/Remove", None, 202),
        ("/shop.Cart2/Add", None, 201),
        ("/shop.Cart2/Remove", None, 205),
        ("/shop/Cart/Add", None, 205),
    ] {
        let found = router.find(&Call { path, beta }).expect("one is for everything");
        let is_it = matches!(&found.rule.action, Action::Respond { status: found, .. } if *found == status);
        assert!(is_it, "{path} {beta:?}: {:?}", found.rule.action);
    }
}

/// A call as routing sees it.
struct Call {
    path: &'static str,
    beta: Option<&'static str>,
}

impl Request for Call {
    fn host(&self) -> &str {
        "shop.example"
    }

    fn method(&self) -> &str {
        "POST"
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> &str {
        ""
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.beta.filter(|_| name == "x-beta").map(str::as_bytes)
    }
}

#[test]
fn mistakes_about_calls_are_told_where_they_stand() {
    let long = "a".repeat(600);
    bad(
        &rules(&format!(
            "  - {{match: {{path: {{prefix: /a}}, grpc: {{service: a.B}}}}, respond: {{status: 200}}}}\n  \
             - {{match: {{grpc: {{}}}}, respond: {{status: 200}}}}\n  \
             - {{match: {{grpc: {{service: /a.B/C}}}}, respond: {{status: 200}}}}\n  \
             - {{match: {{grpc: {{service: {{regex: {long}}}, method: {{regex: {long}}}}}}}, respond: {{status: 200}}}}\n  \
             - {{match: {{path: {{prefix: /x.Y}}}}, respond: {{status: 200}}}}\n  \
             - {{match: {{grpc: {{service: x.Y}}}}, respond: {{status: 200}}}}",
        )),
        &[
            "w:6:40: routes[0].rules[0].match.grpc: both path and grpc are given; a call is a path",
            "w:7:20: routes[0].rules[1].match.grpc: nothing is asked of the call, expected service or method",
            "w:8:30: routes[0].rules[2].match.grpc.service: wrong value: found '/a.B/C', expected the name of a gRPC service with \
             its package or a mapping with exactly one of exact or regex; write service: a.B, method: C",
            "w:9:20: routes[0].rules[3].match.grpc: service and method make no regular expression together; it has more than 1024 \
             bytes",
            "w:11:13: routes[0].rules[5].match: this never applies: the conditions are those in line 10, which come first",
        ],
    );
}

#[test]
fn rates_bound_rules_and_services_and_those_of_clients_come_first() {
    let rule = rule(
        "{limits: {rate: [{requests: 100/s, burst: 50}, {requests: 5000/m, per: client}]}, backends: [{service: a}]}",
    );
    let limit = |requests, seconds, burst, per| RateLimit {
        requests,
        interval: Duration::from_secs(seconds),
        burst,
        per,
    };
    assert_eq!(rule.rates, [limit(5000, 60, 5000, Per::Client), limit(100, 1, 50, Per::All)]);
    let text = |rate: &str| {
        "services: [{name: a, protocol: http, addresses: ['10.0.0.1:80'], endpoints: [], limits: {rate: {RATE}}}]"
            .replace("RATE", rate)
    };
    let config = good(&text("requests: 20/h"));
    assert_eq!(config.services[0].rates, [limit(20, 3600, 20, Per::All)]);
    assert!(config.services[0].limits.is_set, "the direct lane cannot keep it");
    for (rate, message) in [
        (
            "requests: 0/s",
            "w:1:107: services[0].limits.rate.requests: wrong value: found '0/s', expected a rate such as 100/s, 5000/m or 20/h; it must be more than zero",
        ),
        (
            "requests: 5/sec",
            "w:1:107: services[0].limits.rate.requests: wrong value: found '5/sec', expected a rate such as 100/s, 5000/m or 20/h; write 5/s",
        ),
        (
            "requests: 5/d",
            "w:1:107: services[0].limits.rate.requests: wrong value: found '5/d', expected a rate such as 100/s, 5000/m or 20/h; the units are s, m and h",
        ),
        (
            "requests: 1000001/s",
            "w:1:107: services[0].limits.rate.requests: wrong value: found '1000001/s', expected a rate such as 100/s, 5000/m or 20/h; it must not be more than 1000000",
        ),
        (
            "burst: 1",
            "w:1:96: services[0].limits.rate: missing key 'requests', expected a rate such as 100/s, 5000/m or 20/h",
        ),
    ] {
        bad(&text(rate), &[message]);
    }
    bad(
        &text("requests: 1/s").replace("protocol: http", "protocol: tcp"),
        &[
            "w:1:95: services[0].limits.rate: rate needs requests, which protocol tcp has none of, expected protocol http, http2 or auto",
        ],
    );
}

/// What is used up stays so across a reload, as long as the bound is the same.
#[test]
fn a_reload_gives_nobody_a_second_burst() {
    let text = |timeout: &str| {
        let rule =
            "  - {limits: {rate: {requests: 1/h}}, timeout: {request: TIMEOUT}, backends: [{service: a}]}";
        rules(&rule.replace("TIMEOUT", timeout))
    };
    let mut registry = Registry::default();
    let first = good(&text("1s")).snapshot(&mut registry, Version(1), None);
    let client = "10.0.0.1".parse().unwrap();
    assert!(first.routes[0].rules[0].rates.try_begin(client, 0).is_ok());
    let second = good(&text("2s")).snapshot(&mut registry, Version(2), Some(&first));
    assert!(!Arc::ptr_eq(&first.routes[0].rules[0], &second.routes[0].rules[0]));
    assert!(second.routes[0].rules[0].rates.try_begin(client, 1).is_err());
    let other = good(&text("2s").replace("1/h", "2/h")).snapshot(&mut registry, Version(3), Some(&second));
    assert!(other.routes[0].rules[0].rates.try_begin(client, 1).is_ok(), "another bound begins anew");
}

#[test]
fn a_service_keeps_what_is_used_up_until_its_bound_is_another() {
    let text = |rate: &str, weight: u32| {
        format!(
            "services: [{{name: a, protocol: http, addresses: ['10.0.0.1:80'], limits: {{rate: {{requests: {rate}}}}}, \
             endpoints: [{{address: '10.1.0.1:80', weight: {weight}}}]}}]"
        )
    };
    let mut registry = Registry::default();
    let mut previous: Option<Snapshot> = None;
    let client = "10.0.0.1".parse().unwrap();
    for (rate, weight, is_let_through) in [("1/h", 1, true), ("1/h", 2, false), ("2/h", 2, true)] {
        let snapshot = good(&text(rate, weight)).snapshot(&mut registry, Version(1), previous.as_ref());
        let service = Arc::clone(snapshot.services().next().expect("one service"));
        assert_eq!(service.rates.try_begin(client, 0).is_ok(), is_let_through, "{rate} {weight}");
        previous = Some(snapshot);
    }
}

#[test]
fn faults_are_read_as_written() {
    let text = "  - {fault: {headers: {X-Chaos: '1'}, delay: {share: 10%, time: 100ms}, \
                abort: {share: 0.5%, grpc: unavailable}, rate_limit: {share: 1%}}, backends: [{service: a}]}";
    let config = good(&format!("{}allow_faults: true\n", rules(text)));
    let second = Duration::from_secs(1);
    let policy = FaultPolicy {
        headers: vec![("x-chaos".into(), TextPattern::Exact("1".into()))],
        delay: Some(Delay { share: 1000, time: second / 10 }),
        abort: Some(Abort { share: 50, answer: FaultAnswer::Grpc(Status::Unavailable) }),
        rate_limit: Some(RateLimited { share: 100, retry_after: second }),
    };
    assert_eq!(config.routes[0].rules[0].fault, Some(policy));
    assert_eq!(good(&config.to_json().to_string()), config);
}

#[test]
fn faults_must_be_allowed_and_say_what_happens() {
    let fault = |fault: &str| rules(&format!("  - {{fault: {{{fault}}}, backends: [{{service: a}}]}}"));
    bad(
        &fault("delay: {share: 1%, time: 1s}"),
        &[
            "w:6:13: routes[0].rules[0].fault: faults are not allowed, expected allow_faults: true at the top of the file",
        ],
    );
    let refused = fault("delay: {share: 1%, time: 1s}");
    bad(
        &format!("{refused}allow_faults: false\n"),
        &[
            "w:6:13: routes[0].rules[0].fault: faults are not allowed, expected allow_faults: true at the top of the file",
        ],
    );
    for (text, message) in [
        ("", "w:6:13: routes[0].rules[0].fault: nothing fails, expected delay, abort or rate_limit"),
        (
            "abort: {share: 1%}",
            "w:6:21: routes[0].rules[0].fault.abort: nothing says what is answered, expected status or grpc",
        ),
        (
            "abort: {share: 1%, status: 503, grpc: aborted}",
            "w:6:21: routes[0].rules[0].fault.abort: both status and grpc are given; a request is answered with one of them, \
             expected status or grpc",
        ),
        (
            "abort: {share: 1%, grpc: ok}",
            "w:6:39: routes[0].rules[0].fault.abort.grpc: wrong value: found 'ok', expected a status of gRPC that is a failure, \
             such as unavailable",
        ),
    ] {
        bad(&format!("{}allow_faults: true\n", fault(text)), &[message]);
    }
}

#[test]
fn mistakes_about_grpc_are_told_where_they_stand() {
    bad(
        &rules(
            "  - {retry: {on: [UNAVAILABLE, ok, time_out]}, backends: [{service: a}]}\n  \
             - {match: {path: {prefix: /x}}, retry: {throttle: {max_tokens: 1001, ratio: 1%}}, backends: [{service: a}]}",
        ),
        &[
            "w:6:19: routes[0].rules[0].retry.on[0]: wrong value: found 'UNAVAILABLE', expected a whole number from 100 to 599 or \
             connect_failure, reset, timeout, or statuses such as \"503\", \"500-599\" or, of gRPC, unavailable; did you mean \
             'unavailable'?",
            "w:6:32: routes[0].rules[0].retry.on[1]: wrong value: found 'ok', expected a whole number from 100 to 599 or \
             connect_failure, reset, timeout, or statuses such as \"503\", \"500-599\" or, of gRPC, unavailable; a call that went \
             well is not made again",
            "w:6:36: routes[0].rules[0].retry.on[2]: wrong value: found 'time_out', expected a whole number from 100 to 599 or \
             connect_failure, reset, timeout, or statuses such as \"503\", \"500-599\" or, of gRPC, unavailable; did you mean \
             'timeout'?",
            "w:7:53: routes[0].rules[1].retry.throttle: missing key 'token_ratio', expected a percentage from 0.01% to 100%",
            "w:7:66: routes[0].rules[1].retry.throttle.max_tokens: wrong value: found the number 1001, expected a whole number from \
             1 to 1000",
            "w:7:72: routes[0].rules[1].retry.throttle.ratio: unknown key, expected max_tokens or token_ratio",
        ],
    );
}

#[test]
fn a_message_of_grpc_is_bounded_by_what_protobuf_allows() {
    let config = |size: &str| {
        "services: [{name: a, protocol: http, addresses: ['10.0.0.1:80'], endpoints: [], http: {max_grpc_message: SIZE}}]"
            .replace("SIZE", size)
    };
    assert_eq!(good(&config("4MiB")).services[0].http.message_bytes, Some(4 << 20));
    bad(
        &config("4GiB"),
        &[
            "w:1:106: services[0].http.max_grpc_message: wrong value: found 4GiB, expected a size from 1B to 2GiB",
        ],
    );
}
