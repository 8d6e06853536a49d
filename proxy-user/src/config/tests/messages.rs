//! What is said about wrong files, to the letter.

use super::*;

/// Expects exactly these messages (their first lines), in this order.
#[track_caller]
pub(super) fn bad(text: &str, messages: &[&str]) {
    let errors = parse("w", text).expect_err(text);
    let lines: Vec<_> = errors.mistakes.iter().map(ToString::to_string).collect();
    assert_eq!(lines, messages, "\n{errors}\n");
}

/// A file with one service, of which some further keys are given.
fn with(more: &str) -> String {
    format!(
        "services:\n- name: a\n  addresses: [10.0.0.1:80]\n  endpoints: [{{address: 10.1.0.1:80}}]\n  {more}\n"
    )
}

#[test]
fn a_message_shows_the_line_with_a_caret() {
    let errors = parse("weir.yaml", &with("lanne: auto")).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "weir.yaml:5:3: services[0].lanne: unknown key; did you mean 'lane'?\n      lanne: auto\n      ^"
    );
    let json = serde_json::to_value(&errors).unwrap();
    assert_eq!(json["mistakes"][0]["position"], serde_json::json!({"line": 5, "column": 3}));
    assert_eq!(json["mistakes"][0]["path"], "services[0].lanne");
    assert_eq!(json["mistakes"][0]["suggestion"], "did you mean 'lane'?");
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    bad(
        "services:\n\
         - name: a b\n\
         \x20 addreses: [10.0.0.1:80]\n\
         \x20 endpoints: [{address: web.local:80}, {adress: 10.1.0.1:80, weight: -1}, {weight: 1}]\n\
         \x20 lane: dirct\n\
         - name: b\n\
         \x20 addresses: [10.0.0.2:80]\n\
         \x20 endpoints: [{address: 10.0.0.2:80}]\n\
         \x20 health: {interval: 5, timeout: 1d, http: {}}\n\
         listeners: [{address: 0.0.0.0:99999, service: c}]\n\
         workers: many\n\
         wrokers: 3\n",
        &[
            "w:2:9: services[0].name: wrong value: found 'a b', expected a name of at most 253 letters, digits and \
             '/', '.', '-', '_' that begins and ends with a letter or digit",
            "w:3:3: services[0].addreses: unknown key; did you mean 'addresses'?",
            "w:4:25: services[0].endpoints[0].address: wrong value: found 'web.local:80', expected an IP address \
             with a port such as 10.0.0.1:80 or [fd00::1]:80; host names are not looked up here",
            "w:4:41: services[0].endpoints[1].adress: unknown key; did you mean 'address'?",
            "w:4:70: services[0].endpoints[1].weight: wrong value: found the number -1, expected a whole number \
             from 0 to 65535",
            "w:4:75: services[0].endpoints[2]: missing key 'address', expected an IP address with a port such as \
             10.0.0.1:80 or [fd00::1]:80",
            "w:5:9: services[0].lane: wrong value: found 'dirct', expected auto, direct or proxy; did you mean \
             'direct'?",
            "w:8:25: services[1].endpoints[0].address: a loop: 10.0.0.2:80 is also an address of service 'b' in \
             line 7",
            "w:9:22: services[1].health.interval: wrong type: found the number 5, expected a duration such as \
             300ms, 5s or 1h30m; write 5s",
            "w:9:34: services[1].health.timeout: wrong value: found '1d', expected a duration such as 300ms, 5s or \
             1h30m; write 24h",
            "w:9:44: services[1].health.http: missing key 'path', expected a path that begins with '/', without \
             blanks",
            "w:10:23: listeners[0].address: wrong value: found '0.0.0.0:99999', expected an IP address with a port \
             such as 10.0.0.1:80 or [fd00::1]:80; a port is 1 to 65535",
            "w:11:10: workers: wrong value: found 'many', expected auto or a whole number from 1 to 1024",
            "w:12:1: wrokers: unknown key; did you mean 'workers'?",
        ],
    );
}

