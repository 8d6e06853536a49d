//! The whole way, from text to [`Config`] or to messages.

use std::sync::Arc;

use proptest::prelude::*;
use proxy_core::addr::EndpointAddr;
use proxy_core::id::{Registry, Version};
use proxy_core::service::{EndpointState, Probe};
use proxy_core::snapshot::{Scope, Snapshot};

use super::*;

mod application;
mod deploy;
mod generated;
mod grpc;
mod intercept;
mod messages;
mod overload;
mod pods;
mod routes;
mod source;

const EXAMPLE: &str = include_str!("../../deploy/weir.example.yaml");

/// The example of the requirements, as it was given.
const GIVEN: &str = r#"
listeners:
  - {address: "0.0.0.0:5432", service: shop/web}   # explicit: for clients that are not intercepted
intercept:
  scopes: [{cgroup: /app.slice}]            # cgroup v2 paths below the mount
  exclude: {cidrs: [169.254.0.0/16], ports: [53]}
services:
  - name: shop/web
    addresses: ["10.96.0.10:80", "[fd00::10]:80"]   # what applications connect to
    protocol: tcp
    lane: auto                               # auto | direct | proxy
    endpoints: [{address: "10.1.0.5:8080", weight: 2, zone: a}, {address: "[fd00:1::6]:8080"}]
    balance: {policy: least_request}         # round_robin | random | least_request | maglev | ring_hash
    health: {interval: 2s, timeout: 500ms, healthy: 2, unhealthy: 2, http: {path: /healthz, status: [200]}}   # or tcp: {}
    limits: {connect_timeout: 1s, idle_timeout: 1h, max_connections: 10000}
    on_endpoint_loss: drain
workers: auto
io: auto
admin: {address: 127.0.0.1:15000}
metrics: {address: 0.0.0.0:15020}
"#;

