//! Overload and limits that follow services: what is said about wrong ones.

use super::messages::bad;
use super::*;

#[test]
fn what_is_given_up_first_must_come_first() {
    let with = |overload: &str| format!("services: []\noverload: {overload}");
    bad(
        &with("{stop_keep_alive: 89%, reset: 80%, max_memory: 1KiB}"),
        &[
            "w:2:29: overload.stop_keep_alive: refuse_low (85%) would come before stop_keep_alive (89%), expected shares that \
             do not shrink from stop_keep_alive to refuse_low, refuse, refuse_high and reset",
            "w:2:41: overload.reset: reset (80%) would come before refuse_high (95%), expected shares that do not shrink from \
             stop_keep_alive to refuse_low, refuse, refuse_high and reset",
            "w:2:58: overload.max_memory: wrong value: found 1KiB, expected a size from 32MiB to 1048576GiB",
        ],
    );
    bad(
        &with("{refuse: 0%}"),
        &["w:2:20: overload.refuse: wrong value: found '0%', expected a percentage from 1% to 100%, or off"],
    );
    let config = parse(
        "w",
        &with("{stop_keep_alive: off, refuse_low: off, refuse: off, refuse_high: off, reset: 60%}"),
    )
    .unwrap();
    assert_eq!(config.overload.thresholds, [None, None, None, None, Some(60)]);
}

#[test]
fn an_adaptive_limit_needs_requests_and_bounds_in_their_order() {
    let with = |protocol: &str, adaptive: &str| {
        format!(
            "services: [{{name: a, endpoints: [], protocol: {protocol}, addresses: ['10.0.0.1:80'],\n  limits: {{adaptive: {adaptive}}}}}]"
        )
    };
    bad(
        &with("tcp", "{}"),
        &[
            "w:2:22: services[0].limits.adaptive: adaptive needs requests, which protocol tcp has none of, expected \
           protocol http, http2 or auto",
        ],
    );
    bad(
        &with("http", "{min: 10, max: 9, measure_interval: 1s}"),
        &[
            "w:2:37: services[0].limits.adaptive.max: the highest bound, 9, is below the lowest, 10",
            "w:2:58: services[0].limits.adaptive.measure_interval: less than 20 windows; there would be nothing but \
             measurements",
        ],
    );
    let config = parse("w", &with("http2", "{tolerance: 50%, window: 1s}")).unwrap();
    let adaptive = config.services[0].limits.adaptive.unwrap();
    assert_eq!((adaptive.tolerance_percent, adaptive.window.as_secs(), adaptive.least), (50, 1, 4));
}
