//! What applications may have, and whom Weir believes: mistakes in both.

use super::messages::bad;

#[test]
fn every_entry_of_what_applications_may_have_is_for_somebody() {
    bad(
        "intercept:\n\
         \x20 scopes: [{cgroup: /pods}]\n\
         \x20 limits:\n\
         \x20 - {scopes: [{cgroup: /pods/a}], bytes_per_second: 1KiB}\n\
         \x20 - {scopes: [{cgroup: /pods/a/b}, {cgroup: /pods/c}], max_connections: 0}\n\
         \x20 - {scopes: [{cgroup: /pods/a/b}], connections_per_second: 5}\n\
         \x20 - {scopes: [{cgroup: /other}], max_connection: 5}\n\
         \x20 - {max_connections: 5}\n\
         \x20 - {}\n\
         services: [{name: a, addresses: [10.0.0.1:80], endpoints: []}]\n",
        &[
            "w:4:53: intercept.limits[0].bytes_per_second: wrong value: found 1KiB, expected a size from 64KiB to 1024GiB",
            "w:5:73: intercept.limits[1].max_connections: wrong value: found the number 0, expected a whole number, 1 or more",
            "w:6:5: intercept.limits[2]: never used: the entry in line 4 is for all of them, and comes before, expected narrow \
           scopes before wide ones",
            "w:7:15: intercept.limits[3].scopes[0]: in none of intercept.scopes, so its applications are not served",
            "w:7:34: intercept.limits[3].max_connection: unknown key; did you mean 'max_connections'?",
            "w:9:5: intercept.limits[5]: never used: the entry in line 8 is for all of them, and comes before, expected narrow \
           scopes before wide ones",
        ],
    );
}

#[test]
fn proxies_are_trusted_where_they_are_heard() {
    bad(
        "listeners:\n\
         - {address: 0.0.0.0:80, service: a, trusted_proxies: [10.0.0.0/8]}\n\
         - {address: 0.0.0.0:81, service: a, proxy_protocol: required, trusted_proxies: []}\n\
         - {address: 0.0.0.0:82, service: a, proxy_protocol: required, trusted_proxies: [10.0.0.1/8]}\n\
         intercept:\n\
         \x20 scopes: [{cgroup: /a}]\n\
         \x20 inbound: [{name: b, ports: [80], proxy_protocol: {trusted_proxies: [10.0.0.1]}}]\n\
         services: [{name: a, endpoints: []}]\n",
        &[
            "w:2:54: listeners[0].trusted_proxies: no header is expected of them without proxy_protocol: required",
            "w:3:80: listeners[1].trusted_proxies: wrong value: found an empty list, expected a list that is not empty",
            "w:4:81: listeners[2].trusted_proxies[0]: wrong value: found '10.0.0.1/8', expected a network such as 10.0.0.0/8 or fd00::/8; \
           10.0.0.1/8 has bits set behind its prefix; the network would be 10.0.0.0/8",
            "w:7:70: intercept.inbound[0].proxy_protocol.trusted_proxies: no header is expected of them without in: required",
        ],
    );
}
