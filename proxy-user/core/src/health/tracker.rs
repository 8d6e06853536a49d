//! Health of all endpoints of the node, through every reload.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::SmallRng;

use super::agenda::{Agenda, Task};
use super::check::Checks;
use super::outlier::Attempts;
use super::{Check, EndpointReport};
use crate::id::{EndpointId, ServiceId};
use crate::outcome::Attempt;
use crate::service::{Endpoint, EndpointState, HealthCheck, Outlier, Service};
use crate::snapshot::Snapshot;

/// Decides which endpoints are believed to serve.
///
/// Feed it every snapshot that a config made ([`Tracker::handle_snapshot`]; others do no harm), the results of checks
/// and the attempts of connections. Then publish what [`Tracker::poll_changed`] gives. An event costs O(log n) of all
/// endpoints.
#[derive(Debug)]
pub struct Tracker {
    services: BTreeMap<ServiceId, Watched>,
    endpoints: HashMap<EndpointId, Entry>,
    /// Exactly one item for each [`Checks::due`] and each ejection.
    agenda: Agenda,
    /// Services whose published states may differ from what is known here.
    dirty: BTreeSet<ServiceId>,
    rng: SmallRng,
}

#[derive(Debug)]
struct Watched {
    service: Arc<Service>,
    /// Endpoints with a weight, and how many of them are healthy or ejected.
    serving_count: usize,
    healthy_count: usize,
    ejected_count: usize,
}

#[derive(Debug)]
struct Entry {
    service: ServiceId,
    address: SocketAddr,
    is_serving: bool,
    checks: Checks,
    attempts: Attempts,
}

impl Tracker {
    /// Begins with no endpoints; `rng` spreads the checks.
    #[must_use]
    pub fn new(rng: SmallRng) -> Self {
        Self {
            services: BTreeMap::new(),
            endpoints: HashMap::new(),
            agenda: Agenda::default(),
            dirty: BTreeSet::new(),
            rng,
        }
    }

    /// Takes up new endpoints, forgets those that are gone, and follows changes of config.
    ///
    /// What is known about an endpoint stays. Other rules for its checks begin a new schedule; no checks, or no
    /// ejection, free it from what they said. A service that is the same `Arc` as before costs one look.
    pub fn handle_snapshot(&mut self, now: Instant, snapshot: &Snapshot) {
        let gone: Vec<ServiceId> =
            self.services.keys().copied().filter(|id| snapshot.service(*id).is_none()).collect();
        for id in gone {
            let watched = self.services.remove(&id).expect("the id is from this map");
            self.dirty.remove(&id);
            watched.service.endpoints.iter().for_each(|e| self.forget(e.id));
        }
        let is_known = |s: &Arc<Service>| {
            self.services.get(&s.id).is_some_and(|watched| Arc::ptr_eq(&watched.service, s))
        };
        let mut changed: Vec<&Arc<Service>> = snapshot.services().filter(|s| !is_known(s)).collect();
        changed.sort_unstable_by_key(|service| service.id);
        for service in changed {
            self.handle_service(now, service);
        }
    }

    /// Ends the ejections whose time is over and gives the checks that are due.
    ///
    /// Each needs one [`Tracker::handle_check`], also if it could not be carried out: until then the endpoint is not
    /// checked again.
    pub fn poll_due(&mut self, now: Instant) -> Vec<Check> {
        let mut checks = Vec::new();
        while let Some((id, task)) = self.agenda.pop_due(now) {
            match task {
                Task::EndEjection => self.change(id, |entry, _| entry.attempts.restore()),
                Task::Check => checks.extend(self.begin_check(id)),
            }
        }
        checks
    }

