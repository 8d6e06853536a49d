//! What only the whole file can tell: names that must exist, addresses that must not meet, promises that cannot be kept.
//!
//! Runs on what the earlier steps left. A check that complains of something missing therefore asks first whether the
//! place is whole: what was cut out as wrong is not missing.

mod application;
mod http;
mod inbound;
mod overload;
mod pods;
mod route;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_core::addr::Family;
use proxy_core::id::{Registry, ServiceId};
use proxy_core::lane::{self, LaneReason};

use super::de::At;
use super::error::{Finding, Mistakes, quoted};
use super::suggest::{did_you_mean, nearest};
use super::text::{Address, Name, Network, show_duration};
use super::yaml::{Origin, Tree};
use super::{Config, ServiceConfig, default, file, resolve};

/// Most names that are compared for suggestions, over the whole file: keeps a wrong file as cheap as a right one.
const MAX_COMPARED_NAMES: usize = 200_000;

/// Reports everything that is wrong with a file whose every value, by itself, is right.
pub(super) fn check(file: &file::File, config: &Config, tree: &Tree<'_>, mistakes: &mut Mistakes) {
    let mut check = Check { file, tree, mistakes, compared_count: 0 };
    check.names();
    check.service_addresses();
    check.excluded();
    for (service, resolved) in file.services.value.iter().zip(&config.services) {
        check.endpoints(&service.value);
        check.health(&service.value, resolved);
        check.lane(&service.value, resolved);
    }
    check.listeners();
    check.references();
    check.speakers(config);
    check.routes(config);
    check.passed_on();
    check.unreachable_services();
    check.own_addresses();
    check.loops();
    check.scopes();
    check.applications();
    check.inbound();
    check.kubelet();
    check.overload(&config.overload);
}

/// Tells whether services without mistakes of their own can stand in one file with others: whether [`Check::names`],
/// [`Check::service_addresses`] and [`Check::loops`], the checks that compare services, would find nothing between them.
///
/// Costs one look at each name and address of the others.
pub(super) fn can_share_a_file<'c>(
    services: &[ServiceConfig],
    mut others: impl Iterator<Item = &'c ServiceConfig>,
) -> bool {
    let names: HashSet<&str> = services.iter().map(|service| service.name.as_str()).collect();
    let addresses: HashSet<SocketAddr> = services.iter().flat_map(|s| &s.addresses).copied().collect();
    let endpoints: HashSet<SocketAddr> =
        services.iter().flat_map(|s| &s.endpoints).map(|endpoint| endpoint.address).collect();
    others.all(|other| {
        !names.contains(other.name.as_str())
            && !other.addresses.iter().any(|at| addresses.contains(at) || endpoints.contains(at))
            && !other.endpoints.iter().any(|endpoint| addresses.contains(&endpoint.address))
    })
}

struct Check<'c, 'a> {
    file: &'c file::File,
    tree: &'c Tree<'a>,
    mistakes: &'c mut Mistakes,
    compared_count: usize,
}

