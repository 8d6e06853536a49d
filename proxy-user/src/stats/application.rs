//! What each application has done: connections, bytes and requests of a pod, or of a cgroup.
//!
//! An application is a network namespace other than Weir's own, or in Weir's own a cgroup. Its counters live from its first
//! connection, or from the look that found its namespace, until it is gone and its last connection has ended.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proxy_bpf::abi::record::Record;
use proxy_bpf::abi::value::lane;
use proxy_core::outcome::Reason;
use proxy_core::rate::{Account, Exceeded};
use proxy_core::snapshot::{Quotas, Scope};
use serde::{Deserialize, Serialize};

use super::carried::{Counts, Named, Owner, Values};

/// Applications with series of their own; the others are shown as one. A kubelet runs 110 pods if nobody says otherwise, and up to 500
/// in the largest setups that are supported; each has about a dozen series.
pub const MOST_SHOWN: usize = 500;
/// Applications that are told apart at all: as many as the kernel programs know namespaces. What comes beyond is counted as one.
const MOST_APPLICATIONS: usize = 4096;

/// What tells one application from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// Cookie of its network namespace.
    Netns(u64),
    /// Id of its cgroup, in Weir's own network namespace.
    Cgroup(u64),
}

/// Which way its connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// From it, by a worker.
    Proxy,
    /// To it, by a worker.
    Inbound,
    /// From it to an endpoint.
    Direct,
    /// From it to what is no service.
    None,
}

impl Lane {
    /// All of them, in the order that tables use.
    pub const ALL: [Self; 4] = [Self::Proxy, Self::Inbound, Self::Direct, Self::None];

    /// Word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Inbound => "inbound",
            Self::Direct => "direct",
            Self::None => "none",
        }
    }
}

/// Counters of one application.
#[derive(Debug)]
pub struct Application {
    lanes: [Flow; Lane::ALL.len()],
    /// Connections that Weir refused, by reason in the order of [`Reason::ALL`].
    refused: [AtomicU64; Reason::ALL.len()],
    requests: AtomicU64,
    account: Account,
}

#[derive(Debug, Default)]
struct Flow {
    opened: AtomicU64,
    ended: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl Default for Application {
    fn default() -> Self {
        Self {
            lanes: Default::default(),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            requests: AtomicU64::new(0),
            account: Account::default(),
        }
    }
}

impl Application {
    /// Counts a connection for as long as the guard lives.
    #[must_use]
    pub fn attend(self: &Arc<Self>, lane: Lane) -> Attending {
        self.lanes[lane as usize].opened.fetch_add(1, Ordering::Relaxed);
        self.go_on(lane)
    }

    /// The same for a connection that another process has counted already.
    #[must_use]
    pub fn go_on(self: &Arc<Self>, lane: Lane) -> Attending {
        Attending {
            application: Arc::clone(self),
            lane,
            is_moved: Cell::new(false),
            has_entered: Cell::new(false),
        }
    }

    /// Counts a connection that was refused before anything else was done for it.
    pub fn refuse(self: &Arc<Self>, lane: Lane, reason: Reason) {
        self.attend(lane).handle_end(reason, 0, 0);
    }

    /// What it has used up of what it may have.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Counts a request that has ended.
    pub fn handle_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection of which no worker knew.
    fn handle_record(&self, lane: Lane, record: &Record) {
        let flow = &self.lanes[lane as usize];
        flow.opened.fetch_add(1, Ordering::Relaxed);
        flow.add_end(record.tcp.sent_bytes, record.tcp.received_bytes);
        flow.ended.fetch_add(1, Ordering::Relaxed);
    }

    fn is_in_use(&self) -> bool {
        self.lanes.iter().any(|flow| flow.active() > 0)
    }
}

impl Flow {
    fn active(&self) -> u64 {
        // The end is read first: it comes after the begin.
        let ended = self.ended.load(Ordering::Acquire);
        self.opened.load(Ordering::Relaxed).saturating_sub(ended)
    }

