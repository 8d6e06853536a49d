//! What a worker knows about services: the snapshot, and what it has built from it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use proxy_core::balance::Balancer;
use proxy_core::id::ServiceId;
use proxy_core::route::Router;
use proxy_core::service::Service;
use proxy_core::snapshot::{ExplicitListener, Snapshot, Source};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::detect::MEMORY;
use crate::stats::conn::{ConnStats, ServiceStats};

/// The snapshot in force with the balancers that were needed so far.
pub struct Routes {
    snapshot: Arc<Snapshot>,
    built: HashMap<ServiceId, Route>,
    /// Services of unknown protocol whose server spoke first, and until when that is believed.
    server_first: HashMap<ServiceId, Instant>,
}

/// A service with this worker's way of choosing its endpoints.
pub struct Route {
    /// The service.
    pub service: Arc<Service>,
    /// Chooses endpoints.
    pub balancer: Balancer,
    /// Its counters.
    pub stats: Arc<ServiceStats>,
}

impl Routes {
    /// Begins with a snapshot.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, built: HashMap::new(), server_first: HashMap::new() }
    }

    /// Takes up a snapshot; balancers of services that are unchanged stay as they are.
    pub fn handle_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.built
            .retain(|id, route| snapshot.service(*id).is_some_and(|now| Arc::ptr_eq(now, &route.service)));
        self.snapshot = snapshot;
    }

    /// What the config says of the listener at an address.
    #[must_use]
    pub fn listener(&self, address: SocketAddr) -> Option<Arc<ExplicitListener>> {
        self.snapshot.listener(address).cloned()
    }

    /// What a list of routes decides.
    #[must_use]
    pub fn router(&self, names: &[Arc<str>]) -> Option<Arc<Router>> {
        self.snapshot.router(names).cloned()
    }

    /// Tells whether a service is known as one whose server speaks first.
    #[must_use]
    pub fn is_server_first(&self, id: ServiceId, now: Instant) -> bool {
        self.server_first.get(&id).is_some_and(|until| now < *until)
    }

    /// Remembers that a service's server spoke first, for a while.
    pub fn set_server_first(&mut self, id: ServiceId, now: Instant) {
        self.server_first.retain(|_, until| now < *until);
        self.server_first.insert(id, now + MEMORY);
    }

    /// Where connections to endpoints leave from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.snapshot.intercept.source
    }

    /// Finds a service by number or, where the number is not known (any more), by the address that was asked for.
    pub fn route(
        &mut self,
        id: ServiceId,
        asked: Option<SocketAddr>,
        stats: &ConnStats,
    ) -> Option<&mut Route> {
        let by_address = || self.snapshot.service_at(asked?);
        let service = self.snapshot.service(id).or_else(by_address)?;
        let route = self.built.entry(service.id).or_insert_with(|| Route {
            service: Arc::clone(service),
            balancer: Balancer::new(service, SmallRng::from_os_rng()),
            stats: stats.service(service.id),
        });
        Some(route)
    }
}