fn good(text: &str) -> Config {
    parse("weir.yaml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_given_example_means_what_it_says() {
    let config = good(GIVEN);
    let [web] = config.services.as_slice() else { panic!("one service") };
    assert_eq!((web.name.as_str(), web.addresses.len(), web.endpoints.len()), ("shop/web", 2, 2));
    assert_eq!((web.endpoints[0].weight, web.endpoints[0].zone.as_deref()), (2, Some("a")));
    assert_eq!((web.endpoints[1].weight, web.endpoints[1].zone.as_deref()), (1, None));
    let health = web.health.as_ref().expect("checks");
    assert_eq!((health.interval.as_secs(), health.unhealthy_interval.as_millis()), (2, 500));
    assert!(matches!(&health.probe, Probe::Http { status, .. } if *status == [(200, 200)]));
    assert!(web.limits.is_set);
    assert_eq!(web.limits.max_connections, Some(10_000));
    assert_eq!(web.on_endpoint_loss, EndpointLoss::Drain(Duration::from_secs(30)));
    assert!(config.intercept.scopes.contains(&Scope::Cgroup("/app.slice".to_owned())));
    assert_eq!(config.metrics, Some("0.0.0.0:15020".parse().unwrap()));
}

#[test]
fn the_example_file_is_right_and_prints_to_the_same() {
    let config = good(EXAMPLE);
    assert_eq!((config.services.len(), config.routes.len()), (4, 1));
    assert_eq!(good(&config.to_json().to_string()), config);
}

#[test]
fn the_example_file_names_every_key() {
    let schema = schema();
    let types = schema["$defs"].as_object().expect("types").values().chain([&schema]);
    let keys = types.flat_map(|schema| schema["properties"].as_object().into_iter().flatten());
    for (key, _) in keys {
        let is_named = EXAMPLE.match_indices(&format!("{key}:")).any(|(at, _)| {
            let before = EXAMPLE[..at].chars().next_back();
            before.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_')
        });
        assert!(is_named, "{key} is missing");
    }
}

#[test]
fn what_the_example_file_says_of_tls_in_comments_is_right() {
    let lines = EXAMPLE.lines().scan(false, |is_tls, line| {
        let bare = line.strip_prefix("    # ");
        *is_tls = bare.is_some_and(|bare| bare.starts_with("tls:") || (*is_tls && bare.starts_with(' ')));
        Some(if *is_tls { format!("    {}", bare.unwrap_or_default()) } else { line.to_owned() })
    });
    let text =
        lines.collect::<Vec<_>>().join("\n").replace("tls/me.pem ", "tls/me.pem\n      key: tls/me.key ");
    let config = good(&text);
    let auth = config.listeners[1].tls.as_ref().expect("TLS").client_auth.as_ref().expect("clients");
    assert_eq!((auth.is_required, auth.san.len()), (true, 2));
    assert!(config.services[2].tls.as_ref().expect("TLS").certificate.is_some());
}

/// Every "Default: `x`" that the help texts promise, against what comes out of a file that leaves everything out.
#[test]
fn every_default_is_as_its_description_says() {
    let config = good(
        "services: [{name: a, addresses: ['10.0.0.1:80'], balance: {}, outlier: {}, limits: {}, \
         endpoints: [{address: '10.0.0.2:80'}], health: {http: {path: /}}}]\naccess_log: {path: /x}\n\
         listeners: [{address: '10.0.0.3:80', service: a}]",
    );
    let dump = config.to_json();
    let service = &dump["services"][0];
    let limits = config.services[0].limits;
    let is_text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let show = |time: Duration| text::show_duration(time);
    let off = |time: Option<Duration>| time.map_or("off".to_owned(), show);
    let drained =
        good("services: [{name: a, addresses: ['10.0.0.1:80'], endpoints: [], on_endpoint_loss: drain}]");
    let adaptive = good(
        "services: [{name: a, protocol: http, addresses: ['10.0.0.1:80'], endpoints: [], limits: {adaptive: {}}}]",
    );
    let http = HttpLimits::DEFAULT;
    let routed = routed();
    let rule = &routed.to_json()["routes"][0]["rules"][0];
    let listener = &routed.to_json()["listeners"][0];
    let retry = &routed.routes[0].rules[0].retry;
    let actual = |place: &str, key: &str| match (place, key) {
        ("Listener", _) => is_text(&dump["listeners"][0][key]),
        ("Backend", _) => is_text(&rule["backends"][0][key]),
        ("FaultRateLimit", _) => is_text(&rule["fault"]["rate_limit"][key]),
        ("RateLimit", _) => is_text(&rule["limits"]["rate"][0][key]),
        ("Mirror", _) => is_text(&rule["mirror"][0][key]),
        ("Redirect" | "Respond", _) => is_text(
            &routed.to_json()["routes"][0]["rules"][if place == "Redirect" { 1 } else { 2 }]
                [&place.to_lowercase()][key],
        ),
        ("Retry", "attempts") => retry.attempts.to_string(),
        ("Retry", "on") => {
            assert_eq!(*retry, proxy_core::retry::RetryPolicy::default());
            if retry.on.connect_failure { "[connect_failure]".to_owned() } else { String::new() }
        }
        ("Retry", "budget") => format!("{}%", retry.budget_percent),
        ("Retry", "budget_least") => retry.budget_least.to_string(),
        ("BackOff", "base") => show(retry.base_back_off),
        ("BackOff", "max") => show(retry.max_back_off),
        ("ServerTls", _) => is_text(&listener["tls"][key]),
        ("ClientAuth", _) => is_text(&listener["tls"]["client_auth"][key]),
        ("ClientTls", _) => is_text(&routed.to_json()["services"][0]["tls"][key]),
        ("HttpLimits", "max_head") => text::show_size(http.head_bytes.into()),
        ("HttpLimits", "max_headers") => http.header_count.to_string(),
        ("HttpLimits", "head_timeout") => show(http.head_timeout),
        ("HttpLimits", "idle_timeout") => off(http.idle_timeout),
        ("HttpLimits", "body_timeout") => show(http.body_timeout),
        ("HttpLimits", "max_connection_age") => off(http.max_age),
        ("HttpLimits", "max_connection_age_grace") => off(http.max_age_grace),
        ("Ping", "clients") => off(http.pings.clients),
        ("Ping", "endpoints") => off(http.pings.endpoints),
        ("Ping", "timeout") => show(http.pings.timeout),
        ("Health", "tls") => is_text(&routed.to_json()["services"][0]["health"]["tls"]),
        ("WeirConfig", _) => is_text(&dump[key]),
        ("Service", "drain_timeout") => is_text(&drained.to_json()["services"][0]["drain_timeout"]),
        ("Service", _) => is_text(&service[key]),
        ("Endpoint", _) => is_text(&service["endpoints"][0][key]),
        ("Balance", _) => is_text(&service["balance"][key]),
        ("Health", _) => is_text(&service["health"][key]),
        ("HttpProbe", _) => is_text(&service["health"]["http"][key]),
        ("Outlier", _) => is_text(&service["outlier"][key]),
        ("Kubelet", _) => is_text(&dump["intercept"]["kubelet"][key]),
        ("Intercept", _) => is_text(&dump["intercept"][key]),
        ("Admin", _) => is_text(&dump["admin"][key]),
        ("AccessLog", _) => is_text(&dump["access_log"][key]),
        ("Overload", _) => is_text(&dump["overload"][key]),
        ("Log", _) => is_text(&dump["log"][key]),
        ("Adaptive", _) => is_text(&adaptive.to_json()["services"][0]["limits"]["adaptive"][key]),
        ("Limits" | "InboundLimits", "connect_timeout") => show(limits.connect_timeout),
        ("Limits", "connect_attempts") => limits.connect_attempts.to_string(),
        ("Limits" | "InboundLimits", "idle_timeout") => off(limits.idle_timeout),
        ("Limits" | "InboundLimits", "half_close_timeout") => off(limits.half_close_timeout),
        ("Limits" | "InboundLimits", "user_timeout") => show(limits.user_timeout),
        _ => panic!("{place}.{key} has a default that this test does not know"),
    };
    let schema = schema();
    let mut defaults_count = 0;
    let types =
        schema["$defs"].as_object().expect("types").iter().map(|(name, schema)| (name.as_str(), schema));
    for (place, schema) in types.chain([("WeirConfig", &schema)]) {
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let description =
                property["description"].as_str().unwrap_or_else(|| panic!("{place}.{key}: no help"));
            if let Some((_, promised)) = description.split_once("Default: `") {
                let promised = promised.split('`').next().unwrap();
                assert_eq!(actual(place, key), promised, "{place}.{key}");
                defaults_count += 1;
            }
        }
    }
    assert_eq!(defaults_count, 81, "a default was added or lost");
    assert!(!limits.is_set, "defaults are not limits that were set");
    let health = config.services[0].health.as_ref().unwrap();
    assert_eq!(health.unhealthy_interval, Duration::from_millis(1250), "a quarter of the interval");
}

