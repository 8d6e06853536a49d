//! What becomes of connections that are open to an endpoint that failed or was removed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::id::EndpointId;
use crate::service::{EndpointLoss, EndpointState, Service};
use crate::snapshot::Snapshot;

/// Lost endpoints whose connections are reset later, in both lanes.
///
/// An endpoint is lost when it is removed, or is not healthy while health is believed. Under panic
/// ([`Service::is_panicking`]) it is not: resetting everything because no check succeeds would make an outage out of
/// a broken check.
#[derive(Debug, Default)]
pub struct Losses {
    by_time: BTreeSet<(Instant, EndpointId)>,
    due: HashMap<EndpointId, Instant>,
}

impl Losses {
    /// Begins with nothing lost.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Finds what was lost between two snapshots that follow each other, and forgives what came back.
    ///
    /// The policy is that of the old service, under which the connections were opened. An endpoint that is lost
    /// already keeps its time, except that removal of an unhealthy one is a loss of its own. A service that is the
    /// same `Arc` in both costs one look.
    pub fn handle_snapshot(&mut self, now: Instant, old: &Snapshot, new: &Snapshot) {
        let differs = |a: &Arc<Service>, b: Option<&Arc<Service>>| b.is_none_or(|b| !Arc::ptr_eq(a, b));
        for service in new.services().filter(|s| differs(s, old.service(s.id))) {
            for id in serving_ids(service) {
                self.forgive(id);
            }
        }
        for service in old.services().filter(|s| differs(s, new.service(s.id))) {
            let next = new.service(service.id).map(|s| &**s);
            for id in lost_ids(service, next) {
                self.lose(now, id, service.on_endpoint_loss);
            }
        }
    }

    /// Gives the endpoints whose open connections must be reset now, each once.
    pub fn poll_due(&mut self, now: Instant) -> Vec<EndpointId> {
        let mut due = Vec::new();
        while let Some((_, id)) = self.by_time.first().copied().filter(|(time, _)| *time <= now) {
            self.forgive(id);
            due.push(id);
        }
        due
    }

    /// Tells when [`Losses::poll_due`] has something to give.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.by_time.first().map(|(time, _)| *time)
    }

    fn lose(&mut self, now: Instant, id: EndpointId, policy: EndpointLoss) {
        let due = match policy {
            EndpointLoss::Keep => return,
            EndpointLoss::Drain(time) => now + time,
            EndpointLoss::Reset => now,
        };
        let is_earlier = self.due.get(&id).is_none_or(|known| due < *known);
        if is_earlier {
            self.forgive(id);
            self.due.insert(id, due);
            self.by_time.insert((due, id));
        }
    }

    fn forgive(&mut self, id: EndpointId) {
        if let Some(due) = self.due.remove(&id) {
            self.by_time.remove(&(due, id));
        }
    }
}

/// Endpoints whose connections may stay open; also those of weight 0, which get no new ones by the operator's wish.
fn serving_ids(service: &Service) -> impl Iterator<Item = EndpointId> {
    let is_healthy = |state| state == EndpointState::Healthy;
    let with_weight = || service.endpoints.iter().filter(|e| e.weight > 0);
    let healthy_count = with_weight().filter(|e| is_healthy(e.state)).count();
    let is_panicking = service.is_panicking(healthy_count, with_weight().count());
    service.endpoints.iter().filter(move |e| is_panicking || is_healthy(e.state)).map(|e| e.id)
}

