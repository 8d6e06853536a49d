//! What each application may have, in the file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::de::At;
use super::super::text::Size;
use super::Scope;

/// Bounds on each application by itself: a pod, or in Weir's own network namespace a cgroup. They are for its connections to services in
/// the proxy lane.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ApplicationLimits {
    /// Whose: scopes of `intercept`, or cgroups below one. Everybody's if empty.
    #[serde(default)]
    pub(in crate::config) scopes: Vec<At<Scope>>,
    /// Open connections; those beyond are reset. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(in crate::config) max_connections: Option<u32>,
    /// New connections; a second's worth may come at once, others wait for their turn, and are reset if that would take longer than a
    /// second. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(in crate::config) connections_per_second: Option<u32>,
    /// Bytes in both directions together; those beyond are not read before they may be passed on. At least `64KiB`. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) bytes_per_second: Option<At<Size>>,
}
