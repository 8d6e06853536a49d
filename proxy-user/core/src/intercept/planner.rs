//! The difference between what is in force and what shall be, as ordered map operations.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::table::Tables;
use super::{MapOp, ServiceHead};
use crate::addr::{Family, canonical};
use crate::id::ServiceId;
use crate::service::Service;
use crate::snapshot::{Intercept, Snapshot, Treatment};

/// Knows what the kernel was told, and plans how to tell it something else.
#[derive(Debug, Default)]
pub struct Planner {
    services: HashMap<ServiceId, Known>,
    intercept: Intercept,
    /// Interception rules of which some may be in the kernel too.
    attempted: Vec<Intercept>,
    /// Plans that were carried out, well or not.
    plan_count: u64,
}

/// What the kernel may know of a service.
#[derive(Debug)]
enum Known {
    /// Exactly this.
    InForce(Written),
    /// Parts of any of these; a newer one has a higher generation. Never empty.
    InDoubt(Vec<Written>),
}

/// One version of a service, as it was or should have been written.
///
/// Its slots are not kept, since they may be large: they can be built again from the service.
#[derive(Clone, Debug)]
struct Written {
    service: Arc<Service>,
    head: ServiceHead,
}

/// Operations, and what is in force once all of them succeeded.
#[derive(Debug)]
pub struct Plan {
    /// What to do, in this order. Empty if the kernel need not learn anything.
    pub ops: Vec<MapOp>,
    changed: Vec<Written>,
    removed: Vec<ServiceId>,
    intercept: Intercept,
    base: u64,
}

impl Planner {
    /// Begins with empty maps.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans the way from what is in force to a snapshot.
    ///
    /// Order: new slots, heads that name them, then what points traffic there (exclusions before addresses and
    /// scopes, so that nothing is caught that never should be), then the old in the reverse order. After any
    /// number of the operations each address that the maps hold leads to a head, and each head to all of its slots.
    ///
    /// A service that is the same `Arc` as in force costs one look; a changed one is compared by what the kernel
    /// would see of it.
    #[must_use]
    pub fn plan(&self, next: &Snapshot) -> Plan {
        let mut changed: Vec<&Arc<Service>> = next.services().filter(|s| !self.is_in_force(s)).collect();
        changed.sort_unstable_by_key(|service| service.id);
        let mut removed: Vec<ServiceId> =
            self.services.keys().copied().filter(|id| next.service(*id).is_none()).collect();
        removed.sort_unstable();

        let mut steps = Steps::default();
        let changed =
            changed.into_iter().map(|service| self.plan_service(service, next, &mut steps)).collect();
        for id in &removed {
            steps.old_heads.push(MapOp::RemoveService { service: *id });
            for old in self.services[id].versions() {
                steps.retire_addresses(old, next);
                steps.retire_slots(&old.head);
            }
        }
        self.plan_intercept(&next.intercept, &mut steps);
        let intercept = next.intercept.clone();
        Plan { ops: steps.in_order(), changed, removed, intercept, base: self.plan_count }
    }

    /// Takes note that all operations of a plan succeeded.
    ///
    /// # Panics
    /// If another plan was carried out after this one was made: it started from something else.
    pub fn commit(&mut self, plan: Plan) {
        self.close(plan.base);
        for id in plan.removed {
            self.services.remove(&id);
        }
        let changed = plan.changed.into_iter().map(|new| (new.head.service, Known::InForce(new)));
        self.services.extend(changed);
        self.intercept = plan.intercept;
        self.attempted.clear();
    }

    /// Takes note that a plan was carried out in part, so that its services are in doubt.
    ///
    /// The next plan, to whatever snapshot, writes them anew under fresh generations and removes what may have been
    /// left behind.
    ///
    /// # Panics
    /// If another plan was carried out after this one was made: it started from something else.
    pub fn abandon(&mut self, plan: Plan) {
        self.close(plan.base);
        for id in plan.removed {
            if let Some(known) = self.services.remove(&id) {
                self.services.insert(id, Known::InDoubt(known.into_versions()));
            }
        }
        for new in plan.changed {
            let id = new.head.service;
            let mut versions = self.services.remove(&id).map_or_else(Vec::new, Known::into_versions);
            versions.push(new);
            self.services.insert(id, Known::InDoubt(versions));
        }
        self.attempted.push(plan.intercept);
    }

