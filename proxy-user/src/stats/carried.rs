//! Counters as one process says them to the next, so that none goes back when a newer one takes over.
//!
//! Each value has a name that means the same in every version; a name that the other does not know is left out. What is said are
//! differences: first from nothing, then from what was said before, as long as the older process still counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proxy_core::health::EndpointReport;
use proxy_core::id::ServiceId;
use proxy_io::DriverCounters;
use serde::{Deserialize, Serialize};

use super::application::Key;
use super::conn::ConnStats;

/// Reloads that succeeded, of [`Owner::Process`].
pub const RELOADS: &str = "reloads";
/// Reloads that failed, likewise.
pub const RELOAD_FAILURES: &str = "reload_failures";
/// Answers of the kubelet, likewise.
pub const KUBELET_ANSWERS: &str = "kubelet_answers";
/// Questions that it did not answer, likewise.
pub const KUBELET_FAILURES: &str = "kubelet_failures";
/// Records that the access log lost, likewise.
pub const ACCESS_LOG_DROPPED: &str = "access_log_dropped";

/// Whose counters they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// Connections of a service, by its number; 0 is of no service.
    Connections(u32),
    /// Requests of a service, likewise.
    Requests(u32),
    /// Requests of a rule, by its route and its index there.
    Rule(Arc<str>, usize),
    /// Requests of rules that are counted together.
    OtherRules,
    /// What an application has done; without a key, all those that are counted together.
    Application(Option<Key>),
    /// Health of a service's endpoints.
    Health(u32),
    /// The driver of a worker, by its index.
    Driver(usize),
    /// The process as a whole.
    Process,
}

/// Counters by name; those that are zero are left out.
pub type Values = BTreeMap<String, u64>;

/// The counters of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Whose they are.
    pub owner: Owner,
    /// What they say.
    pub values: Values,
}

impl Counts {
    /// Makes a list of words and values into counters.
    #[must_use]
    pub fn new(owner: Owner, values: &[(&str, u64)]) -> Self {
        let some = values.iter().filter(|(_, value)| *value > 0);
        Self { owner, values: some.map(|(name, value)| ((*name).to_owned(), *value)).collect() }
    }

    /// What a worker's driver has counted.
    #[must_use]
    pub fn of_driver(index: usize, driver: &DriverCounters) -> Self {
        let DriverCounters { starvations, submissions, completions, enters, .. } = *driver;
        let values = [
            ("starvations", starvations),
            ("submissions", submissions),
            ("completions", completions),
            ("enters", enters),
        ];
        Self::new(Owner::Driver(index), &values)
    }

    /// What was counted of the health of services.
    #[must_use]
    pub fn of_health(reports: &[EndpointReport]) -> Vec<Self> {
        let mut all: BTreeMap<u32, [u64; 3]> = BTreeMap::new();
        for report in reports {
            let sums = all.entry(report.service.0).or_default();
            let more = [report.checks_total, report.failures_total, report.ejections_total];
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        let named = |(id, [checks, failures, ejections]): (u32, [u64; 3])| {
            let values = [("checks", checks), ("failures", failures), ("ejections", ejections)];
            Self::new(Owner::Health(id), &values)
        };
        all.into_iter().map(named).collect()
    }
}

/// What can be said to another process counter by counter.
pub(super) trait Named {
    /// Shows each counter with its name.
    fn visit(&self, look: &mut dyn FnMut(&dyn Fn() -> String, &AtomicU64));

    /// Adds what they say to `values`.
    fn add_to(&self, values: &mut Values) {
        self.visit(&mut |name, counter| {
            let value = counter.load(Ordering::Relaxed);
            if value > 0 {
                *values.entry(name()).or_default() += value;
            }
        });
    }

    /// Adds `values` to them.
    fn take(&self, values: &Values) {
        self.visit(&mut |name, counter| {
            if let Some(value) = values.get(&name()) {
                counter.fetch_add(*value, Ordering::Relaxed);
            }
        });
    }
}

/// What was said so far.
#[derive(Debug, Default)]
pub struct Ledger(HashMap<Owner, Values>);

impl Ledger {
    /// What has to be said now so that the other knows `now`, which is at least what was said before.
    pub fn difference(&mut self, now: Vec<Counts>) -> Vec<Counts> {
        let news = now.into_iter().filter_map(|mut counts| {
            let said = self.0.entry(counts.owner.clone()).or_default();
            counts.values.retain(|name, value| {
                let before = said.insert(name.clone(), *value).unwrap_or(0);
                *value = value.saturating_sub(before);
                *value > 0
            });
            (!counts.values.is_empty()).then_some(counts)
        });
        news.collect()
    }
}

impl ConnStats {
    /// Everything that workers have counted of connections and requests, and processes before this one.
    #[must_use]
    pub fn export(&self) -> Vec<Counts> {
        let stray = [(ServiceId(0), Arc::clone(&self.stray))];
        let of_services = self.all().into_iter().chain(stray).map(|(id, stats)| {
            let mut values = Values::new();
            stats.add_to(&mut values);
            Counts { owner: Owner::Connections(id.0), values }
        });
        let mut all: Vec<Counts> = of_services.collect();
        all.extend(self.http.export());
        all.extend(self.applications.export());
        all
    }

