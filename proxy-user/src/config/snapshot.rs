//! From a [`Config`] to the [`Snapshot`] that the data plane obeys, keeping what did not change.

use std::collections::HashMap;
use std::sync::Arc;

use proxy_core::addr::EndpointAddr;
use proxy_core::http::HttpLimits;
use proxy_core::id::{EndpointId, Registry, ServiceId, Version};
use proxy_core::load::adaptive::{Adaptive, AdaptivePolicy};
use proxy_core::route::Route;
use proxy_core::service::{Endpoint, EndpointLoss, EndpointState, Fail, LaneChoice, Load, Protocol, Service};
use proxy_core::snapshot::{ExplicitListener, Inbound, Serves, Snapshot};

use super::{Config, EndpointConfig, InboundConfig, ListenerConfig, ServesConfig, ServiceConfig, default};

impl Config {
    /// Makes the next snapshot.
    ///
    /// A service whose config is the same as in `previous` stays the same `Arc`, with the states and loads that it has
    /// there. In a changed one, endpoints that stay keep their load, and their state as long as something can still
    /// change it: without active checks nothing would ever end `Unhealthy`, without ejection nothing `Ejected`.
    #[must_use]
    pub fn snapshot(
        &self,
        registry: &mut Registry,
        version: Version,
        previous: Option<&Snapshot>,
    ) -> Snapshot {
        let services: Vec<_> = self
            .services
            .iter()
            .map(|config| {
                let id = registry.service(&config.name);
                match previous.and_then(|previous| previous.service(id)) {
                    Some(old) if config.is_of(old) => Arc::clone(old),
                    old => Arc::new(config.service(id, registry, old.map(AsRef::as_ref))),
                }
            })
            .collect();
        let listeners = self.listeners.iter().map(|config| {
            let old = previous.and_then(|previous| previous.listener(config.address));
            config.listener(registry, old)
        });
        let listeners = listeners.collect();
        let routes = self.routes(registry, previous);
        let inbound = self.inbound.iter().map(|config| config.inbound(registry, previous)).collect();
        Snapshot::new(version, self.intercept.clone(), listeners, services)
            .with_routes(routes, previous)
            .with_inbound(inbound)
    }

    fn routes(&self, registry: &mut Registry, previous: Option<&Snapshot>) -> Vec<Arc<Route>> {
        let old = previous.into_iter().flat_map(|previous| &previous.routes);
        let old: HashMap<&str, &Arc<Route>> = old.map(|route| (&*route.name, route)).collect();
        let mut id = |name: &str| registry.service(name);
        self.routes.iter().map(|route| route.route(&mut id, old.get(route.name.as_str()).copied())).collect()
    }
}

impl ListenerConfig {
    fn listener(
        &self,
        registry: &mut Registry,
        old: Option<&Arc<ExplicitListener>>,
    ) -> Arc<ExplicitListener> {
        let listener = ExplicitListener {
            address: self.address,
            protocol: self.protocol,
            serves: match &self.serves {
                ServesConfig::Service(name) => Serves::Service(registry.service(name)),
                ServesConfig::Routes(names) => Serves::Routes(shared(names)),
            },
            expects_proxy_header: self.expects_proxy_header,
            trusted_proxies: self.trusted_proxies.clone(),
            tls: self.tls.clone().map(Arc::new),
            http: self.http,
        };
        match old {
            Some(old) if **old == listener => Arc::clone(old),
            _ => Arc::new(listener),
        }
    }
}

impl InboundConfig {
    fn inbound(&self, registry: &mut Registry, previous: Option<&Snapshot>) -> Arc<Inbound> {
        let old =
            previous.and_then(|previous| previous.inbound.iter().find(|old| *old.service.name == *self.name));
        let service = self.as_service();
        let service = match old {
            Some(old) if service.is_of(&old.service) => Arc::clone(&old.service),
            old => {
                let id = registry.service(&self.name);
                Arc::new(service.service(id, registry, old.map(|old| &*old.service)))
            }
        };
        Arc::new(Inbound {
            service,
            ports: self.ports.clone(),
            scopes: self.scopes.clone(),
            expects_proxy_header: self.expects_proxy_header,
            trusted_proxies: self.trusted_proxies.clone(),
        })
    }

    /// The service that limits and statistics are of. Nobody asks for it, and the application is not one of several.
    fn as_service(&self) -> ServiceConfig {
        ServiceConfig {
            name: self.name.clone(),
            addresses: Vec::new(),
            protocol: Protocol::Tcp,
            tls: None,
            proxy_protocol: self.proxy_protocol,
            routes: Vec::new(),
            http: HttpLimits::DEFAULT,
            lane: LaneChoice::Proxy,
            endpoints: Vec::new(),
            policy: default::POLICY,
            health: None,
            outlier: default::OUTLIER,
            limits: self.limits,
            rates: Vec::new(),
            on_endpoint_loss: EndpointLoss::Keep,
            fail: Fail::Open,
        }
    }