    /// Tells when [`Tracker::poll_due`] has something to do.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.agenda.next_due()
    }

    /// Takes the result of a check; an error says what went wrong, for operators.
    pub fn handle_check(&mut self, now: Instant, endpoint: EndpointId, result: Result<(), String>) {
        self.change(endpoint, |entry, context| {
            entry.checks.handle_result(now, result, context.check, context.rng);
            context.agenda.insert(entry.checks.due(), endpoint, Task::Check);
        });
    }

    /// Takes note of how a connection to an endpoint went.
    pub fn handle_attempt(&mut self, now: Instant, endpoint: EndpointId, attempt: Attempt) {
        self.change(endpoint, |entry, context| {
            let until = entry.attempts.ejected_until;
            if until.is_some_and(|until| until <= now) {
                context.agenda.remove(until, endpoint, Task::EndEjection);
                entry.attempts.restore();
            }
            let deserved = entry.attempts.handle_attempt(now, attempt, context.outlier);
            if let Some(cause) = deserved.filter(|_| entry.is_serving && context.can_spare_one) {
                let until = entry.attempts.eject(now, cause, context.outlier);
                context.agenda.insert(Some(until), endpoint, Task::EndEjection);
            }
        });
    }

    /// Gives the services of a snapshot whose endpoint states differ from what is known, as new values.
    ///
    /// They share the load counters with the old ones. What is given is given again until a snapshot that agrees is
    /// shown, so nothing is lost if it was not published.
    pub fn poll_changed(&mut self, snapshot: &Snapshot) -> Vec<Arc<Service>> {
        let mut changed = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            let Some(service) = snapshot.service(id) else {
                continue;
            };
            let state = |e: &Endpoint| self.endpoints.get(&e.id).map_or(e.state, Entry::state);
            if service.endpoints.iter().any(|e| e.state != state(e)) {
                changed.push(Arc::new(with_states(service, state)));
                self.dirty.insert(id);
            }
        }
        changed
    }

    /// Reports on all endpoints, by service number and in the order of the config.
    pub fn report(&self) -> impl Iterator<Item = EndpointReport> {
        let ids = self.services.values().flat_map(|watched| watched.service.endpoints.iter().map(|e| e.id));
        ids.filter_map(|id| Some((id, self.endpoints.get(&id)?))).map(|(id, entry)| EndpointReport {
            service: entry.service,
            endpoint: id,
            state: entry.state(),
            last_check: entry.checks.last_check,
            last_error: entry.checks.last_error.clone(),
            ejected_until: entry.attempts.ejected_until,
            ejections_total: entry.attempts.ejections_total,
            checks_total: entry.checks.checks_total,
            failures_total: entry.checks.failures_total,
        })
    }

    fn handle_service(&mut self, now: Instant, service: &Arc<Service>) {
        let old = self.services.remove(&service.id).map(|watched| watched.service);
        let kept: HashSet<EndpointId> = service.endpoints.iter().map(|e| e.id).collect();
        for endpoint in old.iter().flat_map(|old| &old.endpoints).filter(|e| !kept.contains(&e.id)) {
            self.forget(endpoint.id);
        }
        let is_check_new = old.is_none_or(|old| old.health != service.health);
        let mut watched =
            Watched { service: service.clone(), serving_count: 0, healthy_count: 0, ejected_count: 0 };
        for endpoint in &service.endpoints {
            let is_new = !self.endpoints.contains_key(&endpoint.id);
            let entry = self.endpoints.entry(endpoint.id).or_insert_with(|| Entry::new(service.id, endpoint));
            entry.is_serving = endpoint.weight > 0;
            if is_new || is_check_new {
                self.agenda.remove(entry.checks.due(), endpoint.id, Task::Check);
                entry.checks.restart(now, service.health.as_ref(), &mut self.rng);
                self.agenda.insert(entry.checks.due(), endpoint.id, Task::Check);
            }
            if !entry.attempts.is_ejection_wanted(&service.outlier) {
                self.agenda.remove(entry.attempts.ejected_until, endpoint.id, Task::EndEjection);
                entry.attempts.restore();
            }
            watched.count_in(entry);
        }
        self.services.insert(service.id, watched);
        self.dirty.insert(service.id);
    }

    fn forget(&mut self, id: EndpointId) {
        if let Some(entry) = self.endpoints.remove(&id) {
            self.agenda.remove(entry.checks.due(), id, Task::Check);
            self.agenda.remove(entry.attempts.ejected_until, id, Task::EndEjection);
        }
    }

    fn begin_check(&mut self, id: EndpointId) -> Option<Check> {
        let entry = self.endpoints.get_mut(&id)?;
        let service = &self.services.get(&entry.service)?.service;
        let check = service.health.clone()?;
        let proxy_protocol = service.proxy_protocol.filter(|_| check.port.is_none());
        entry.checks.begin();
        let port = check.port.unwrap_or(entry.address.port());
        let address = SocketAddr::new(entry.address.ip(), port);
        Some(Check { service: entry.service, endpoint: id, address, check, proxy_protocol })
    }

    /// Changes one endpoint, and with it the counts of its service and the note that something changed.
    fn change(&mut self, id: EndpointId, step: impl FnOnce(&mut Entry, Context<'_>)) {
        let Some(entry) = self.endpoints.get_mut(&id) else {
            return;
        };
        let watched =
            self.services.get_mut(&entry.service).expect("an endpoint is forgotten with its service");
        let state = entry.state();
        let can_spare_one = watched.can_spare(entry);
        watched.count_out(entry);
        let Watched { service, .. } = watched;
        let context = Context {
            check: service.health.as_ref(),
            outlier: &service.outlier,
            can_spare_one,
            agenda: &mut self.agenda,
            rng: &mut self.rng,
        };
        step(entry, context);
        watched.count_in(entry);
        if entry.state() != state {
            self.dirty.insert(entry.service);
        }
    }
}