/// A file whose routes and TLS leave everything out that can be.
fn routed() -> Config {
    good(
        "allow_faults: true\nservices: [{name: a, endpoints: [], protocol: http, tls: {}, health: {http: {path: /}}}]\n\
         listeners: [{address: '10.0.0.3:80', protocol: http, routes: [r], tls: {certificates: [{cert: c, key: k}], \
         client_auth: {ca: a}}}]\n\
         routes: [{name: r, rules: [\
         {match: {path: {prefix: /a}}, backends: [{service: a}], mirror: {service: a}, limits: {rate: {requests: 1/s}}, fault: {rate_limit: {share: 1%}}, retry: {budget_least: 3, attempts: 2, back_off: {base: 25ms}}},\
         {match: {path: {prefix: /b}}, redirect: {scheme: https}},\
         {respond: {status: 200}}]}]",
    )
}

#[test]
fn intervals_that_are_left_out_follow_the_interval() {
    let health = |interval: &str| {
        let text = format!(
            "services: [{{name: a, addresses: ['10.0.0.1:80'], endpoints: [], health: {{interval: {interval}}}}}]"
        );
        let health = good(&text).services[0].health.clone().unwrap();
        (health.unhealthy_interval.as_millis(), health.timeout.as_millis())
    };
    assert_eq!(health("8s"), (2000, 1000));
    assert_eq!(health("200ms"), (100, 200));
    assert_eq!(health("50ms"), (50, 50));
}