#[test]
fn what_is_no_config_says_so_in_one_message() {
    bad("", &["w:1:1: the file is empty, expected at least 'services: []'"]);
    bad("# nothing\n", &["w:1:1: the file is empty, expected at least 'services: []'"]);
    bad("hello", &["w:1:1: wrong type: found 'hello', expected a mapping with services"]);
    bad("[]", &["w:1:1: wrong type: found an empty list, expected a mapping with services"]);
    bad("{}", &["w:1:1: missing key 'services', expected a list"]);
    bad(
        "services:\n",
        &["w:1:9: services: wrong type: found nothing, expected a list; give it a value or remove the key"],
    );
    bad("services: []\n---\nservices: []\n", &["w:2:1: a second document begins; a config is one document"]);
    bad("services: [\u{1}]", &["w:1:12: a control character; only tabs and line ends are allowed"]);
    bad("services: []\0", &["w:1:13: a control character; only tabs and line ends are allowed"]);
}

#[test]
fn traps_of_yaml_are_refused() {
    bad(
        "services: []\nio: ring\nservices: []\n",
        &["w:3:1: services: duplicate key; first written in line 1"],
    );
    bad(
        &with("health: &h {interval: 5s}\n  <<: *h"),
        &["w:6:3: services[0]: merge keys (<<) are not part of YAML 1.2; write the keys out"],
    );
    bad(
        &with("zone: !x y"),
        &[
            "w:5:3: services[0].zone: unknown key, expected addresses, balance, drain_timeout, endpoints, fail, \
         health, http, lane, limits, name, on_endpoint_loss, outlier, protocol, proxy_protocol, routes or tls",
            "w:5:9: YAML tags (!...) are not supported; quote a text that begins with '!'",
        ],
    );
    bad(
        "services: [{name: a, addresses: [[fd00::10]:80], endpoints: []}]",
        &[
            "w:1:34: services[0].addresses[0]: a key must be a word: found a list; an IPv6 address needs quotes: \
         \"[fd00::10]:80\"",
        ],
    );
}

#[test]
fn headers_of_the_proxy_protocol_need_a_worker() {
    bad(
        "listeners:\n\
         - {address: 0.0.0.0:80, service: a, proxy_protocol: true}\n\
         - {address: 0.0.0.0:81, service: a, proxy_protocol: require}\n\
         services:\n\
         - {name: a, endpoints: [{address: 10.1.0.1:80}], proxy_protocol: v3}\n\
         - {name: b, addresses: [10.0.0.1:80], endpoints: [], proxy_protocol: v1, fail: open, lane: direct}\n",
        &[
            "w:2:53: listeners[0].proxy_protocol: wrong type: found true, expected required; write it in quotes: \"true\"",
            "w:3:53: listeners[1].proxy_protocol: wrong value: found 'require', expected required; did you mean \
             'required'?",
            "w:5:66: services[0].proxy_protocol: wrong value: found 'v3', expected v1 or v2; did you mean 'v1'?",
            "w:6:80: services[1].fail: fail: open is impossible with proxy_protocol: the kernel sends no header; \
             write fail: closed",
            "w:6:92: services[1].lane: lane: direct is impossible: PROXY headers are sent by workers only; write \
             lane: auto",
        ],
    );
    let config = good(&with("proxy_protocol: v2"));
    assert_eq!(config.services[0].fail, Fail::Closed, "by default");
}

#[test]
fn only_who_is_caught_can_fail_closed() {
    bad(
        "intercept:\n\
         \x20 scopes: [{cgroup: /pods}]\n\
         \x20 fail_closed: [{cgroup: /pods/a}, {netns: /run/netns/a}]\n\
         services: []\n",
        &[
            "w:3:36: intercept.fail_closed[1]: in none of intercept.scopes, so its applications are not served",
        ],
    );
}

