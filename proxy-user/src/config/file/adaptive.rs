//! Adaptive limits in the file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::de::At;
use super::super::text::{Percent, Time};

/// A bound on requests under way that follows how fast a service answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Adaptive {
    /// The lowest that the bound gets. Default: `4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(in crate::config) min: Option<u32>,
    /// The highest that it gets. Default: `1000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(in crate::config) max: Option<At<u32>>,
    /// How much slower than at its best the service may answer before the bound gets lower. Default: `25%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) tolerance: Option<Percent>,
    /// Time whose answers are judged together. Default: `100ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) window: Option<Time>,
    /// Time after which the best is measured anew, with half of the bound. Default: `1m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) measure_interval: Option<At<Time>>,
}
