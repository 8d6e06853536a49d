//! Counters of HTTP requests: by service, and by the rule that they went by.
//!
//! Each worker has its own, so that counting shares no cache line with others; a scrape adds them up. A worker finds its own
//! once, when it first uses a service or rule, and keeps it beside what else it built from the snapshot.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proxy_core::grpc::Status;
use proxy_core::id::ServiceId;
use proxy_core::outcome::RequestReason;

use super::carried::{Counts, Named, Owner, Values};

/// Bounds of the histogram of durations in microseconds: those that Prometheus' clients have by default, from half a
/// millisecond to a minute. Longer ones are in a bucket of their own.
pub const BOUNDS_US: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// Words for the classes of statuses, by their first digit; the first is for requests that were not answered.
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// Rules that get counters of their own. Each makes about thirty series, and 20,000 are what one scrape target should have
/// at most; the others are counted together.
pub const MOST_RULES: usize = 500;

const BUCKET_COUNT: usize = BOUNDS_US.len() + 1;

/// What is counted beside requests and their ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Another try that a policy asked for.
    Retry,
    /// Another try because a connection that rested had been closed.
    FreshRetry,
    /// A retry that was not made because its budget or the service's bound was used up.
    RetryRefused,
    /// A connection to an endpoint took too long.
    ConnectTimeout,
    /// A try took too long.
    PerTryTimeout,
    /// A request took too long.
    RequestTimeout,
    /// A copy was sent to another service.
    Mirrored,
    /// A copy was not sent because too many were under way.
    MirrorDropped,
    /// A connection to an endpoint was made.
    ConnectionOpened,
    /// A connection to an endpoint was used again.
    ConnectionReused,
}

impl Event {
    const ALL: [Self; 10] = [
        Self::Retry,
        Self::FreshRetry,
        Self::RetryRefused,
        Self::ConnectTimeout,
        Self::PerTryTimeout,
        Self::RequestTimeout,
        Self::Mirrored,
        Self::MirrorDropped,
        Self::ConnectionOpened,
        Self::ConnectionReused,
    ];
    const COUNT: usize = Self::ALL.len();
}

/// One worker's counters of one service or rule. They only grow.
#[derive(Debug)]
#[repr(align(64))]
pub struct HttpStats {
    begun: AtomicU64,
    ends: [AtomicU64; RequestReason::ALL.len()],
    classes: [AtomicU64; CLASSES.len()],
    grpc: [AtomicU64; Status::ALL.len()],
    durations: [AtomicU64; BUCKET_COUNT],
    duration_us: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    events: [AtomicU64; Event::COUNT],
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct RequestEnd {
    /// Status that the client got, if it got one.
    pub status: Option<u16>,
    /// How it ended in the words of gRPC, if it was a call.
    pub grpc: Option<Status>,
    /// Why it ended.
    pub reason: RequestReason,
    /// From the first byte of its head to its end.
    pub duration: Duration,
    /// Bytes of bodies from the client to the endpoint.
    pub sent_bytes: u64,
    /// Bytes of bodies from the endpoint to the client.
    pub received_bytes: u64,
}

/// A request that is counted as active. Dropped without an end, as the tasks of a stopping worker are, it counts as
/// [`RequestReason::Draining`]; or as [`RequestReason::Internal`] if a bug drops it.
#[derive(Debug)]
#[must_use = "the request ends with it"]
pub struct ActiveRequest<'a>(Option<&'a HttpStats>);

impl HttpStats {
    /// Counts the begin of a request.
    pub fn begin(&self) -> ActiveRequest<'_> {
        add(&self.begun, 1);
        ActiveRequest(Some(self))
    }

    /// Counts something else.
    pub fn count(&self, event: Event) {
        add(&self.events[event as usize], 1);
    }

    fn handle_end(&self, end: &RequestEnd) {
        add(&self.ends[end.reason as usize], 1);
        let class = end.status.map_or(0, |status| usize::from(status / 100));
        add(&self.classes[if class < CLASSES.len() { class } else { 0 }], 1);
        if let Some(status) = end.grpc {
            add(&self.grpc[usize::from(status.code())], 1);
        }
        let us = u64::try_from(end.duration.as_micros()).unwrap_or(u64::MAX);
        add(&self.durations[BOUNDS_US.partition_point(|bound| *bound < us)], 1);
        add(&self.duration_us, us);
        add(&self.sent_bytes, end.sent_bytes);
        add(&self.received_bytes, end.received_bytes);
    }
}