/// What a change of one endpoint may need to know and to touch.
struct Context<'a> {
    check: Option<&'a HealthCheck>,
    outlier: &'a Outlier,
    can_spare_one: bool,
    agenda: &'a mut Agenda,
    rng: &'a mut SmallRng,
}

impl Watched {
    /// Tells whether an endpoint that is not ejected may be.
    ///
    /// Never more than the configured share at once, though one of two or more; never the last healthy one.
    fn can_spare(&self, entry: &Entry) -> bool {
        let share = self.serving_count * usize::from(self.service.outlier.max_ejected_percent) / 100;
        let others_healthy = self.healthy_count - usize::from(entry.is_healthy());
        self.ejected_count < share.max(1) && others_healthy > 0
    }

    fn count_in(&mut self, entry: &Entry) {
        self.serving_count += usize::from(entry.is_serving);
        self.healthy_count += usize::from(entry.is_healthy());
        self.ejected_count += usize::from(entry.is_ejected());
    }

    fn count_out(&mut self, entry: &Entry) {
        self.serving_count -= usize::from(entry.is_serving);
        self.healthy_count -= usize::from(entry.is_healthy());
        self.ejected_count -= usize::from(entry.is_ejected());
    }
}

impl Entry {
    fn new(service: ServiceId, endpoint: &Endpoint) -> Self {
        Self {
            service,
            address: endpoint.address.0,
            is_serving: endpoint.weight > 0,
            checks: Checks::new(),
            attempts: Attempts::default(),
        }
    }

    /// What checks say outweighs what connections said: a check asks now.
    fn state(&self) -> EndpointState {
        if self.checks.is_unhealthy() {
            EndpointState::Unhealthy
        } else if self.attempts.ejected_until.is_some() {
            EndpointState::Ejected
        } else {
            EndpointState::Healthy
        }
    }

    fn is_healthy(&self) -> bool {
        self.is_serving && self.state() == EndpointState::Healthy
    }

    fn is_ejected(&self) -> bool {
        self.is_serving && self.attempts.ejected_until.is_some()
    }
}

