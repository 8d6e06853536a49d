//! Whose connections are intercepted, and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::de::At;
use super::super::text::{CgroupPath, FilePath, Network, NodeIp};
use super::{ApplicationLimits, Inbound, Kubelet, PodScope};

/// Interception.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Intercept {
    /// Applications whose connections are intercepted. Nobody's if empty.
    #[serde(default)]
    pub(in crate::config) scopes: Vec<At<Scope>>,
    /// Those of them, or cgroups below one, whose connections are refused rather than passed around a worker, as if every service
    /// had `fail: closed`.
    #[serde(default)]
    pub(in crate::config) fail_closed: Vec<At<Scope>>,
    /// Destinations that are never touched.
    #[serde(default)]
    pub(in crate::config) exclude: Exclude,
    /// What each application may have of the workers. The first entry whose scopes hold an application is for it.
    #[serde(default)]
    pub(in crate::config) limits: Vec<At<ApplicationLimits>>,
    /// Connections that come to applications from outside of their network namespace and pass through a worker.
    #[serde(default)]
    pub(in crate::config) inbound: Vec<At<Inbound>>,
    /// Where proxied connections to endpoints leave from: the network namespace of the application (`pod`) or that of
    /// Weir (`node`). Default: `pod`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) source: Option<Source>,
    /// Who takes connections to services in the proxy lane from network namespaces in which Weir does not listen yet: a listener on an
    /// address of the node (`auto`: the one that it uses towards pods; or a list of at most one IPv4 and one IPv6 address), or nobody
    /// (`off`), as where that cannot be reached. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) node_listener: Option<At<NodeListener>>,
    /// Who knows the labels of pods.
    #[serde(default)]
    pub(in crate::config) kubelet: Kubelet,
}

/// Where proxied connections leave from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Source {
    /// The application's network namespace.
    Pod,
    /// Weir's network namespace.
    Node,
}

/// The listener on an address of the node.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum NodeListener {
    /// By a rule.
    Choice(NodeListenerChoice),
    /// On these addresses.
    On(#[schemars(length(min = 1))] Vec<NodeIp>),
}

/// Where the listener on an address of the node is, by a rule.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum NodeListenerChoice {
    /// On the address that the node uses towards pods.
    Auto,
    /// Nowhere.
    Off,
}

/// A set of applications.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Scope {
    /// Everything in this cgroup or below: a path below the cgroup v2 mount.
    Cgroup(CgroupPath),
    /// Everything in the network namespace that this file names.
    Netns(FilePath),
    /// Everything in some pods of this node.
    Pods(PodScope),
}

/// Destinations that are never touched.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Exclude {
    /// Networks.
    #[serde(default)]
    pub(in crate::config) cidrs: Vec<At<Network>>,
    /// Ports.
    #[serde(default)]
    #[schemars(inner(range(min = 1)))]
    pub(in crate::config) ports: Vec<At<u16>>,
}