impl Named for HttpStats {
    fn visit(&self, look: &mut dyn FnMut(&dyn Fn() -> String, &AtomicU64)) {
        // By name, so that a counter that is added is not forgotten here.
        let Self { begun, ends, classes, durations, duration_us, sent_bytes, received_bytes, events, grpc } =
            self;
        // Ends before begins, as for a scrape.
        for (reason, count) in RequestReason::ALL.iter().zip(ends) {
            look(&|| format!("ended/{}", reason.as_str()), count);
        }
        for (class, count) in CLASSES.iter().zip(classes) {
            look(&|| format!("class/{class}"), count);
        }
        let bounds = BOUNDS_US.iter().map(Some).chain([None]);
        for (bound, count) in bounds.zip(durations) {
            look(&|| bound.map_or("took/longer".to_owned(), |bound| format!("took/{bound}us")), count);
        }
        for event in Event::ALL {
            look(&|| format!("event/{event:?}"), &events[event as usize]);
        }
        for (status, count) in Status::ALL.iter().zip(grpc) {
            look(&|| format!("grpc/{}", status.as_str()), count);
        }
        look(&|| "duration_us".to_owned(), duration_us);
        look(&|| "sent_bytes".to_owned(), sent_bytes);
        look(&|| "received_bytes".to_owned(), received_bytes);
        look(&|| "begun".to_owned(), begun);
    }
}

impl Default for HttpStats {
    fn default() -> Self {
        fn zeros<const N: usize>() -> [AtomicU64; N] {
            std::array::from_fn(|_| AtomicU64::new(0))
        }
        Self {
            begun: AtomicU64::new(0),
            ends: zeros(),
            classes: zeros(),
            grpc: zeros(),
            durations: zeros(),
            duration_us: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            events: zeros(),
        }
    }
}

impl ActiveRequest<'_> {
    /// Counts the end of the request.
    pub fn handle_end(mut self, end: &RequestEnd) {
        if let Some(stats) = self.0.take() {
            stats.handle_end(end);
        }
    }
}

impl Drop for ActiveRequest<'_> {
    fn drop(&mut self) {
        if let Some(stats) = self.0 {
            let is_bug = std::thread::panicking();
            let reason = if is_bug { RequestReason::Internal } else { RequestReason::Draining };
            add(&stats.ends[reason as usize], 1);
            add(&stats.classes[0], 1);
        }
    }
}

/// Only the worker that owns the counter writes to it, so that no locked instruction is needed.
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// Counters of all services and rules that were ever used.
#[derive(Debug, Default)]
pub struct HttpRegistry {
    services: Mutex<HashMap<ServiceId, Shards>>,
    rules: Mutex<Rules>,
    /// Connections that rest without a task.
    pub parked: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Rules {
    own: HashMap<(Arc<str>, usize), Shards>,
    others: Shards,
}

/// Counters of each worker, by its index, and what earlier processes have counted.
#[derive(Debug, Default)]
struct Shards {
    workers: Vec<Option<Arc<HttpStats>>>,
    carried: Option<Arc<HttpStats>>,
}

impl Shards {
    fn of_worker(&mut self, worker: usize) -> Arc<HttpStats> {
        if self.workers.len() <= worker {
            self.workers.resize(worker + 1, None);
        }
        Arc::clone(self.workers[worker].get_or_insert_default())
    }

    /// Tells whether a worker has them in hand.
    fn is_used(&self) -> bool {
        self.workers.iter().flatten().any(|stats| Arc::strong_count(stats) > 1)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<HttpStats>> {
        self.workers.iter().flatten().chain(&self.carried)
    }

    fn export(&self) -> Values {
        let mut values = Values::new();
        self.all().for_each(|stats| stats.add_to(&mut values));
        values
    }

    fn sum(&self) -> HttpTotals {
        let mut totals = HttpTotals::default();
        self.all().for_each(|stats| totals.add(stats));
        totals
    }
}

impl HttpRegistry {
    /// Finds or makes a worker's counters of a service.
    #[must_use]
    pub fn service(&self, id: ServiceId, worker: usize) -> Arc<HttpStats> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.entry(id).or_default().of_worker(worker)
    }