    fn close(&mut self, base: u64) {
        assert_eq!(base, self.plan_count, "a plan holds only for what was in force when it was made");
        self.plan_count += 1;
    }

    fn is_in_force(&self, service: &Arc<Service>) -> bool {
        match self.services.get(&service.id) {
            Some(Known::InForce(written)) => Arc::ptr_eq(&written.service, service),
            Some(Known::InDoubt(_)) | None => false,
        }
    }

    fn plan_service(&self, service: &Arc<Service>, next: &Snapshot, steps: &mut Steps) -> Written {
        let known = self.services.get(&service.id);
        let old = known.and_then(Known::in_force);
        let tables = Tables::of(service);
        let is_table_new = old.is_none_or(|old| Tables::of(&old.service) != tables);
        let newest = known.and_then(|known| known.versions().last()).map_or(0, |v| v.head.generation);
        let generation = if is_table_new { newest.wrapping_add(1) } else { newest };
        let head = tables.head(service, generation);
        if is_table_new {
            steps.put_slots(&head, tables);
        }
        if old.is_none_or(|old| old.head != head) {
            steps.heads.push(MapOp::PutService(head));
        }
        steps.point_addresses(service, old);
        for old in known.into_iter().flat_map(Known::versions) {
            steps.retire_addresses(old, next);
            if is_table_new {
                steps.retire_slots(&old.head);
            }
        }
        Written { service: service.clone(), head }
    }

    fn plan_intercept(&self, new: &Intercept, steps: &mut Steps) {
        let known: Vec<&Intercept> = [&self.intercept].into_iter().chain(&self.attempted).collect();
        let change = Change::new(known.iter().map(|i| &i.exclude_ports), &new.exclude_ports);
        steps.exclusions.extend(change.added.into_iter().map(MapOp::PutExcludedPort));
        steps.old_exclusions.extend(change.gone.into_iter().map(MapOp::RemoveExcludedPort));
        let change = Change::new(known.iter().map(|i| &i.exclude_cidrs), &new.exclude_cidrs);
        steps.exclusions.extend(change.added.into_iter().map(MapOp::PutExcludedCidr));
        steps.old_exclusions.extend(change.gone.into_iter().map(MapOp::RemoveExcludedCidr));
        let change =
            |treatment| Change::new(known.iter().map(|i| i.treated(treatment)), new.treated(treatment));
        let [caught, closed] = Treatment::ALL.map(change);
        // Nobody is caught without what else is to be known of him.
        for (treatment, added) in [(Treatment::FailClosed, closed.added), (Treatment::Caught, caught.added)] {
            steps.scopes.extend(added.into_iter().map(|scope| MapOp::PutScope(treatment, scope)));
        }
        for (treatment, gone) in [(Treatment::Caught, caught.gone), (Treatment::FailClosed, closed.gone)] {
            steps.old_scopes.extend(gone.into_iter().map(|scope| MapOp::RemoveScope(treatment, scope)));
        }
    }
}

impl Known {
    fn in_force(&self) -> Option<&Written> {
        match self {
            Self::InForce(written) => Some(written),
            Self::InDoubt(_) => None,
        }
    }

    fn versions(&self) -> &[Written] {
        match self {
            Self::InForce(written) => std::slice::from_ref(written),
            Self::InDoubt(versions) => versions,
        }
    }

    fn into_versions(self) -> Vec<Written> {
        match self {
            Self::InForce(written) => vec![written],
            Self::InDoubt(versions) => versions,
        }
    }
}

/// Operations by the phase that they belong to; phases in the order of the fields.
#[derive(Default)]
struct Steps {
    slots: Vec<MapOp>,
    heads: Vec<MapOp>,
    exclusions: Vec<MapOp>,
    addresses: Vec<MapOp>,
    scopes: Vec<MapOp>,
    old_scopes: Vec<MapOp>,
    old_addresses: Vec<MapOp>,
    old_exclusions: Vec<MapOp>,
    old_heads: Vec<MapOp>,
    old_slots: Vec<MapOp>,
}

