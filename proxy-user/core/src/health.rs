//! Active and passive health: which endpoints are believed to serve.
//!
//! [`Tracker`] knows every endpoint of the node. It asks for [`Check`]s when they are due, is told how they and the
//! real connections went, and says which services changed by that. It opens no connection and reads no clock.

mod agenda;
mod check;
mod outlier;
mod tracker;

use std::net::SocketAddr;
use std::time::Instant;

pub use self::tracker::Tracker;
use crate::id::{EndpointId, ServiceId};
use crate::proxy_protocol;
use crate::service::{EndpointState, HealthCheck};

/// A check to carry out now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Service that the endpoint belongs to.
    pub service: ServiceId,
    /// Endpoint to check; name it in [`Tracker::handle_check`].
    pub endpoint: EndpointId,
    /// Where to connect: the endpoint's address, with the port of the check if it has one.
    pub address: SocketAddr,
    /// What to ask and how long to wait.
    pub check: HealthCheck,
    /// Header that the connection begins with, on behalf of nobody: of checks that go where connections go.
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

/// What is known about one endpoint's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointReport {
    /// Service that the endpoint belongs to.
    pub service: ServiceId,
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// What is believed now.
    pub state: EndpointState,
    /// When the last active check was over; `None` before the first.
    pub last_check: Option<Instant>,
    /// Why the last active check failed; `None` if it was good.
    pub last_error: Option<String>,
    /// End of the ejection that is in force.
    pub ejected_until: Option<Instant>,
    /// Ejections since the endpoint is known.
    pub ejections_total: u64,
    /// Active checks that are over, since the endpoint is known.
    pub checks_total: u64,
    /// Those of them that failed.
    pub failures_total: u64,
}
