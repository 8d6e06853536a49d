//! Routes: names that must exist, rules that can never apply, and keys that contradict each other.

use std::collections::{HashMap, HashSet};

use proxy_core::route::{self, Match, PathPattern};

use super::super::de::{At, Pairs};
use super::super::error::{Finding, quoted};
use super::super::suggest::{did_you_mean, nearest};
use super::super::text::{Name, show_duration};
use super::super::yaml::Origin;
use super::super::{Config, RouteConfig, RuleConfig, default, file};
use super::{Check, MAX_COMPARED_NAMES};

impl<'c> Check<'c, '_> {
    /// Checks every route by itself.
    pub(super) fn routes(&mut self, config: &Config) {
        let mut seen: HashMap<&str, Origin> = HashMap::new();
        for (at, resolved) in self.all_routes().zip(&config.routes) {
            let name = &at.value.name;
            if let Some(first) = seen.get(name.value.0.as_str()) {
                let line = self.line(*first);
                let problem = format!("route {} is already defined in line {line}", quoted(&name.value.0));
                self.report(name.origin, Finding::new(problem));
            } else {
                seen.insert(&name.value.0, name.origin);
            }
            self.hosts(&at.value);
            self.matches(&at.value, resolved);
            for rule in &at.value.rules {
                self.rule(rule);
            }
        }
    }

    fn all_routes(&self) -> impl Iterator<Item = &'c At<file::Route>> + use<'c> {
        self.file.routes.iter().flat_map(|at| &at.value)
    }

    fn hosts(&mut self, route: &'c file::Route) {
        let mut seen: HashMap<&str, Origin> = HashMap::new();
        for host in &route.hosts {
            if let Some(first) = seen.insert(&host.value.0, host.origin) {
                let line = self.line(first);
                let problem = format!("{} is already a host of this route in line {line}", host.value.0);
                self.report(host.origin, Finding::new(problem));
            }
        }
    }

    /// A rule with the conditions of an earlier one would never apply.
    fn matches(&mut self, route: &file::Route, resolved: &RouteConfig) {
        let mut seen: HashMap<String, Origin> = HashMap::new();
        for (at, resolved) in route.rules.iter().zip(&resolved.rules) {
            if !self.tree.is_whole(at.origin) {
                continue;
            }
            for (origin, condition) in conditions(at, resolved) {
                if let Some(first) = seen.get(&condition) {
                    let line = self.line(*first);
                    let problem = format!(
                        "this never applies: the conditions are those in line {line}, which come first"
                    );
                    self.report(origin, Finding::new(problem));
                } else {
                    seen.insert(condition, origin);
                }
            }
            for (condition, resolved) in at.value.matches.iter().flat_map(At::each).zip(&resolved.matches) {
                self.distinct(condition.1.headers.as_ref());
                self.grpc(condition.1, resolved);
            }
        }
    }

    /// A call is a path, so there is one condition on the two.
    fn grpc(&mut self, condition: &file::Match, resolved: &Match) {
        let Some(grpc) = &condition.grpc else { return };
        if condition.path.is_some() {
            let finding = Finding::new("both path and grpc are given; a call is a path");
            self.report(grpc.origin, finding);
        } else if grpc.value.service.is_none() && grpc.value.method.is_none() {
            if self.tree.is_whole(grpc.origin) {
                let finding = Finding::new("nothing is asked of the call").expected("service or method");
                self.report(grpc.origin, finding);
            }
        } else if let Some(PathPattern::Regex(regex)) = &resolved.path
            && let Err(error) = route::regex(regex)
        {
            let finding = Finding::new("service and method make no regular expression together");
            self.report(grpc.origin, finding.suggest(Some(error.to_string())));
        }
    }

    /// Names of headers are the same in upper and lower case, which YAML does not know.
    fn distinct<K: ToString, V>(&mut self, pairs: Option<&Pairs<K, At<V>>>) {
        let mut seen: HashMap<String, Origin> = HashMap::new();
        for (name, value) in pairs.into_iter().flat_map(|pairs| &pairs.0) {
            if let Some(first) = seen.insert(name.to_string(), value.origin) {
                let line = self.line(first);
                let problem = format!("header {} is already there in line {line}", name.to_string());
                self.report(value.origin, Finding::new(problem));
            }
        }
    }

    fn rule(&mut self, at: &At<file::Rule>) {
        let rule = &at.value;
        self.action(at);
        for changes in [&rule.request_headers, &rule.response_headers].into_iter().flatten() {
            self.distinct(changes.value.set.as_ref());
            self.distinct(changes.value.add.as_ref());
        }
        self.times(rule);
        if let Some(fault) = &rule.fault {
            self.fault(fault);
        }
        if let Some(backends) = &rule.backends {
            self.backends(backends);
        }
        if let Some(rewrite) = &rule.rewrite {
            let is_empty = rewrite.value.host.is_none() && rewrite.value.path.is_none();
            if is_empty && self.tree.is_whole(rewrite.origin) {
                self.report(rewrite.origin, Finding::new("nothing is rewritten").expected("host or path"));
            }
            self.prefix(rule, rewrite.value.path.as_ref());
        }
        if let Some(redirect) = &rule.redirect {
            self.redirect(redirect);
            self.prefix(rule, redirect.value.path.as_ref());
        }
        if let Some(respond) = &rule.respond {
            self.respond(&respond.value);
        }
    }

    /// Exactly one thing happens, and nothing is asked of a service where none is.
    fn action(&mut self, at: &At<file::Rule>) {
        let rule = &at.value;
        let actions = [
            ("backends", rule.backends.as_ref().map(|at| at.origin)),
            ("redirect", rule.redirect.as_ref().map(|at| at.origin)),
            ("respond", rule.respond.as_ref().map(|at| at.origin)),
        ];
        let mut given = actions.iter().filter_map(|(name, origin)| origin.map(|origin| (*name, origin)));
        let Some((first, _)) = given.next() else {
            if self.tree.is_whole(at.origin) {
                let finding = Finding::new("nothing happens with these requests");
                self.report(at.origin, finding.expected("backends, redirect or respond"));
            }
            return;
        };
        if let Some((second, origin)) = given.next() {
            let problem = format!("both {first} and {second} are given; a rule does one of them");
            self.report(origin, Finding::new(problem));
        }
        if rule.backends.is_some() {
            return;
        }
        for (name, origin) in [
            ("timeout", rule.timeout.as_ref().map(|at| at.origin)),
            ("priority", rule.priority.as_ref().map(|at| at.origin)),
            ("retry", rule.retry.as_ref().map(|at| at.origin)),
            ("request_headers", rule.request_headers.as_ref().map(|at| at.origin)),
            ("mirror", rule.mirror.as_ref().map(|at| at.origin)),
            ("rewrite", rule.rewrite.as_ref().map(|at| at.origin)),
        ] {
            if let Some(origin) = origin {
                let problem = format!("{name} means nothing with {first}: no service is asked");
                self.report(origin, Finding::new(problem));
            }
        }
    }

    /// Requests fail on purpose only where the file says in one place, for everybody to see, that they may.
    fn fault(&mut self, at: &At<file::Fault>) {
        let fault = &at.value;
        if !self.file.allow_faults.unwrap_or(false) {
            let finding = Finding::new("faults are not allowed");
            self.report(at.origin, finding.expected("allow_faults: true at the top of the file"));
        }
        self.distinct(fault.headers.as_ref());
        let is_empty = fault.delay.is_none() && fault.abort.is_none() && fault.rate_limit.is_none();
        if is_empty && self.tree.is_whole(at.origin) {
            let finding = Finding::new("nothing fails").expected("delay, abort or rate_limit");
            self.report(at.origin, finding);
        }
        let Some(abort) = fault.abort.as_ref().filter(|abort| self.tree.is_whole(abort.origin)) else {
            return;
        };
        let problem = match (&abort.value.status, &abort.value.grpc) {
            (Some(_), Some(_)) => "both status and grpc are given; a request is answered with one of them",
            (None, None) => "nothing says what is answered",
            _ => return,
        };
        self.report(abort.origin, Finding::new(problem).expected("status or grpc"));
    }

    fn times(&mut self, rule: &file::Rule) {
        let timeout = rule.timeout.as_ref().map(|at| &at.value);
        let per_try = timeout.and_then(|timeout| timeout.per_try.as_ref());
        if let (Some(whole), Some(one)) = (timeout.and_then(|timeout| timeout.request.as_ref()), per_try)
            && one.value.0 > whole.0
        {
            let problem = format!("per_try is longer than the request's {}", show_duration(whole.0));
            self.report(one.origin, Finding::new(problem).found(one.value.to_string()));
        }
        let Some(retry) = &rule.retry else { return };
        for cause in retry.value.on.iter().flatten() {
            let is_timeout =
                matches!(&cause.value, file::RetryOn::Cause(cause) if cause.to_string() == "timeout");
            if is_timeout
                && per_try.is_none()
                && rule.timeout.as_ref().is_none_or(|at| self.tree.is_whole(at.origin))
            {
                let finding = Finding::new("no try ever takes too long");
                self.report(cause.origin, finding.expected("a timeout with per_try"));
            }
        }
        let Some(back_off) = retry.value.back_off.as_ref().filter(|at| self.tree.is_whole(at.origin)) else {
            return;
        };
        let usual = proxy_core::retry::RetryPolicy::default().base_back_off;
        let base = back_off.value.base.as_ref().map_or(usual, |time| time.0);
        if let Some(most) = back_off.value.max.as_ref().filter(|most| most.value.0 < base) {
            let problem = format!("max is shorter than the base of {}", show_duration(base));
            self.report(most.origin, Finding::new(problem).found(most.value.to_string()));
        }
    }

    fn backends(&mut self, backends: &At<Vec<At<file::Backend>>>) {
        let mut seen: HashMap<&str, Origin> = HashMap::new();
        for backend in &backends.value {
            let service = &backend.value.service;
            if let Some(first) = seen.insert(&service.value.0, service.origin) {
                let line = self.line(first);
                let problem = format!("{} is already a backend in line {line}", quoted(&service.value.0));
                let hint = "give the first one more weight instead".to_owned();
                self.report(service.origin, Finding::new(problem).suggest(Some(hint)));
            }
        }
        let serves = backends.value.iter().any(|at| at.value.weight.unwrap_or(default::WEIGHT) > 0);
        if !serves && self.tree.is_whole(backends.origin) {
            self.report(backends.origin, Finding::new("every backend has weight 0, so none ever answers"));
        }
    }

    /// A prefix can only be replaced where one matched.
    fn prefix(&mut self, rule: &file::Rule, path: Option<&At<file::PathRewrite>>) {
        let Some(path) = path.filter(|path| matches!(path.value, file::PathRewrite::Prefix(_))) else {
            return;
        };
        let is_prefix = |at: &At<file::PathMatch>| matches!(at.value, file::PathMatch::Prefix(_));
        let is_by_prefix = rule.matches.as_ref().is_some_and(|at| {
            at.each().iter().all(|(_, condition)| condition.path.as_ref().is_some_and(is_prefix))
        });
        let is_whole = rule.matches.as_ref().is_none_or(|at| self.tree.is_whole(at.origin));
        if !is_by_prefix && is_whole {
            let problem =
                "there is no prefix to replace: not every match of this rule has path: {prefix: ...}";
            self.report(path.origin, Finding::new(problem));
        }
    }

    fn redirect(&mut self, at: &At<file::Redirect>) {
        const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
        let redirect = &at.value;
        if let Some(status) = redirect.status.as_ref().filter(|status| !STATUSES.contains(&status.value)) {
            let finding = Finding::new("wrong value").found(format!("the number {}", status.value));
            self.report(status.origin, finding.expected("301, 302, 303, 307 or 308"));
        }
        let leads_back = redirect.scheme.is_none()
            && redirect.host.is_none()
            && redirect.port.is_none()
            && redirect.path.is_none();
        if leads_back && self.tree.is_whole(at.origin) {
            let finding = Finding::new("this leads back to where it comes from");
            self.report(at.origin, finding.expected("scheme, host, port or path"));
        }
    }

    fn respond(&mut self, respond: &file::Respond) {
        let has_none = matches!(respond.status, 204 | 205 | 304);
        if let Some(body) = respond.body.as_ref().filter(|body| has_none && !body.value.0.is_empty()) {
            self.report(body.origin, Finding::new(format!("an answer of {} has no body", respond.status)));
        }
    }

    /// Names of services and routes that somebody means.
    pub(super) fn references(&mut self) {
        let services: HashSet<&str> = self.services().map(|service| service.name.value.0.as_str()).collect();
        let services = self.tree.is_whole(self.file.services.origin).then_some(services);
        let routes: HashSet<&str> = self.all_routes().map(|at| at.value.name.value.0.as_str()).collect();
        let is_whole = self.file.routes.as_ref().is_none_or(|at| self.tree.is_whole(at.origin));
        let routes = is_whole.then_some(routes);
        for listener in self.file.listeners.iter().map(|at| &at.value) {
            if let Some(service) = &listener.service {
                self.service_name(services.as_ref(), service);
            }
            self.route_names(routes.as_ref(), listener.routes.as_ref());
        }
        for rule in self.all_routes().flat_map(|at| &at.value.rules).map(|at| &at.value) {
            for backend in rule.backends.iter().flat_map(|at| &at.value) {
                self.service_name(services.as_ref(), &backend.value.service);
            }
            for mirror in rule.mirror.iter().flat_map(|at| at.value.values()) {
                self.service_name(services.as_ref(), &mirror.service);
            }
        }
        for service in self.services() {
            self.route_names(routes.as_ref(), service.routes.as_ref());
        }
        self.mirrors();
    }

    /// Copies are sent in HTTP/1.1.
    fn mirrors(&mut self) {
        let deaf = self.services().filter(|service| matches!(service.protocol, Some(file::Protocol::Http2)));
        let deaf: HashMap<&str, Origin> =
            deaf.map(|service| (service.name.value.0.as_str(), service.name.origin)).collect();
        for rule in self.all_routes().flat_map(|at| &at.value.rules).map(|at| &at.value) {
            for mirror in rule.mirror.iter().flat_map(|at| at.value.values()) {
                let name = mirror.service.value.0.as_str();
                let Some(origin) = deaf.get(name) else { continue };
                let line = self.line(*origin);
                let problem = format!(
                    "copies are sent in HTTP/1.1, but service {} in line {line} speaks HTTP/2 only",
                    quoted(name)
                );
                self.report(mirror.service.origin, Finding::new(problem).expected("one with protocol http"));
            }
        }
    }

    fn service_name(&mut self, known: Option<&HashSet<&str>>, name: &At<Name>) {
        if known.is_some_and(|known| !known.contains(name.value.0.as_str())) {
            let suggestion = self.similar(&name.value.0);
            let problem = format!("there is no service {}", quoted(&name.value.0));
            self.report(name.origin, Finding::new(problem).suggest(suggestion));
        }
    }

    fn route_names(&mut self, known: Option<&HashSet<&str>>, names: Option<&'c At<Vec<At<Name>>>>) {
        let mut seen: HashSet<&str> = HashSet::new();
        for name in names.into_iter().flat_map(|at| &at.value) {
            let text = name.value.0.as_str();
            if !seen.insert(text) {
                self.report(
                    name.origin,
                    Finding::new(format!("route {} is already in this list", quoted(text))),
                );
            } else if known.is_some_and(|known| !known.contains(text)) {
                let suggestion = self.similar_route(text);
                let problem = format!("there is no route {}", quoted(text));
                self.report(name.origin, Finding::new(problem).suggest(suggestion));
            }
        }
    }

    fn similar_route(&mut self, name: &str) -> Option<String> {
        self.compared_count += self.all_routes().count();
        let names = self.all_routes().map(|at| at.value.name.value.0.as_str());
        if self.compared_count <= MAX_COMPARED_NAMES { nearest(name, names).map(did_you_mean) } else { None }
    }

    /// TLS that is passed on shows a name and nothing else.
    pub(super) fn passed_on(&mut self) {
        let is_tls = |protocol: Option<file::Protocol>| matches!(protocol, Some(file::Protocol::Tls));
        let of_listeners = self.file.listeners.iter().map(|at| &at.value).filter(|l| is_tls(l.protocol));
        let of_services = self.services().filter(|service| is_tls(service.protocol));
        let lists = of_listeners.map(|l| &l.routes).chain(of_services.map(|service| &service.routes));
        let names = lists.flatten().flat_map(|at| &at.value);
        let users: HashMap<&str, Origin> = names.map(|name| (name.value.0.as_str(), name.origin)).collect();
        for route in self.all_routes() {
            let Some(user) = users.get(route.value.name.value.0.as_str()) else { continue };
            let line = self.line(*user);
            for rule in &route.value.rules {
                if let Some(name) = more_than_backends(&rule.value) {
                    let problem = format!(
                        "{name} cannot be kept: line {line} passes TLS on as it is, and only hosts can be seen"
                    );
                    self.report(rule.origin, Finding::new(problem).expected("backends and nothing else"));
                }
            }
        }
    }
}

