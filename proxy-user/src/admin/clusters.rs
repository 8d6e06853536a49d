//! Services with their lanes, endpoints, health and load.

use std::collections::HashMap;
use std::time::Instant;

use proxy_core::addr::Family;
use proxy_core::health::EndpointReport;
use proxy_core::id::EndpointId;
use proxy_core::lane;
use proxy_core::service::{Endpoint, Service};
use proxy_core::snapshot::Snapshot;
use serde::Serialize;

use crate::stats::label;

/// `/clusters`.
#[derive(Debug, Serialize)]
pub(super) struct ClustersPage {
    version: u64,
    services: Vec<ServiceRow>,
}

#[derive(Debug, Serialize)]
struct ServiceRow {
    name: String,
    id: u32,
    addresses: Vec<String>,
    policy: &'static str,
    lanes: Vec<LaneRow>,
    /// Connections open in the proxy lane.
    proxied_connections: u32,
    usable_endpoints: usize,
    /// So few endpoints are healthy that all are used.
    is_panicking: bool,
    endpoints: Vec<EndpointRow>,
}

#[derive(Debug, Serialize)]
struct LaneRow {
    family: String,
    lane: &'static str,
    reason: String,
}

#[derive(Debug, Serialize)]
struct EndpointRow {
    address: String,
    id: u32,
    weight: u32,
    zone: Option<String>,
    state: &'static str,
    is_usable: bool,
    proxied_connections: u32,
    direct_connections: u64,
    last_check_seconds_ago: Option<f64>,
    last_error: Option<String>,
    ejected_for_seconds: Option<f64>,
    ejections: u64,
    checks: u64,
    check_failures: u64,
}

pub(super) fn clusters(
    snapshot: &Snapshot,
    health: &[EndpointReport],
    loads: &HashMap<EndpointId, u64>,
) -> ClustersPage {
    let reports: HashMap<EndpointId, &EndpointReport> =
        health.iter().map(|one| (one.endpoint, one)).collect();
    let now = Instant::now();
    let mut services: Vec<ServiceRow> = snapshot
        .services()
        .map(|service| {
            self::service(
                service,
                |endpoint| {
                    (reports.get(&endpoint).copied(), loads.get(&endpoint).copied().unwrap_or_default())
                },
                now,
            )
        })
        .collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    ClustersPage { version: snapshot.version.0, services }
}

fn service<'a>(
    service: &Service,
    known: impl Fn(EndpointId) -> (Option<&'a EndpointReport>, u64),
    now: Instant,
) -> ServiceRow {
    let usable = service.usable();
    let serving: Vec<_> = service.endpoints.iter().filter(|endpoint| endpoint.weight > 0).collect();
    let is_healthy = |endpoint: &&&Endpoint| label::state(endpoint.state) == "healthy";
    let healthy_count = serving.iter().filter(is_healthy).count();
    let families = Family::ALL
        .into_iter()
        .filter(|family| service.addresses.iter().any(|address| Family::of(*address) == *family));
    let lane_row = |family: Family| {
        let (lane, reason) = lane::choose(service, family);
        LaneRow { family: family.to_string(), lane: lane.as_str(), reason: reason.to_string() }
    };
    let endpoint_row = |(index, endpoint): (usize, &Endpoint)| {
        let (report, direct) = known(endpoint.id);
        self::endpoint(endpoint, usable.contains(&index), report, direct, now)
    };
    ServiceRow {
        name: service.name.to_string(),
        id: service.id.0,
        addresses: service.addresses.iter().map(ToString::to_string).collect(),
        policy: service.policy.as_str(),
        lanes: families.map(lane_row).collect(),
        proxied_connections: service.load.open_count(),
        usable_endpoints: usable.len(),
        is_panicking: service.is_panicking(healthy_count, serving.len()),
        endpoints: service.endpoints.iter().enumerate().map(endpoint_row).collect(),
    }
}

fn endpoint(
    endpoint: &Endpoint,
    is_usable: bool,
    report: Option<&EndpointReport>,
    direct_connections: u64,
    now: Instant,
) -> EndpointRow {
    let last_check = report.and_then(|report| report.last_check);
    let ejected_until = report.and_then(|report| report.ejected_until).filter(|until| *until > now);
    EndpointRow {
        address: endpoint.address.to_string(),
        id: endpoint.id.0,
        weight: endpoint.weight,
        zone: endpoint.zone.as_deref().map(str::to_owned),
        state: label::state(endpoint.state),
        is_usable,
        proxied_connections: endpoint.load.open_count(),
        direct_connections,
        last_check_seconds_ago: last_check.map(|last| now.saturating_duration_since(last).as_secs_f64()),
        last_error: report.and_then(|report| report.last_error.clone()),
        ejected_for_seconds: ejected_until.map(|until| (until - now).as_secs_f64()),
        ejections: report.map_or(0, |report| report.ejections_total),
        checks: report.map_or(0, |report| report.checks_total),
        check_failures: report.map_or(0, |report| report.failures_total),
    }
}