    /// Finds or makes a worker's counters of a rule: by the name of its route and its index there.
    ///
    /// Of more than [`MOST_RULES`] rules those that no worker uses any more are forgotten. If that does not help, the rule is
    /// counted together with others.
    #[must_use]
    pub fn rule(&self, route: &Arc<str>, index: usize, worker: usize) -> Arc<HttpStats> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(route), index);
        if rules.own.len() >= MOST_RULES && !rules.own.contains_key(&key) {
            rules.own.retain(|_, shards| shards.is_used());
            if rules.own.len() >= MOST_RULES {
                return rules.others.of_worker(worker);
            }
        }
        rules.own.entry(key).or_default().of_worker(worker)
    }

    /// Everything that was counted, here and before.
    pub(super) fn export(&self) -> Vec<Counts> {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let of_services = services.iter().map(|(id, shards)| (Owner::Requests(id.0), shards));
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let of_rules =
            rules.own.iter().map(|((route, index), shards)| (Owner::Rule(Arc::clone(route), *index), shards));
        let all = of_services.chain(of_rules).chain([(Owner::OtherRules, &rules.others)]);
        all.map(|(owner, shards)| Counts { owner, values: shards.export() }).collect()
    }

    /// Adds what another process has counted.
    pub(super) fn import(&self, owner: &Owner, values: &Values) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let Rules { own, others } = &mut *rules;
        let shards = match owner {
            Owner::Requests(id) => services.entry(ServiceId(*id)).or_default(),
            Owner::Rule(route, index) => {
                let key = (Arc::clone(route), *index);
                let has_room = own.len() < MOST_RULES || own.contains_key(&key);
                if has_room { own.entry(key).or_default() } else { others }
            }
            _ => others,
        };
        shards.carried.get_or_insert_default().take(values);
    }

    /// Adds everything up.
    #[must_use]
    pub fn read(&self) -> HttpReading {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let services = services.iter().map(|(id, shards)| (*id, shards.sum())).collect();
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own: Vec<_> = rules
            .own
            .iter()
            .map(|((route, index), shards)| (Arc::clone(route), index.to_string(), shards.sum()))
            .collect();
        own.sort_unstable_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        if rules.others.all().next().is_some() {
            own.push((OTHERS.into(), String::new(), rules.others.sum()));
        }
        HttpReading { services, rules: own, parked: self.parked.load(Ordering::Relaxed) }
    }
}

/// What stands for the rules that are counted together. No rule is without an index, so no route's name is like it.
const OTHERS: &str = "others";

/// What one scrape shows of HTTP.
#[derive(Debug, Default)]
pub struct HttpReading {
    /// By service.
    pub services: Vec<(ServiceId, HttpTotals)>,
    /// By name of the route and index of the rule.
    pub rules: Vec<(Arc<str>, String, HttpTotals)>,
    /// Connections that rest.
    pub parked: u64,
}

/// Counters of all workers together.
#[derive(Clone, Debug)]
pub struct HttpTotals {
    begun: u64,
    ends: [u64; RequestReason::ALL.len()],
    classes: [u64; CLASSES.len()],
    grpc: [u64; Status::ALL.len()],
    /// Durations in buckets of [`BOUNDS_US`].
    pub durations: [u64; BUCKET_COUNT],
    /// Their sum in microseconds.
    pub duration_us: u64,
    /// Bytes of bodies from clients to endpoints.
    pub sent_bytes: u64,
    /// Bytes of bodies from endpoints to clients.
    pub received_bytes: u64,
    events: [u64; Event::COUNT],
}

impl Default for HttpTotals {
    fn default() -> Self {
        Self {
            begun: 0,
            ends: [0; _],
            classes: [0; _],
            grpc: [0; _],
            durations: [0; _],
            duration_us: 0,
            sent_bytes: 0,
            received_bytes: 0,
            events: [0; _],
        }
    }
}