#[test]
fn a_check_speaks_as_its_service_unless_it_goes_to_a_port_of_its_own() {
    let is_http2 = |protocol: &str, more: &str| {
        let text = format!(
            "services: [{{name: a, addresses: ['10.0.0.1:80'], endpoints: [], protocol: {protocol}, \
             health: {{http: {{path: /}}{more}}}}}]"
        );
        let config = good(&text);
        assert_eq!(good(&config.to_json().to_string()), config);
        let health = config.services[0].health.clone().unwrap();
        matches!(health.probe, Probe::Http { is_http2: true, .. })
    };
    assert!(is_http2("http2", ""));
    assert!(!is_http2("http2", ", port: 9000"));
    assert!(!is_http2("http", "") && !is_http2("tcp", "") && !is_http2("auto", ""));
}

#[test]
fn limits_are_set_by_being_written_and_off_is_none() {
    let is_set = |limits: &str| {
        let text =
            format!("services: [{{name: a, addresses: ['10.0.0.1:80'], endpoints: [], limits: {limits}}}]");
        good(&text).services[0].limits.is_set
    };
    assert!(!is_set("{}"));
    assert!(!is_set("{idle_timeout: off, half_close_timeout: off}"));
    assert!(is_set("{idle_timeout: 1h}"));
    assert!(is_set("{connect_attempts: 3}"));
    assert!(is_set("{max_connections_per_endpoint: 1}"));
}

#[test]
fn policies_have_the_same_word_in_the_file_and_in_messages() {
    for policy in generated::POLICIES {
        let word = policy.as_str();
        let text = format!(
            "services: [{{name: a, addresses: ['10.0.0.1:80'], endpoints: [], balance: {{policy: {word}}}}}]"
        );
        assert_eq!(good(&text).services[0].policy, policy);
    }
}

#[test]
fn v4_mapped_addresses_are_the_ipv4_addresses_that_they_mean() {
    let config = good("services: [{name: a, addresses: ['[::ffff:10.0.0.1]:80'], endpoints: []}]");
    assert_eq!(config.services[0].addresses, ["10.0.0.1:80".parse().unwrap()]);
}

#[test]
fn anchors_and_aliases_stand_for_what_they_name() {
    let config = good(
        "services:\n\
         - {name: a, addresses: ['10.0.0.1:80'], endpoints: [], health: &h {interval: 7s}}\n\
         - {name: b, addresses: ['10.0.0.2:80'], endpoints: [], health: *h}",
    );
    assert_eq!(config.services[0].health, config.services[1].health);
    assert_eq!(config.services[1].health.as_ref().unwrap().interval.as_secs(), 7);
}

#[test]
fn the_schema_describes_every_key_and_allows_no_null() {
    let schema = schema();
    assert!(!schema.to_string().contains("null"), "{schema:#}");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["services"]));
}

