//! One immutable, versioned view of everything that the data plane obeys.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::addr::{Cidr, canonical};
use crate::id::{ServiceId, Version};
use crate::service::Service;

/// Services, listeners and interception rules at one version.
///
/// A connection keeps the snapshot that it was routed with.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Which version this is.
    pub version: Version,
    /// Whose connections are caught, and which of them never.
    pub intercept: Intercept,
    /// Ports opened for clients that are not intercepted.
    pub listeners: Vec<ExplicitListener>,
    services: HashMap<ServiceId, Arc<Service>>,
    by_address: HashMap<SocketAddr, ServiceId>,
}

impl Snapshot {
    /// Builds a snapshot; the caller has checked that ids and addresses are unique.
    #[must_use]
    pub fn new(
        version: Version,
        intercept: Intercept,
        listeners: Vec<ExplicitListener>,
        services: impl IntoIterator<Item = Arc<Service>>,
    ) -> Self {
        let services: HashMap<_, _> = services.into_iter().map(|s| (s.id, s)).collect();
        let by_address =
            services.values().flat_map(|s| s.addresses.iter().map(|a| (canonical(*a), s.id))).collect();
        Self { version, intercept, listeners, services, by_address }
    }

    /// Finds a service by its number.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id)
    }

    /// Finds the service that an application means by an address; v4-mapped addresses are understood.
    #[must_use]
    pub fn service_at(&self, address: SocketAddr) -> Option<&Arc<Service>> {
        self.by_address.get(&canonical(address)).and_then(|id| self.services.get(id))
    }

    /// Lists the services in no particular order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Makes the next version with some services replaced by values of the same id (health changed, not the config).
    ///
    /// Costs one pointer copy per service; addresses must be unchanged.
    #[must_use]
    pub fn with_services(&self, changed: impl IntoIterator<Item = Arc<Service>>) -> Self {
        let mut next = self.clone();
        next.version = Version(self.version.0 + 1);
        next.services.extend(changed.into_iter().map(|s| (s.id, s)));
        next
    }
}

/// Which connections Weir looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intercept {
    /// Applications whose connections are caught.
    pub scopes: HashSet<Scope>,
    /// Destinations that are never touched.
    pub exclude_cidrs: Vec<Cidr>,
    /// Destination ports that are never touched.
    pub exclude_ports: HashSet<u16>,
    /// Where proxied connections to endpoints leave from.
    pub source: Source,
}

/// Where the upstream side of a proxied connection leaves from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// The application's own network namespace, so that endpoints, network policies and logs see its address.
    #[default]
    Pod,
    /// The namespace that Weir runs in.
    Node,
}

/// A set of applications.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Everything in this cgroup or below it; a path below the cgroup v2 mount, beginning with `/`.
    Cgroup(String),
    /// Everything in the network namespace that this file names, for example `/run/netns/shop`.
    Netns(String),
}

/// A real port that Weir serves for clients that are not intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExplicitListener {
    /// Where to listen.
    pub address: SocketAddr,
    /// Whom to serve.
    pub service: ServiceId,
}