impl HttpTotals {
    fn add(&mut self, stats: &HttpStats) {
        fn each<const N: usize>(sums: &mut [u64; N], counts: &[AtomicU64; N]) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count.load(Ordering::Relaxed));
        }
        // Ends before begins: what ends meanwhile must not make the difference negative.
        each(&mut self.ends, &stats.ends);
        each(&mut self.classes, &stats.classes);
        each(&mut self.grpc, &stats.grpc);
        each(&mut self.durations, &stats.durations);
        each(&mut self.events, &stats.events);
        self.duration_us += stats.duration_us.load(Ordering::Relaxed);
        self.sent_bytes += stats.sent_bytes.load(Ordering::Relaxed);
        self.received_bytes += stats.received_bytes.load(Ordering::Relaxed);
        self.begun += stats.begun.load(Ordering::Relaxed);
    }

    /// Requests under way.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.begun.saturating_sub(self.ends.iter().sum())
    }

    /// How often something happened.
    #[must_use]
    pub fn count(&self, event: Event) -> u64 {
        self.events[event as usize]
    }

    /// Reasons that were met, with their counts.
    pub fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = RequestReason::ALL.iter().map(|reason| reason.as_str()).zip(self.ends);
        all.filter(|(_, count)| *count > 0)
    }

    /// Statuses of gRPC that calls ended with, with their counts.
    pub fn grpc(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = Status::ALL.iter().map(|status| status.as_str()).zip(self.grpc);
        all.filter(|(_, count)| *count > 0)
    }

    /// Classes of statuses that were met, with their counts.
    pub fn classes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CLASSES.into_iter().zip(self.classes).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: RequestEnd = RequestEnd {
        status: Some(200),
        grpc: None,
        reason: RequestReason::Ok,
        duration: Duration::from_millis(3),
        sent_bytes: 10,
        received_bytes: 20,
    };

    #[test]
    fn workers_count_apart_and_are_added_up() {
        let registry = HttpRegistry::default();
        let (one, other) = (registry.service(ServiceId(7), 0), registry.service(ServiceId(7), 3));
        assert!(!Arc::ptr_eq(&one, &other) && Arc::ptr_eq(&one, &registry.service(ServiceId(7), 0)));
        one.begin().handle_end(&END);
        let active = other.begin();
        other.count(Event::Retry);
        let reading = registry.read();
        let [(ServiceId(7), totals)] = &reading.services[..] else { panic!("{reading:?}") };
        assert_eq!((totals.begun, totals.active(), totals.count(Event::Retry)), (2, 1, 1));
        assert_eq!((totals.sent_bytes, totals.received_bytes, totals.duration_us), (10, 20, 3000));
        active.handle_end(&RequestEnd { status: None, reason: RequestReason::DownstreamReset, ..END });
        let totals = registry.read().services.remove(0).1;
        assert_eq!(totals.active(), 0);
        assert_eq!(totals.reasons().collect::<Vec<_>>(), [("ok", 1), ("downstream_reset", 1)]);
        assert_eq!(totals.classes().collect::<Vec<_>>(), [("none", 1), ("2xx", 1)]);
    }

    #[test]
    fn durations_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let stats = HttpStats::default();
        let cases = [
            (Duration::ZERO, 0),
            (Duration::from_micros(500), 0),
            (Duration::from_micros(501), 1),
            (Duration::from_secs(60), 15),
            (Duration::from_secs(61), 16),
            (Duration::MAX, 16),
        ];
        for (duration, bucket) in cases {
            let before = stats.durations[bucket].load(Ordering::Relaxed);
            stats.begin().handle_end(&RequestEnd { duration, ..END });
            assert_eq!(stats.durations[bucket].load(Ordering::Relaxed), before + 1, "{duration:?}");
        }
    }

    #[test]
    fn odd_statuses_have_a_class_too() {
        let stats = HttpStats::default();
        for status in [0, 99, 600, 999, u16::MAX] {
            stats.begin().handle_end(&RequestEnd { status: Some(status), ..END });
        }
        assert_eq!(stats.classes[0].load(Ordering::Relaxed), 5);
    }

    #[test]
    fn a_request_without_an_end_does_not_stay_active() {
        let registry = HttpRegistry::default();
        let stats = registry.service(ServiceId(1), 0);
        drop(stats.begin());
        let totals = registry.read().services.remove(0).1;
        assert_eq!((totals.active(), totals.reasons().next()), (0, Some(("draining", 1))));
    }

    #[test]
    fn rules_beyond_the_bound_are_counted_together_until_others_are_not_used_any_more() {
        let registry = HttpRegistry::default();
        let route: Arc<str> = "shop".into();
        let used: Vec<_> = (0..MOST_RULES).map(|index| registry.rule(&route, index, 0)).collect();
        let other = registry.rule(&route, MOST_RULES, 1);
        other.begin().handle_end(&END);
        assert!(Arc::ptr_eq(&other, &registry.rule(&route, MOST_RULES + 1, 1)));
        assert!(Arc::ptr_eq(&used[3], &registry.rule(&route, 3, 0)), "known ones stay");
        let reading = registry.read();
        assert_eq!(reading.rules.len(), MOST_RULES + 1);
        let (name, index, totals) = reading.rules.last().unwrap();
        assert_eq!((&**name, index.as_str(), totals.begun), ("others", "", 1));
        drop(used);
        assert!(!Arc::ptr_eq(&other, &registry.rule(&route, MOST_RULES, 1)), "now there is room");
        assert_eq!(registry.read().rules.len(), 2);
    }
}