/// Copies a service with other endpoint states; everything behind an `Arc` is shared.
fn with_states(service: &Service, state: impl Fn(&Endpoint) -> EndpointState) -> Service {
    let endpoints = service.endpoints.iter().map(|e| Endpoint { state: state(e), ..e.clone() }).collect();
    Service { endpoints, ..service.clone() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;

    use super::EndpointState::{Ejected, Healthy, Unhealthy};
    use super::*;
    use crate::fixture;
    use crate::service::Policy;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_dead_endpoint_is_published_after_its_first_check_and_comes_back() {
        let mut node = Node::new([checked(1, 3)]);
        node.dead.insert(EndpointId(1002));
        node.run(SECOND);
        assert_eq!(node.states(1), [Healthy, Unhealthy, Healthy]);
        let report = node.tracker.report().nth(1).unwrap();
        assert_eq!((report.endpoint, report.last_error.as_deref()), (EndpointId(1002), Some("refused")));
        node.dead.clear();
        node.run(3 * SECOND);
        assert_eq!(node.states(1), [Healthy; 3]);
        assert_eq!(node.tracker.report().nth(1).unwrap().last_error, None);
    }

    #[test]
    fn an_hour_of_checks_keeps_the_interval() {
        let mut node = Node::new([checked(1, 20)]);
        node.run(3600 * SECOND);
        for report in node.tracker.report() {
            assert!((340..=380).contains(&report.checks_total), "{}", report.checks_total);
            assert_eq!(report.failures_total, 0);
        }
    }

    #[test]
    fn a_check_in_flight_is_not_issued_again() {
        let mut node = Node::new([checked(1, 1)]);
        assert_eq!(node.tracker.poll_due(node.now + SECOND).len(), 1);
        assert_eq!(node.tracker.poll_due(node.now + 3600 * SECOND).len(), 0);
        assert_eq!(node.tracker.next_due(), None);
        node.tracker.handle_check(node.now, EndpointId(1001), Ok(()));
        assert!(node.tracker.next_due().unwrap() > node.now + 8 * SECOND);
    }

    #[test]
    fn checks_go_to_the_port_of_the_check() {
        let mut service = checked(1, 1);
        service.health.as_mut().unwrap().port = Some(9);
        let mut node = Node::new([service]);
        let check = node.tracker.poll_due(node.now + SECOND).remove(0);
        assert_eq!(check.address, fixture::v4(1, 9));
        assert_eq!((check.service, check.endpoint), (ServiceId(1), EndpointId(1001)));
    }

    #[test]
    fn states_survive_a_reload_and_a_new_endpoint_is_checked_soon() {
        let mut node = Node::new([checked(1, 3)]);
        node.dead.insert(EndpointId(1001));
        node.run(SECOND);
        let load = node.snapshot.service(ServiceId(1)).unwrap().endpoints[0].load.clone();
        let mut next = checked(1, 4);
        next.endpoints[0].load = load.clone();
        node.dead.insert(EndpointId(1004));
        node.reload([next]);
        assert_eq!(node.states(1), [Unhealthy, Healthy, Healthy, Healthy]);
        assert!(Arc::ptr_eq(&load, &node.snapshot.service(ServiceId(1)).unwrap().endpoints[0].load));
        node.run(SECOND / 10);
        assert_eq!(node.states(1), [Unhealthy, Healthy, Healthy, Unhealthy]);
    }

    #[test]
    fn a_reload_without_change_leaves_the_schedule_alone() {
        let mut node = Node::new([checked(1, 3)]);
        node.run(SECOND);
        let due = node.tracker.next_due();
        node.reload([checked(1, 3)]);
        assert_eq!(node.tracker.next_due(), due);
        let mut other = checked(1, 3);
        other.health.as_mut().unwrap().interval = SECOND;
        node.reload([other]);
        assert!(node.tracker.next_due().unwrap() <= node.now + SECOND / 10);
    }

    #[test]
    fn what_is_gone_leaves_nothing_behind() {
        let mut node = Node::new([checked(1, 3), checked(2, 3)]);
        for _ in 0..3 {
            node.tracker.handle_attempt(node.now, EndpointId(1001), Attempt::Bad);
        }
        node.reload([]);
        assert_eq!(node.tracker.next_due(), None);
        assert_eq!(node.tracker.report().count(), 0);
        node.tracker.handle_check(node.now, EndpointId(1001), Ok(()));
        node.tracker.handle_attempt(node.now, EndpointId(1001), Attempt::Bad);
        assert_eq!(node.tracker.next_due(), None, "late news of an unknown endpoint");
    }

    #[test]
    fn failures_in_a_row_eject_for_a_while() {
        let mut node = Node::new([fixture::service(1, Policy::Random, &[1, 1, 1])]);
        node.fail(1001, 3);
        assert_eq!(node.states(1), [Ejected, Healthy, Healthy]);
        assert_eq!(node.tracker.next_due(), Some(node.now + 10 * SECOND));
        node.run(10 * SECOND);
        assert_eq!(node.states(1), [Healthy; 3]);
        node.fail(1001, 3);
        node.run(19 * SECOND);
        assert_eq!(node.states(1), [Ejected, Healthy, Healthy], "longer the second time");
        node.run(SECOND);
        assert_eq!(node.states(1), [Healthy; 3]);
        assert_eq!(node.tracker.report().next().unwrap().ejections_total, 2);
    }

    #[test]
    fn never_more_than_the_share_is_ejected_and_never_the_last() {
        let ejected = |percent, weights: &[u32]| {
            let mut service = fixture::service(1, Policy::Random, weights);
            service.outlier.max_ejected_percent = percent;
            let mut node = Node::new([service]);
            for n in 1..=u32::try_from(weights.len()).unwrap() {
                node.fail(1000 + n, 10);
            }
            node.states(1).iter().filter(|s| **s == Ejected).count()
        };
        assert_eq!(ejected(50, &[1; 10]), 5);
        assert_eq!(ejected(10, &[1; 3]), 1, "one is always allowed");
        assert_eq!(ejected(100, &[1; 4]), 3);
        assert_eq!(ejected(100, &[1]), 0);
        assert_eq!(ejected(100, &[1, 0, 0]), 0, "the others do not serve");
    }

    #[test]
    fn the_last_healthy_endpoint_is_not_ejected_beside_unhealthy_ones() {
        let mut node = Node::new([checked(1, 3)]);
        node.dead.extend([EndpointId(1001), EndpointId(1002)]);
        node.run(SECOND);
        node.fail(1003, 10);
        assert_eq!(node.states(1), [Unhealthy, Unhealthy, Healthy]);
    }

    #[test]
    fn unhealthy_outweighs_ejected_and_ejection_ends_beneath_it() {
        let mut node = Node::new([checked(1, 3)]);
        node.run(SECOND);
        node.fail(1001, 3);
        assert_eq!(node.states(1)[0], Ejected);
        node.dead.insert(EndpointId(1001));
        node.run(30 * SECOND);
        assert_eq!(node.states(1)[0], Unhealthy);
        assert_eq!(node.tracker.report().next().unwrap().ejected_until, None);
        node.dead.clear();
        node.run(3 * SECOND);
        assert_eq!(node.states(1)[0], Healthy);
    }

    #[test]
    fn switching_ejection_off_ends_it() {
        let mut node = Node::new([fixture::service(1, Policy::Random, &[1, 1])]);
        node.fail(1001, 3);
        let mut next = fixture::service(1, Policy::Random, &[1, 1]);
        next.outlier.consecutive_failures = 0;
        node.reload([next]);
        assert_eq!((node.states(1), node.tracker.next_due()), (vec![Healthy; 2], None));
    }

    #[test]
    fn bad_statuses_in_a_row_eject_where_the_config_says_so() {
        let service = |consecutive_5xx| {
            let mut service = fixture::service(1, Policy::Random, &[1, 1]);
            (service.outlier.consecutive_failures, service.outlier.consecutive_5xx) = (0, consecutive_5xx);
            service
        };
        let mut node = Node::new([service(0)]);
        node.attempt(1001, 100, Attempt::BadStatus);
        assert_eq!(node.states(1), [Healthy, Healthy]);
        node.reload([service(5)]);
        node.attempt(1001, 4, Attempt::BadStatus);
        node.attempt(1001, 1, Attempt::Good);
        node.attempt(1001, 4, Attempt::BadStatus);
        assert_eq!(node.states(1), [Healthy, Healthy]);
        node.attempt(1001, 1, Attempt::BadStatus);
        node.attempt(1002, 10, Attempt::BadStatus);
        assert_eq!(node.states(1), [Ejected, Healthy], "never the last one");
        node.reload([service(7)]);
        assert_eq!(node.states(1), [Ejected, Healthy], "another threshold does not free it");
        node.run(10 * SECOND);
        assert_eq!(node.states(1), [Healthy, Healthy]);
    }

    #[test]
    fn an_ejection_ends_when_its_own_cause_is_switched_off() {
        let service = |consecutive_failures, consecutive_5xx| {
            let mut service = fixture::service(1, Policy::Random, &[1, 1]);
            let outlier = &mut service.outlier;
            (outlier.consecutive_failures, outlier.consecutive_5xx) = (consecutive_failures, consecutive_5xx);
            service
        };
        let mut node = Node::new([service(3, 3)]);
        node.attempt(1001, 3, Attempt::BadStatus);
        node.reload([service(0, 3)]);
        assert_eq!(node.states(1), [Ejected, Healthy]);
        node.reload([service(3, 0)]);
        assert_eq!((node.states(1), node.tracker.next_due()), (vec![Healthy; 2], None));
    }

    #[test]
    fn a_change_is_given_until_it_is_published() {
        let mut node = Node::new([fixture::service(1, Policy::Random, &[1, 1])]);
        for _ in 0..3 {
            node.tracker.handle_attempt(node.now, EndpointId(1001), Attempt::Bad);
        }
        assert_eq!(node.tracker.poll_changed(&node.snapshot).len(), 1);
        let changed = node.tracker.poll_changed(&node.snapshot);
        assert_eq!(changed.len(), 1, "the first was lost");
        node.snapshot = node.snapshot.with_services(changed);
        assert_eq!(node.tracker.poll_changed(&node.snapshot).len(), 0);
    }

    /// The size that a node must bear; how long it takes is the bench's question.
    #[test]
    fn a_hundred_thousand_endpoints_are_all_checked() {
        let mut node = Node::new((1..=10_000).map(|id| checked(id, 10)));
        node.dead.insert(EndpointId(5_000_003));
        node.run(SECOND / 10);
        assert!(node.tracker.report().all(|r| r.checks_total == 1));
        assert_eq!(node.states(5000)[2], Unhealthy);
        node.run(2 * SECOND);
        assert_eq!(node.tracker.report().filter(|r| r.checks_total > 1).count(), 1);
    }

    /// A node whose checks are answered at once, on simulated time.
    struct Node {
        tracker: Tracker,
        snapshot: Snapshot,
        now: Instant,
        dead: BTreeSet<EndpointId>,
    }

    impl Node {
        fn new(services: impl IntoIterator<Item = Service>) -> Self {
            let (snapshot, now) = (fixture::snapshot(services), fixture::now());
            let mut tracker = Tracker::new(SmallRng::seed_from_u64(1));
            tracker.handle_snapshot(now, &snapshot);
            Self { tracker, snapshot, now, dead: BTreeSet::new() }
        }

        fn reload(&mut self, services: impl IntoIterator<Item = Service>) {
            self.snapshot = fixture::snapshot(services);
            self.tracker.handle_snapshot(self.now, &self.snapshot);
            self.publish();
        }

        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while let Some(due) = self.tracker.next_due().filter(|due| *due <= end) {
                self.now = self.now.max(due);
                for check in self.tracker.poll_due(self.now) {
                    let is_dead = self.dead.contains(&check.endpoint);
                    let result = if is_dead { Err("refused".to_owned()) } else { Ok(()) };
                    self.tracker.handle_check(self.now, check.endpoint, result);
                }
            }
            self.now = end;
            self.publish();
        }

        fn fail(&mut self, endpoint: u32, times: usize) {
            self.attempt(endpoint, times, Attempt::Bad);
        }

        fn attempt(&mut self, endpoint: u32, times: usize, attempt: Attempt) {
            for _ in 0..times {
                self.tracker.handle_attempt(self.now, EndpointId(endpoint), attempt);
            }
            self.publish();
        }

        fn publish(&mut self) {
            let changed = self.tracker.poll_changed(&self.snapshot);
            self.snapshot = self.snapshot.with_services(changed);
            self.tracker.handle_snapshot(self.now, &self.snapshot);
            assert!(self.tracker.poll_changed(&self.snapshot).is_empty());
        }

        fn states(&self, service: u32) -> Vec<EndpointState> {
            let service = self.snapshot.service(ServiceId(service)).unwrap();
            service.endpoints.iter().map(|e| e.state).collect()
        }
    }

    fn checked(id: u32, endpoint_count: usize) -> Service {
        let mut service = fixture::service(id, Policy::Random, &vec![1; endpoint_count]);
        service.health = Some(fixture::check());
        service
    }
}
