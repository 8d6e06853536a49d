//! What becomes of a connection to an address, and why: the same questions in the same order as the kernel programs ask.

use std::collections::HashMap;
use std::net::SocketAddr;

use proxy_core::addr::{Family, canonical};
use proxy_core::health::EndpointReport;
use proxy_core::id::EndpointId;
use proxy_core::lane::{self, Lane};
use proxy_core::service::{Endpoint, Fail, Service};
use proxy_core::snapshot::{Intercept, Snapshot};
use serde::{Deserialize, Serialize};

use super::process::{Place, Process};
use super::text::align;
use crate::pods::NodeListenerStatus;
use crate::stats::label;

/// The answer of `weir why`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// What is asked for.
    pub address: SocketAddr,
    /// Who asks, if that was told.
    pub process: Option<Process>,
    /// The rule that keeps Weir's hands off this address.
    pub excluded_by: Option<String>,
    /// Service that has the address.
    pub service: Option<String>,
    /// Word of the service's lane for this address.
    pub lane: Option<String>,
    /// Why it is that lane.
    pub lane_reason: Option<String>,
    /// The service's endpoints.
    pub endpoints: Vec<EndpointState>,
    /// What becomes of the connection.
    pub verdict: String,
    /// Something that may help.
    pub hint: Option<String>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointState {
    /// Its address.
    pub address: SocketAddr,
    /// Whether new connections may go there.
    pub is_usable: bool,
    /// Word of its state, and what its last check complained about.
    pub state: String,
    /// Its weight.
    pub weight: u32,
}

/// Says what becomes of a connection to `address`, of `process` if there is one.
#[must_use]
pub fn why(
    snapshot: &Snapshot,
    health: &[EndpointReport],
    node_listeners: &[NodeListenerStatus],
    address: SocketAddr,
    process: Option<Process>,
) -> Why {
    let address = canonical(address);
    let service = snapshot.service_at(address);
    let excluded_by = excluded_by(&snapshot.intercept, address);
    let is_outside = process.as_ref().is_some_and(|process| process.scope.is_none());
    let reached =
        node_listeners.iter().find(|one| one.is_reached && one.address.is_ipv4() == address.is_ipv4());
    let place = process.as_ref().map_or(Place::Home, |process| process.netns);
    let node_listener = reached.filter(|_| place == Place::NotServed).map(|one| one.address);
    let mut why = Why {
        address,
        process,
        excluded_by,
        service: service.map(|service| service.name.to_string()),
        lane: None,
        lane_reason: None,
        endpoints: Vec::new(),
        verdict: String::new(),
        hint: None,
    };
    if let Some(service) = service {
        let (lane, reason) = lane::choose(service, Family::of(address));
        (why.lane, why.lane_reason) = (Some(lane.as_str().to_owned()), Some(reason.to_string()));
        why.endpoints = endpoints(service, health);
    }
    why.verdict = match service {
        _ if is_outside => "untouched: the process is in no scope".to_owned(),
        _ if why.excluded_by.is_some() => "untouched: the address is excluded".to_owned(),
        None => "untouched: it is no address of a service".to_owned(),
        Some(service) => {
            let is_closed = why.process.as_ref().is_some_and(|process| process.fail_closed.is_some());
            let closed = if service.fail == Fail::Closed { Some("the service") } else { None };
            match (node_listener, lane::choose(service, Family::of(address)).0) {
                (Some(listener), Lane::Proxy) => {
                    let verdict = verdict(service, address, Place::Served, None);
                    format!("through the listener on {listener}, {verdict}")
                }
                _ => verdict(service, address, place, closed.or(is_closed.then_some("the scope"))),
            }
        }
    };
    why.hint = match service {
        None if why.excluded_by.is_none() => near(snapshot, address),
        _ if is_outside && snapshot.intercept.scopes.is_empty() => {
            Some("intercept.scopes is empty: nobody's connections are caught".to_owned())
        }
        _ => None,
    };
    why
}

fn excluded_by(intercept: &Intercept, address: SocketAddr) -> Option<String> {
    if intercept.exclude_ports.contains(&address.port()) {
        return Some(format!("port {}", address.port()));
    }
    let cidr = intercept.exclude_cidrs.iter().find(|cidr| cidr.contains(address.ip()));
    cidr.map(|cidr| format!("network {cidr}"))
}