impl<'c> Check<'c, '_> {
    fn report(&mut self, origin: Origin, finding: Finding) {
        let tree = self.tree;
        self.mistakes.push(tree.position(origin), || tree.path(origin), finding);
    }

    fn line(&self, origin: Origin) -> u32 {
        self.tree.position(origin).line
    }

    fn services(&self) -> impl Iterator<Item = &'c file::Service> + use<'c> {
        self.file.services.value.iter().map(|service| &service.value)
    }

    fn names(&mut self) {
        let mut seen: HashMap<&str, Origin> = HashMap::new();
        for service in self.services() {
            let name = &service.name;
            if let Some(first) = seen.get(name.value.0.as_str()) {
                let line = self.line(*first);
                let problem = format!("service {} is already defined in line {line}", quoted(&name.value.0));
                self.report(name.origin, Finding::new(problem));
            } else {
                seen.insert(&name.value.0, name.origin);
            }
        }
    }

    fn service_addresses(&mut self) {
        let mut seen: HashMap<SocketAddr, (&str, Origin)> = HashMap::new();
        for service in self.services() {
            for address in &service.addresses {
                self.unicast(address);
                let at = address.value.0;
                if let Some((owner, first)) = seen.get(&at) {
                    let line = self.line(*first);
                    let problem =
                        format!("{at} is already an address of service {} in line {line}", quoted(owner));
                    self.report(address.origin, Finding::new(problem));
                } else {
                    seen.insert(at, (&service.name.value.0, address.origin));
                }
            }
        }
    }

    /// Refuses addresses that no connection can be made to.
    fn unicast(&mut self, address: &At<Address>) {
        let problem = match address.value.0.ip() {
            ip if ip.is_unspecified() => "the unspecified address is no destination",
            ip if ip.is_multicast() => "a multicast address is no destination for TCP",
            IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address is no destination for TCP",
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                "a link-local address needs an interface, which is not supported"
            }
            _ => return,
        };
        self.report(address.origin, Finding::new(problem).found(address.value.to_string()));
    }

    /// A service address that is excluded from interception would never be noticed.
    fn excluded(&mut self) {
        let exclude = &self.file.intercept.exclude;
        let ports: HashMap<u16, Origin> =
            exclude.ports.iter().rev().map(|port| (port.value, port.origin)).collect();
        let cidrs = Cidrs::new(&exclude.cidrs);
        for address in self.services().flat_map(|service| &service.addresses) {
            let at = address.value.0;
            if let Some(origin) = ports.get(&at.port()) {
                let line = self.line(*origin);
                let problem =
                    format!("port {} is excluded in line {line}: {at} is never intercepted", at.port());
                self.report(address.origin, Finding::new(problem));
            } else if let Some((cidr, origin)) = cidrs.find(at.ip()) {
                let line = self.line(origin);
                let problem = format!("{cidr} is excluded in line {line}: {at} is never intercepted");
                self.report(address.origin, Finding::new(problem));
            }
        }
    }

    fn endpoints(&mut self, service: &file::Service) {
        let mut seen: HashMap<SocketAddr, Origin> = HashMap::new();
        for endpoint in service.endpoints.iter().flat_map(|at| &at.value) {
            let address = &endpoint.address;
            self.unicast(address);
            if let Some(first) = seen.get(&address.value.0) {
                let line = self.line(*first);
                let problem = format!("{} is already an endpoint in line {line}", address.value);
                let hint = "give the first one more weight instead".to_owned();
                self.report(address.origin, Finding::new(problem).suggest(Some(hint)));
            } else {
                seen.insert(address.value.0, address.origin);
            }
        }
        let Some(endpoints) = &service.endpoints else { return };
        let serves = endpoints.value.iter().any(|endpoint| endpoint.weight.unwrap_or(default::WEIGHT) > 0);
        if !serves && !endpoints.value.is_empty() && self.tree.is_whole(endpoints.origin) {
            self.report(endpoints.origin, Finding::new("every endpoint has weight 0, so none ever serves"));
        }
    }

    fn health(&mut self, service: &file::Service, resolved: &ServiceConfig) {
        if let (Some(health), Some(resolved)) = (&service.health, &resolved.health) {
            if self.tree.is_whole(health.origin) {
                let interval = resolved.interval;
                for (name, time) in [
                    ("timeout", &health.value.timeout),
                    ("unhealthy_interval", &health.value.unhealthy_interval),
                ] {
                    if let Some(time) = time.as_ref().filter(|time| time.value.0 > interval) {
                        let problem =
                            format!("{name} is longer than the interval of {}", show_duration(interval));
                        self.report(time.origin, Finding::new(problem).found(time.value.to_string()));
                    }
                }
            }
            let file::Health { tcp, http, grpc, .. } = &health.value;
            let given = [("tcp", tcp.is_some()), ("http", http.is_some()), ("grpc", grpc.is_some())];
            let mut given = given.into_iter().filter_map(|(name, is_given)| is_given.then_some(name));
            if let (Some(one), Some(other)) = (given.next(), given.next()) {
                let problem = format!("both {one} and {other} are given; a check is one of them");
                self.report(health.origin, Finding::new(problem));
            }
        }
        if let Some(outlier) = service.outlier.as_ref().filter(|outlier| self.tree.is_whole(outlier.origin)) {
            let base = resolved.outlier.base_ejection;
            if let Some(most) = outlier.value.max_ejection.as_ref().filter(|most| most.value.0 < base) {
                let problem =
                    format!("max_ejection is shorter than the base_ejection of {}", show_duration(base));
                self.report(most.origin, Finding::new(problem).found(most.value.to_string()));
            }
        }
    }

    /// `lane: direct` must be possible: the policies always, and an endpoint for every family that the service has an
    /// address of. Connections to a listener take a worker whatever the lane.
    fn lane(&mut self, service: &file::Service, resolved: &ServiceConfig) {
        let Some(asked) = service.lane.as_ref().filter(|lane| lane.value == file::Lane::Direct) else {
            return;
        };
        let candidate = resolved.service(ServiceId(1), &mut Registry::default(), None);
        for family in Family::ALL {
            let is_asked = resolved.addresses.iter().any(|address| Family::of(*address) == family);
            let is_served =
                resolved.endpoints.iter().any(|e| e.weight > 0 && Family::of(e.address) == family);
            let is_whole = service.endpoints.as_ref().is_some_and(|at| self.tree.is_whole(at.origin));
            let problem = match lane::obstacle(&candidate, family) {
                None => continue,
                Some(LaneReason::Family(_)) if !is_asked || is_served || !is_whole => continue,
                Some(LaneReason::Family(family)) => {
                    format!("lane: direct is impossible: no endpoint can be reached from an {family} socket")
                }
                Some(reason) => format!("lane: direct is impossible: {reason}"),
            };
            self.report(asked.origin, Finding::new(problem).suggest(Some("write lane: auto".to_owned())));
            return;
        }
    }

    /// A listener is for one service or for routes.
    fn listeners(&mut self) {
        for at in &self.file.listeners {
            self.trusted(
                at.value.trusted_proxies.as_ref(),
                at.value.proxy_protocol.is_some(),
                "proxy_protocol",
            );
            match (&at.value.service, &at.value.routes) {
                (Some(_), Some(routes)) => {
                    let problem = "both service and routes are given; a listener has one of them";
                    self.report(routes.origin, Finding::new(problem));
                }
                (None, None) if self.tree.is_whole(at.origin) => {
                    let finding = Finding::new("nobody answers here").expected("service or routes");
                    self.report(at.origin, finding);
                }
                _ => {}
            }
        }
    }

    fn similar(&mut self, name: &str) -> Option<String> {
        self.compared_count += self.file.services.value.len();
        let names = self.services().map(|service| service.name.value.0.as_str());
        if self.compared_count <= MAX_COMPARED_NAMES { nearest(name, names).map(did_you_mean) } else { None }
    }

    fn unreachable_services(&mut self) {
        let of_listeners = self.file.listeners.iter().filter_map(|at| at.value.service.as_ref());
        let rules = self.file.routes.iter().flat_map(|at| &at.value).flat_map(|at| &at.value.rules);
        let of_rules = rules.flat_map(|at| {
            let backends = at.value.backends.iter().flat_map(|at| &at.value).map(|at| &at.value.service);
            backends
                .chain(at.value.mirror.iter().flat_map(|at| at.value.values()).map(|mirror| &mirror.service))
        });
        let named: HashSet<&str> = of_listeners.chain(of_rules).map(|name| name.value.0.as_str()).collect();
        for service in &self.file.services.value {
            let name = &service.value.name;
            let is_reachable = !service.value.addresses.is_empty() || named.contains(name.value.0.as_str());
            if !is_reachable && self.tree.is_whole(service.origin) {
                let problem = "nobody can reach this service: it has no addresses, no listener and no route";
                self.report(service.origin, Finding::new(problem));
            }
        }
    }

    /// Whom to believe is a question only where something is said.
    fn trusted(&mut self, trusted: Option<&At<Vec<At<Network>>>>, is_expected: bool, key: &str) {
        if let Some(at) = trusted.filter(|_| !is_expected) {
            let problem = format!("no header is expected of them without {key}: required");
            self.report(at.origin, Finding::new(problem));
        }
    }

    /// Addresses that Weir opens itself: listeners, admin and metrics.
    fn own_addresses(&mut self) {
        if let Some(address) = &self.file.admin.address
            && !address.value.0.ip().is_loopback()
        {
            let finding = Finding::new("the admin interface shows everything to whoever can reach it")
                .found(address.value.to_string())
                .expected("a loopback address such as 127.0.0.1:15000");
            self.report(address.origin, finding);
        }
        let mut taken = Taken::default();
        let admin = self.file.admin.address.as_ref();
        taken.add(
            admin.map_or(default::ADMIN, |a| a.value.0),
            "the admin interface",
            admin.map(|a| a.origin),
        );
        let metrics = self.file.metrics.iter().map(|m| (&m.address, "metrics"));
        for (address, what) in
            metrics.chain(self.file.listeners.iter().map(|l| (&l.value.address, "a listener")))
        {
            let at = address.value.0;
            if at.ip().is_multicast() {
                let finding = Finding::new("nobody can listen on a multicast address").found(at.to_string());
                self.report(address.origin, finding);
            }
            if let Some((other, what, origin)) = taken.add(at, what, Some(address.origin)) {
                let place =
                    origin.map_or_else(|| "by default".to_owned(), |o| format!("in line {}", self.line(o)));
                self.report(
                    address.origin,
                    Finding::new(format!("{at} clashes with {what} on {other} {place}")),
                );
            }
        }
    }

    /// Refuses endpoints that lead back into Weir.
    fn loops(&mut self) {
        let all = || {
            self.services().flat_map(|s| s.addresses.iter().map(move |a| (a.value.0, (&s.name, a.origin))))
        };
        let addresses: HashMap<SocketAddr, (&At<Name>, Origin)> = all().collect();
        let mut listeners = Taken::default();
        for listener in &self.file.listeners {
            let address = &listener.value.address;
            listeners.add(address.value.0, "", Some(address.origin));
        }
        for endpoint in self.services().flat_map(|service| service.endpoints.iter().flat_map(|at| &at.value))
        {
            let at = endpoint.address.value.0;
            if let Some((name, origin)) = addresses.get(&at) {
                let (name, line) = (quoted(&name.value.0), self.line(*origin));
                let problem = format!("a loop: {at} is also an address of service {name} in line {line}");
                self.report(endpoint.address.origin, Finding::new(problem));
            }
            let listener =
                listeners.exact(at).or_else(|| listeners.wildcard(at).filter(|_| at.ip().is_loopback()));
            if let Some((_, _, Some(origin))) = listener {
                let line = self.line(origin);
                let problem = format!("a loop: {at} is Weir's own listener in line {line}");
                self.report(endpoint.address.origin, Finding::new(problem));
            }
        }
    }

    fn scopes(&mut self) {
        let mut seen: HashMap<String, Origin> = HashMap::new();
        for scope in &self.file.intercept.scopes {
            let text = match &scope.value {
                file::Scope::Cgroup(path) => format!("cgroup {path}"),
                file::Scope::Netns(path) => format!("netns {path}"),
                file::Scope::Pods(_) => resolve::scope(&scope.value).to_string(),
            };
            if let Some(first) = seen.get(&text) {
                let line = self.line(*first);
                self.report(scope.origin, Finding::new(format!("{text} is already a scope in line {line}")));
            } else {
                seen.insert(text, scope.origin);
            }
        }
        self.served_scopes(&self.file.intercept.fail_closed);
        if let Some(At { origin, value: file::NodeListener::On(ips) }) = &self.file.intercept.node_listener {
            let count = |is_v4| ips.iter().filter(|ip| ip.0.is_ipv4() == is_v4).count();
            if count(true) > 1 || count(false) > 1 {
                let finding = Finding::new("more than one address of a family".to_owned());
                self.report(*origin, finding.expected("at most one IPv4 and one IPv6 address"));
            }
        }
    }
}

