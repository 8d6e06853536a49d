//! Counters of proxied connections: one guard and one record for each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use proxy_core::id::ServiceId;
use proxy_core::outcome::Reason;

use super::application::Applications;
use super::carried::{Carried, Named};
use super::http::HttpRegistry;

/// Counters of every service that was ever connected to in the proxy lane. They only grow, but for `active`.
#[derive(Debug, Default)]
pub struct ConnStats {
    services: Mutex<HashMap<ServiceId, Arc<ServiceStats>>>,
    /// Connections that belong to no service: their original destination is not known.
    pub stray: Arc<ServiceStats>,
    /// Counters by application.
    pub applications: Applications,
    /// Counters of requests.
    pub http: HttpRegistry,
    /// What processes before this one have counted of other things.
    pub carried: Carried,
    /// How connections came over from an older process.
    pub moved: Moved,
}

/// Connections that were taken over from an older process.
#[derive(Debug, Default)]
pub struct Moved {
    /// How many.
    pub count: AtomicU64,
    /// The longest time that one of them stood still for it, in nanoseconds.
    pub longest_pause_ns: AtomicU64,
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
#[derive(Debug)]
pub struct ServiceStats {
    /// Connections accepted.
    pub opened: AtomicU64,
    /// Connections ended, by [`Reason`] in the order of [`Reason::ALL`].
    pub closed: [AtomicU64; Reason::ALL.len()],
    /// Bytes from clients; of open connections as of the last look at them.
    pub sent_bytes: AtomicU64,
    /// Bytes for clients, likewise.
    pub received_bytes: AtomicU64,
    /// Attempts to connect to an endpoint that failed.
    pub connect_failures: AtomicU64,
    /// Connections that went to another endpoint after a failed attempt.
    pub retried: AtomicU64,
}

impl Default for ServiceStats {
    fn default() -> Self {
        Self {
            opened: AtomicU64::new(0),
            closed: std::array::from_fn(|_| AtomicU64::new(0)),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            retried: AtomicU64::new(0),
        }
    }
}

impl ServiceStats {
    /// Counts bytes, from a client and for it.
    pub fn handle_bytes(&self, sent_bytes: u64, received_bytes: u64) {
        self.sent_bytes.fetch_add(sent_bytes, Ordering::Relaxed);
        self.received_bytes.fetch_add(received_bytes, Ordering::Relaxed);
    }

    /// Counts the end of a connection.
    pub fn handle_end(&self, reason: Reason) {
        self.closed[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Connections open now.
    #[must_use]
    pub fn active(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        self.opened.load(Ordering::Relaxed).saturating_sub(closed)
    }
}

impl Named for ServiceStats {
    fn visit(&self, look: &mut dyn FnMut(&dyn Fn() -> String, &AtomicU64)) {
        look(&|| "opened".to_owned(), &self.opened);
        for (reason, count) in Reason::ALL.iter().zip(&self.closed) {
            look(&|| format!("closed/{}", reason.as_str()), count);
        }
        look(&|| "sent_bytes".to_owned(), &self.sent_bytes);
        look(&|| "received_bytes".to_owned(), &self.received_bytes);
        look(&|| "connect_failures".to_owned(), &self.connect_failures);
        look(&|| "retried".to_owned(), &self.retried);
    }
}

/// Process-wide bound on descriptors: refuse politely before the kernel refuses everything.
///
/// Connections come from sharers: Weir's own network namespace, and each other one that is served. While there is plenty
/// of room a sharer may have as many as it likes. When room is scarce only those get more that have less than an equal
/// share, so that one pod's flood leaves room for the others.
#[derive(Debug)]
pub struct DescriptorBudget {
    /// Descriptors for connections and for other namespaces.
    descriptors: u64,
    /// Connections.
    open: AtomicU64,
    sharers: AtomicU64,
    /// The sharers by the cookies of their network namespaces; Weir's own has 0.
    shares: Mutex<HashMap<u64, Weak<Share>>>,
}

/// Descriptors kept for everything that is not a proxied connection: listeners, maps, pipes, logs, admin.
const RESERVED_DESCRIPTORS: u64 = 512;
/// Descriptors of one proxied connection.
const PER_CONNECTION: u64 = 2;
/// Descriptors of another network namespace: itself, two listeners, and map and link of its program.
const PER_NAMESPACE: u64 = 5;
/// Room is scarce when so many quarters of it are taken.
const SCARCE_QUARTERS: u64 = 3;

impl DescriptorBudget {
    /// Makes a budget below RLIMIT_NOFILE.
    #[must_use]
    pub fn new(nofile_limit: u64) -> Self {
        let descriptors = nofile_limit.saturating_sub(RESERVED_DESCRIPTORS.min(nofile_limit / 2));
        Self { descriptors, open: AtomicU64::new(0), sharers: AtomicU64::new(0), shares: Mutex::default() }
    }

    /// Most proxied connections at once.
    #[must_use]
    pub fn most(&self) -> u64 {
        // The first sharer is Weir's own namespace.
        let others = self.sharers.load(Ordering::Relaxed).saturating_sub(1);
        self.descriptors.saturating_sub(others * PER_NAMESPACE) / PER_CONNECTION
    }

    /// Proxied connections now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Makes a sharer for the network namespace with this cookie, 0 for Weir's own; it is one until it and its last connection are gone.
    #[must_use]
    pub fn share(self: &Arc<Self>, netns_cookie: u64) -> Arc<Share> {
        self.sharers.fetch_add(1, Ordering::Relaxed);
        let share = Arc::new(Share { budget: Arc::clone(self), open: AtomicU64::new(0) });
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| share.strong_count() > 0);
        shares.insert(netns_cookie, Arc::downgrade(&share));
        share
    }

    /// The sharer of a network namespace, if there is one.
    #[must_use]
    pub fn find(&self, netns_cookie: u64) -> Option<Arc<Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner).get(&netns_cookie)?.upgrade()
    }

