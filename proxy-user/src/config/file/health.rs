//! Active and passive health in the file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::de::At;
use super::super::text::{BodyPart, HostPort, HttpPath, StatusRange, Time, Word};

/// Active health checks. With none of `tcp`, `http` and `grpc` a check is that a connection can be made.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Health {
    /// Time between two checks; up to 10 % is added or taken at random. Default: `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) interval: Option<Time>,
    /// Time between two checks while the endpoint is unhealthy or in doubt. Default: a quarter of `interval`, but at least `100ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) unhealthy_interval: Option<At<Time>>,
    /// Time for one check, at most `interval`. Default: `1s`, or `interval` if that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) timeout: Option<At<Time>>,
    /// Good checks in a row that make an endpoint healthy. Default: `2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::config) healthy: Option<u32>,
    /// Bad checks in a row that make an endpoint unhealthy. Default: `2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::config) unhealthy: Option<u32>,
    /// Port to check. Default: the endpoint's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(in crate::config) port: Option<u16>,
    /// Check that a connection can be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) tcp: Option<TcpProbe>,
    /// Check that a GET request is answered well: in HTTP/2 with `protocol: http2`, but in HTTP/1.1 at a `port` of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) http: Option<HttpProbe>,
    /// Check that gRPC's health service (grpc.health.v1.Health/Check) says SERVING.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) grpc: Option<GrpcProbe>,
    /// Whether the `http` or `grpc` check uses TLS. Default: `true` if the service has `tls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) tls: Option<At<bool>>,
}

/// Nothing to set.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct TcpProbe {}

/// An HTTP check.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HttpProbe {
    /// Path and query.
    pub(in crate::config) path: HttpPath,
    /// Host that is asked, with a port or without. Default: the endpoint's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) host: Option<HostPort>,
    /// Statuses that are good: numbers or ranges such as "200-299". Default: `[200]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(in crate::config) status: Option<Vec<Status>>,
    /// Text that the first 64 KiB of the body must contain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) body: Option<BodyPart>,
}

/// A gRPC check.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct GrpcProbe {
    /// Name that the health service is asked for. Default: none, which means the server as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) service: Option<Word>,
    /// Host that is asked, with a port or without. Default: the endpoint's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) host: Option<HostPort>,
}

/// One HTTP status or a range of them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum Status {
    /// One.
    One(#[schemars(range(min = 100, max = 599))] u16),
    /// From the first to the last.
    Range(StatusRange),
}

/// Passive health.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Outlier {
    /// Failed connects or resets in a row that eject an endpoint; 0 switches it off. Default: `5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub(in crate::config) consecutive_failures: Option<u32>,
    /// Answers of 500 and above in a row that eject an endpoint; 0 switches it off. Default: `0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub(in crate::config) consecutive_5xx: Option<At<u32>>,
    /// Length of the first ejection; the n-th lasts n times as long. Default: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) base_ejection: Option<At<Time>>,
    /// Longest ejection, at least `base_ejection`. Default: `5m`, or `base_ejection` if that is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) max_ejection: Option<At<Time>>,
    /// Most endpoints that are ejected at once, in percent. Default: `50`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub(in crate::config) max_ejected_percent: Option<u8>,
    /// Share of healthy endpoints, in percent, below which all endpoints are used; 0 switches it off. Default: `0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub(in crate::config) panic_percent: Option<u8>,
}