    fn add_end(&self, sent_bytes: u64, received_bytes: u64) {
        self.sent_bytes.fetch_add(sent_bytes, Ordering::Relaxed);
        self.received_bytes.fetch_add(received_bytes, Ordering::Relaxed);
    }
}

impl Named for Application {
    fn visit(&self, look: &mut dyn FnMut(&dyn Fn() -> String, &AtomicU64)) {
        for (lane, flow) in Lane::ALL.iter().zip(&self.lanes) {
            let name = |what| format!("{}/{what}", lane.as_str());
            look(&|| name("opened"), &flow.opened);
            look(&|| name("ended"), &flow.ended);
            look(&|| name("sent_bytes"), &flow.sent_bytes);
            look(&|| name("received_bytes"), &flow.received_bytes);
        }
        for (reason, count) in Reason::ALL.iter().zip(&self.refused) {
            look(&|| format!("refused/{}", reason.as_str()), count);
        }
        look(&|| "requests".to_owned(), &self.requests);
    }
}

/// A connection that is counted as one of its application until this is dropped.
#[derive(Debug)]
pub struct Attending {
    application: Arc<Application>,
    lane: Lane,
    is_moved: Cell<bool>,
    /// It is counted as open against the bounds of its application.
    has_entered: Cell<bool>,
}

impl Attending {
    /// Whose it is.
    #[must_use]
    pub fn application(&self) -> &Arc<Application> {
        &self.application
    }

    /// Whether what its application may have bounds it: what comes to an application has bounds of its own.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.lane == Lane::Proxy
    }

    /// Counts it against what its application may have, and says how long it has to wait.
    ///
    /// # Errors
    /// Why it is not to be served.
    pub fn try_enter(&self, now_ns: u64) -> Result<Duration, Reason> {
        if !self.is_bounded() {
            return Ok(Duration::ZERO);
        }
        let wait = self.application.account.try_open(now_ns).map_err(|exceeded| match exceeded {
            Exceeded::Connections => Reason::ApplicationLimit,
            Exceeded::Rate => Reason::ApplicationRate,
        })?;
        self.has_entered.set(true);
        Ok(wait)
    }

    /// Counts it there, whatever the bounds are: it has been served before.
    pub fn go_on(&self) {
        if self.is_bounded() {
            self.application.account.go_on();
            self.has_entered.set(true);
        }
    }

    /// Counts what it moved, and why it ended if it was refused.
    pub fn handle_end(&self, reason: Reason, sent_bytes: u64, received_bytes: u64) {
        self.application.lanes[self.lane as usize].add_end(sent_bytes, received_bytes);
        if reason.is_refusal() {
            self.application.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says that another process goes on with it, and counts its end.
    pub fn handle_move(&self) {
        self.is_moved.set(true);
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        if self.has_entered.get() {
            self.application.account.close();
        }
        if !self.is_moved.get() {
            self.application.lanes[self.lane as usize].ended.fetch_add(1, Ordering::Release);
        }
    }
}

/// The applications of the node.
#[derive(Debug, Default)]
pub struct Applications {
    entries: Mutex<HashMap<Key, Entry>>,
    /// What each may have, by the scopes that it is known by. Locked after `entries`.
    quotas: Mutex<Quotas>,
    /// Those that have no counters of their own, now or any more.
    rest: Arc<Application>,
}

#[derive(Debug, Default)]
struct Entry {
    application: Arc<Application>,
    face: Option<Face>,
    is_gone: bool,
}

/// What an application is called.
#[derive(Debug)]
struct Face {
    name: Arc<str>,
    known_as: Vec<Scope>,
    /// It has series of its own. Never changed, so that what is shown as one never goes back.
    is_shown: bool,
}

impl Applications {
    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds or makes the counters of an application.
    #[must_use]
    pub fn find(&self, key: Key) -> Arc<Application> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&key) {
            return Arc::clone(&entry.application);
        }
        if entries.len() >= MOST_APPLICATIONS {
            return Arc::clone(&self.rest);
        }
        let entry = entries.entry(key).or_default();
        self.bound(entry);
        Arc::clone(&entry.application)
    }

