//! What the file says of gRPC, of rates and of faults.

use proxy_core::grpc::Status;
use proxy_core::load::RetryThrottle;

use super::messages::bad;
use super::routes::rules;
use super::*;

fn rule(text: &str) -> RuleConfig {
    let config = good(&rules(&format!("  - {text}")));
    assert_eq!(good(&config.to_json().to_string()), config, "it prints to the same");
    config.routes[0].rules[0].clone()
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
