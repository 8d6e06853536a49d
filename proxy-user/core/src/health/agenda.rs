//! What has to happen to which endpoint at which time.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::id::EndpointId;

/// Things to do, by time. Every operation costs O(log n).
#[derive(Debug, Default)]
pub(super) struct Agenda(BTreeSet<(Instant, EndpointId, Task)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    EndEjection,
    Check,
}

impl Agenda {
    pub(super) fn insert(&mut self, due: Option<Instant>, endpoint: EndpointId, task: Task) {
        self.0.extend(due.map(|due| (due, endpoint, task)));
    }

    pub(super) fn remove(&mut self, due: Option<Instant>, endpoint: EndpointId, task: Task) {
        if let Some(due) = due {
            self.0.remove(&(due, endpoint, task));
        }
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(EndpointId, Task)> {
        let (due, endpoint, task) = *self.0.first()?;
        if due > now {
            return None;
        }
        self.0.pop_first();
        Some((endpoint, task))
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.first().map(|(due, _, _)| *due)
    }
}
