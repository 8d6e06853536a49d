//! Services and snapshots for the tests of this crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::addr::EndpointAddr;
use crate::http::HttpLimits;
use crate::id::{EndpointId, ServiceId, Version};
use crate::service::{
    Endpoint, EndpointLoss, EndpointState, Fail, HealthCheck, LaneChoice, Limits, Load, Outlier, Policy,
    Probe, Protocol, Service,
};
use crate::snapshot::{Intercept, Snapshot};

/// A service with one IPv4 endpoint per weight; endpoint ids are `id * 1000 + position`, counted from 1.
pub(crate) fn service(id: u32, policy: Policy, weights: &[u32]) -> Service {
    let endpoints = (1..).zip(weights).map(|(n, w)| endpoint(id * 1000 + n, v4(n, 8080), *w)).collect();
    Service {
        id: ServiceId(id),
        name: format!("test/{id}").into(),
        addresses: vec![service_address(id)],
        protocol: Protocol::Tcp,
        tls: None,
        routes: Vec::new(),
        proxy_protocol: None,
        http: HttpLimits::DEFAULT,
        lane: LaneChoice::Auto,
        endpoints,
        policy,
        health: None,
        outlier: outlier(),
        limits: limits(),
        rates: Arc::default(),
        adaptive: None,
        on_endpoint_loss: EndpointLoss::Keep,
        fail: Fail::Open,
        load: Arc::default(),
        cursor: Arc::default(),
    }
}

/// The same service with its endpoints in other states; what follows the given states stays as it is.
pub(crate) fn with_states(service: &Service, states: &[EndpointState]) -> Service {
    let mut next = service.clone();
    for (endpoint, state) in next.endpoints.iter_mut().zip(states) {
        endpoint.state = *state;
    }
    next
}

pub(crate) fn endpoint(id: u32, address: SocketAddr, weight: u32) -> Endpoint {
    Endpoint {
        id: EndpointId(id),
        address: EndpointAddr(address),
        weight,
        zone: None,
        state: EndpointState::Healthy,
        load: Arc::new(Load::default()),
    }
}

pub(crate) fn v4(n: u32, port: u16) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into(), port)
}

pub(crate) fn v6(n: u32, port: u16) -> SocketAddr {
    SocketAddr::new(std::net::Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(n)).into(), port)
}

pub(crate) fn service_address(id: u32) -> SocketAddr {
    v4(0x0060_0000 + id, 80)
}

pub(crate) fn outlier() -> Outlier {
    Outlier {
        consecutive_failures: 3,
        consecutive_5xx: 0,
        base_ejection: Duration::from_secs(10),
        max_ejection: Duration::from_secs(60),
        max_ejected_percent: 50,
        panic_percent: 0,
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        connect_timeout: Duration::from_secs(1),
        connect_attempts: 3,
        idle_timeout: None,
        half_close_timeout: None,
        user_timeout: Duration::from_secs(30),
        max_connections: None,
        max_connections_per_endpoint: None,
        max_requests: None,
        max_pending: None,
        max_retries: None,
        adaptive: None,
        is_set: false,
    }
}

pub(crate) fn check() -> HealthCheck {
    HealthCheck {
        interval: Duration::from_secs(10),
        unhealthy_interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        healthy: 2,
        unhealthy: 3,
        probe: Probe::Tcp,
        is_tls: false,
        port: None,
    }
}

/// Some time to begin with; tests go on from it by adding to it.
#[expect(clippy::disallowed_methods, reason = "there is no other way to make an Instant")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn snapshot(services: impl IntoIterator<Item = Service>) -> Snapshot {
    Snapshot::new(Version(1), Intercept::default(), Vec::new(), services.into_iter().map(Arc::new))
}