/// Endpoints that served before and do not now, and those that are not even there now.
fn lost_ids(old: &Service, new: Option<&Service>) -> Vec<EndpointId> {
    let served: HashSet<EndpointId> = serving_ids(old).collect();
    let serves: HashSet<EndpointId> = new.into_iter().flat_map(serving_ids).collect();
    let present: HashSet<EndpointId> = new.into_iter().flat_map(|s| &s.endpoints).map(|e| e.id).collect();
    let is_lost =
        |id: &EndpointId| if served.contains(id) { !serves.contains(id) } else { !present.contains(id) };
    old.endpoints.iter().map(|e| e.id).filter(is_lost).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::EndpointState::{Ejected, Healthy, Unhealthy};
    use super::*;
    use crate::fixture;
    use crate::service::Policy;

    const DRAIN: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn keep_resets_nothing() {
        let mut run = Run::new(EndpointLoss::Keep);
        run.states(&[Unhealthy, Ejected]);
        run.remove();
        assert_eq!((run.losses.next_due(), run.after(DRAIN * 10)), (None, vec![]));
    }

    #[test]
    fn reset_is_due_at_once_for_unhealthy_ejected_and_removed_endpoints() {
        let mut run = Run::new(EndpointLoss::Reset);
        run.states(&[Unhealthy, Ejected]);
        assert_eq!(run.after(Duration::ZERO), [1001, 1002]);
        run.remove();
        assert_eq!(run.after(Duration::ZERO), [1001, 1002, 1003], "with the service");
        assert_eq!(run.after(DRAIN), [0; 0], "each once");
    }

    #[test]
    fn drain_is_due_later_and_flapping_does_not_prolong_it() {
        let mut run = Run::new(EndpointLoss::Drain(DRAIN));
        run.states(&[Unhealthy]);
        assert_eq!(run.losses.next_due(), Some(run.now + DRAIN));
        assert_eq!(run.after(DRAIN - SECOND), [0; 0]);
        run.states(&[Ejected]);
        run.remove();
        assert_eq!(run.after(SECOND), [1001]);
        assert_eq!(run.after(DRAIN - SECOND), [1002, 1003]);
    }

    #[test]
    fn an_endpoint_that_comes_back_in_time_is_forgiven() {
        let mut run = Run::new(EndpointLoss::Drain(DRAIN));
        run.states(&[Unhealthy]);
        run.after(SECOND);
        run.states(&[Healthy]);
        assert_eq!(run.losses.next_due(), None);
        run.remove();
        run.after(SECOND);
        run.show(fixture::snapshot([run.service(&[Unhealthy])]));
        assert_eq!(run.after(DRAIN), [1001], "the service came back, but not this endpoint");
    }

    #[test]
    fn the_policy_is_that_of_the_old_service() {
        let mut run = Run::new(EndpointLoss::Reset);
        let mut next = run.service(&[Unhealthy]);
        next.on_endpoint_loss = EndpointLoss::Keep;
        run.show(fixture::snapshot([next]));
        assert_eq!(run.after(Duration::ZERO), [1001]);
    }

    #[test]
    fn weight_zero_alone_is_no_loss() {
        let mut run = Run::new(EndpointLoss::Reset);
        let mut next = run.service(&[]);
        next.endpoints[0].weight = 0;
        run.show(fixture::snapshot([next]));
        assert_eq!(run.after(DRAIN), [0; 0]);
    }

    #[test]
    fn panic_is_no_reason_to_reset_but_its_end_is() {
        let mut run = Run::new(EndpointLoss::Reset);
        run.panic_percent = 50;
        run.show(fixture::snapshot([run.service(&[Unhealthy, Unhealthy, Unhealthy])]));
        assert_eq!(run.after(SECOND), [0; 0]);
        run.states(&[Unhealthy, Healthy, Healthy]);
        assert_eq!(run.after(SECOND), [1001]);
    }

    struct Run {
        losses: Losses,
        now: Instant,
        policy: EndpointLoss,
        panic_percent: u8,
        snapshot: Snapshot,
    }

    impl Run {
        fn new(policy: EndpointLoss) -> Self {
            let (now, snapshot) = (fixture::now(), fixture::snapshot([]));
            let mut run = Self { losses: Losses::new(), now, policy, panic_percent: 0, snapshot };
            run.states(&[]);
            run
        }

        fn service(&self, states: &[EndpointState]) -> Service {
            let mut service = fixture::service(1, Policy::Random, &[1, 1, 1]);
            service.on_endpoint_loss = self.policy;
            service.outlier.panic_percent = self.panic_percent;
            fixture::with_states(&service, states)
        }

        fn states(&mut self, states: &[EndpointState]) {
            self.show(fixture::snapshot([self.service(states)]));
        }

        fn remove(&mut self) {
            self.show(fixture::snapshot([]));
        }

        fn show(&mut self, next: Snapshot) {
            self.losses.handle_snapshot(self.now, &self.snapshot, &next);
            self.snapshot = next;
        }

        fn after(&mut self, time: Duration) -> Vec<u32> {
            self.now += time;
            self.losses.poll_due(self.now).into_iter().map(|id| id.0).collect()
        }
    }
}