/// Says what becomes of a connection to a service; `closed` is who wants it to fail closed.
fn verdict(service: &Service, address: SocketAddr, place: Place, closed: Option<&str>) -> String {
    let family = Family::of(address);
    let usable: Vec<&Endpoint> = service.usable().iter().map(|index| &service.endpoints[*index]).collect();
    let fits = usable.iter().filter(|endpoint| Family::of(endpoint.address.0) == family).count();
    let policy = service.policy.as_str();
    let direct = |count: usize, why: &str| match count {
        0 => format!("refused: no usable endpoint{why}"),
        1 => format!("the kernel connects to the only usable endpoint{why}"),
        _ => format!("the kernel connects to one of {count} usable endpoints by {policy}{why}"),
    };
    match (lane::choose(service, family).0, place) {
        (Lane::Direct, _) => direct(fits, if fits < usable.len() { " of the socket's family" } else { "" }),
        (Lane::Proxy, Place::NotServed) => match closed {
            Some(who) => format!(
                "refused: no worker listens in the application's network namespace (yet), and {who} fails closed"
            ),
            None => direct(fits, ", because no worker listens in the application's network namespace (yet)"),
        },
        (Lane::Proxy, _) if service.protocol.is_http() => requests(service, usable.len()),
        (Lane::Proxy, _) => match usable.len() {
            0 => "a worker accepts and resets: no usable endpoint".to_owned(),
            1 => "a worker connects to the only usable endpoint".to_owned(),
            count => format!("a worker connects to one of {count} usable endpoints by {policy}"),
        },
    }
}

/// What becomes of the requests on a connection to a service that speaks HTTP.
fn requests(service: &Service, usable_count: usize) -> String {
    let policy = service.policy.as_str();
    if !service.routes.is_empty() {
        let names: Vec<&str> = service.routes.iter().map(|name| &**name).collect();
        return format!("a worker sends each request where the routes say: {}", names.join(", "));
    }
    match usable_count {
        0 => "a worker answers each request 503: no usable endpoint".to_owned(),
        1 => "a worker sends each request to the only usable endpoint".to_owned(),
        count => format!("a worker sends each request to one of {count} usable endpoints by {policy}"),
    }
}

fn endpoints(service: &Service, health: &[EndpointReport]) -> Vec<EndpointState> {
    let reports: HashMap<EndpointId, &EndpointReport> =
        health.iter().map(|one| (one.endpoint, one)).collect();
    let usable = service.usable();
    let state = |(index, endpoint): (usize, &Endpoint)| {
        let complaint = reports.get(&endpoint.id).and_then(|report| report.last_error.as_deref());
        let word = label::state(endpoint.state);
        EndpointState {
            address: endpoint.address.0,
            is_usable: usable.contains(&index),
            state: complaint.map_or_else(|| word.to_owned(), |complaint| format!("{word}: {complaint}")),
            weight: endpoint.weight,
        }
    };
    service.endpoints.iter().enumerate().map(state).collect()
}

/// Services that have the same IP address at other ports, or an endpoint that is this very address.
fn near(snapshot: &Snapshot, address: SocketAddr) -> Option<String> {
    let mut found: Vec<String> = snapshot
        .services()
        .flat_map(|service| {
            let same_ip = service.addresses.iter().filter(|other| canonical(**other).ip() == address.ip());
            let asked = same_ip.map(|other| format!("{} is at {other}", service.name));
            let is_endpoint = service.endpoints.iter().any(|endpoint| endpoint.address.0 == address);
            asked.chain(is_endpoint.then(|| format!("it is an endpoint of {}", service.name)))
        })
        .collect();
    found.sort();
    found.truncate(3);
    (!found.is_empty()).then(|| found.join("; "))
}

impl Why {
    /// Shows it to people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows = vec![vec!["ADDRESS".to_owned(), self.address.to_string()]];
        let mut add = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
        if let Some(process) = &self.process {
            let place = match process.netns {
                Place::Home => "in Weir's own network namespace",
                Place::Served => "in another network namespace, which Weir serves",
                Place::NotServed => "in another network namespace, which Weir does not serve (yet)",
            };
            add("PROCESS", format!("{} ({}), {place}", process.pid, process.name));
            let scope = process.scope.as_deref().unwrap_or("none");
            add("SCOPE", format!("{scope}; its cgroup is {}", process.cgroup));
            if let Some(scope) = &process.fail_closed {
                add("FAIL CLOSED", format!("by {scope}"));
            }
        }
        if let Some(rule) = &self.excluded_by {
            add("EXCLUDED", format!("by {rule}"));
        }
        add("SERVICE", self.service.clone().unwrap_or_else(|| "none".to_owned()));
        if let (Some(lane), Some(reason)) = (&self.lane, &self.lane_reason) {
            add("LANE", format!("{lane}: {reason}"));
        }
        for endpoint in &self.endpoints {
            let usable = if endpoint.is_usable { "usable" } else { "not usable" };
            add(
                "ENDPOINT",
                format!("{}, {usable}, {}, weight {}", endpoint.address, endpoint.state, endpoint.weight),
            );
        }
        add("VERDICT", self.verdict.clone());
        if let Some(hint) = &self.hint {
            add("HINT", hint.clone());
        }
        align(&rows)
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::id::{Registry, Version};

    use super::*;
    use crate::config;

