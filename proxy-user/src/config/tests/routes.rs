//! Routes, HTTP and TLS: what they mean, what is said about wrong ones, and what a reload keeps.

use proxy_core::http::HttpLimits;
use proxy_core::http2::Pings;
use proxy_core::retry::RetryOn;
use proxy_core::route::{HostPattern, PathPattern, PathRewrite, Rewrite, TextPattern, Timeouts};
use proxy_core::snapshot::Serves;
use proxy_core::tls::TlsVersion;

use super::messages::bad;
use super::*;

/// Every key of routes, HTTP and TLS.
const SHOP: &str = r#"
listeners:
  - address: 0.0.0.0:443
    protocol: http
    tls:
      certificates: [{cert: web.pem, key: /etc/keys/web.key}]
      min_version: "1.3"
      client_auth: {ca: clients.pem, required: false, san: ["*.shop.example", "spiffe://shop/web"]}
      resumption: false
    routes: [shop]
    http: {max_head: 16KiB, max_headers: 50, head_timeout: 5s, idle_timeout: off, body_timeout: 7s,
           max_request_body: 10MiB, max_response_body: 1GiB, max_grpc_message: 4MiB,
           ping: {clients: off, timeout: 1s}, max_connection_age: 30m, max_connection_age_grace: 1m}
routes:
  - name: shop
    hosts: [Shop.example, "*.shop.example"]
    rules:
      - match:
          path: {prefix: /api/}
          headers: {X-Beta: "1", x-team: {regex: "a|b"}}
          query: {page: {exact: "2"}}
          method: [GET, POST]
        timeout: {request: 2s, per_try: 500ms}
        retry: {attempts: 1, on: [reset, timeout, 503, "500-501"], budget: 50%, budget_least: 1, back_off: {base: 10ms, max: 1s}}
        request_headers: {set: {X-Env: prod}, add: {via: weir}, remove: [X-Debug]}
        response_headers: {remove: [server]}
        mirror: {service: shop/next, share: 2.5%}
        rewrite: {host: "Api.internal:8080", path: {prefix: /}}
        backends: [{service: shop/api, weight: 95}, {service: shop/next}]
      - match: [{path: {exact: /old}}, {path: {regex: "/old/[0-9]+"}, method: GET}]
        redirect: {scheme: https, host: new.example, port: 8443, path: {full: /new}, status: 301}
      - respond: {status: 403, body: "no\n", content_type: text/html}
services:
  - name: shop/api
    addresses: [10.96.0.10:80]
    protocol: http
    routes: [shop]
    tls: {ca: backends.pem, sni: api.internal, cert: me.pem, key: me.key, min_version: "1.3"}
    http: {max_headers: 7}
    limits: {max_requests: 100, max_pending: 10, max_retries: 5}
    outlier: {consecutive_5xx: 9}
    health: {http: {path: /}, tls: false}
    balance: {policy: least_latency}
  - {name: shop/next, endpoints: [{address: 10.1.0.1:80}]}
"#;

#[test]
fn every_key_of_routes_means_what_it_says() {
    let config = good(SHOP);
    let [route] = config.routes.as_slice() else { panic!("one route") };
    let hosts = [HostPattern::Exact("shop.example".into()), HostPattern::Suffix(".shop.example".into())];
    assert_eq!(route.hosts, hosts);
    let [api, old, rest] = route.rules.as_slice() else { panic!("three rules") };
    let [condition] = api.matches.as_slice() else { panic!("one match") };
    assert_eq!(condition.path, Some(PathPattern::Prefix("/api".into())), "without its last slash");
    assert_eq!(condition.headers[0], ("x-beta".into(), TextPattern::Exact("1".into())));
    assert_eq!(condition.headers[1], ("x-team".into(), TextPattern::Regex("a|b".into())));
    assert_eq!(condition.query, [("page".into(), TextPattern::Exact("2".into()))]);
    assert_eq!(condition.methods, ["GET".into(), "POST".into()]);
    let millis = |n| Some(Duration::from_millis(n));
    assert_eq!(api.timeout, Timeouts { request: millis(2000), per_try: millis(500) });
    let on = RetryOn {
        connect_failure: false,
        reset: true,
        timeout: true,
        statuses: vec![(503, 503), (500, 501)],
        ..RetryOn::default()
    };
    assert_eq!((api.retry.attempts, &api.retry.on), (1, &on));
    assert_eq!((api.retry.budget_percent, api.retry.budget_least), (50, 1));
    assert_eq!((Some(api.retry.base_back_off), Some(api.retry.max_back_off)), (millis(10), millis(1000)));
    assert_eq!(api.request_headers.set, [("x-env".into(), "prod".into())]);
    assert_eq!(api.request_headers.add, [("via".into(), "weir".into())]);
    assert_eq!(
        (&*api.request_headers.remove, &*api.response_headers.remove),
        (&["x-debug".into()][..], &["server".into()][..])
    );
    assert_eq!(api.mirrors, [MirrorConfig { service: "shop/next".to_owned(), share: 250 }]);
    let rewrite =
        Rewrite { host: Some("api.internal:8080".into()), path: Some(PathRewrite::Prefix("/".into())) };
    let weights = [("shop/api", 95), ("shop/next", 1)];
    let backends =
        weights.map(|(service, weight)| BackendConfig { service: service.to_owned(), weight }).to_vec();
    assert_eq!(api.action, ActionConfig::Forward { backends, rewrite });
    assert_eq!(old.matches.len(), 2);
    assert!(matches!(&old.action, ActionConfig::Redirect(to) if (to.port, to.status) == (Some(8443), 301)));
    assert!(matches!(&rest.action, ActionConfig::Respond { status: 403, body, .. } if body == "no\n"));
}

