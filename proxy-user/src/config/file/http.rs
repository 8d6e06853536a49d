//! Bounds on HTTP in the file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::de::At;
use super::super::text::{Size, Time, TimeOrOff};

/// Bounds on HTTP messages and connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HttpLimits {
    /// Size of a head: first line and headers; the same of trailers; 1 KiB to 1 MiB. Default: `64KiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) max_head: Option<At<Size>>,
    /// Headers of one message. Default: `100`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub(in crate::config) max_headers: Option<u16>,
    /// Time for a head, from its first byte to its last. Default: `1m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) head_timeout: Option<Time>,
    /// Time that a connection may rest between requests, or `off`. Default: `1m15s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) idle_timeout: Option<TimeOrOff>,
    /// Time without a byte of a body that somebody waits for. Default: `1m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) body_timeout: Option<Time>,
    /// Size of a request's body; more is answered 413. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) max_request_body: Option<Size>,
    /// Size of an answer's body; more is cut off. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) max_response_body: Option<Size>,
    /// Size of one gRPC message, up to 2 GiB; with a longer one the call ends with `resource_exhausted`. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) max_grpc_message: Option<At<Size>>,
    /// When silent peers of HTTP/2 are asked whether they are still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) ping: Option<Ping>,
    /// Age of a client's connection, up to a tenth more or less at random, at which the client is asked to make another:
    /// by GOAWAY in HTTP/2, by `connection: close` with the next answer in HTTP/1.1. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) max_connection_age: Option<TimeOrOff>,
    /// Time that requests of HTTP/2 get to end after that, or `off` for as long as they take. Default: `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) max_connection_age_grace: Option<TimeOrOff>,
}

/// Pings of HTTP/2: to peers that say nothing while requests are under way.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Ping {
    /// Silence after which a client is asked, or `off`. Default: `2h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) clients: Option<TimeOrOff>,
    /// Silence after which an endpoint is asked, or `off`; for services only. Servers of gRPC end connections on which they
    /// are asked more often than every five minutes, unless they are told otherwise. Default: `5m30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) endpoints: Option<At<TimeOrOff>>,
    /// Silence after a ping that ends the connection. Default: `20s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) timeout: Option<Time>,
}
