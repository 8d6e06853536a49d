//! Pods as scopes, in the file, and who tells what they are called.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::de::{At, Pairs};
use super::super::text::{Address, Host, LabelName, LabelValue, NamespaceName, Time, TlsFile};

/// Pods of this node: those that are all of this. Every pod if empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PodScope {
    /// In one of these Kubernetes namespaces; in any if empty.
    #[serde(default)]
    pub(in crate::config) namespaces: Vec<At<NamespaceName>>,
    /// With all of these labels. They are asked of the kubelet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) labels: Option<Pairs<LabelName, At<LabelValue>>>,
}

/// Who knows the labels of this node's pods. Nobody is asked unless a scope has labels.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Kubelet {
    /// Where it listens. Default: `127.0.0.1:10250`, or port 10255 with `read_only`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) address: Option<Address>,
    /// Whether that is its read-only port: without TLS and token. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) read_only: Option<bool>,
    /// PEM file of the authorities that are believed, or of the kubelet's own certificate.
    /// Default: `/var/run/secrets/kubernetes.io/serviceaccount/ca.crt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) ca: Option<At<TlsFile>>,
    /// Name in its certificate. If absent, this machine's host name for a loopback address, else the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) sni: Option<At<Host>>,
    /// File of the token that is shown to it. Default: `/var/run/secrets/kubernetes.io/serviceaccount/token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) token: Option<At<TlsFile>>,
    /// Time between two questions; a new pod is asked for at once. Default: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) interval: Option<At<Time>>,
}