impl Steps {
    fn put_slots(&mut self, head: &ServiceHead, tables: Tables) {
        let (service, generation) = (head.service, head.generation);
        let full = tables.slots().into_iter().filter(|(_, slots)| !slots.is_empty());
        self.slots.extend(full.map(|(family, slots)| MapOp::PutSlots { service, generation, family, slots }));
    }

    fn point_addresses(&mut self, service: &Service, old: Option<&Written>) {
        let old: BTreeSet<_> =
            old.iter().flat_map(|old| &old.service.addresses).map(|a| canonical(*a)).collect();
        let new: BTreeSet<_> = service.addresses.iter().map(|a| canonical(*a)).collect();
        let service = service.id;
        self.addresses.extend(new.difference(&old).map(|a| MapOp::PutAddress { address: *a, service }));
    }

    /// Removes addresses that mean nothing any more; those that mean another service now were overwritten.
    fn retire_addresses(&mut self, old: &Written, next: &Snapshot) {
        let addresses: BTreeSet<_> = old.service.addresses.iter().map(|a| canonical(*a)).collect();
        let unused = addresses.into_iter().filter(|a| next.service_at(*a).is_none());
        self.old_addresses.extend(unused.map(|address| MapOp::RemoveAddress { address }));
    }

    fn retire_slots(&mut self, head: &ServiceHead) {
        let (service, generation) = (head.service, head.generation);
        let counts = [(Family::V4, head.v4.slot_count), (Family::V6, head.v6.slot_count)];
        let used = counts.into_iter().filter(|(_, slot_count)| *slot_count > 0);
        self.old_slots.extend(used.map(|(family, slot_count)| MapOp::RemoveSlots {
            service,
            generation,
            family,
            slot_count,
        }));
    }

    fn in_order(self) -> Vec<MapOp> {
        let new = [self.slots, self.heads, self.exclusions, self.addresses, self.scopes];
        let old = [self.old_scopes, self.old_addresses, self.old_exclusions, self.old_heads, self.old_slots];
        new.into_iter().chain(old).flatten().collect()
    }
}

/// What must be added to a set and what removed from it, both sorted.
struct Change<T> {
    added: Vec<T>,
    gone: Vec<T>,
}