#[test]
fn a_file_is_loaded_and_a_file_that_is_none_says_so() {
    let dir = std::env::temp_dir().join(format!("weir-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("weir.yaml");
    std::fs::write(&path, EXAMPLE).unwrap();
    assert_eq!(load(&path), parse(&path.display().to_string(), EXAMPLE));
    assert!(load(&path).is_ok());
    std::fs::write(&path, b"services: []\n# caf\xe9\n").unwrap();
    let message = load(&path).unwrap_err().to_string();
    assert!(message.contains("weir.yaml:2:6: not UTF-8: byte 0xe9"), "{message}");
    std::fs::write(&path, vec![b' '; MAX_FILE_BYTES + 1]).unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with("larger than 64 MiB"));
    assert!(load(&dir).unwrap_err().to_string().contains("cannot be read"));
    assert!(load(&dir.join("none")).unwrap_err().to_string().contains("cannot be read: No such file"));
    std::fs::remove_dir_all(&dir).unwrap();
}

fn service_yaml(name: &str, index: usize, endpoints_count: usize) -> String {
    let endpoints: String = (0..endpoints_count)
        .map(|e| {
            format!("      - {{address: \"10.{}.{}.{}:{}\", weight: 2}}\n", index / 250, index % 250, e, 8080)
        })
        .collect();
    format!(
        "  - name: {name}\n    addresses: [\"10.250.{}.{}:80\"]\n    endpoints:\n{endpoints}",
        index / 250,
        index % 250
    )
}

fn many(services_count: usize, endpoints_count: usize) -> String {
    let services = (0..services_count).map(|i| service_yaml(&format!("shop/s{i}"), i, endpoints_count));
    format!("services:\n{}", services.collect::<String>())
}

#[test]
fn ten_thousand_services_with_a_hundred_thousand_endpoints_are_read() {
    let config = good(&many(10_000, 10));
    assert_eq!(config.services.len(), 10_000);
    assert_eq!(config.services.iter().map(|s| s.endpoints.len()).sum::<usize>(), 100_000);
}

#[test]
#[ignore = "prints times; run it with --release --ignored --nocapture"]
fn time_to_read_ten_thousand_services() {
    let text = many(10_000, 10);
    for _ in 0..5 {
        let start = std::time::Instant::now();
        let config = good(&text);
        let read = start.elapsed();
        let mut registry = Registry::default();
        let first = config.snapshot(&mut registry, Version(1), None);
        let made = start.elapsed() - read;
        let _again = config.snapshot(&mut registry, Version(2), Some(&first));
        let total = start.elapsed();
        println!("{} bytes: read {read:?}, snapshot {made:?}, again {:?}", text.len(), total - made - read);
    }
    let bad = text.replace("weight", "wieght");
    let start = std::time::Instant::now();
    let errors = parse("weir.yaml", &bad).unwrap_err();
    println!("{} mistakes: {:?}", errors.count(), start.elapsed());
}

fn only<'s>(snapshot: &'s Snapshot, name: &str) -> &'s Arc<proxy_core::service::Service> {
    snapshot.services().find(|service| &*service.name == name).expect("the service is there")
}

/// The snapshot as health would leave it: one endpoint of `a` unhealthy, and one connection open to it.
fn running(registry: &mut Registry, config: &Config) -> Snapshot {
    let first = config.snapshot(registry, Version(1), None);
    let a = only(&first, "a");
    let endpoints = a.endpoints.iter().cloned().map(|mut endpoint| {
        if endpoint.address == EndpointAddr("10.1.0.2:80".parse().unwrap()) {
            endpoint.state = EndpointState::Unhealthy;
            assert!(endpoint.load.try_acquire(u32::MAX) && a.load.try_acquire(u32::MAX));
        }
        endpoint
    });
    let changed = proxy_core::service::Service { endpoints: endpoints.collect(), ..a.as_ref().clone() };
    first.with_services([Arc::new(changed)])
}

const TWO: &str = "services:\n\
    - {name: a, addresses: ['10.0.0.1:80'], health: {}, endpoints: [{address: '10.1.0.1:80'}, {address: '10.1.0.2:80'}]}\n\
    - {name: b, addresses: ['10.0.0.2:80'], endpoints: [{address: '10.1.0.2:80'}]}\n";

#[test]
fn a_reload_keeps_what_did_not_change() {
    let mut registry = Registry::default();
    let before = running(&mut registry, &good(TWO));
    let after = good(TWO).snapshot(&mut registry, Version(3), Some(&before));
    assert_eq!(after.version, Version(3));
    for name in ["a", "b"] {
        assert!(Arc::ptr_eq(only(&before, name), only(&after, name)), "{name}");
    }
}