#[test]
fn every_key_of_listeners_and_services_means_what_it_says() {
    let config = good(SHOP);
    let listener = &config.listeners[0];
    assert_eq!(
        (listener.protocol, &listener.serves),
        (Protocol::Http, &ServesConfig::Routes(vec!["shop".to_owned()]))
    );
    let second = Duration::from_secs(1);
    let http = HttpLimits {
        head_bytes: 16 << 10,
        header_count: 50,
        head_timeout: 5 * second,
        idle_timeout: None,
        body_timeout: 7 * second,
        request_bytes: Some(10 << 20),
        response_bytes: Some(1 << 30),
        message_bytes: Some(4 << 20),
        pings: Pings { clients: None, timeout: second, ..Pings::DEFAULT },
        max_age: Some(1800 * second),
        max_age_grace: Some(60 * second),
    };
    assert_eq!(listener.http, http);
    let tls = listener.tls.as_ref().expect("TLS");
    assert_eq!(
        (&*tls.certificates[0].cert, &*tls.certificates[0].key),
        (Path::new("web.pem"), Path::new("/etc/keys/web.key"))
    );
    assert_eq!((tls.min_version, tls.is_resuming), (TlsVersion::V1_3, false));
    let auth = tls.client_auth.as_ref().expect("certificates of clients");
    assert_eq!((&*auth.ca, auth.is_required, auth.san.len()), (Path::new("clients.pem"), false, 2));
    let api = &config.services[0];
    assert_eq!((api.protocol, api.routes.as_slice()), (Protocol::Http, &["shop".to_owned()][..]));
    let tls = api.tls.as_ref().expect("TLS");
    assert_eq!(
        (tls.ca.as_deref(), tls.sni.as_deref()),
        (Some(Path::new("backends.pem")), Some("api.internal"))
    );
    assert_eq!(tls.certificate.as_ref().map(|files| files.key.as_path()), Some(Path::new("me.key")));
    assert_eq!((api.fail, tls.min_version), (Fail::Closed, TlsVersion::V1_3));
    assert_eq!(
        (api.limits.max_requests, api.limits.max_pending, api.limits.max_retries),
        (Some(100), Some(10), Some(5))
    );
    assert!(api.limits.is_set && api.endpoints.is_empty() && !api.health.as_ref().unwrap().is_tls);
    assert_eq!(
        (api.outlier.consecutive_5xx, api.policy, api.http.header_count),
        (9, Policy::LeastLatency, 7)
    );
    assert_eq!(good(&config.to_json().to_string()), config);
}

#[test]
fn health_speaks_as_the_service_does_unless_told_otherwise() {
    let is_tls = |keys: &str| {
        let text = format!("services: [{{name: a, addresses: ['10.0.0.1:80'], endpoints: [], {keys}}}]");
        good(&text).services[0].health.as_ref().unwrap().is_tls
    };
    assert!(is_tls("tls: {}, health: {http: {path: /}}"));
    assert!(!is_tls("health: {http: {path: /}}"));
    assert!(!is_tls("tls: {}, health: {http: {path: /}, tls: false}"));
    assert!(!is_tls("tls: {}, health: {tcp: {}}"));
}