#[test]
fn it_is_clear_whose_connections_to_applications_are_taken() {
    bad(
        "intercept:\n\
         \x20 scopes: [{cgroup: /pods}, {netns: /run/netns/a}]\n\
         \x20 inbound:\n\
         \x20 - {name: web, ports: [80, 81]}\n\
         \x20 - {name: web, ports: [82], scopes: [{cgroup: /podsx}, {cgroup: /pods/b}]}\n\
         \x20 - {name: a, ports: [0, 82], scopes: [{cgroup: /pods/b/c}], limits: {max_requests: 1}}\n\
         \x20 - {name: b, ports: [], proxy_protocol: {in: v1, out: v2}}\n\
         services: [{name: a, addresses: [10.0.0.1:80], endpoints: []}]\n",
        &[
            "w:5:12: intercept.inbound[1].name: the name 'web' is already used in line 4",
            "w:5:39: intercept.inbound[1].scopes[0]: in none of intercept.scopes, so its applications are not served",
            "w:6:12: intercept.inbound[2].name: the name 'a' is already used in line 8",
            "w:6:23: intercept.inbound[2].ports[0]: wrong value: found the number 0, expected a whole number from 1 to 65535",
            "w:6:26: intercept.inbound[2].ports[1]: port 82 is already taken in line 5, expected other scopes, or other ports",
            "w:6:71: intercept.inbound[2].limits.max_requests: unknown key, expected connect_timeout, half_close_timeout, idle_timeout, max_connections or user_timeout",
            "w:7:22: intercept.inbound[3].ports: wrong value: found an empty list, expected a list that is not empty",
            "w:7:47: intercept.inbound[3].proxy_protocol.in: wrong value: found 'v1', expected required",
        ],
    );
    bad(
        "intercept: {inbound: [{name: web, ports: [80]}]}\nservices: []\n",
        &[
            "w:1:23: intercept.inbound[0]: nobody's connections are taken: intercept has no scopes, expected at least one \
           of intercept.scopes",
        ],
    );
    let config = good(
        "intercept: {scopes: [{cgroup: /pods}], inbound: [{name: web, ports: [80, 81], scopes: [{cgroup: /pods/a}], \
         limits: {max_connections: 5, idle_timeout: off}, proxy_protocol: {in: required, out: v1}}, \
         {name: db, ports: [5432]}]}\nservices: []\n",
    );
    assert_eq!(config.inbound[0].limits.max_connections, Some(5));
    let again = parse("w", &config.to_json().to_string()).unwrap();
    assert_eq!(again, config, "what is printed reads as the same");
}

#[test]
fn types_are_not_guessed() {
    bad(
        &with("limits: {max_connections: '5', idle_timeout: no, connect_timeout: 0s}"),
        &[
            "w:5:29: services[0].limits.max_connections: wrong type: found '5', expected a whole number, 1 or more",
            "w:5:48: services[0].limits.idle_timeout: wrong value: found 'no', expected a duration such as 1h, or off",
            "w:5:69: services[0].limits.connect_timeout: wrong value: found '0s', expected a duration such as 300ms, \
         5s or 1h30m; it must be longer than zero",
        ],
    );
    bad(
        &with("health: {http: {path: /, host: 5, status: ['2xx', 700, x, '299-200', 204]}}"),
        &[
            "w:5:34: services[0].health.http.host: wrong type: found the number 5, expected a host name or IP address, with \
         or without a port; write it in quotes: \"5\"",
            "w:5:46: services[0].health.http.status[0]: wrong value: found '2xx', expected a whole number from 100 \
             to 599 or a range of HTTP statuses such as \"200-299\"; write \"200-299\"",
            "w:5:53: services[0].health.http.status[1]: wrong value: found the number 700, expected a whole number \
             from 100 to 599 or a range of HTTP statuses such as \"200-299\"",
            "w:5:58: services[0].health.http.status[2]: wrong value: found 'x', expected a whole number from 100 to \
             599 or a range of HTTP statuses such as \"200-299\"; statuses are 100 to 599",
            "w:5:61: services[0].health.http.status[3]: wrong value: found '299-200', expected a whole number from \
             100 to 599 or a range of HTTP statuses such as \"200-299\"; the first is above the last",
        ],
    );
    bad(
        &with("health: {http: {path: /, host: 'a b'}}"),
        &[
            "w:5:34: services[0].health.http.host: wrong value: found 'a b', expected a host name or IP address, with or \
           without a port",
        ],
    );
    bad(
        &with("health: {http: {path: /, status: []}, tcp: {x: 1}}"),
        &[
            "w:5:11: services[0].health: both tcp and http are given; a check is one of them",
            "w:5:36: services[0].health.http.status: wrong value: found an empty list, expected a list that is not empty",
            "w:5:47: services[0].health.tcp.x: unknown key",
        ],
    );
    bad(
        &with("health: {grpc: {service: 'two words', host: 'cart:0'}, http: {path: /}}"),
        &[
            "w:5:11: services[0].health: both http and grpc are given; a check is one of them",
            "w:5:28: services[0].health.grpc.service: wrong value: found 'two words', expected a word of 1 to 253 visible ASCII \
             characters",
            "w:5:47: services[0].health.grpc.host: wrong value: found 'cart:0', expected a host name or IP address, with or \
             without a port; a port is 1 to 65535",
        ],
    );
}

