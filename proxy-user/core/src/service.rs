//! What one service is: where applications ask for it, who serves it, and by which policies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::addr::{EndpointAddr, Family};
use crate::http::HttpLimits;
use crate::id::{EndpointId, ServiceId};
use crate::load::RequestLimits;
use crate::load::adaptive::{Adaptive, AdaptivePolicy};
use crate::proxy_protocol;
use crate::rate::RateLimits;
use crate::tls::ClientTls;

pub use crate::load::Load;

/// A named set of endpoints with the addresses that applications connect to and the policies between the two.
///
/// Immutable: a change of config or health makes a new value, and an unchanged service stays the *same* `Arc`, so that
/// planners and workers find what changed by comparing pointers.
#[derive(Clone, Debug)]
pub struct Service {
    /// Number that maps and counters use.
    pub id: ServiceId,
    /// Name in the config, for example `shop/web`.
    pub name: Arc<str>,
    /// What applications connect to; canonical (never v4-mapped), no two services share one.
    pub addresses: Vec<SocketAddr>,
    /// Protocol spoken.
    pub protocol: Protocol,
    /// TLS to endpoints, if they speak it.
    pub tls: Option<Arc<ClientTls>>,
    /// Header that tells endpoints who the client is, before anything else, TLS included.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// Names of the routes that requests to this service go by; all go to its own endpoints if empty.
    pub routes: Vec<Arc<str>>,
    /// Bounds on HTTP.
    pub http: HttpLimits,
    /// Lane that the config asks for.
    pub lane: LaneChoice,
    /// Everything that can serve, healthy or not, in config order.
    pub endpoints: Vec<Endpoint>,
    /// How one endpoint is chosen.
    pub policy: Policy,
    /// Active health checks, if any.
    pub health: Option<HealthCheck>,
    /// When failing connections eject an endpoint, and how low the number of usable endpoints may go.
    pub outlier: Outlier,
    /// Bounds on connections and times.
    pub limits: Limits,
    /// Bounds on how fast requests may come.
    pub rates: Arc<RateLimits>,
    /// How many may be under way by how fast the service answers, if the limits say so.
    pub adaptive: Option<Arc<Adaptive>>,
    /// What happens to connections that are open to an endpoint that fails or is removed.
    pub on_endpoint_loss: EndpointLoss,
    /// What happens to new connections while Weir cannot serve them.
    pub fail: Fail,
    /// Connections open in the proxy lane, over all workers.
    pub load: Arc<Load>,
    /// Whose turn it is in round robin, over all workers.
    pub cursor: Arc<Cursor>,
}

impl Service {
    /// Endpoints that may get new connections, as indexes into [`Service::endpoints`], in config order.
    ///
    /// Endpoints of weight 0 never serve. When fewer than [`Outlier::panic_percent`] of the others are healthy, health is
    /// no longer believed and all of them serve (Envoy's panic threshold): better a sick endpoint than a healthy one
    /// crushed by everybody's load.
    #[must_use]
    pub fn usable(&self) -> Vec<usize> {
        let serving: Vec<usize> =
            (0..self.endpoints.len()).filter(|i| self.endpoints[*i].weight > 0).collect();
        let healthy: Vec<usize> =
            serving.iter().copied().filter(|i| self.endpoints[*i].state == EndpointState::Healthy).collect();
        if self.is_panicking(healthy.len(), serving.len()) { serving } else { healthy }
    }

    /// Tells whether so few endpoints are healthy that health is ignored.
    #[must_use]
    pub fn is_panicking(&self, healthy_count: usize, serving_count: usize) -> bool {
        healthy_count * 100 < usize::from(self.outlier.panic_percent) * serving_count
    }

    /// Endpoints of one family that may get new connections.
    #[must_use]
    pub fn usable_of(&self, family: Family) -> Vec<usize> {
        self.usable().into_iter().filter(|i| Family::of(self.endpoints[*i].address.0) == family).collect()
    }
}

/// One server of a service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Number that maps and counters use.
    pub id: EndpointId,
    /// Where it listens; canonical (never v4-mapped).
    pub address: EndpointAddr,
    /// Share of new connections relative to its siblings; 0 means none.
    pub weight: u32,
    /// Failure zone, for operators and later for zone-aware balancing.
    pub zone: Option<Arc<str>>,
    /// What health says now.
    pub state: EndpointState,
    /// Connections open in the proxy lane, over all workers.
    pub load: Arc<Load>,
}