    /// Goes on from what another process has counted. Called from one thread at a time.
    pub fn import(&self, counts: &Counts) {
        let Counts { owner, values } = counts;
        match owner {
            Owner::Connections(0) => self.stray.take(values),
            Owner::Connections(id) => self.service(ServiceId(*id)).take(values),
            Owner::Requests(_) | Owner::Rule(..) | Owner::OtherRules => self.http.import(owner, values),
            Owner::Application(key) => self.applications.import(*key, values),
            Owner::Health(_) | Owner::Driver(_) | Owner::Process => self.carried.add(owner, values),
        }
    }
}

/// Counters of what has no place of its own here, as earlier processes have left them.
#[derive(Debug, Default)]
pub struct Carried(std::sync::Mutex<HashMap<Owner, Values>>);

impl Carried {
    fn add(&self, owner: &Owner, values: &Values) {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = all.entry(owner.clone()).or_default();
        for (name, value) in values {
            *known.entry(name.clone()).or_default() += value;
        }
    }

    /// What earlier processes and this one have counted of a driver.
    #[must_use]
    pub fn with_driver(&self, index: usize, own: DriverCounters) -> DriverCounters {
        let values = self.values(&Owner::Driver(index));
        let before = |name: &str| values.get(name).copied().unwrap_or(0);
        DriverCounters {
            starvations: own.starvations + before("starvations"),
            submissions: own.submissions + before("submissions"),
            completions: own.completions + before("completions"),
            enters: own.enters + before("enters"),
            ..own
        }
    }

    /// What earlier processes have counted under this name, of the process as a whole.
    #[must_use]
    pub fn of_process(&self, name: &str) -> u64 {
        self.values(&Owner::Process).get(name).copied().unwrap_or(0)
    }

    /// What of all this, and of what this process counts in such places, has to be said to the next one.
    #[must_use]
    pub fn export(&self, own: Vec<Counts>) -> Vec<Counts> {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        for Counts { owner, values } in own {
            let known = all.entry(owner).or_default();
            for (name, value) in values {
                *known.entry(name).or_default() += value;
            }
        }
        all.into_iter().map(|(owner, values)| Counts { owner, values }).collect()
    }

    /// What earlier processes have counted of this.
    #[must_use]
    fn values(&self, owner: &Owner) -> Values {
        let all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.get(owner).cloned().unwrap_or_default()
    }

    /// Services whose health they have counted.
    #[must_use]
    pub fn health(&self) -> Vec<(ServiceId, Values)> {
        let all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let of_health = all.iter().filter_map(|(owner, values)| match owner {
            Owner::Health(id) => Some((ServiceId(*id), values.clone())),
            _ => None,
        });
        of_health.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_core::outcome::{Reason, RequestReason};
    use std::time::Duration;

    use crate::stats::http::{Event, RequestEnd};

    fn counted() -> ConnStats {
        let stats = ConnStats::default();
        let service = stats.service(ServiceId(7));
        service.opened.fetch_add(3, Ordering::Relaxed);
        service.handle_bytes(10, 20);
        service.handle_end(Reason::Fin);
        stats.stray.opened.fetch_add(1, Ordering::Relaxed);
        let http = stats.http.service(ServiceId(7), 0);
        let end = RequestEnd {
            status: Some(200),
            reason: RequestReason::Ok,
            duration: Duration::from_millis(3),
            sent_bytes: 1,
            received_bytes: 2,
            grpc: None,
        };
        http.begin().handle_end(&end);
        http.count(Event::Retry);
        stats.http.rule(&"shop".into(), 4, 1).begin().handle_end(&end);
        stats
    }

    /// As text, because that is how they travel.
    fn through(counts: Vec<Counts>) -> Vec<Counts> {
        serde_json::from_slice(&serde_json::to_vec(&counts).unwrap()).unwrap()
    }

    fn sorted(stats: &ConnStats) -> Vec<String> {
        let mut all: Vec<String> = stats
            .export()
            .iter()
            .filter(|counts| !counts.values.is_empty())
            .map(|counts| format!("{counts:?}"))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn another_process_goes_on_from_everything_that_was_counted() {
        let (older, newer) = (counted(), ConnStats::default());
        let mut ledger = Ledger::default();
        through(ledger.difference(older.export())).iter().for_each(|counts| newer.import(counts));
        assert_eq!(sorted(&newer), sorted(&older));
        assert!(sorted(&newer).len() == 4, "{:?}", sorted(&newer));
        let service = newer.service(ServiceId(7));
        assert_eq!((service.active(), service.sent_bytes.load(Ordering::Relaxed)), (2, 10));
        let totals = newer.http.read().services.remove(0).1;
        assert_eq!((totals.active(), totals.count(Event::Retry), totals.duration_us), (0, 1, 3000));

        // What the older one still counts, once.
        older.service(ServiceId(7)).handle_bytes(0, 5);
        older.service(ServiceId(7)).handle_end(Reason::Drained);
        let more = through(ledger.difference(older.export()));
        assert_eq!(more.len(), 1);
        more.iter().for_each(|counts| newer.import(counts));
        assert_eq!(sorted(&newer), sorted(&older));
        assert!(ledger.difference(older.export()).is_empty());
    }

    #[test]
    fn what_the_other_version_does_not_know_is_left_out() {
        let stats = ConnStats::default();
        stats.import(&Counts::new(Owner::Connections(1), &[("opened", 2), ("sung", 3), ("closed/bored", 4)]));
        assert_eq!(stats.service(ServiceId(1)).active(), 2);
    }
}