#[test]
fn syntax_errors_name_the_line_and_the_usual_cause() {
    let first = |text: &str| parse("w", text).unwrap_err().mistakes[0].to_string();
    let tabs = first("services:\n\t- name: a\n");
    assert!(tabs.starts_with("w:2:") && tabs.ends_with("indent with blanks, not with tabs"), "{tabs}");
    let open = first("services: [{name: a\nio: ring\n");
    assert!(open.contains("not valid YAML: "), "{open}");
    let six = first("services:\n- name: a\n  addresses:\n  - [fd00::10]:80\n  endpoints: []\n");
    assert!(six.starts_with("w:4:") && six.ends_with("needs quotes: \"[fd00::10]:80\""), "{six}");
    let unknown = first("services: *nothing\n");
    assert!(unknown.starts_with("w:1:11: not valid YAML: "), "{unknown}");
}

#[test]
fn what_grows_without_bound_is_refused() {
    let nested = |depth: usize| format!("services: {}{}", "[".repeat(depth), "]".repeat(depth));
    for depth in [40, 100_000] {
        let message = parse("w", &nested(depth)).unwrap_err().mistakes[0].to_string();
        assert!(message.ends_with("nested deeper than 32 levels"), "{message}");
    }
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..10 {
        let references = vec![format!("*a{}", i - 1); 10].join(", ");
        laughs.push_str(&format!("a{i}: &a{i} [{references}]\n"));
    }
    let message = parse("w", &laughs).unwrap_err().mistakes[0].to_string();
    assert!(message.contains("more than 4000000 values"), "{message}");
    assert!(parse("w", "services: &a [*a]").is_err());
}

#[test]
fn more_than_a_hundred_mistakes_are_counted() {
    let text = format!("services: []\n{}", (0..250).map(|i| format!("zzzz{i}: 1\n")).collect::<String>());
    let errors = parse("w", &text).unwrap_err();
    assert_eq!((errors.mistakes.len(), errors.more_count, errors.count()), (100, 150, 250));
    assert!(errors.to_string().ends_with("\nand 150 more"));
}

#[test]
fn a_service_has_one_name_and_addresses_of_its_own() {
    bad(
        "services:\n\
         - {name: a, addresses: [10.0.0.1:80], endpoints: []}\n\
         - {name: a, addresses: ['[::ffff:10.0.0.1]:80'], endpoints: []}\n\
         - {name: b, addresses: [10.0.0.3:80, 10.0.0.3:80], endpoints: []}\n\
         - {name: c, endpoints: []}\n",
        &[
            "w:3:10: services[1].name: service 'a' is already defined in line 2",
            "w:3:25: services[1].addresses[0]: 10.0.0.1:80 is already an address of service 'a' in line 2",
            "w:4:38: services[2].addresses[1]: 10.0.0.3:80 is already an address of service 'b' in line 4",
            "w:5:3: services[3]: nobody can reach this service: it has no addresses, no listener and no route",
        ],
    );
}

#[test]
fn addresses_that_nobody_can_connect_to_are_refused() {
    bad(
        "services:\n\
         - name: a\n\
         \x20 addresses: [0.0.0.0:80, 224.0.0.1:80, '[fe80::1]:80', '[fe80::1%2]:80', 10.0.0.1]\n\
         \x20 endpoints: [{address: '[::]:80'}, {address: 255.255.255.255:80}, {address: 10.0.0.1:0}]\n",
        &[
            "w:3:15: services[0].addresses[0]: the unspecified address is no destination: found 0.0.0.0:80",
            "w:3:27: services[0].addresses[1]: a multicast address is no destination for TCP: found 224.0.0.1:80",
            "w:3:41: services[0].addresses[2]: a link-local address needs an interface, which is not supported: \
             found [fe80::1]:80",
            "w:3:57: services[0].addresses[3]: wrong value: found '[fe80::1%2]:80', expected an IP address with a \
             port such as 10.0.0.1:80 or [fd00::1]:80; an interface (%) is not supported",
            "w:3:75: services[0].addresses[4]: wrong value: found '10.0.0.1', expected an IP address with a port \
             such as 10.0.0.1:80 or [fd00::1]:80; the port is missing; for example 10.0.0.1:80",
            "w:4:25: services[0].endpoints[0].address: the unspecified address is no destination: found [::]:80",
            "w:4:47: services[0].endpoints[1].address: the broadcast address is no destination for TCP: found \
             255.255.255.255:80",
            "w:4:78: services[0].endpoints[2].address: wrong value: found '10.0.0.1:0', expected an IP address with \
             a port such as 10.0.0.1:80 or [fd00::1]:80; a port is 1 to 65535",
        ],
    );
}