    const FILE: &str = "
intercept: {scopes: [{cgroup: /app}], exclude: {cidrs: [10.99.0.0/16], ports: [53]}}
services:
  - {name: plain, addresses: ['10.96.0.1:80', '[fd00::1]:80'], endpoints: [{address: '10.1.0.1:8080'}, {address: '10.1.0.2:8080'}], balance: {policy: random}}
  - {name: limited, addresses: ['10.96.0.2:80'], endpoints: [{address: '10.1.0.1:8080'}], limits: {max_connections: 5}, fail: closed}
  - {name: empty, addresses: ['10.96.0.3:80'], endpoints: []}
";

    fn process(scope: Option<&str>, netns: Place) -> Process {
        let (scope, fail_closed) = (scope.map(str::to_owned), None);
        Process { pid: 7, name: "curl".to_owned(), cgroup: "/app/x".to_owned(), scope, fail_closed, netns }
    }

    fn ask(address: &str, process: Option<Process>) -> Why {
        ask_beside(&[], address, process)
    }

    fn ask_beside(node: &[NodeListenerStatus], address: &str, process: Option<Process>) -> Why {
        let config = config::parse("test", FILE).unwrap();
        let snapshot = config.snapshot(&mut Registry::default(), Version(1), None);
        why(&snapshot, &[], node, address.parse().unwrap(), process)
    }

    #[test]
    fn each_verdict_has_its_reason() {
        let inside = |netns| Some(process(Some("cgroup /app"), netns));
        let closed = |netns| {
            let scope = Some("cgroup /app/x".to_owned());
            inside(netns).map(|process| Process { fail_closed: scope, ..process })
        };
        for (address, process, expected) in [
            ("10.96.0.1:80", None, "the kernel connects to one of 2 usable endpoints by random"),
            ("[::ffff:10.96.0.1]:80", None, "the kernel connects to one of 2 usable endpoints by random"),
            ("[fd00::1]:80", None, "a worker connects to one of 2 usable endpoints by random"),
            ("10.96.0.2:80", inside(Place::Served), "a worker connects to the only usable endpoint"),
            ("10.96.0.2:80", inside(Place::NotServed), "refused: no worker listens"),
            ("[fd00::1]:80", inside(Place::NotServed), "refused: no usable endpoint, because no worker"),
            ("[fd00::1]:80", closed(Place::NotServed), "refused: no worker listens"),
            ("[fd00::1]:80", closed(Place::Served), "a worker connects"),
            ("10.96.0.3:80", None, "refused: no usable endpoint"),
            ("10.96.0.4:53", None, "untouched: the address is excluded"),
            ("10.99.1.1:80", None, "untouched: the address is excluded"),
            ("10.96.0.9:80", None, "untouched: it is no address of a service"),
            (
                "10.96.0.1:80",
                Some(super::tests::process(None, Place::Home)),
                "untouched: the process is in no",
            ),
        ] {
            let why = ask(address, process);
            assert!(why.verdict.starts_with(expected), "{address}: {}", why.verdict);
            assert!(why.table().contains(&why.verdict));
        }
    }

    #[test]
    fn a_namespace_without_listeners_goes_through_the_node_listener_of_its_family_if_that_is_reached() {
        let inside = || Some(process(Some("cgroup /app"), Place::NotServed));
        let node = |is_reached| {
            [NodeListenerStatus { address: "10.0.0.1:40001".parse().unwrap(), is_reached, missed_by: None }]
        };
        let verdict = |is_reached, address| ask_beside(&node(is_reached), address, inside()).verdict;
        assert_eq!(
            verdict(true, "10.96.0.2:80"),
            "through the listener on 10.0.0.1:40001, a worker connects to the only usable endpoint"
        );
        assert!(verdict(false, "10.96.0.2:80").starts_with("refused: no worker listens"));
        assert!(
            verdict(true, "10.96.0.1:80").starts_with("the kernel connects"),
            "the direct lane needs nobody"
        );
        assert!(verdict(true, "[fd00::1]:80").starts_with("refused: no usable endpoint, because no worker"));
    }

    #[test]
    fn a_wrong_port_or_an_endpoint_gets_a_hint() {
        assert_eq!(ask("10.96.0.1:81", None).hint.unwrap(), "plain is at 10.96.0.1:80");
        let hint = ask("10.1.0.1:8080", None).hint.unwrap();
        assert_eq!(hint, "it is an endpoint of limited; it is an endpoint of plain");
        assert_eq!(ask("10.96.0.77:80", None).hint, None);
    }

    #[test]
    fn the_lane_and_endpoints_are_explained() {
        let why = ask("10.96.0.2:80", None);
        assert_eq!(why.lane.as_deref(), Some("proxy"));
        assert_eq!(why.lane_reason.as_deref(), Some("limits are kept by workers only"));
        assert!(why.endpoints[0].is_usable && why.endpoints[0].state == "healthy");
        assert!(why.table().contains("10.1.0.1:8080, usable, healthy, weight 1"), "{}", why.table());
    }
}
