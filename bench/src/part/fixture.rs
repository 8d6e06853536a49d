//! Services and snapshots as the configuration makes them.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use proxy_core::id::{Registry, ServiceId, Version};
use proxy_core::route::Route;
use proxy_core::service::Service;
use proxy_core::snapshot::Snapshot;
use proxy_user::config::{self, Config};

/// One service with an endpoint for each weight.
pub(super) fn service(policy: &str, weights: impl IntoIterator<Item = u32>) -> Result<Arc<Service>> {
    let mut text = format!(
        "intercept: {{scopes: [{{cgroup: /bench}}]}}\nservices:\n  - name: bench/service\n    \
         addresses: [\"10.96.0.1:80\"]\n    balance: {{policy: {policy}}}\n    endpoints:\n"
    );
    for (index, weight) in (1..).zip(weights) {
        let address = SocketAddr::new(host([10, 1, 0, 0], index).into(), 8080);
        // writing to a String cannot fail
        let _ = writeln!(text, "      - {{address: \"{address}\", weight: {weight}}}");
    }
    let snapshot = parse(&text)?.snapshot(&mut Registry::default(), Version(1), None);
    snapshot.services().next().cloned().context("the file has one service")
}

/// The route of a host with a rule for each of these conditions.
pub(super) fn route(host: &str, matches: impl IntoIterator<Item = String>) -> Result<Arc<Route>> {
    let mut text =
        "services:\n  - {name: bench/http, protocol: http, endpoints: [{address: \"10.1.0.1:80\"}]}\n"
            .to_owned();
    // writing to a String cannot fail
    let _ = writeln!(text, "listeners: [{{address: \"10.0.0.1:80\", protocol: http, routes: [bench]}}]");
    let _ = writeln!(text, "routes:\n  - name: bench\n    hosts: [{host}]\n    rules:");
    for condition in matches {
        let _ = writeln!(text, "      - {{match: {condition}, backends: [{{service: bench/http}}]}}");
    }
    let snapshot = parse(&text)?.snapshot(&mut Registry::default(), Version(1), None);
    snapshot.routes.into_iter().next().context("the file has one route")
}

/// A snapshot of as many services with one endpoint each; ids count up from 1.
pub(super) fn snapshot(count: u32) -> Result<Snapshot> {
    let pattern = service("random", [1])?;
    let services = (1..=count).map(|index| {
        let addresses = vec![address(index)];
        let name = format!("bench/service-{index}").into();
        Arc::new(Service { id: ServiceId(index), name, addresses, ..Service::clone(&pattern) })
    });
    Ok(Snapshot::new(Version(1), Default::default(), Vec::new(), services))
}

/// Address of a service of [`snapshot`].
pub(super) fn address(index: u32) -> SocketAddr {
    SocketAddr::new(host([10, 96, 0, 0], index).into(), 80)
}

/// The address at this distance from the first of a network.
pub(super) fn host(network: [u8; 4], index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::from(network).to_bits() + index)
}

pub(super) fn parse(text: &str) -> Result<Config> {
    config::parse("bench.yaml", text).context("a mistake in the bench's own file")
}