    fn has_room(&self, own: u64, open: u64) -> bool {
        let most = self.most();
        let is_scarce = open >= most / 4 * SCARCE_QUARTERS;
        open < most && (!is_scarce || own < most / self.sharers.load(Ordering::Relaxed).max(1))
    }
}

/// One network namespace's part in a [`DescriptorBudget`].
#[derive(Debug)]
pub struct Share {
    budget: Arc<DescriptorBudget>,
    /// Its connections.
    open: AtomicU64,
}

impl Share {
    /// Counts one more connection unless there are too many; it is given back when the guard is dropped.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>) -> Option<BudgetGuard> {
        let own = self.open.load(Ordering::Relaxed);
        let more = |open| self.budget.has_room(own, open).then_some(open + 1);
        self.budget.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(BudgetGuard(Arc::clone(self)))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.sharers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection's part of a [`DescriptorBudget`].
#[derive(Debug)]
pub struct BudgetGuard(Arc<Share>);

impl Drop for BudgetGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.budget.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_keeps_descriptors_back_and_is_given_back() {
        let budget = Arc::new(DescriptorBudget::new(1024));
        let home = budget.share(0);
        assert_eq!(budget.most(), 256);
        let guards: Vec<_> = std::iter::from_fn(|| home.try_acquire()).collect();
        assert_eq!(guards.len(), 256, "alone it may have everything");
        assert!(home.try_acquire().is_none());
        drop(guards);
        assert_eq!(budget.open(), 0);
    }

    #[test]
    fn a_flood_leaves_room_for_the_others() {
        let budget = Arc::new(DescriptorBudget::new(1024));
        let (_home, flood, quiet) = (budget.share(0), budget.share(1), budget.share(2));
        assert_eq!(budget.most(), 251, "namespaces cost descriptors, too");
        let guards: Vec<_> = std::iter::from_fn(|| flood.try_acquire()).collect();
        assert_eq!(guards.len(), 186, "three quarters");
        let others: Vec<_> = std::iter::from_fn(|| quiet.try_acquire()).collect();
        assert_eq!(others.len(), 65, "the rest, which is less than a third of all");
        drop(guards);
        assert!(flood.try_acquire().is_some());
        drop((flood, others));
        assert_eq!((budget.open(), budget.sharers.load(Ordering::Relaxed)), (0, 2));
    }

    #[test]
    fn reasons_index_their_own_counter() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        let stats = ConnStats::default();
        let service = stats.service(ServiceId(7));
        service.opened.fetch_add(2, Ordering::Relaxed);
        service.handle_bytes(3, 4);
        service.handle_end(Reason::Fin);
        assert_eq!(service.active(), 1);
        assert_eq!(stats.all().len(), 1);
    }
}