/// Addresses that are listened on, found in constant time.
#[derive(Default)]
struct Taken<'t> {
    exact: HashMap<SocketAddr, Listening<'t>>,
    first: HashMap<(u16, Family), Listening<'t>>,
}

/// An address, what listens there, and where that was written unless it is a default.
type Listening<'t> = (SocketAddr, &'t str, Option<Origin>);

impl<'t> Taken<'t> {
    /// Adds an address, and tells which earlier one it cannot share the machine with: the same one, or if either is a
    /// wildcard any of the family and port.
    fn add(&mut self, at: SocketAddr, what: &'t str, origin: Option<Origin>) -> Option<Listening<'t>> {
        let first = self.first.get(&(at.port(), Family::of(at))).filter(|_| at.ip().is_unspecified());
        let clash = self.exact(at).or_else(|| self.wildcard(at)).or_else(|| first.copied());
        self.exact.entry(at).or_insert((at, what, origin));
        self.first.entry((at.port(), Family::of(at))).or_insert((at, what, origin));
        clash
    }

    fn exact(&self, at: SocketAddr) -> Option<Listening<'t>> {
        self.exact.get(&at).copied()
    }

    fn wildcard(&self, at: SocketAddr) -> Option<Listening<'t>> {
        let any: IpAddr = match Family::of(at) {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.exact(SocketAddr::new(any, at.port()))
    }
}

/// Networks, found by address in time that does not grow with their number.
struct Cidrs {
    by_network: HashMap<(IpAddr, u8), Origin>,
    lengths: Vec<(bool, u8)>,
}

impl Cidrs {
    fn new(networks: &[At<Network>]) -> Self {
        let key = |network: &Network| (network.0.address(), network.0.prefix_bits());
        let by_network: HashMap<_, _> = networks.iter().rev().map(|n| (key(&n.value), n.origin)).collect();
        let lengths: HashSet<_> =
            by_network.keys().map(|(address, bits)| (address.is_ipv4(), *bits)).collect();
        Self { by_network, lengths: lengths.into_iter().collect() }
    }

    /// Finds a network that holds an address: one look for each length of prefix that occurs, at most 33 or 129.
    fn find(&self, ip: IpAddr) -> Option<(String, Origin)> {
        self.lengths.iter().filter(|(is_ipv4, _)| *is_ipv4 == ip.is_ipv4()).find_map(|(_, bits)| {
            let network = network(ip, *bits);
            self.by_network.get(&(network, *bits)).map(|origin| (format!("{network}/{bits}"), *origin))
        })
    }
}

fn network(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}