    /// Says what applications may have from now on.
    pub fn set_quotas(&self, quotas: &Quotas) {
        let entries = self.entries();
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner).clone_from(quotas);
        entries.values().for_each(|entry| self.bound(entry));
    }

    fn bound(&self, entry: &Entry) {
        let known_as = entry.face.as_ref().map_or(&[][..], |face| &face.known_as);
        let quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        entry.application.account.set(quotas.of(known_as));
    }

    /// The counters of an application, if there is one with this key; else those of the rest. A namespace is found by a look and not by
    /// its connections: one that is not served has no counters.
    #[must_use]
    pub fn known(&self, key: Key) -> Arc<Application> {
        match key {
            Key::Cgroup(_) => self.find(key),
            Key::Netns(_) => {
                let entries = self.entries();
                Arc::clone(entries.get(&key).map_or(&self.rest, |entry| &entry.application))
            }
        }
    }

    /// Says what an application is called, and by which scopes it is known; finds or makes its counters.
    pub fn name(&self, key: Key, name: &str, known_as: Vec<Scope>) -> Arc<Application> {
        let application = self.find(key);
        let mut entries = self.entries();
        let is_own = |entry: &Entry| entry.face.as_ref().is_some_and(|face| face.is_shown);
        let shown_count = entries.values().filter(|entry| is_own(entry)).count();
        if let Some(entry) = entries.get_mut(&key) {
            let is_shown = entry.face.as_ref().map_or(shown_count < MOST_SHOWN, |face| face.is_shown);
            entry.face = Some(Face { name: name.into(), known_as, is_shown });
            entry.is_gone = false;
            self.bound(entry);
        }
        application
    }

    /// Cgroups that nobody has named yet.
    #[must_use]
    pub fn nameless_cgroups(&self) -> Vec<u64> {
        let entries = self.entries();
        let nameless = entries.iter().filter(|(_, entry)| entry.face.is_none() && !entry.is_gone);
        nameless.filter_map(|(key, _)| if let Key::Cgroup(id) = key { Some(*id) } else { None }).collect()
    }

    /// Cgroups that have a name, with their paths.
    #[must_use]
    pub fn cgroups(&self) -> Vec<(u64, String)> {
        let entries = self.entries();
        let of = |(key, entry): (&Key, &Entry)| match (key, entry.face.as_ref()?.known_as.first()?) {
            (Key::Cgroup(id), Scope::Cgroup(path)) => Some((*id, path.clone())),
            _ => None,
        };
        entries.iter().filter_map(of).collect()
    }

    /// Says that an application is gone: its counters go when its last connection has ended.
    pub fn leave(&self, key: Key) {
        if let Some(entry) = self.entries().get_mut(&key) {
            entry.is_gone = true;
        }
    }

    /// Forgets those that are gone.
    pub fn sweep(&self) {
        let mut entries = self.entries();
        // Whoever has found it and not counted yet holds it, too.
        let is_over = |entry: &Entry| {
            entry.is_gone && !entry.application.is_in_use() && Arc::strong_count(&entry.application) == 1
        };
        let over: Vec<Entry> =
            entries.extract_if(|_, entry| is_over(entry)).map(|(_, entry)| entry).collect();
        for Entry { application, face, .. } in over {
            let heir = match face.filter(|face| face.is_shown) {
                None => Some(&self.rest),
                // Another container, or the pod's next life: series of the same name must not go back.
                Some(face) => {
                    let is_heir = |other: &&Entry| {
                        other.face.as_ref().is_some_and(|other| other.is_shown && other.name == face.name)
                    };
                    entries.values().find(is_heir).map(|entry| &entry.application)
                }
            };
            if let Some(heir) = heir {
                let mut values = Values::new();
                application.add_to(&mut values);
                heir.take(&values);
            }
        }
    }

    /// Counts a connection of which the kernel programs alone knew; `home` is the cookie of Weir's own network namespace.
    pub fn handle_record(&self, record: &Record, home: u64) {
        let lane = match record.facts.lane {
            lane::DIRECT => Lane::Direct,
            lane::NONE => Lane::None,
            _ => return,
        };
        let facts = &record.facts;
        let key = if facts.netns_cookie == home {
            Key::Cgroup(facts.cgroup_id)
        } else {
            Key::Netns(facts.netns_cookie)
        };
        self.known(key).handle_record(lane, record);
    }

    pub(super) fn export(&self) -> Vec<Counts> {
        let counts = |key: Option<Key>, application: &Application| {
            let mut values = Values::new();
            application.add_to(&mut values);
            Counts { owner: Owner::Application(key), values }
        };
        let entries = self.entries();
        let own = entries.iter().map(|(key, entry)| counts(Some(*key), &entry.application));
        own.chain([counts(None, &self.rest)]).collect()
    }

    pub(super) fn import(&self, key: Option<Key>, values: &Values) {
        key.map_or_else(|| Arc::clone(&self.rest), |key| self.known(key)).take(values);
    }

    /// Everything that a scrape shows.
    #[must_use]
    pub fn read(&self) -> ApplicationsReading {
        let mut reading = ApplicationsReading::default();
        reading.rest.add(&self.rest);
        for entry in self.entries().values() {
            // One without a name shows when it has got it.
            let Some(face) = &entry.face else { continue };
            if face.is_shown {
                reading.own.entry(Arc::clone(&face.name)).or_default().add(&entry.application);
                reading.own_count += 1;
            } else {
                reading.rest.add(&entry.application);
                reading.rest_count += 1;
            }
        }
        reading
    }
}