#[test]
fn files_are_relative_to_the_folder_of_the_config() {
    let dir = std::env::temp_dir().join(format!("weir-folder-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("weir.yaml");
    std::fs::write(&path, SHOP).unwrap();
    let mut source = Source::open(&path).unwrap();
    assert_eq!(load(&path).as_ref(), Ok(source.config()));
    assert_eq!(source.config().services[0].tls.as_ref().unwrap().ca, Some(dir.join("backends.pem")));
    std::fs::write(&path, SHOP.replace("ca: backends.pem", "ca: others.pem")).unwrap();
    source.reload().unwrap();
    assert_eq!(source.config().services[0].tls.as_ref().unwrap().ca, Some(dir.join("others.pem")));
    assert_eq!(good(&source.config().to_json().to_string()), *source.config());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_reload_keeps_routes_rules_listeners_and_routers_that_did_not_change() {
    let mut registry = Registry::default();
    let before = good(SHOP).snapshot(&mut registry, Version(1), None);
    let same = good(SHOP).snapshot(&mut registry, Version(2), Some(&before));
    let names = [Arc::from("shop")];
    assert!(Arc::ptr_eq(before.router(&names).unwrap(), same.router(&names).unwrap()));
    assert!(Arc::ptr_eq(&before.listeners[0], &same.listeners[0]));
    assert!(Arc::ptr_eq(only(&before, "shop/api"), only(&same, "shop/api")));
    assert_eq!(same.listeners[0].serves, Serves::Routes(names.to_vec()));
    let changed = good(&SHOP.replace("status: 403", "status: 404"));
    let after = changed.snapshot(&mut registry, Version(3), Some(&same));
    assert!(!Arc::ptr_eq(before.router(&names).unwrap(), after.router(&names).unwrap()));
    let is_kept = |rule: usize| Arc::ptr_eq(&before.routes[0].rules[rule], &after.routes[0].rules[rule]);
    assert_eq!([is_kept(0), is_kept(1), is_kept(2)], [true, true, false]);
    assert!(
        Arc::ptr_eq(&before.listeners[0], &after.listeners[0]),
        "a listener names routes and does not hold them"
    );
    let name = |id| after.service(id).unwrap().name.to_string();
    assert_eq!(RouteConfig::of(&after.routes[0], &name), changed.routes[0]);
}

#[test]
fn a_change_of_routes_is_read_as_a_whole_and_one_of_a_service_alone() {
    let services: String = (0..200)
        .map(|i| format!("  - {{name: s{i}, addresses: [10.0.{i}.1:80], endpoints: []}}\n"))
        .collect();
    let text = format!("{SHOP}{services}");
    let mut source = Source::new(Path::new("weir.yaml"), text.clone()).unwrap();
    let mut take_up = |text: String| {
        let way = source.take_up(text.clone()).unwrap();
        assert_eq!(Source::new(Path::new("weir.yaml"), text).unwrap().config(), source.config());
        way
    };
    assert_eq!(
        take_up(text.replace("10.0.9.1:80", "10.0.250.1:80")),
        Way::Changed,
        "beside the services that routes name"
    );
    assert_eq!(take_up(text.replace("max_requests: 100", "max_requests: 101")), Way::Changed);
    assert_eq!(take_up(text.replace("status: 403", "status: 404")), Way::Whole);
    assert_eq!(take_up(text.replace("min_version: \"1.3\"", "min_version: \"1.2\"")), Way::Whole);
    assert!(source.take_up(text.replace("{name: shop/next,", "{name: shop/nxt,")).is_err());
}

/// A file with one route that has these rules, from line 6 on, and service `a`.
pub(super) fn rules(rules: &str) -> String {
    format!(
        "services: [{{name: a, protocol: http, addresses: ['10.0.0.1:80'], endpoints: []}}]\n\
         listeners: [{{address: '10.0.0.9:80', protocol: http, routes: [r]}}]\nroutes:\n- name: r\n  rules:\n{rules}\n"
    )
}

#[test]
fn names_that_nobody_has_are_found_and_meant_ones_suggested() {
    bad(
        "services: [{name: shop/api, addresses: ['10.0.0.1:80'], protocol: http, routes: [shpo, shop, shop], endpoints: []}]\n\
         listeners: [{address: '10.0.0.9:80', protocol: http, routes: [nothing]}]\n\
         routes:\n\
         - {name: shop, rules: [{backends: [{service: shop/app}, {service: shop/api}, {service: shop/api}], mirror: {service: x}}]}\n\
         - {name: shop, hosts: [a.example, A.example], rules: [{respond: {status: 200}}]}\n",
        &[
            "w:1:82: services[0].routes[0]: there is no route 'shpo'; did you mean 'shop'?",
            "w:1:94: services[0].routes[2]: route 'shop' is already in this list",
            "w:2:63: listeners[0].routes[0]: there is no route 'nothing'",
            "w:4:46: routes[0].rules[0].backends[0].service: there is no service 'shop/app'; did you mean 'shop/api'?",
            "w:4:88: routes[0].rules[0].backends[2].service: 'shop/api' is already a backend in line 4; give the first one \
             more weight instead",
            "w:4:118: routes[0].rules[0].mirror.service: there is no service 'x'",
            "w:5:10: routes[1].name: route 'shop' is already defined in line 4",
            "w:5:35: routes[1].hosts[1]: a.example is already a host of this route in line 5",
        ],
    );
}

#[test]
fn a_mirror_cannot_be_a_service_that_speaks_http2_only() {
    let text = |protocol: &str| {
        format!(
            "services:\n- {{name: a, addresses: ['10.0.0.1:80'], protocol: http2, routes: [r], endpoints: []}}\n\
             - {{name: b, protocol: {protocol}, endpoints: []}}\n\
             routes:\n- {{name: r, rules: [{{backends: [{{service: b}}], mirror: [{{service: b, share: 5%}}]}}]}}\n"
        )
    };
    assert!(parse("w", &text("http")).is_ok() && parse("w", &text("auto")).is_ok());
    bad(
        &text("http2"),
        &[
            "w:5:67: routes[0].rules[0].mirror[0].service: copies are sent in HTTP/1.1, but service 'b' in line 3 speaks HTTP/2 \
           only, expected one with protocol http",
        ],
    );
}

#[test]
fn a_rule_does_one_thing_and_what_contradicts_it_is_refused() {
    bad(
        &rules(
            "  - {}\n  \
             - {match: {path: {exact: /1}}, redirect: {scheme: https}, respond: {status: 204, body: x}, retry: {}}\n  \
             - {match: {path: {exact: /2}}, backends: [{service: a, weight: 0}], timeout: {request: 1s, per_try: 2s}}\n  \
             - {match: {path: {exact: /3}}, backends: [{service: a}], rewrite: {path: {prefix: /x}}}\n  \
             - {match: {path: {prefix: /4}}, redirect: {status: 300}}\n  \
             - {match: {path: {prefix: /5}}, backends: [{service: a}], rewrite: {}, retry: {on: [timeout], back_off: {base: 1s, max: 10ms}}}\n  \
             - {match: [{path: {prefix: /6/}}, {path: {prefix: /6}}], backends: []}",
        ),
        &[
            "w:6:5: routes[0].rules[0]: nothing happens with these requests, expected backends, redirect or respond",
            "w:7:70: routes[0].rules[1].respond: both redirect and respond are given; a rule does one of them",
            "w:7:90: routes[0].rules[1].respond.body: an answer of 204 has no body",
            "w:7:101: routes[0].rules[1].retry: retry means nothing with redirect: no service is asked",
            "w:8:44: routes[0].rules[2].backends: every backend has weight 0, so none ever answers",
            "w:8:103: routes[0].rules[2].timeout.per_try: per_try is longer than the request's 1s: found 2s",
            "w:9:76: routes[0].rules[3].rewrite.path: there is no prefix to replace: not every match of this rule has path: \
             {prefix: ...}",
            "w:10:45: routes[0].rules[4].redirect: this leads back to where it comes from, expected scheme, host, port or path",
            "w:10:54: routes[0].rules[4].redirect.status: wrong value: found the number 300, expected 301, 302, 303, 307 or 308",
            "w:11:70: routes[0].rules[5].rewrite: nothing is rewritten, expected host or path",
            "w:11:87: routes[0].rules[5].retry.on[0]: no try ever takes too long, expected a timeout with per_try",
            "w:11:123: routes[0].rules[5].retry.back_off.max: max is shorter than the base of 1s: found 10ms",
            "w:12:70: routes[0].rules[6].backends: wrong value: found an empty list, expected a list that is not empty",
        ],
    );
}

#[test]
fn conditions_that_come_twice_never_apply() {
    bad(
        &rules(
            "  - {respond: {status: 200}}\n  \
             - {match: {headers: {a: '1', b: '2'}, method: [GET, PUT]}, respond: {status: 201}}\n  \
             - {match: [{path: {prefix: /}}, {headers: {B: '2', A: '1'}, method: [PUT, GET]}], respond: {status: 202}}\n  \
             - {match: {}, respond: {status: 203}}\n  \
             - {match: {headers: {a: '1', A: '1'}}, respond: {status: 203}}",
        ),
        &[
            "w:8:35: routes[0].rules[2].match[1]: this never applies: the conditions are those in line 7, which come first",
            "w:9:13: routes[0].rules[3].match: this never applies: the conditions are those in line 6, which come first",
            "w:10:35: routes[0].rules[4].match.headers.A: header a is already there in line 10",
        ],
    );
}

#[test]
fn words_of_http_are_checked_where_they_stand() {
    bad(
        &rules(
            "  - match: {path: {prefix: api}, headers: {'a b': x, c: 1, d: {regex: '('}}, method: get, query: {e: {regx: a}}}\n    \
               request_headers: {set: {connection: close, host: x}, remove: [':path']}\n    \
               retry: {attempts: 17, on: [rset, 99, 5xx], budget: 120%}\n    \
               mirror: {service: a, share: 5}\n    \
               backends: [{service: a, weight: -1}]",
        )
        .replace("- name: r", "- name: r\n  hosts: ['a.example:80', '*', 'http://a.example', 'a.*']"),
        &[
            "w:5:11: routes[0].hosts[0]: wrong value: found 'a.example:80', expected a host name, or one that begins with \
             '*.', without a port; leave out the port",
            "w:5:27: routes[0].hosts[1]: wrong value: found '*', expected a host name, or one that begins with '*.', without a \
             port; without hosts a route is for every host",
            "w:5:32: routes[0].hosts[2]: wrong value: found 'http://a.example', expected a host name, or one that begins with \
             '*.', without a port; leave out the scheme",
            "w:5:52: routes[0].hosts[3]: wrong value: found 'a.*', expected a host name, or one that begins with '*.', without \
             a port; '*' can only stand for what is in front of the first dot",
            "w:7:28: routes[0].rules[0].match.path.prefix: wrong value: found 'api', expected a path that begins with '/', \
             without blanks, '?' and '#'",
            "w:7:44: routes[0].rules[0].match.headers.'a b': wrong key, expected the name of a header",
            "w:7:57: routes[0].rules[0].match.headers.c: wrong type: found the number 1, expected a text of ASCII characters \
             that begins and ends with none that is blank or a mapping with exactly one of exact or regex; write it in quotes: \"1\"",
            "w:7:71: routes[0].rules[0].match.headers.d.regex: wrong value: found '(', expected a regular expression; unclosed \
             group",
            "w:7:86: routes[0].rules[0].match.method: wrong value: found 'get', expected a method such as GET or a list that is \
             not empty; did you mean 'GET'?",
            "w:7:103: routes[0].rules[0].match.query.e.regx: unknown key; did you mean 'regex'?",
            "w:8:29: routes[0].rules[0].request_headers.set.connection: wrong key, expected the name of a header that is not \
             about the connection; Weir writes it itself, for each connection",
            "w:8:48: routes[0].rules[0].request_headers.set.host: wrong key, expected the name of a header that is not about \
             the connection; the host is changed by rewrite: {host: ...}",
            "w:8:67: routes[0].rules[0].request_headers.remove[0]: wrong value: found ':path', expected the name of a header \
             that is not about the connection; hosts, path and method have keys of their own",
            "w:9:23: routes[0].rules[0].retry.attempts: wrong value: found the number 17, expected a whole number from 0 to 16",
            "w:9:32: routes[0].rules[0].retry.on[0]: wrong value: found 'rset', expected a whole number from 100 to 599 or \
             connect_failure, reset, timeout, or statuses such as \"503\", \"500-599\" or, of gRPC, unavailable; did you mean 'reset'?",
            "w:9:38: routes[0].rules[0].retry.on[1]: wrong value: found the number 99, expected a whole number from 100 to 599 \
             or connect_failure, reset, timeout, or statuses such as \"503\", \"500-599\" or, of gRPC, unavailable",
            "w:9:42: routes[0].rules[0].retry.on[2]: wrong value: found '5xx', expected a whole number from 100 to 599 or \
             connect_failure, reset, timeout, or statuses such as \"503\", \"500-599\" or, of gRPC, unavailable; write \"500-599\"",
            "w:9:56: routes[0].rules[0].retry.budget: wrong value: found '120%', expected a percentage from 0% to 100%",
            "w:10:33: routes[0].rules[0].mirror.share: wrong type: found the number 5, expected a percentage from 0.01% to \
             100%; write 5%",
            "w:11:37: routes[0].rules[0].backends[0].weight: wrong value: found the number -1, expected a whole number from 0 \
             to 1000000",
        ],
    );
}

#[test]
fn protocols_and_what_needs_them_fit_each_other() {
    bad(
        "services:\n\
         - {name: a, addresses: [10.0.0.1:80], routes: [r], http: {max_head: 1B}, limits: {max_requests: 1}, outlier: {consecutive_5xx: 1}}\n\
         - {name: b, addresses: [10.0.0.2:80], endpoints: [], protocol: tls, tls: {cert: x}, fail: open, health: {tls: true}}\n\
         - {name: c, addresses: [10.0.0.3:80], endpoints: [], health: {http: {path: /}, tls: true}}\n\
         - {name: d, addresses: [10.0.0.4:80], protocol: http, lane: direct}\n\
         - {name: e, addresses: [10.0.0.5:80], tls: {}, endpoints: [], lane: direct}\n\
         listeners:\n\
         - {address: '10.0.0.9:80', protocol: tls, tls: {certificates: []}, routes: [r], service: a}\n\
         - {address: '10.0.0.9:81', protocol: http2}\n\
         - {address: '10.0.0.9:82', protocol: tls, tls: {certificates: [{cert: c, key: k}], min_version: 1.2, resumption: yes}, routes: [r]}\n\
         routes:\n\
         - {name: r, rules: [{match: {path: {prefix: /}}, backends: [{service: a}]}, {backends: [{service: a}]}]}\n",
        &[
            "w:2:47: services[0].routes: nothing in a stream of bytes says which route it goes by, expected protocol http, http2, tls or auto",
            "w:2:58: services[0].http: protocol tcp has no HTTP, expected protocol http, http2 or auto",
            "w:2:69: services[0].http.max_head: wrong value: found 1B, expected a size from 1KiB to 1MiB",
            "w:2:97: services[0].limits.max_requests: max_requests needs requests, which protocol tcp has none of, expected protocol http, http2 or auto",
            "w:2:128: services[0].outlier.consecutive_5xx: consecutive_5xx needs requests, which protocol tcp has none of, expected protocol http, http2 or auto",
            "w:3:74: services[1].tls: protocol: tls says that applications speak TLS themselves; it would be inside of this",
            "w:3:81: services[1].tls.cert: cert needs a key",
            "w:3:91: services[1].fail: fail: open is impossible with tls: the kernel would send in the clear what must be encrypted; write fail: closed",
            "w:3:111: services[1].health.tls: tls is of http and grpc checks, and this is neither",
            "w:4:85: services[2].health.tls: the service has no tls, so nothing says whom to believe",
            "w:5:3: services[3]: missing key 'endpoints', expected a list",
            "w:5:61: services[3].lane: lane: direct is impossible: protocol http is spoken by workers only; write lane: auto",
            "w:6:69: services[4].lane: lane: direct is impossible: TLS to endpoints is spoken by workers only; write lane: auto",
            "w:8:63: listeners[0].tls.certificates: wrong value: found an empty list, expected a list that is not empty",
            "w:8:76: listeners[0].routes: both service and routes are given; a listener has one of them",
            "w:9:3: listeners[1]: nobody answers here, expected service or routes",
            "w:9:3: listeners[1]: http2 is how endpoints are spoken to; clients choose their version, expected protocol http, which has both",
            "w:10:48: listeners[2].tls: protocol: tls passes TLS on as it is, so it cannot end here",
            "w:10:97: listeners[2].tls.min_version: wrong type: found the number 1.2, expected 1.2 or 1.3; write it in quotes: \"1.2\"",
            "w:10:114: listeners[2].tls.resumption: wrong type: found 'yes', expected true or false; write true",
            "w:12:21: routes[0].rules[0]: match cannot be kept: line 10 passes TLS on as it is, and only hosts can be seen, expected \
             backends and nothing else",
        ],
    );
}
