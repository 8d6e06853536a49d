//! What a worker knows about services: the snapshot, and what it has built from it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use proxy_core::balance::Balancer;
use proxy_core::id::ServiceId;
use proxy_core::route::{Router, Rule};
use proxy_core::service::Service;
use proxy_core::snapshot::{ExplicitListener, Snapshot, Source};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rustc_hash::FxHashMap;

use super::detect::MEMORY;
use crate::stats::conn::{ConnStats, ServiceStats};
use crate::stats::http::{HttpRegistry, HttpStats};

/// The snapshot in force with the balancers that were needed so far.
pub struct Routes {
    snapshot: Arc<Snapshot>,
    built: FxHashMap<ServiceId, Route>,
    /// This worker's counters of HTTP, by service, and by rule: by where the rule lives, which is kept with them.
    http: FxHashMap<ServiceId, Arc<HttpStats>>,
    rules: FxHashMap<usize, (Arc<Rule>, Arc<HttpStats>)>,
    worker: usize,
    /// Services of unknown protocol whose server spoke first, and until when that is believed.
    server_first: FxHashMap<ServiceId, Instant>,
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
    /// Begins with a snapshot, on the worker with this index.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>, worker: usize) -> Self {
        Self {
            snapshot,
            built: FxHashMap::default(),
            http: FxHashMap::default(),
            rules: FxHashMap::default(),
            worker,
            server_first: FxHashMap::default(),
        }
    }

    /// Takes up a snapshot; balancers of services that are unchanged stay as they are.
    pub fn handle_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.built
            .retain(|id, route| snapshot.service(*id).is_some_and(|now| Arc::ptr_eq(now, &route.service)));
        // What is still used is found again; what is not must not be held for ever.
        self.http.clear();
        self.rules.clear();
        self.snapshot = snapshot;
    }

    /// This worker's counters of the HTTP of a service; 0 is of no service.
    pub fn http_stats(&mut self, id: ServiceId, registry: &HttpRegistry) -> Arc<HttpStats> {
        let stats = self.http.entry(id).or_insert_with(|| registry.service(id, self.worker));
        Arc::clone(stats)
    }

    /// This worker's counters of a rule.
    pub fn rule_stats(&mut self, rule: &Arc<Rule>, registry: &HttpRegistry) -> Arc<HttpStats> {
        let entry = self.rules.entry(Arc::as_ptr(rule).addr());
        let (_, stats) =
            entry.or_insert_with(|| (Arc::clone(rule), registry.rule(&rule.route, rule.index, self.worker)));
        Arc::clone(stats)
    }

    /// What the config says of the listener at an address.
    #[must_use]
    pub fn listener(&self, address: SocketAddr) -> Option<Arc<ExplicitListener>> {
        self.snapshot.listener(address).cloned()
    }

    /// Whose limits and statistics a port of applications has.
    #[must_use]
    pub fn inbound(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.snapshot.inbound.iter().map(|inbound| &inbound.service).find(|service| service.id == id)
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
