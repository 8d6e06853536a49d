//! Finding the rule for a request: among many rules of one host, and among many hosts.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use proxy_core::route::{HostPattern, Request, Route, Router};

use super::{Run, fixture};

/// Rules of the host.
const RULES: usize = 20;
/// Hosts, each with a route of its own.
const HOSTS: usize = 10_000;
/// Distance between two hosts that are asked for one after the other: no neighbours, all of them in the end.
const STRIDE: usize = 7919;
/// Header of the requests.
const BETA: (&str, &[u8]) = ("x-beta", b"1");

struct Asked {
    host: String,
    path: String,
}

impl Request for Asked {
    fn host(&self) -> &str {
        &self.host
    }

    fn method(&self) -> &str {
        "GET"
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> &str {
        ""
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        (name == BETA.0).then_some(BETA.1)
    }
}

/// A request for each rule in turn: prefixes, whole paths, and prefixes with a header.
pub(super) fn rules() -> Result<Run> {
    let rules = (0..RULES).map(|index| match index % 4 {
        0 => format!("{{path: {{exact: /area-{index}/item}}}}"),
        1 => format!("{{path: {{prefix: /area-{index}}}, headers: {{x-beta: \"1\"}}}}"),
        _ => format!("{{path: {{prefix: /area-{index}}}}}"),
    });
    let router = Router::new(vec![fixture::route("shop.example", rules)?]);
    let requests: Vec<Asked> = (0..RULES)
        .map(|index| Asked { host: "shop.example".to_owned(), path: format!("/area-{index}/item") })
        .collect();
    for (index, request) in requests.iter().enumerate() {
        let found = router.find(request).context("no rule")?;
        ensure!(found.rule.index == index, "rule {} for request {index}", found.rule.index);
    }
    Ok(find(router, requests))
}

/// A request for each host in turn.
pub(super) fn hosts() -> Result<Run> {
    let pattern = fixture::route("shop.example", ["{path: {prefix: /}}".to_owned()])?;
    let host = |index| format!("shop-{index}.example");
    let routes = (0..HOSTS).map(|index| {
        let hosts = vec![HostPattern::Exact(host(index).into())];
        Arc::new(Route { name: host(index).into(), hosts, ..Route::clone(&pattern) })
    });
    let router = Router::new(routes.collect());
    let requests: Vec<Asked> = (0..HOSTS)
        .map(|index| Asked { host: host(index * STRIDE % HOSTS), path: "/item".to_owned() })
        .collect();
    ensure!(requests.iter().all(|request| router.find(request).is_some()), "no rule");
    Ok(find(router, requests))
}

fn find(router: Router, requests: Vec<Asked>) -> Run {
    let mut index = 0;
    Box::new(move |times| {
        for _ in 0..times {
            index = (index + 1) % requests.len();
            black_box(router.find(black_box(&requests[index])));
        }
    })
}
