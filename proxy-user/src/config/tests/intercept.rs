//! Whose connections are intercepted, and how.

use proxy_core::snapshot::NodeListener;

use super::messages::bad;
use super::*;

#[test]
fn a_node_listener_is_where_others_can_reach_it_and_once_for_each_family() {
    let with = |value: &str| format!("intercept: {{node_listener: {value}}}\nservices: []\n");
    assert_eq!(good(&with("off")).intercept.node_listener, NodeListener::Off);
    assert_eq!(good("services: []").intercept.node_listener, NodeListener::Auto);
    let given = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap()).to_vec();
    assert_eq!(good(&with("[10.0.0.1, 'fd00::1']")).intercept.node_listener, NodeListener::On(given));
    bad(
        &with("['127.0.0.1', 'fe80::1']"),
        &[
            "w:1:29: intercept.node_listener[0]: wrong value: found '127.0.0.1', expected an IP address of this node such as \
             10.0.0.1 or fd00::1; other network namespaces cannot reach it",
            "w:1:42: intercept.node_listener[1]: wrong value: found 'fe80::1', expected an IP address of this node such as \
             10.0.0.1 or fd00::1; a link-local address means another one on each link",
        ],
    );
    bad(
        &with("[10.0.0.1, 10.0.0.2]"),
        &[
            "w:1:28: intercept.node_listener: more than one address of a family, expected at most one IPv4 and one IPv6 address",
        ],
    );
    bad(
        &with("no"),
        &[
            "w:1:28: intercept.node_listener: wrong value: found 'no', expected auto or off or a list that is not empty",
        ],
    );
}