/// What a scrape shows of all applications.
#[derive(Debug, Default)]
pub struct ApplicationsReading {
    /// By name; several cgroups of one pod have the same.
    pub own: std::collections::BTreeMap<Arc<str>, ApplicationTotals>,
    /// Of all others together.
    pub rest: ApplicationTotals,
    /// Applications with series of their own.
    pub own_count: u64,
    /// Applications that are shown together, as far as they are told apart.
    pub rest_count: u64,
}

/// Counters of one application as they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationTotals {
    /// By [`Lane`] in the order of [`Lane::ALL`].
    pub lanes: [FlowTotals; Lane::ALL.len()],
    /// By [`Reason`] in the order of [`Reason::ALL`].
    pub refused: [u64; Reason::ALL.len()],
    /// Requests that have ended.
    pub requests: u64,
}

/// Counters of one application in one lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTotals {
    /// Connections that began; in the lanes of the kernel, that ended.
    pub opened: u64,
    /// Open now; zero in the lanes of the kernel.
    pub active: u64,
    /// Bytes from clients to servers, over closed connections.
    pub sent_bytes: u64,
    /// Bytes from servers to clients, likewise.
    pub received_bytes: u64,
}

impl Default for ApplicationTotals {
    fn default() -> Self {
        Self { lanes: Default::default(), refused: [0; Reason::ALL.len()], requests: 0 }
    }
}

impl ApplicationTotals {
    fn add(&mut self, application: &Application) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for (sum, flow) in self.lanes.iter_mut().zip(&application.lanes) {
            sum.active += flow.active();
            sum.opened += read(&flow.opened);
            sum.sent_bytes += read(&flow.sent_bytes);
            sum.received_bytes += read(&flow.received_bytes);
        }
        self.refused.iter_mut().zip(&application.refused).for_each(|(sum, count)| *sum += read(count));
        self.requests += read(&application.requests);
    }
}

#[cfg(test)]
mod tests {
    use proxy_bpf::abi::record::Tcp;
    use proxy_bpf::abi::value::Facts;
    use proxy_core::rate::Quota;
    use proxy_core::snapshot::ScopedQuota;

    use super::*;

    const HOME: u64 = 1;

    fn totals(applications: &Applications, name: &str) -> Option<ApplicationTotals> {
        applications.read().own.get(name).cloned()
    }

    #[test]
    fn counters_live_until_their_application_is_gone_and_its_last_connection_has_ended() {
        let applications = Applications::default();
        let pod = applications.name(Key::Netns(7), "shop/web-1", Vec::new());
        let open = pod.attend(Lane::Proxy);
        pod.handle_request();
        pod.refuse(Lane::Proxy, Reason::Limit);
        drop(pod);
        let read = totals(&applications, "shop/web-1").unwrap();
        let flow = read.lanes[Lane::Proxy as usize];
        assert_eq!((flow.opened, flow.active, read.requests), (2, 1, 1));
        assert_eq!(read.refused[Reason::Limit as usize], 1);
        applications.leave(Key::Netns(7));
        applications.sweep();
        assert!(totals(&applications, "shop/web-1").is_some(), "a connection is open");
        open.handle_end(Reason::Fin, 10, 20);
        drop(open);
        let flow = totals(&applications, "shop/web-1").unwrap().lanes[Lane::Proxy as usize];
        assert_eq!((flow.active, flow.sent_bytes, flow.received_bytes), (0, 10, 20));
        applications.sweep();
        assert!(totals(&applications, "shop/web-1").is_none());
    }

    #[test]
    fn beyond_the_bounds_all_are_counted_as_one_that_never_goes_back() {
        let applications = Applications::default();
        let count = MOST_APPLICATIONS + 10;
        for id in 0..count {
            drop(applications.find(Key::Cgroup(id as u64)).attend(Lane::Proxy));
            applications.name(Key::Cgroup(id as u64), &id.to_string(), Vec::new());
        }
        let opened = |applications: &Applications| applications.read().rest.lanes[0].opened;
        let reading = applications.read();
        assert_eq!((reading.own.len(), reading.own_count), (MOST_SHOWN, MOST_SHOWN as u64));
        assert_eq!(reading.rest_count, (MOST_APPLICATIONS - MOST_SHOWN) as u64);
        assert_eq!(opened(&applications), (count - MOST_SHOWN) as u64);
        for id in 0..count {
            applications.leave(Key::Cgroup(id as u64));
        }
        applications.sweep();
        assert_eq!(opened(&applications), (count - MOST_SHOWN) as u64, "those that are gone stay in the sum");
        applications.name(Key::Netns(1), "new", Vec::new());
        assert_eq!(applications.read().own.len(), 1, "there is room again");
    }

