//! A service's tables, as the kernel reads them.

use super::{KernelPolicy, ServiceHead, Slot, SlotEndpoint, TableHead};
use crate::addr::{Family, canonical};
use crate::balance::{alias, maglev};
use crate::lane::{self, Lane};
use crate::service::{Endpoint, Fail, Policy, Service};

/// Everything about one service, a pure function of its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) v4: Vec<Slot>,
    pub(super) v6: Vec<Slot>,
}

impl Tables {
    pub(super) fn of(service: &Service) -> Self {
        let mut weights = vec![0; service.endpoints.len()];
        for index in service.usable() {
            weights[index] = service.endpoints[index].weight;
        }
        let table =
            |family| if is_used(service, family) { slots(service, &weights, family) } else { Vec::new() };
        Self { v4: table(Family::V4), v6: table(Family::V6) }
    }

    pub(super) fn slots(self) -> [(Family, Vec<Slot>); 2] {
        [(Family::V4, self.v4), (Family::V6, self.v6)]
    }

    pub(super) fn head(&self, service: &Service, generation: u32) -> ServiceHead {
        let table = |family, slots: &[Slot]| TableHead {
            lane: lane::choose(service, family).0,
            slot_count: u32::try_from(slots.len()).expect("endpoints are numbered by u32"),
        };
        ServiceHead {
            service: service.id,
            generation,
            policy: kernel_policy(service.policy),
            fail: service.fail,
            v4: table(Family::V4, &self.v4),
            v6: table(Family::V6, &self.v6),
        }
    }
}

/// What the kernel does for a policy; those that it does not know matter to it only while Weir is dead.
fn kernel_policy(policy: Policy) -> KernelPolicy {
    match policy {
        Policy::LeastRequest | Policy::LeastLatency => KernelPolicy::LeastRequest,
        Policy::Maglev => KernelPolicy::Maglev,
        Policy::Random | Policy::RoundRobin | Policy::RingHash => KernelPolicy::Random,
    }
}

/// Tells whether the kernel can ever read a service's slots of a family.
///
/// Not without an address of that family to ask for, nor where connections are refused whenever no worker takes them.
fn is_used(service: &Service, family: Family) -> bool {
    let is_asked = service.addresses.iter().any(|a| Family::of(*a) == family);
    is_asked && (lane::choose(service, family).0 == Lane::Direct || service.fail == Fail::Open)
}

/// Builds the slots over a service's endpoints of one family; `weights` is by endpoint, 0 for those not usable.
fn slots(service: &Service, weights: &[u32], family: Family) -> Vec<Slot> {
    let members = service.endpoints.iter().zip(weights).filter(|(e, _)| Family::of(e.address.0) == family);
    if kernel_policy(service.policy) == KernelPolicy::Maglev {
        // With the sick ones, since they count for the table's length.
        let members: Vec<(&Endpoint, u32)> = members.map(|(e, w)| (e, *w)).collect();
        let addresses: Vec<_> = members.iter().map(|(e, w)| (e.address, *w)).collect();
        let endpoint = |index: u32| slot_endpoint(members[index as usize].0);
        let slot = |endpoint| Slot { primary: endpoint, alias: endpoint, threshold: u32::MAX };
        return maglev::table(&addresses).into_iter().map(|index| slot(endpoint(index))).collect();
    }
    let usable: Vec<&Endpoint> = members.filter(|(_, w)| **w > 0).map(|(e, _)| e).collect();
    let weights: Vec<u32> = usable.iter().map(|e| e.weight).collect();
    let endpoint = |index: u32| slot_endpoint(usable[index as usize]);
    let slot = |s: alias::AliasSlot| Slot {
        primary: endpoint(s.primary),
        alias: endpoint(s.alias),
        threshold: s.threshold,
    };
    alias::table(&weights).into_iter().map(slot).collect()
}

fn slot_endpoint(endpoint: &Endpoint) -> SlotEndpoint {
    SlotEndpoint { id: endpoint.id, address: canonical(endpoint.address.0), weight: endpoint.weight }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::source_hash;
    use crate::fixture;
    use crate::service::EndpointState::{Healthy, Unhealthy};

    #[test]
    fn a_table_holds_the_usable_endpoints_of_its_family_only() {
        let mut service = fixture::service(1, Policy::LeastRequest, &[1, 5, 0]);
        service.addresses.push(fixture::v6(80, 80));
        service.endpoints.push(fixture::endpoint(9, fixture::v6(9, 80), 2));
        let service = fixture::with_states(&service, &[Unhealthy, Healthy]);
        let tables = Tables::of(&service);
        assert_eq!(ids(&tables.v4), [(1002, 1002, u32::MAX)]);
        assert_eq!(ids(&tables.v6), [(9, 9, u32::MAX)]);
        assert_eq!(tables.v4[0].primary.weight, 5);
        let head = tables.head(&service, 7);
        assert_eq!((head.policy, head.generation), (KernelPolicy::LeastRequest, 7));
        assert_eq!(head.v4, TableHead { lane: Lane::Proxy, slot_count: 1 });
    }

    #[test]
    fn the_direct_lane_without_usable_endpoints_has_no_slots() {
        let service = fixture::service(1, Policy::Maglev, &[1, 1]);
        let service = fixture::with_states(&service, &[Unhealthy, Unhealthy]);
        let head = Tables::of(&service).head(&service, 1);
        assert_eq!(head.v4, TableHead { lane: Lane::Direct, slot_count: 0 });
    }

    #[test]
    fn the_proxy_lane_has_slots_only_to_fail_open() {
        let mut service = fixture::service(1, Policy::RoundRobin, &[1, 1]);
        let open = Tables::of(&service);
        assert_eq!(open.head(&service, 1).policy, KernelPolicy::Random);
        assert_eq!(open.v4.len(), 2);
        service.fail = Fail::Closed;
        assert_eq!(Tables::of(&service).v4.len(), 0);
        service.policy = Policy::Random;
        assert_eq!(Tables::of(&service).v4.len(), 2, "the direct lane needs no Weir");
    }

    #[test]
    fn no_slots_for_a_family_that_nobody_can_ask_for() {
        let mut service = fixture::service(1, Policy::Random, &[1]);
        service.endpoints.push(fixture::endpoint(9, fixture::v6(9, 80), 1));
        assert_eq!(Tables::of(&service).v6, []);
    }

    #[test]
    fn maglev_in_the_kernel_picks_what_a_worker_picks() {
        use rand::SeedableRng;
        let service = fixture::service(1, Policy::Maglev, &[1, 2, 0, 3, 1]);
        let service = fixture::with_states(&service, &[Healthy, Healthy, Healthy, Unhealthy]);
        let slots = Tables::of(&service).v4;
        let rng = rand::rngs::SmallRng::seed_from_u64(1);
        let mut balancer = crate::balance::Balancer::new(&service, rng);
        for n in 0..500 {
            let client = fixture::v4(n * 77, 1);
            let picked = balancer.pick(&service, crate::addr::ClientAddr(client), &[], || 0).unwrap();
            let slot = slots[maglev::slot(source_hash(client.ip()), slots.len())];
            assert_eq!(slot.threshold, u32::MAX);
            assert_eq!(slot.primary.id, service.endpoints[picked].id);
        }
    }

    fn ids(slots: &[Slot]) -> Vec<(u32, u32, u32)> {
        slots.iter().map(|s| (s.primary.id.0, s.alias.id.0, s.threshold)).collect()
    }
}