    /// What a running one was made of.
    #[must_use]
    pub fn of(inbound: &Inbound) -> Self {
        Self {
            name: inbound.service.name.to_string(),
            ports: inbound.ports.clone(),
            scopes: inbound.scopes.clone(),
            limits: inbound.service.limits,
            expects_proxy_header: inbound.expects_proxy_header,
            trusted_proxies: inbound.trusted_proxies.clone(),
            proxy_protocol: inbound.service.proxy_protocol,
        }
    }
}

fn shared(names: &[String]) -> Vec<Arc<str>> {
    names.iter().map(|name| Arc::from(name.as_str())).collect()
}

impl ServiceConfig {
    /// Makes the service, taking over what belongs to its running version.
    pub(super) fn service(&self, id: ServiceId, registry: &mut Registry, old: Option<&Service>) -> Service {
        let running: HashMap<EndpointId, &Endpoint> =
            old.into_iter().flat_map(|old| old.endpoints.iter().map(|e| (e.id, e))).collect();
        let endpoint = |config: &EndpointConfig| {
            let id = registry.endpoint(id, config.address);
            let running = running.get(&id);
            Endpoint {
                id,
                address: EndpointAddr(config.address),
                weight: config.weight,
                zone: config.zone.as_deref().map(Arc::from),
                state: running.map_or(EndpointState::Healthy, |running| self.inherited(running.state)),
                load: running.map_or_else(Arc::default, |running| Arc::clone(&running.load)),
            }
        };
        Service {
            id,
            name: old.map_or_else(|| Arc::from(self.name.as_str()), |old| Arc::clone(&old.name)),
            addresses: self.addresses.clone(),
            protocol: self.protocol,
            tls: self.tls.clone().map(Arc::new),
            proxy_protocol: self.proxy_protocol,
            routes: shared(&self.routes),
            http: self.http,
            lane: self.lane,
            endpoints: self.endpoints.iter().map(endpoint).collect(),
            policy: self.policy,
            health: self.health.clone(),
            outlier: self.outlier,
            limits: self.limits,
            rates: super::route::rates(&self.rates, old.map(|old| &old.rates)),
            adaptive: adaptive(self.limits.adaptive, old),
            on_endpoint_loss: self.on_endpoint_loss,
            fail: self.fail,
            load: old.map_or_else(Arc::<Load>::default, |old| Arc::clone(&old.load)),
            cursor: old.map_or_else(Arc::default, |old| Arc::clone(&old.cursor)),
        }
    }

    fn inherited(&self, state: EndpointState) -> EndpointState {
        match state {
            EndpointState::Unhealthy if self.health.is_none() => EndpointState::Healthy,
            EndpointState::Ejected if !self.ejects() => EndpointState::Healthy,
            state => state,
        }
    }

    fn ejects(&self) -> bool {
        self.outlier.consecutive_failures > 0 || self.outlier.consecutive_5xx > 0
    }

    /// Tells whether a running service is what this config says. Names every field: a new one must be thought of here.
    fn is_of(&self, service: &Service) -> bool {
        let Self {
            name,
            addresses,
            protocol,
            tls,
            proxy_protocol,
            routes,
            http,
            lane,
            endpoints,
            policy,
            health,
            outlier,
            limits,
            rates,
            on_endpoint_loss,
            fail,
        } = self;
        **name == *service.name
            && *addresses == service.addresses
            && *protocol == service.protocol
            && tls.as_ref() == service.tls.as_deref()
            && *proxy_protocol == service.proxy_protocol
            && routes.iter().map(String::as_str).eq(service.routes.iter().map(|name| &**name))
            && *http == service.http
            && *lane == service.lane
            && *policy == service.policy
            && *health == service.health
            && *outlier == service.outlier
            && *limits == service.limits
            && service.rates.limits().eq(rates.iter().copied())
            && *on_endpoint_loss == service.on_endpoint_loss
            && *fail == service.fail
            && endpoints.len() == service.endpoints.len()
            && endpoints.iter().zip(&service.endpoints).all(|(config, endpoint)| config.is_of(endpoint))
    }
}

/// What was found out stays as long as the config says the same.
fn adaptive(policy: Option<AdaptivePolicy>, old: Option<&Service>) -> Option<Arc<Adaptive>> {
    let running =
        old.and_then(|old| old.adaptive.as_ref()).filter(|running| Some(running.policy()) == policy);
    running.cloned().or_else(|| policy.map(|policy| Arc::new(Adaptive::new(policy))))
}

impl EndpointConfig {
    fn is_of(&self, endpoint: &Endpoint) -> bool {
        let Self { address, weight, zone } = self;
        *address == endpoint.address.0
            && *weight == endpoint.weight
            && zone.as_deref() == endpoint.zone.as_deref()
    }
}
