//! Overload in the file.

use proxy_core::overload::Rung;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::de::At;
use super::super::text::{PercentOrOff, Size};

/// What Weir gives up when memory or descriptors run out: each thing from this share of them in use on, or never (`off`). Each comes
/// in addition to those before it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Overload {
    /// Memory that the process may have. What the machine has if absent. Limits of its cgroups count in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) max_memory: Option<At<Size>>,
    /// HTTP connections end after their answers, those at rest end, and no more to endpoints are kept. Default: `80%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) stop_keep_alive: Option<At<PercentOrOff>>,
    /// Requests of low priority are answered 503, or UNAVAILABLE. Default: `85%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) refuse_low: Option<At<PercentOrOff>>,
    /// Requests are answered 503, or UNAVAILABLE, but those of high priority; where it is descriptors that run out, connections to `listeners` are reset.
    /// Default: `90%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) refuse: Option<At<PercentOrOff>>,
    /// Requests of high priority are answered so, too. Default: `95%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) refuse_high: Option<At<PercentOrOff>>,
    /// The stream that holds most bytes is reset, twice a second. Default: `97%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) reset: Option<At<PercentOrOff>>,
}

impl Overload {
    /// Where the file says something of a rung.
    pub(in crate::config) fn threshold(&self, rung: Rung) -> Option<&At<PercentOrOff>> {
        match rung {
            Rung::StopKeepAlive => self.stop_keep_alive.as_ref(),
            Rung::RefuseLow => self.refuse_low.as_ref(),
            Rung::Refuse => self.refuse.as_ref(),
            Rung::RefuseHigh => self.refuse_high.as_ref(),
            Rung::Reset => self.reset.as_ref(),
        }
    }
}