/// Each condition of a rule with its place, in words that are the same for the same conditions.
fn conditions(at: &At<file::Rule>, resolved: &RuleConfig) -> Vec<(Origin, String)> {
    let Some(matches) = &at.value.matches else { return vec![(at.origin, in_order(&Match::default()))] };
    let origins = matches.each().into_iter().map(|(origin, _)| origin);
    origins.zip(resolved.matches.iter().map(in_order)).collect()
}

fn in_order(condition: &Match) -> String {
    let mut condition = condition.clone();
    condition.headers.sort_by(|a, b| a.0.cmp(&b.0));
    condition.query.sort_by(|a, b| a.0.cmp(&b.0));
    condition.methods.sort();
    condition.methods.dedup();
    format!("{condition:?}")
}

/// Finds the first key that needs a request to be read.
fn more_than_backends(rule: &file::Rule) -> Option<&'static str> {
    [
        ("match", rule.matches.is_some()),
        ("timeout", rule.timeout.is_some()),
        ("retry", rule.retry.is_some()),
        ("limits", rule.limits.is_some()),
        ("fault", rule.fault.is_some()),
        ("request_headers", rule.request_headers.is_some()),
        ("response_headers", rule.response_headers.is_some()),
        ("mirror", rule.mirror.is_some()),
        ("rewrite", rule.rewrite.is_some()),
        ("redirect", rule.redirect.is_some()),
        ("respond", rule.respond.is_some()),
    ]
    .into_iter()
    .find_map(|(name, is_given)| is_given.then_some(name))
}
