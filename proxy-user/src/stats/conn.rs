//! Counters of proxied connections: one guard and one record for each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use proxy_core::id::ServiceId;
use proxy_core::outcome::Reason;

/// Counters of every service that was ever connected to in the proxy lane. They only grow, but for `active`.
#[derive(Debug, Default)]
pub struct ConnStats {
    services: Mutex<HashMap<ServiceId, Arc<ServiceStats>>>,
    /// Connections that belong to no service: their original destination is not known.
    pub stray: Arc<ServiceStats>,
}

impl ConnStats {
    /// Finds or makes the counters of a service; workers keep what they get.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Arc<ServiceStats> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(services.entry(id).or_default())
    }

    /// Lists the counters of all services.
    #[must_use]
    pub fn all(&self) -> Vec<(ServiceId, Arc<ServiceStats>)> {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.iter().map(|(id, stats)| (*id, Arc::clone(stats))).collect()
    }
}

/// Counters of one service in the proxy lane.
#[derive(Debug, Default)]
pub struct ServiceStats {
    /// Connections accepted.
    pub opened: AtomicU64,
    /// Connections ended, by [`Reason`] in the order of [`Reason::ALL`].
    pub closed: [AtomicU64; Reason::ALL.len()],
    /// Bytes from clients to endpoints, over closed connections.
    pub sent_bytes: AtomicU64,
    /// Bytes from endpoints to clients, over closed connections.
    pub received_bytes: AtomicU64,
    /// Attempts to connect to an endpoint that failed.
    pub connect_failures: AtomicU64,
    /// Connections that went to another endpoint after a failed attempt.
    pub retried: AtomicU64,
}

impl ServiceStats {
    /// Counts the end of a connection.
    pub fn handle_end(&self, reason: Reason, sent_bytes: u64, received_bytes: u64) {
        self.sent_bytes.fetch_add(sent_bytes, Ordering::Relaxed);
        self.received_bytes.fetch_add(received_bytes, Ordering::Relaxed);
        self.closed[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Connections open now.
    #[must_use]
    pub fn active(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        self.opened.load(Ordering::Relaxed).saturating_sub(closed)
    }
}

/// Process-wide bound on descriptors: refuse politely before the kernel refuses everything.
#[derive(Debug)]
pub struct DescriptorBudget {
    most: u64,
    open: AtomicU64,
}

/// Descriptors kept for everything that is not a proxied connection: listeners, maps, pipes, logs, admin.
const RESERVED_DESCRIPTORS: u64 = 512;
/// Descriptors of one proxied connection.
const PER_CONNECTION: u64 = 2;

impl DescriptorBudget {
    /// Makes a budget below RLIMIT_NOFILE.
    #[must_use]
    pub fn new(nofile_limit: u64) -> Self {
        let most = nofile_limit.saturating_sub(RESERVED_DESCRIPTORS.min(nofile_limit / 2)) / PER_CONNECTION;
        Self { most, open: AtomicU64::new(0) }
    }

    /// Most proxied connections at once.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Proxied connections now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts one more connection unless there are too many; it is given back when the guard is dropped.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>) -> Option<BudgetGuard> {
        let more = |open| (open < self.most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(BudgetGuard(Arc::clone(self)))
    }
}

/// One connection's share of a [`DescriptorBudget`].
#[derive(Debug)]
pub struct BudgetGuard(Arc<DescriptorBudget>);

impl Drop for BudgetGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_keeps_descriptors_back_and_is_given_back() {
        let budget = Arc::new(DescriptorBudget::new(1024));
        assert_eq!(budget.most(), 256);
        let guards: Vec<_> = std::iter::from_fn(|| budget.try_acquire()).collect();
        assert_eq!(guards.len(), 256);
        assert!(budget.try_acquire().is_none());
        drop(guards);
        assert_eq!(budget.open(), 0);
    }

    #[test]
    fn reasons_index_their_own_counter() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        let stats = ConnStats::default();
        let service = stats.service(ServiceId(7));
        service.opened.fetch_add(2, Ordering::Relaxed);
        service.handle_end(Reason::Fin, 3, 4);
        assert_eq!(service.active(), 1);
        assert_eq!(stats.all().len(), 1);
    }
}
