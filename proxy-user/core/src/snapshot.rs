//! One immutable, versioned view of everything that the data plane obeys.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::addr::{Cidr, canonical};
use crate::http::HttpLimits;
use crate::id::{ServiceId, Version};
use crate::pod::PodSelector;
use crate::rate::Quota;
use crate::route::{Route, Router};
use crate::service::{Protocol, Service};
use crate::tls::ServerTls;

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
    pub listeners: Vec<Arc<ExplicitListener>>,
    /// Ports of applications whose connections workers take on their way in.
    pub inbound: Vec<Arc<Inbound>>,
    /// Everything that routes say, whether anybody names them or not.
    pub routes: Vec<Arc<Route>>,
    services: FxHashMap<ServiceId, Arc<Service>>,
    by_address: HashMap<SocketAddr, ServiceId>,
    /// What each list of routes that a listener or a service names decides.
    routers: FxHashMap<Vec<Arc<str>>, Arc<Router>>,
}

impl Snapshot {
    /// Builds a snapshot; the caller has checked that ids and addresses are unique.
    #[must_use]
    pub fn new(
        version: Version,
        intercept: Intercept,
        listeners: Vec<Arc<ExplicitListener>>,
        services: impl IntoIterator<Item = Arc<Service>>,
    ) -> Self {
        let services: FxHashMap<_, _> = services.into_iter().map(|s| (s.id, s)).collect();
        let by_address =
            services.values().flat_map(|s| s.addresses.iter().map(|a| (canonical(*a), s.id))).collect();
        Self {
            version,
            intercept,
            listeners,
            inbound: Vec::new(),
            routes: Vec::new(),
            services,
            by_address,
            routers: FxHashMap::default(),
        }
    }

    /// Adds ports of applications.
    #[must_use]
    pub fn with_inbound(self, inbound: Vec<Arc<Inbound>>) -> Self {
        Self { inbound, ..self }
    }

    /// Compiles routes for everybody who names them; the caller has checked that every name is there. What is made of the very
    /// same routes in `previous` is taken from there.
    #[must_use]
    pub fn with_routes(mut self, routes: Vec<Arc<Route>>, previous: Option<&Self>) -> Self {
        let by_name: HashMap<&Arc<str>, &Arc<Route>> = routes.iter().map(|r| (&r.name, r)).collect();
        let of_listeners = self.listeners.iter().filter_map(|listener| match &listener.serves {
            Serves::Routes(names) => Some(names),
            Serves::Service(_) => None,
        });
        let lists = of_listeners.chain(self.services.values().map(|s| &s.routes).filter(|r| !r.is_empty()));
        let compile = |names: &Vec<Arc<str>>| {
            let routes = names.iter().filter_map(|name| by_name.get(name).map(|r| Arc::clone(r)));
            let routes: Vec<_> = routes.collect();
            let old = previous.and_then(|previous| previous.router(names));
            let router = match old.filter(|old| old.is_of(&routes)) {
                Some(old) => Arc::clone(old),
                None => Arc::new(Router::new(routes)),
            };
            (names.clone(), router)
        };
        self.routers = lists.collect::<HashSet<_>>().into_iter().map(compile).collect();
        self.routes = routes;
        self
    }

    /// Finds what a list of routes decides.
    #[must_use]
    pub fn router(&self, names: &[Arc<str>]) -> Option<&Arc<Router>> {
        self.routers.get(names)
    }

    /// Finds the listener at an address.
    #[must_use]
    pub fn listener(&self, address: SocketAddr) -> Option<&Arc<ExplicitListener>> {
        self.listeners.iter().find(|listener| listener.address == address)
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
    /// Those of them whose connections are refused rather than passed around a worker, whatever their services say.
    pub fail_closed: HashSet<Scope>,
    /// Destinations that are never touched.
    pub exclude_cidrs: Vec<Cidr>,
    /// Destination ports that are never touched.
    pub exclude_ports: HashSet<u16>,
    /// Where proxied connections to endpoints leave from.
    pub source: Source,
    /// Who takes the connections of namespaces in which Weir does not listen yet.
    pub node_listener: NodeListener,
    /// What each application may have.
    pub quotas: Quotas,
}

/// What applications may have: the first entry that is for one decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas(Vec<ScopedQuota>);

/// What each application of some scopes may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopedQuota {
    /// Whose; everybody's if empty.
    pub scopes: Vec<Scope>,
    /// How much.
    pub quota: Quota,
}

impl Quotas {
    /// What an application may have that is known by these scopes.
    #[must_use]
    pub fn of(&self, known_as: &[Scope]) -> Quota {
        let first = self.0.iter().find(|entry| is_among(&entry.scopes, known_as));
        first.map_or_else(Quota::default, |entry| entry.quota)
    }