/// A place in a cycle, shared by all workers and by every version of a service.
#[derive(Debug, Default)]
pub struct Cursor(AtomicU32);

impl Cursor {
    /// Gives the place and moves on by one; wraps around after 2^32.
    pub fn advance(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Whether an endpoint is believed to serve. An endpoint starts as healthy until a check or a failure says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointState {
    /// Gets connections.
    Healthy,
    /// Active checks failed.
    Unhealthy,
    /// Real connections failed (passive health).
    Ejected,
}

/// Protocol that a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A stream of bytes.
    Tcp,
    /// TLS that is passed on as it is, routed by the name that the client asks for.
    Tls,
    /// HTTP, request by request; endpoints are spoken to in HTTP/1.1.
    Http,
    /// HTTP, request by request; endpoints are spoken to in HTTP/2, inside TLS or with prior knowledge. Also for gRPC.
    Http2,
    /// Whatever the first bytes say.
    Auto,
}

impl Protocol {
    /// Word in the config.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Auto => "auto",
        }
    }

    /// Tells whether it is HTTP by declaration.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2)
    }
}

/// Lane asked for in the config; [`crate::lane::choose`] decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaneChoice {
    /// The cheapest lane that the policies allow.
    Auto,
    /// The kernel connects to the endpoint itself.
    Direct,
    /// Through a worker.
    Proxy,
}

/// How an endpoint is chosen for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// In turn, weighted.
    RoundRobin,
    /// At random, weighted.
    Random,
    /// The less loaded of two drawn at random, weighted (Mitzenmacher 2001).
    LeastRequest,
    /// The one of two drawn at random, weighted, that promises the shorter wait: latency as observed, times what is under way.
    LeastLatency,
    /// Consistent hash of the client's address (Eisenbud et al., NSDI 2016).
    Maglev,
    /// Consistent hash of the client's address on a ring (Karger et al. 1997).
    RingHash,
}

impl Policy {
    /// Word in the config, for messages and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LeastRequest => "least_request",
            Self::LeastLatency => "least_latency",
            Self::Maglev => "maglev",
            Self::RingHash => "ring_hash",
        }
    }
}

/// Active health check of every endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Time between two checks of a healthy endpoint; up to a tenth is added or taken at random.
    pub interval: Duration,
    /// Time between two checks while an endpoint is unhealthy or its state is in doubt; at most `interval`.
    pub unhealthy_interval: Duration,
    /// Time after which an unanswered check counts as failed.
    pub timeout: Duration,
    /// Good checks in a row that make an endpoint healthy.
    pub healthy: u32,
    /// Bad checks in a row that make it unhealthy.
    pub unhealthy: u32,
    /// What is asked.
    pub probe: Probe,
    /// Whether an HTTP or gRPC probe is asked inside TLS, as the service's endpoints speak it ([`Service::tls`]).
    pub is_tls: bool,
    /// Port to check instead of the endpoint's own.
    pub port: Option<u16>,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// That a connection can be made.
    Tcp,
    /// That a GET is answered as expected.
    Http {
        /// In HTTP/2, as the service's endpoints are spoken to; in HTTP/1.1 otherwise.
        is_http2: bool,
        /// Path and query, beginning with `/`.
        path: String,
        /// Value of the Host header; the endpoint's address if absent.
        host: Option<String>,
        /// Statuses that count as good, as inclusive ranges; never empty.
        status: Vec<(u16, u16)>,
        /// Text that the first 64 KiB of the body must contain.
        body: Option<String>,
    },
    /// That gRPC's health service says SERVING ([`crate::grpc::encode_check`]).
    Grpc {
        /// Name that is asked for; empty for the server as a whole.
        service: String,
        /// Value of `:authority`; the endpoint's address if absent.
        host: Option<String>,
    },
}

/// Passive health: what real connections say about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Connect failures or resets in a row that eject an endpoint; 0 switches ejection off.
    pub consecutive_failures: u32,
    /// Answers of 500 and above in a row that eject an endpoint; 0, which is usual, switches that off.
    ///
    /// Not on by itself, as it is not in Envoy without outlier detection: without a proxy nobody would take such an answer for
    /// the end of a server, and a client that repeats a request which fails everywhere could eject half of the endpoints.
    pub consecutive_5xx: u32,
    /// Length of the first ejection; the n-th lasts n times as long.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// Most endpoints that may be ejected at once, in percent (one is always allowed when there are at least two).
    pub max_ejected_percent: u8,
    /// Share of healthy endpoints, in percent, below which all are used.
    pub panic_percent: u8,
}