#[test]
fn endpoints_are_given_once_and_one_of_them_serves() {
    bad(
        "services:\n\
         - {name: a, addresses: [10.0.0.1:80], endpoints: [{address: 10.1.0.1:80}, {address: 10.1.0.1:80}]}\n\
         - {name: b, addresses: [10.0.0.2:80], endpoints: [{address: 10.1.0.1:80, weight: 0}]}\n",
        &[
            "w:2:85: services[0].endpoints[1].address: 10.1.0.1:80 is already an endpoint in line 2; give the first \
             one more weight instead",
            "w:3:50: services[1].endpoints: every endpoint has weight 0, so none ever serves",
        ],
    );
}

#[test]
fn what_is_excluded_cannot_be_a_service() {
    bad(
        "intercept: {exclude: {cidrs: [10.0.0.0/8, 'fd00::1'], ports: [53]}}\n\
         services: [{name: a, addresses: [10.0.0.1:80, '[fd00::1]:80', 11.0.0.1:53, 11.0.0.1:54], endpoints: []}]\n",
        &[
            "w:2:34: services[0].addresses[0]: 10.0.0.0/8 is excluded in line 1: 10.0.0.1:80 is never intercepted",
            "w:2:47: services[0].addresses[1]: fd00::1/128 is excluded in line 1: [fd00::1]:80 is never intercepted",
            "w:2:63: services[0].addresses[2]: port 53 is excluded in line 1: 11.0.0.1:53 is never intercepted",
        ],
    );
}

#[test]
fn listeners_admin_and_metrics_do_not_meet() {
    bad(
        "services: [{name: shop/db, endpoints: [{address: 127.0.0.1:90}, {address: 10.9.9.9:91}]}]\n\
         listeners:\n\
         - {address: 0.0.0.0:90, service: shop/bd}\n\
         - {address: 127.0.0.1:90, service: shop/db}\n\
         - {address: 10.9.9.9:91, service: shop/db}\n\
         - {address: '[::]:90', service: shop/db}\n\
         - {address: 0.0.0.0:91, service: shop/db}\n\
         metrics: {address: 0.0.0.0:15000}\n",
        &[
            "w:1:50: services[0].endpoints[0].address: a loop: 127.0.0.1:90 is Weir's own listener in line 4",
            "w:1:75: services[0].endpoints[1].address: a loop: 10.9.9.9:91 is Weir's own listener in line 5",
            "w:3:34: listeners[0].service: there is no service 'shop/bd'; did you mean 'shop/db'?",
            "w:4:13: listeners[1].address: 127.0.0.1:90 clashes with a listener on 0.0.0.0:90 in line 3",
            "w:7:13: listeners[4].address: 0.0.0.0:91 clashes with a listener on 10.9.9.9:91 in line 5",
            "w:8:20: metrics.address: 0.0.0.0:15000 clashes with the admin interface on 127.0.0.1:15000 by default",
        ],
    );
    bad(
        "services: []\nadmin: {address: 0.0.0.0:15000, socket: admin.sock}\n",
        &[
            "w:2:18: admin.address: the admin interface shows everything to whoever can reach it: found 0.0.0.0:15000, \
         expected a loopback address such as 127.0.0.1:15000",
            "w:2:41: admin.socket: wrong value: found 'admin.sock', expected an absolute path of at most 107 bytes; it \
         begins with '/'",
        ],
    );
}