#[test]
fn a_changed_service_keeps_states_and_loads_of_the_endpoints_that_stay() {
    let mut registry = Registry::default();
    let before = running(&mut registry, &good(TWO));
    let changed = TWO.replace("{address: '10.1.0.1:80'}", "{address: '10.1.0.3:80'}");
    let after = good(&changed).snapshot(&mut registry, Version(3), Some(&before));
    let (old, new) = (only(&before, "a"), only(&after, "a"));
    assert!(!Arc::ptr_eq(old, new) && Arc::ptr_eq(only(&before, "b"), only(&after, "b")));
    assert!(Arc::ptr_eq(&old.load, &new.load));
    assert_eq!(
        (new.endpoints[1].state, new.endpoints[1].id),
        (EndpointState::Unhealthy, old.endpoints[1].id)
    );
    assert_eq!(new.endpoints[1].load.open_count(), 1);
    assert_eq!((new.endpoints[0].state, new.endpoints[0].load.open_count()), (EndpointState::Healthy, 0));
    assert_ne!(new.endpoints[0].id, old.endpoints[0].id);
}

#[test]
fn a_state_that_nothing_would_end_is_not_kept() {
    let mut registry = Registry::default();
    let before = running(&mut registry, &good(TWO));
    let unchecked = good(&TWO.replace("health: {}, ", ""));
    let after = unchecked.snapshot(&mut registry, Version(3), Some(&before));
    assert_eq!(only(&after, "a").endpoints[1].state, EndpointState::Healthy);
    assert_eq!(only(&after, "a").endpoints[1].load.open_count(), 1);
}

#[test]
fn every_changed_field_makes_a_new_service() {
    let base = "services: [{name: a, addresses: ['10.0.0.1:80'], endpoints: [{address: '10.1.0.1:80'}]}]";
    let service = |more: &str| base.replace("}]}]", &format!("}}], {more}}}]"));
    let changed = [
        base.replace("'10.0.0.1:80'", "'10.0.0.2:80'"),
        base.replace("'10.1.0.1:80'", "'10.1.0.1:80', weight: 2"),
        base.replace("'10.1.0.1:80'", "'10.1.0.1:80', zone: z"),
        service("lane: proxy"),
        service("balance: {policy: random}"),
        service("health: {}"),
        service("outlier: {panic_percent: 10}"),
        service("limits: {max_connections: 7}"),
        service("on_endpoint_loss: reset"),
        service("fail: closed"),
        service("protocol: http"),
        service("protocol: auto"),
        service("tls: {sni: a.example}, fail: open").replace("fail: open", "fail: closed"),
        service("protocol: http, http: {max_headers: 7}"),
        service("protocol: http, limits: {max_requests: 7}"),
        service("protocol: http, outlier: {consecutive_5xx: 7}"),
    ];
    for text in changed {
        let mut registry = Registry::default();
        let before = good(base).snapshot(&mut registry, Version(1), None);
        let after = good(&text).snapshot(&mut registry, Version(2), Some(&before));
        assert!(!Arc::ptr_eq(only(&before, "a"), only(&after, "a")), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse("x", &text);
    }

    #[test]
    fn no_soup_of_yaml_panics(text in "([-:?\\[\\]{},&*!|>'\"%@`#~ \n\ta0]|services|name|<<|\\.\\.\\.|---){0,60}") {
        let _ = parse("x", &text);
    }

    /// Whatever is cut out of a right file or put into it, the answer is a config or messages with places in the text.
    #[test]
    fn no_mutation_of_a_right_file_panics(
        from in 0..EXAMPLE.len(), len in 0_usize..40, put in "[-:\\[\\]{},&*'\" \na0.]{0,6}",
    ) {
        let mut text = EXAMPLE.to_owned();
        text.replace_range(from..(from + len).min(EXAMPLE.len()), &put);
        if let Err(errors) = parse("x", &text) {
            let lines_count = u32::try_from(text.lines().count()).unwrap();
            prop_assert!(!errors.mistakes.is_empty());
            for mistake in &errors.mistakes {
                let at = mistake.position.expect("a text has places");
                prop_assert!((1..=lines_count + 1).contains(&at.line) && at.column >= 1, "{mistake}");
                prop_assert!(!mistake.problem.contains("cannot be understood"), "{mistake}");
            }
        }
    }
}