/// Bounds of a service. One that the config wrote counts as set, also if it equals the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time for one connect to one endpoint.
    pub connect_timeout: Duration,
    /// Endpoints tried for one connection, the first included.
    pub connect_attempts: u32,
    /// Time without a byte in either direction after which a connection is closed; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// Time that one direction may stay open after the other was closed, without a byte.
    pub half_close_timeout: Option<Duration>,
    /// Time that bytes sent to another machine may stay unacknowledged (TCP_USER_TIMEOUT): to an endpoint, or to the
    /// client of an explicit listener.
    pub user_timeout: Duration,
    /// Open connections to the service.
    pub max_connections: Option<u32>,
    /// Open connections to one endpoint.
    pub max_connections_per_endpoint: Option<u32>,
    /// Requests under way in the service; more are answered 503.
    pub max_requests: Option<u32>,
    /// Those of them that wait for a connection to an endpoint; more are answered 503.
    pub max_pending: Option<u32>,
    /// Retries under way in the service, whatever the budgets of its rules allow.
    pub max_retries: Option<u32>,
    /// A bound on requests under way that follows how fast the service answers; more are answered 503.
    pub adaptive: Option<AdaptivePolicy>,
    /// True if the config set any of these: then the direct lane cannot honour the service.
    pub is_set: bool,
}

impl Limits {
    /// What holds where the config says nothing, and for connections that belong to no service.
    pub const DEFAULT: Self = Self {
        connect_timeout: Duration::from_secs(2),
        connect_attempts: 3,
        idle_timeout: Some(Duration::from_secs(3600)),
        half_close_timeout: Some(Duration::from_secs(300)),
        user_timeout: Duration::from_secs(900),
        max_connections: None,
        max_connections_per_endpoint: None,
        max_requests: None,
        max_pending: None,
        max_retries: None,
        adaptive: None,
        is_set: false,
    };

    /// Those among them that bound requests.
    #[must_use]
    pub fn requests(&self) -> RequestLimits {
        let Self { max_requests, max_pending, max_retries, .. } = *self;
        RequestLimits { max_requests, max_pending, max_retries }
    }
}

/// Fate of connections that are open to an endpoint that failed or was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointLoss {
    /// They go on.
    Keep,
    /// They go on for this long and are then reset.
    Drain(Duration),
    /// They are reset at once.
    Reset,
}

/// Fate of new connections while Weir is not there to serve them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fail {
    /// The kernel connects them to an endpoint itself.
    Open,
    /// They are refused.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::EndpointState::{Ejected, Healthy, Unhealthy};
    use super::*;
    use crate::fixture;

    #[test]
    fn only_healthy_endpoints_with_a_weight_are_usable() {
        let service = fixture::service(1, Policy::Random, &[1, 0, 3, 1, 1]);
        let service = fixture::with_states(&service, &[Healthy, Healthy, Unhealthy, Ejected]);
        assert_eq!(service.usable(), [0, 4]);
    }

    #[test]
    fn below_the_panic_threshold_every_endpoint_with_a_weight_is_usable() {
        let mut service = fixture::service(1, Policy::Random, &[1, 1, 0, 1, 1]);
        service = fixture::with_states(&service, &[Healthy, Unhealthy, Unhealthy, Ejected, Unhealthy]);
        service.outlier.panic_percent = 25;
        assert_eq!(service.usable(), [0], "one in four is not below 25 %");
        service.outlier.panic_percent = 26;
        assert_eq!(service.usable(), [0, 1, 3, 4]);
    }

    #[test]
    fn without_a_panic_threshold_nothing_may_be_usable() {
        let service = fixture::service(1, Policy::Random, &[1, 1]);
        assert_eq!(fixture::with_states(&service, &[Unhealthy, Ejected]).usable(), [0; 0]);
        assert_eq!(fixture::service(1, Policy::Random, &[]).usable(), [0; 0]);
    }

    #[test]
    fn usable_endpoints_are_told_apart_by_family() {
        let mut service = fixture::service(1, Policy::Random, &[1, 1]);
        service.endpoints.insert(1, fixture::endpoint(9, fixture::v6(9, 80), 1));
        assert_eq!((service.usable_of(Family::V4), service.usable_of(Family::V6)), (vec![0, 2], vec![1]));
    }
}
