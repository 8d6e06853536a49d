//! Connections that come to applications, in the file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::de::At;
use super::super::text::{Name, Network, Time, TimeOrOff};
use super::{ProxyHeader, ProxyProtocol, Scope};

/// Ports of applications.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Inbound {
    /// Name in metrics and logs; no service has the same.
    pub(in crate::config) name: At<Name>,
    /// Ports that the applications listen on.
    #[schemars(length(min = 1), inner(range(min = 1)))]
    pub(in crate::config) ports: At<Vec<At<u16>>>,
    /// Whose ports: scopes of `intercept`, or cgroups or pods within one. All of those if empty.
    #[serde(default)]
    pub(in crate::config) scopes: Vec<At<Scope>>,
    /// Bounds on connections and times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) limits: Option<InboundLimits>,
    /// Headers of the PROXY protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) proxy_protocol: Option<InboundProxyProtocol>,
}

/// Bounds on connections to applications.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct InboundLimits {
    /// Time for the connect to the application. Default: `2s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) connect_timeout: Option<Time>,
    /// Time without a byte after which a connection is closed, or `off`. Default: `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) idle_timeout: Option<TimeOrOff>,
    /// Time without a byte after which a connection is closed that one side has finished, or `off`. Default: `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) half_close_timeout: Option<TimeOrOff>,
    /// Time that bytes sent to a client may stay unacknowledged (TCP_USER_TIMEOUT). Default: `15m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) user_timeout: Option<Time>,
    /// Open connections, of all the applications together. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(in crate::config) max_connections: Option<u32>,
}

/// Headers of the PROXY protocol on both sides of a worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct InboundProxyProtocol {
    /// `required`: clients send one, as with listeners.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub(in crate::config) from_clients: Option<ProxyHeader>,
    /// As of listeners, with `in: required`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(in crate::config) trusted_proxies: Option<At<Vec<At<Network>>>>,
    /// Version of the one that applications get.
    #[serde(rename = "out", skip_serializing_if = "Option::is_none")]
    pub(in crate::config) to_applications: Option<ProxyProtocol>,
}