    /// The entries in their order.
    pub fn iter(&self) -> impl Iterator<Item = &ScopedQuota> {
        self.0.iter()
    }
}

impl FromIterator<ScopedQuota> for Quotas {
    fn from_iter<I: IntoIterator<Item = ScopedQuota>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

/// Tells whether one that is known by some scopes is in one of these, or these are none, which means everybody.
fn is_among(wide: &[Scope], known_as: &[Scope]) -> bool {
    wide.is_empty() || wide.iter().any(|wide| known_as.iter().any(|one| wide.holds(one)))
}

impl Intercept {
    /// Applications that are treated in a way.
    #[must_use]
    pub fn treated(&self, treatment: Treatment) -> &HashSet<Scope> {
        match treatment {
            Treatment::Caught => &self.scopes,
            Treatment::FailClosed => &self.fail_closed,
        }
    }
}

/// What is done with the connections of a set of applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Treatment {
    /// They are looked at.
    Caught,
    /// They are refused rather than passed around a worker.
    FailClosed,
}

impl Treatment {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Caught, Self::FailClosed];
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

/// The listener on an address of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum NodeListener {
    /// None.
    Off,
    /// On the address that the node uses towards the first pod that is served.
    #[default]
    Auto,
    /// On these, at most one of each family.
    On(Vec<IpAddr>),
}

/// A set of applications.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Everything in this cgroup or below it; a path below the cgroup v2 mount, beginning with `/`.
    Cgroup(String),
    /// Everything in the network namespace that this file names, for example `/run/netns/shop`.
    Netns(String),
    /// Everything in these pods of the node, wherever their cgroups are.
    Pods(PodSelector),
}

impl Scope {
    /// Tells whether everybody in `other` is in this one, too.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cgroup(above), Self::Cgroup(below)) => {
                let rest = below.strip_prefix(above.trim_end_matches('/'));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            (Self::Pods(wide), Self::Pods(narrow)) => wide.holds(narrow),
            (one, other) => one == other,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
            Self::Netns(path) => write!(f, "network namespace {path}"),
            Self::Pods(selector) => write!(f, "pods {selector}"),
        }
    }
}

/// Ports at which workers take the connections that come to applications from outside of their network namespace.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Whose limits and statistics count. It has no addresses and no endpoints: the application is the only one.
    pub service: Arc<Service>,
    /// Ports in host order.
    pub ports: Vec<u16>,
    /// Whose ports; every served namespace's if empty.
    pub scopes: Vec<Scope>,
    /// As of [`ExplicitListener`].
    pub expects_proxy_header: bool,
    /// As of [`ExplicitListener`].
    pub trusted_proxies: Vec<Cidr>,
}

impl Inbound {
    /// Most ports of all of them: each may be a port of the same namespace, and the kernel programs have room for as many.
    pub const MOST_PORTS: usize = 256;

    /// Tells whether it is about a network namespace that is known by one of these scopes.
    #[must_use]
    pub fn is_for(&self, known_as: &[Scope]) -> bool {
        is_among(&self.scopes, known_as)
    }
}

/// A real port that Weir serves for clients that are not intercepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExplicitListener {
    /// Where to listen.
    pub address: SocketAddr,
    /// What clients speak (inside TLS, if there is any).
    pub protocol: Protocol,
    /// Whom to serve.
    pub serves: Serves,
    /// A header of the PROXY protocol is what every connection begins with, and says who the client is.
    pub expects_proxy_header: bool,
    /// From where such a header is believed; from everywhere if empty.
    pub trusted_proxies: Vec<Cidr>,
    /// TLS that ends here.
    pub tls: Option<Arc<ServerTls>>,
    /// Bounds on HTTP.
    pub http: HttpLimits,
}

/// Who answers the clients of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Serves {
    /// One service.
    Service(ServiceId),
    /// Whomever these routes name, by request (HTTP) or by the name that a client asks for (TLS).
    Routes(Vec<Arc<str>>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_holds_what_is_below_it_and_nothing_that_only_begins_alike() {
        let cgroup = |path: &str| Scope::Cgroup(path.to_owned());
        for (above, below, holds) in [
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/", "/a", true),
            ("/a", "/ab", false),
            ("/a/b", "/a", false),
        ] {
            assert_eq!(cgroup(above).holds(&cgroup(below)), holds, "{above} {below}");
        }
        let netns = Scope::Netns("/a".to_owned());
        assert!(netns.holds(&netns) && !netns.holds(&cgroup("/a")) && !cgroup("/").holds(&netns));
    }
}
