//! Connections that come to applications: whose they are must be clear.

use std::collections::HashMap;

use proxy_core::snapshot::{Inbound, Scope};

use super::super::de::At;
use super::super::error::{Finding, quoted};
use super::super::yaml::Origin;
use super::super::{file, resolve};
use super::Check;

impl<'c> Check<'c, '_> {
    /// Checks the ports of applications against each other, services and scopes.
    pub(super) fn inbound(&mut self) {
        let all = &self.file.intercept.inbound;
        let first_after = self.inbound_names(all);
        if let Some(at) = first_after {
            let problem = format!("more than {} ports of applications in all", Inbound::MOST_PORTS);
            self.report(at, Finding::new(problem));
        }
        let mut seen: HashMap<u16, Vec<(&'c file::Inbound, Origin)>> = HashMap::new();
        for at in all {
            self.inbound_scopes(at);
            if let Some(headers) = &at.value.proxy_protocol {
                self.trusted(headers.trusted_proxies.as_ref(), headers.from_clients.is_some(), "in");
            }
            for port in &at.value.ports.value {
                let others = seen.entry(port.value).or_default();
                if let Some((_, first)) = others.iter().find(|(other, _)| share_a_namespace(other, &at.value))
                {
                    let line = self.line(*first);
                    let problem = format!("port {} is already taken in line {line}", port.value);
                    self.report(port.origin, Finding::new(problem).expected("other scopes, or other ports"));
                }
                others.push((&at.value, port.origin));
            }
        }
    }

    /// Checks names; tells which list of ports is the first that finds no room.
    fn inbound_names(&mut self, all: &'c [At<file::Inbound>]) -> Option<Origin> {
        let services = self.services().map(|service| (&*service.name.value.0, service.name.origin));
        let mut names: HashMap<&str, Origin> = services.collect();
        let (mut count, mut first_after) = (0, None);
        for at in all {
            let name = &at.value.name;
            if let Some(first) = names.get(name.value.0.as_str()) {
                let line = self.line(*first);
                let problem = format!("the name {} is already used in line {line}", quoted(&name.value.0));
                self.report(name.origin, Finding::new(problem));
            } else {
                names.insert(&name.value.0, name.origin);
            }
            count += at.value.ports.value.len();
            if count > Inbound::MOST_PORTS {
                first_after = first_after.or(Some(at.value.ports.origin));
            }
        }
        first_after
    }

    fn inbound_scopes(&mut self, at: &At<file::Inbound>) {
        if self.file.intercept.scopes.is_empty() && self.tree.is_whole(at.origin) {
            let problem = "nobody's connections are taken: intercept has no scopes";
            self.report(at.origin, Finding::new(problem).expected("at least one of intercept.scopes"));
            return;
        }
        self.served_scopes(&at.value.scopes);
    }

    /// Reports scopes of which nobody is intercepted.
    pub(super) fn served_scopes(&mut self, scopes: &[At<file::Scope>]) {
        let served: Vec<Scope> = resolve::scopes(&self.file.intercept.scopes);
        for scope in scopes {
            let wanted = resolve::scope(&scope.value);
            // Where the cgroups of pods are cannot be told here.
            let may_hold = |wide: &Scope| matches!((wide, &wanted), (Scope::Cgroup(_), Scope::Pods(_)));
            if !served.iter().any(|wide| wide.holds(&wanted) || may_hold(wide)) {
                let problem = "in none of intercept.scopes, so its applications are not served";
                self.report(scope.origin, Finding::new(problem));
            }
        }
    }
}

/// Whether there may be a namespace that both are about: a cgroup, a file and a choice of pods may name the same one, but that
/// cannot be told here; then the first in the file has it.
fn share_a_namespace(one: &file::Inbound, other: &file::Inbound) -> bool {
    let [one, other]: [Vec<Scope>; 2] = [one, other].map(|inbound| resolve::scopes(&inbound.scopes));
    one.is_empty() || other.is_empty() || one.iter().any(|a| other.iter().any(|b| a.holds(b) || b.holds(a)))
}
