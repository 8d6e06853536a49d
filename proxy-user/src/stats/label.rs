//! Values of labels: names behind numbers, and the words for what is not known.

use std::collections::HashMap;
use std::sync::Arc;

use proxy_core::id::{EndpointId, ServiceId};
use proxy_core::service::EndpointState;

/// What stands for everything that is not known.
pub const UNKNOWN: &str = "unknown";

/// What stands for everything that is too much to be told apart.
pub const OTHER: &str = "other";

/// Most endpoints of a node that get series of their own. Each costs about ten; 20,000 series are what one scrape target
/// should have at most, and a person who looks at single endpoints has fewer than 2,000 of them.
pub const MOST_ENDPOINTS: usize = 2000;

/// Names of what a scrape shows.
#[derive(Debug, Default)]
pub struct Names {
    services: HashMap<ServiceId, Arc<str>>,
    endpoints: HashMap<EndpointId, Arc<str>>,
}

impl Names {
    /// Learns the name of a service.
    pub fn add_service(&mut self, id: ServiceId, name: Arc<str>) {
        self.services.insert(id, name);
    }

    /// Learns the address of an endpoint.
    pub fn add_endpoint(&mut self, id: EndpointId, address: Arc<str>) {
        self.endpoints.insert(id, address);
    }

    /// Name of a service, or [`UNKNOWN`].
    #[must_use]
    pub fn service(&self, id: ServiceId) -> &str {
        self.services.get(&id).map_or(UNKNOWN, |name| &**name)
    }

    /// Tells whether a service has a name here; the others have idle series that expire.
    #[must_use]
    pub fn knows(&self, id: ServiceId) -> bool {
        self.services.contains_key(&id)
    }

    /// Address of an endpoint, if it is among those that are shown one by one.
    #[must_use]
    pub fn endpoint(&self, id: EndpointId) -> Option<&str> {
        self.endpoints.get(&id).map(|address| &**address)
    }
}

/// Word for the state of an endpoint.
#[must_use]
pub fn state(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Healthy => "healthy",
        EndpointState::Unhealthy => "unhealthy",
        EndpointState::Ejected => "ejected",
    }
}