#[test]
fn the_direct_lane_promises_only_what_it_can_keep() {
    let direct = |more: &str| with(&format!("lane: direct\n  {more}"));
    bad(
        &direct("balance: {policy: round_robin}"),
        &[
            "w:5:9: services[0].lane: lane: direct is impossible: balance policy round_robin is kept by workers only; \
         write lane: auto",
        ],
    );
    bad(
        &direct("limits: {connect_timeout: 2s}"),
        &[
            "w:5:9: services[0].lane: lane: direct is impossible: limits are kept by workers only; write lane: auto",
        ],
    );
    bad(
        &direct("").replace("[10.0.0.1:80]", "[10.0.0.1:80, '[fd00::1]:80']"),
        &[
            "w:5:9: services[0].lane: lane: direct is impossible: no endpoint can be reached from an IPv6 socket; write \
         lane: auto",
        ],
    );
    good(&direct("balance: {policy: maglev}"));
    good(&direct("limits: {idle_timeout: off}"));
    good(&direct("").replace("10.1.0.1:80}", "10.1.0.1:80}, {address: '[fd00::2]:80'}"));
    good(&direct("").replace("{address: 10.1.0.1:80}", ""));
    assert_eq!(good(&direct("")).services[0].policy, Policy::LeastRequest);
}

#[test]
fn times_fit_each_other() {
    bad(
        &with("health: {interval: 1s, timeout: 2s, unhealthy_interval: 3s}\n  outlier: {max_ejection: 5s}"),
        &[
            "w:5:35: services[0].health.timeout: timeout is longer than the interval of 1s: found 2s",
            "w:5:59: services[0].health.unhealthy_interval: unhealthy_interval is longer than the interval of 1s: found \
         3s",
            "w:6:27: services[0].outlier.max_ejection: max_ejection is shorter than the base_ejection of 10s: found 5s",
        ],
    );
    bad(
        &with("outlier: {max_ejected_percent: 101}\n  drain_timeout: 721h"),
        &[
            "w:5:34: services[0].outlier.max_ejected_percent: wrong value: found the number 101, expected a whole \
         number from 0 to 100",
            "w:6:18: services[0].drain_timeout: wrong value: found '721h', expected a duration such as 30s, or 0s; it \
         must not be longer than 720h",
        ],
    );
}

#[test]
fn scopes_are_paths_below_the_mount() {
    bad(
        "services: []\n\
         intercept:\n\
         \x20 scopes:\n\
         \x20 - {cgroup: app.slice}\n\
         \x20 - {cgroup: /a/../b}\n\
         \x20 - {cgroup: /sys/fs/cgroup/app.slice}\n\
         \x20 - {cgrop: /a}\n\
         \x20 - {cgroup: /a, netns: /run/netns/a}\n\
         \x20 - {}\n\
         \x20 - {netns: /run/netns/b}\n\
         \x20 - {netns: /run/netns/b}\n",
        &[
            "w:4:14: intercept.scopes[0].cgroup: wrong value: found 'app.slice', expected a path below the cgroup \
             v2 mount such as /app.slice; it begins with '/'",
            "w:5:14: intercept.scopes[1].cgroup: wrong value: found '/a/../b', expected a path below the cgroup v2 \
             mount such as /app.slice; '.' and '..' are not allowed in it",
            "w:6:14: intercept.scopes[2].cgroup: wrong value: found '/sys/fs/cgroup/app.slice', expected a path \
             below the cgroup v2 mount such as /app.slice; leave out the mount: /app.slice",
            "w:7:6: intercept.scopes[3].cgrop: unknown key; did you mean 'cgroup'?",
            "w:8:5: intercept.scopes[4]: wrong value: found a mapping, expected a mapping with exactly one of cgroup, netns or pods",
            "w:9:5: intercept.scopes[5]: wrong value: found a mapping, expected a mapping with exactly one of cgroup, netns or pods",
            "w:11:5: intercept.scopes[7]: netns /run/netns/b is already a scope in line 10",
        ],
    );
}

#[test]
fn what_was_wrong_is_not_also_missing() {
    // The service has a wrong address, so it is not without one; and a service with a wrong name is not unknown.
    bad(
        "listeners: [{address: 127.0.0.1:1, service: b}]\n\
         services:\n\
         - {name: a, addresses: [10.0.0.1], endpoints: []}\n\
         - {name: 'b ', addresses: [10.0.0.2:80], endpoints: []}\n",
        &[
            "w:3:25: services[0].addresses[0]: wrong value: found '10.0.0.1', expected an IP address with a port \
             such as 10.0.0.1:80 or [fd00::1]:80; the port is missing; for example 10.0.0.1:80",
            "w:4:10: services[1].name: wrong value: found 'b ', expected a name of at most 253 letters, digits and \
             '/', '.', '-', '_' that begins and ends with a letter or digit",
        ],
    );
}