    #[test]
    fn whoever_has_the_same_name_goes_on_from_what_was_counted() {
        let applications = Applications::default();
        for id in [1, 2] {
            applications.name(Key::Cgroup(id), "shop/db-0", Vec::new()).refuse(Lane::Proxy, Reason::Limit);
        }
        applications.leave(Key::Cgroup(1));
        applications.sweep();
        assert_eq!(applications.read().own_count, 1);
        assert_eq!(totals(&applications, "shop/db-0").unwrap().lanes[0].opened, 2);
    }

    #[test]
    fn connections_that_no_worker_saw_are_counted_by_namespace_and_at_home_by_cgroup() {
        let applications = Applications::default();
        applications.name(Key::Netns(7), "pod", Vec::new());
        applications.name(Key::Cgroup(5), "/app", Vec::new());
        let record = |netns_cookie, lane| Record {
            facts: Facts { netns_cookie, cgroup_id: 5, lane, ..Facts::default() },
            tcp: Tcp { sent_bytes: 3, received_bytes: 4, ..Tcp::default() },
        };
        for (netns_cookie, lane) in
            [(7, lane::DIRECT), (7, lane::PROXY), (HOME, lane::NONE), (9, lane::DIRECT)]
        {
            applications.handle_record(&record(netns_cookie, lane), HOME);
        }
        let one = FlowTotals { opened: 1, active: 0, sent_bytes: 3, received_bytes: 4 };
        let none = FlowTotals::default();
        assert_eq!(totals(&applications, "pod").unwrap().lanes, [none, none, one, none]);
        assert_eq!(totals(&applications, "/app").unwrap().lanes, [none, none, none, one]);
        assert_eq!(applications.read().rest.lanes, [none, none, one, none], "a namespace that is not served");
    }

    #[test]
    fn bounds_are_those_of_the_first_entry_that_is_for_an_application() {
        let applications = Applications::default();
        let of = |path: &str| vec![Scope::Cgroup(path.to_owned())];
        let most = |count| Quota { max_connections: Some(count), ..Quota::default() };
        let quotas = [(of("/a/b"), most(1)), (of("/a"), Quota::default()), (Vec::new(), most(2))];
        let early = applications.name(Key::Cgroup(1), "early", of("/a/b/c"));
        applications
            .set_quotas(&quotas.into_iter().map(|(scopes, quota)| ScopedQuota { scopes, quota }).collect());
        let free = applications.name(Key::Cgroup(2), "free", of("/a/x"));
        let other = applications.find(Key::Cgroup(3));
        let enter = |application: &Arc<Application>| {
            let connections: Vec<_> = (0..9).map(|_| application.attend(Lane::Proxy)).collect();
            let entered = connections.iter().filter(|one| one.try_enter(1) == Ok(Duration::ZERO)).count();
            assert!(
                connections[entered..].iter().all(|one| one.try_enter(1) == Err(Reason::ApplicationLimit))
            );
            entered
        };
        assert_eq!([&early, &free, &other].map(enter), [1, 9, 2]);
        assert_eq!([&early, &free, &other].map(enter), [1, 9, 2], "they are given back");
        applications.name(Key::Cgroup(3), "late", of("/a/b"));
        assert_eq!(enter(&other), 1, "its name is known now");
        let inbound = other.attend(Lane::Inbound);
        assert!((0..9).all(|_| inbound.try_enter(1).is_ok()), "that has bounds of its own");
    }

    #[test]
    fn a_connection_that_moved_is_ended_by_the_process_that_has_it() {
        let (older, newer) = (Applications::default(), Applications::default());
        let [one, other] = [&older, &newer].map(|one| one.name(Key::Netns(7), "pod", Vec::new()));
        let moving = one.attend(Lane::Proxy);
        moving.handle_move();
        drop(moving);
        older.export().iter().for_each(|counts| match counts.owner {
            Owner::Application(key) => newer.import(key, &counts.values),
            _ => panic!("{counts:?}"),
        });
        let arrived = other.go_on(Lane::Proxy);
        let flow = || totals(&newer, "pod").unwrap().lanes[0];
        assert_eq!((flow().opened, flow().active), (1, 1));
        drop(arrived);
        assert_eq!((flow().opened, flow().active), (1, 0));
    }
}
