//! Routes as configured: [`proxy_core::route`] with the names of services in place of their numbers.

use std::sync::Arc;

use proxy_core::id::ServiceId;
use proxy_core::priority::Priority;
use proxy_core::rate::{RateLimit, RateLimits};
use proxy_core::retry::RetryPolicy;
use proxy_core::route::fault::{FaultPolicy, Faults};
use proxy_core::route::{
    Action, Backend, HeaderChanges, HostPattern, Match, Mirror, Redirect, Rewrite, Route, Rule, Timeouts,
};

/// A named list of rules for some hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// Unique name.
    pub name: String,
    /// Hosts that it is for; every host if empty.
    pub hosts: Vec<HostPattern>,
    /// What happens with their requests; never empty.
    pub rules: Vec<RuleConfig>,
}

/// What happens with requests that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleConfig {
    /// Any of these; every request if empty.
    pub matches: Vec<Match>,
    /// Changes of the request's headers.
    pub request_headers: HeaderChanges,
    /// Changes of the answer's headers.
    pub response_headers: HeaderChanges,
    /// How long it may take.
    pub timeout: Timeouts,
    /// Whether and when a request is tried again.
    pub retry: RetryPolicy,
    /// Bounds on how fast its requests may come; those per client first.
    pub rates: Vec<RateLimit>,
    /// Faults on purpose.
    pub fault: Option<FaultPolicy>,
    /// What is refused first.
    pub priority: Priority,
    /// Services that get copies.
    pub mirrors: Vec<MirrorConfig>,
    /// What happens.
    pub action: ActionConfig,
}

impl RuleConfig {
    /// Names of the services that requests and copies of them go to.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        let backends = match &self.action {
            ActionConfig::Forward { backends, .. } => backends.as_slice(),
            ActionConfig::Redirect(_) | ActionConfig::Respond { .. } => &[],
        };
        let backends = backends.iter().map(|backend| backend.service.as_str());
        backends.chain(self.mirrors.iter().map(|mirror| mirror.service.as_str()))
    }
}

/// A service that gets copies of a share of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorConfig {
    /// Name of the service.
    pub service: String,
    /// Share of the requests, in parts of 10,000; above zero.
    pub share: u16,
}

/// What happens with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionConfig {
    /// One of some services answers.
    Forward {
        /// Services and weights; not empty, and not all weights are zero.
        backends: Vec<BackendConfig>,
        /// What becomes of host and path.
        rewrite: Rewrite,
    },
    /// The client is told to ask elsewhere.
    Redirect(Redirect),
    /// Weir answers itself.
    Respond {
        /// 200 to 599.
        status: u16,
        /// Type of the body.
        content_type: String,
        /// The body.
        body: String,
    },
}

/// A service that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendConfig {
    /// Name of the service.
    pub service: String,
    /// Share relative to its siblings.
    pub weight: u32,
}

impl RouteConfig {
    /// Makes the route. It and its rules stay the same `Arc` as in its running version where they say the same.
    pub(super) fn route(
        &self,
        id: &mut impl FnMut(&str) -> ServiceId,
        old: Option<&Arc<Route>>,
    ) -> Arc<Route> {
        let name = old.map_or_else(|| Arc::from(self.name.as_str()), |old| Arc::clone(&old.name));
        let rules = self.rules.iter().enumerate().map(|(index, config)| {
            let old = old.and_then(|old| old.rules.get(index));
            let rule = config.rule(index, &name, id, old.map(AsRef::as_ref));
            match old {
                Some(old) if **old == rule => Arc::clone(old),
                _ => Arc::new(rule),
            }
        });
        let route = Route { rules: rules.collect(), hosts: self.hosts.clone(), name };
        match old {
            Some(old) if **old == route => Arc::clone(old),
            _ => Arc::new(route),
        }
    }

    /// Makes the config that a route comes from; `name` knows the services.
    #[must_use]
    pub fn of(route: &Route, name: &dyn Fn(ServiceId) -> String) -> Self {
        Self {
            name: route.name.to_string(),
            hosts: route.hosts.clone(),
            rules: route.rules.iter().map(|rule| RuleConfig::of(rule, name)).collect(),
        }
    }
}

impl RuleConfig {
    fn rule(
        &self,
        index: usize,
        route: &Arc<str>,
        id: &mut impl FnMut(&str) -> ServiceId,
        old: Option<&Rule>,
    ) -> Rule {
        let mirrors =
            self.mirrors.iter().map(|m| Mirror { service: id(&m.service), share: m.share }).collect();
        let action = match &self.action {
            ActionConfig::Forward { backends, rewrite } => Action::Forward {
                backends: backends
                    .iter()
                    .map(|b| Backend { service: id(&b.service), weight: b.weight })
                    .collect(),
                rewrite: rewrite.clone(),
            },
            ActionConfig::Redirect(redirect) => Action::Redirect(redirect.clone()),
            ActionConfig::Respond { status, content_type, body } => Action::Respond {
                status: *status,
                content_type: content_type.as_str().into(),
                body: body.as_str().into(),
            },
        };
        Rule {
            index,
            route: Arc::clone(route),
            matches: self.matches.clone(),
            request_headers: self.request_headers.clone(),
            response_headers: self.response_headers.clone(),
            timeout: self.timeout,
            retry: self.retry.clone(),
            rates: rates(&self.rates, old.map(|old| &old.rates)),
            priority: self.priority,
            faults: self.fault.clone().map(Faults::new),
            mirrors,
            action,
        }
    }

    fn of(rule: &Rule, name: &dyn Fn(ServiceId) -> String) -> Self {
        let action = match &rule.action {
            Action::Forward { backends, rewrite } => ActionConfig::Forward {
                backends: backends
                    .iter()
                    .map(|b| BackendConfig { service: name(b.service), weight: b.weight })
                    .collect(),
                rewrite: rewrite.clone(),
            },
            Action::Redirect(redirect) => ActionConfig::Redirect(redirect.clone()),
            Action::Respond { status, content_type, body } => ActionConfig::Respond {
                status: *status,
                content_type: content_type.to_string(),
                body: body.to_string(),
            },
        };
        let mirror = |m: &Mirror| MirrorConfig { service: name(m.service), share: m.share };
        Self {
            matches: rule.matches.clone(),
            request_headers: rule.request_headers.clone(),
            response_headers: rule.response_headers.clone(),
            timeout: rule.timeout,
            retry: rule.retry.clone(),
            rates: rule.rates.limits().collect(),
            priority: rule.priority,
            fault: rule.faults.as_ref().map(|faults| faults.policy().clone()),
            mirrors: rule.mirrors.iter().map(mirror).collect(),
            action,
        }
    }
}

/// Makes bounds; of the same ones in the running version stays what is used up.
pub(super) fn rates(limits: &[RateLimit], old: Option<&Arc<RateLimits>>) -> Arc<RateLimits> {
    match old {
        Some(old) if old.limits().eq(limits.iter().copied()) => Arc::clone(old),
        _ => Arc::new(RateLimits::new(limits)),
    }
}