impl<T: Ord + Clone> Change<T> {
    /// Compares what may be there, in several versions of which only the common part surely is, with what shall be.
    fn new<'a, S>(known: impl Iterator<Item = S>, new: S) -> Self
    where
        S: IntoIterator<Item = &'a T>,
        T: 'a,
    {
        let new: BTreeSet<&T> = new.into_iter().collect();
        let known: Vec<BTreeSet<&T>> = known.map(|set| set.into_iter().collect()).collect();
        let is_sure = |item: &&&T| known.iter().all(|set| set.contains(**item));
        let perhaps: BTreeSet<&T> = known.iter().flatten().copied().collect();
        Self {
            added: new.iter().filter(|item| !is_sure(item)).map(|item| (*item).clone()).collect(),
            gone: perhaps.difference(&new).map(|item| (*item).clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::super::Slot;
    use super::*;
    use crate::fixture;
    use crate::id::Version;
    use crate::service::{EndpointState, Fail, LaneChoice, Policy};
    use crate::snapshot::Scope;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn every_step_works_and_the_last_leaves_what_was_asked(a in node(), b in node(), c in node()) {
            let mut planner = Planner::new();
            let mut kernel = Kernel::default();
            let mut last = Intercept::default();
            for node in [&a, &b, &a, &c] {
                let next = node.snapshot();
                let plan = planner.plan(&next);
                for op in &plan.ops {
                    kernel.apply(op);
                    kernel.check_whole();
                    kernel.check_exclusions(&last, &next.intercept);
                }
                planner.commit(plan);
                last = next.intercept.clone();
                let mut fresh = Kernel::default();
                Planner::new().plan(&next).ops.iter().for_each(|op| fresh.apply(op));
                prop_assert_eq!(kernel.without_generations(), fresh.without_generations());
                prop_assert_eq!(planner.plan(&next).ops, []);
                prop_assert_eq!(planner.plan(&node.snapshot()).ops, [], "an equal config is no change");
            }
            let plan = planner.plan(&Snapshot::new(Version(9), Intercept::default(), Vec::new(), []));
            plan.ops.iter().for_each(|op| kernel.apply(op));
            prop_assert_eq!(kernel, Kernel::default(), "nothing stays behind");
        }

        #[test]
        fn after_plans_that_failed_half_way_any_other_can_be_carried_out(
            nodes in prop::collection::vec(node(), 4), done in any::<[prop::sample::Index; 2]>(), back in 0..4usize,
        ) {
            let (mut planner, mut kernel) = (Planner::new(), Kernel::default());
            let plan = planner.plan(&nodes[0].snapshot());
            plan.ops.iter().for_each(|op| kernel.apply(op));
            planner.commit(plan);
            for (node, done) in nodes[1..].iter().zip(done) {
                let plan = planner.plan(&node.snapshot());
                plan.ops[..done.index(plan.ops.len() + 1)].iter().for_each(|op| kernel.apply(op));
                kernel.check_whole();
                planner.abandon(plan);
            }
            let plan = planner.plan(&nodes[back].snapshot());
            for op in &plan.ops {
                kernel.apply(op);
                kernel.check_whole();
            }
            planner.commit(plan);
            let mut fresh = Kernel::default();
            Planner::new().plan(&nodes[back].snapshot()).ops.iter().for_each(|op| fresh.apply(op));
            prop_assert_eq!(kernel.without_generations(), fresh.without_generations());
            prop_assert_eq!(planner.plan(&nodes[back].snapshot()).ops, []);
        }
    }

    #[test]
    fn one_sick_endpoint_moves_one_service_by_one_generation() {
        let service = |id| fixture::service(id, Policy::Random, &[1, 1, 1]);
        let first = fixture::snapshot((1..=50).map(service));
        let mut planner = Planner::new();
        planner.commit(planner.plan(&first));
        let sick = fixture::with_states(first.service(ServiceId(7)).unwrap(), &[EndpointState::Unhealthy]);
        let plan = planner.plan(&first.with_services([Arc::new(sick)]));
        let shape: Vec<_> = plan
            .ops
            .iter()
            .map(|op| match op {
                MapOp::PutSlots { service, generation, slots, .. } => {
                    ("put", service.0, *generation, slots.len())
                }
                MapOp::PutService(head) => ("head", head.service.0, head.generation, 0),
                MapOp::RemoveSlots { service, generation, slot_count, .. } => {
                    ("remove", service.0, *generation, *slot_count as usize)
                }
                other => panic!("{other:?} has no place here"),
            })
            .collect();
        assert_eq!(shape, [("put", 7, 2, 2), ("head", 7, 2, 0), ("remove", 7, 1, 3)]);
    }

    #[test]
    fn a_new_rule_over_the_same_endpoints_writes_the_head_only() {
        let mut service = fixture::service(1, Policy::Random, &[1, 1]);
        let first = fixture::snapshot([service.clone()]);
        let mut planner = Planner::new();
        planner.commit(planner.plan(&first));
        service.policy = Policy::LeastRequest;
        let ops = planner.plan(&fixture::snapshot([service])).ops;
        assert!(matches!(ops[..], [MapOp::PutService(ServiceHead { generation: 1, .. })]), "{ops:?}");
    }

    #[test]
    #[should_panic(expected = "a plan holds only for what was in force when it was made")]
    fn an_outdated_plan_is_refused() {
        let mut planner = Planner::new();
        let next = fixture::snapshot([]);
        let (one, other) = (planner.plan(&next), planner.plan(&next));
        planner.commit(one);
        planner.commit(other);
    }

    /// The size that a node must bear; how long it takes is the bench's question.
    #[test]
    fn ten_thousand_services_are_planned_and_one_change_stays_one() {
        let services = (1..=10_000).map(|id| Arc::new(fixture::service(id, Policy::LeastRequest, &[1; 10])));
        let first = Snapshot::new(Version(1), Intercept::default(), Vec::new(), services);
        let mut planner = Planner::new();
        let plan = planner.plan(&first);
        assert_eq!(plan.ops.len(), 30_000);
        planner.commit(plan);
        let sick = fixture::with_states(first.service(ServiceId(5)).unwrap(), &[EndpointState::Ejected]);
        assert_eq!(planner.plan(&first.with_services([Arc::new(sick)])).ops.len(), 3);
    }

    /// The maps, as the kernel sees them.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Kernel {
        slots: BTreeMap<(ServiceId, u32, Family, u32), Slot>,
        heads: BTreeMap<ServiceId, ServiceHead>,
        addresses: BTreeMap<SocketAddr, ServiceId>,
        scopes: BTreeSet<(Treatment, Scope)>,
        ports: BTreeSet<u16>,
        cidrs: BTreeSet<crate::addr::Cidr>,
    }

    impl Kernel {
        fn apply(&mut self, op: &MapOp) {
            match op.clone() {
                MapOp::PutSlots { service, generation, family, slots } => {
                    let numbered = (0u32..).zip(slots);
                    self.slots.extend(numbered.map(|(n, slot)| ((service, generation, family, n), slot)));
                }
                MapOp::PutService(head) => drop(self.heads.insert(head.service, head)),
                MapOp::PutAddress { address, service } => drop(self.addresses.insert(address, service)),
                MapOp::RemoveAddress { address } => drop(self.addresses.remove(&address)),
                MapOp::RemoveService { service } => drop(self.heads.remove(&service)),
                MapOp::RemoveSlots { service, generation, family, slot_count } => {
                    for n in 0..slot_count {
                        self.slots.remove(&(service, generation, family, n));
                    }
                }
                MapOp::PutScope(treatment, scope) => drop(self.scopes.insert((treatment, scope))),
                MapOp::RemoveScope(treatment, scope) => drop(self.scopes.remove(&(treatment, scope))),
                MapOp::PutExcludedPort(port) => drop(self.ports.insert(port)),
                MapOp::RemoveExcludedPort(port) => drop(self.ports.remove(&port)),
                MapOp::PutExcludedCidr(cidr) => drop(self.cidrs.insert(cidr)),
                MapOp::RemoveExcludedCidr(cidr) => drop(self.cidrs.remove(&cidr)),
            }
        }

        /// Looks every address up, and every slot that a connect to it could draw.
        fn check_whole(&self) {
            for (address, service) in &self.addresses {
                let head = self.heads.get(service).unwrap_or_else(|| panic!("{address} leads to no head"));
                let family = Family::of(*address);
                let table = if family == Family::V4 { head.v4 } else { head.v6 };
                for n in 0..table.slot_count {
                    let key = (*service, head.generation, family, n);
                    assert!(self.slots.contains_key(&key), "{address} leads to the missing slot {key:?}");
                }
            }
        }

        fn is_closed(&self, scope: &Scope) -> bool {
            self.scopes.contains(&(Treatment::FailClosed, scope.clone()))
        }

        /// Checks that nothing is caught at any time that neither the old nor the new rules would catch.
        fn check_exclusions(&self, old: &Intercept, new: &Intercept) {
            let caught = self.scopes.iter().filter(|(treatment, _)| *treatment == Treatment::Caught);
            for (_, scope) in caught {
                let rules = [old, new].into_iter().filter(|r| r.scopes.contains(scope));
                let is_covered = |r: &Intercept| {
                    r.exclude_ports.iter().all(|p| self.ports.contains(p))
                        && r.exclude_cidrs.iter().all(|c| self.cidrs.contains(c))
                        && (!r.fail_closed.contains(scope) || self.is_closed(scope))
                };
                assert!(rules.into_iter().any(is_covered), "{scope:?} is caught without its rules");
            }
        }

        fn without_generations(&self) -> Self {
            let mut same = self.clone();
            same.slots = BTreeMap::new();
            for ((service, generation, family, n), slot) in &self.slots {
                assert_eq!(*generation, self.heads[service].generation, "an old slot stayed");
                same.slots.insert((*service, 0, *family, *n), *slot);
            }
            same.heads.values_mut().for_each(|head| head.generation = 0);
            same
        }
    }

    /// A small config; its pools are small so that two of them often share and exchange things.
    #[derive(Clone, Debug)]
    struct Node {
        services: BTreeMap<u32, Draft>,
        /// Which service each of the addresses belongs to.
        owners: Vec<u32>,
        intercept: Intercept,
    }

    #[derive(Clone, Debug)]
    struct Draft {
        policy: Policy,
        lane: LaneChoice,
        fail: Fail,
        endpoints: Vec<(bool, u32, EndpointState)>,
    }

    impl Node {
        fn snapshot(&self) -> Snapshot {
            let services = self.services.iter().map(|(id, draft)| {
                let mut service = fixture::service(*id, draft.policy, &[]);
                (service.lane, service.fail) = (draft.lane, draft.fail);
                service.endpoints =
                    (0..).zip(&draft.endpoints).map(|(n, e)| endpoint(id * 100 + n, *e)).collect();
                let addresses = (0..).zip(&self.owners).filter(|(_, owner)| *owner == id);
                service.addresses = addresses.map(|(n, _)| address(n)).collect();
                Arc::new(service)
            });
            Snapshot::new(Version(1), self.intercept.clone(), Vec::new(), services)
        }
    }

    fn endpoint(id: u32, (is_v4, weight, state): (bool, u32, EndpointState)) -> crate::service::Endpoint {
        let address = if is_v4 { fixture::v4(id, 80) } else { fixture::v6(id, 80) };
        let mut endpoint = fixture::endpoint(id, address, weight);
        endpoint.state = state;
        endpoint
    }

    fn address(n: u32) -> SocketAddr {
        if n.is_multiple_of(2) { fixture::service_address(n) } else { fixture::v6(1000 + n, 80) }
    }

    fn node() -> impl Strategy<Value = Node> {
        let services = prop::collection::btree_map(1..5u32, draft(), 0..4);
        let owners = prop::collection::vec(1..6u32, 8);
        (services, owners, intercept()).prop_map(|(services, owners, intercept)| Node {
            services,
            owners,
            intercept,
        })
    }

    fn draft() -> impl Strategy<Value = Draft> {
        const POLICIES: [Policy; 4] =
            [Policy::Random, Policy::LeastRequest, Policy::RoundRobin, Policy::Maglev];
        const STATES: [EndpointState; 2] = [EndpointState::Healthy, EndpointState::Unhealthy];
        let endpoint = (any::<bool>(), 0..3u32, prop::sample::select(&STATES));
        (
            prop::sample::select(&POLICIES),
            prop::sample::select(&[LaneChoice::Auto, LaneChoice::Direct, LaneChoice::Proxy]),
            prop::sample::select(&[Fail::Open, Fail::Closed]),
            prop::collection::vec(endpoint, 0..4),
        )
            .prop_map(|(policy, lane, fail, endpoints)| Draft { policy, lane, fail, endpoints })
    }

    fn intercept() -> impl Strategy<Value = Intercept> {
        let scope = (0..3).prop_map(|n| Scope::Cgroup(format!("/{n}.slice")));
        let cidr = prop::sample::select(&["10.0.0.0/8", "fd00::/8", "169.254.0.0/16"]);
        (
            prop::collection::hash_set(scope.clone(), 0..3),
            prop::collection::hash_set(scope, 0..3),
            prop::collection::vec(cidr.prop_map(|c| c.parse().unwrap()), 0..3),
            prop::collection::hash_set(50..53u16, 0..3),
        )
            .prop_map(|(scopes, fail_closed, exclude_cidrs, exclude_ports)| Intercept {
                scopes,
                fail_closed,
                exclude_cidrs,
                exclude_ports,
                ..Intercept::default()
            })
    }
}
