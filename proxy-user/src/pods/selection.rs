//! Pods of this node, what is known of them, and which of them scopes mean.
//!
//! A pod is known by the uid in the path of its cgroup. Its namespace is read from the folders of logs that kubelets
//! keep; labels the kubelet tells, if a scope asks for any. What was known of a pod stays so for as long as it has a
//! cgroup: a kubelet that is away, or has just begun and does not know its pods yet, changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_bpf::cgroup::Hierarchy;
use proxy_core::pod::{Labels, PodCgroup};
use proxy_core::snapshot::{Scope, Snapshot, Treatment};

use super::kubelet::KubeletError;
use super::list::ListedPod;
use super::schedule::{Answer, Schedule};
use super::walk::{Below, Walk};
use crate::record::pod;

/// Pods and what scopes say of them.
pub struct Selection {
    mount: PathBuf,
    logs: PathBuf,
    walk: Walk,
    /// Directories that hold the cgroups of pods, and how they looked.
    parents: Vec<(PathBuf, Option<Look>)>,
    /// Every choice of pods in the configuration.
    wanted: BTreeSet<Scope>,
    needs_labels: bool,
    /// Uid of each pod by the path of its cgroup below the mount.
    cgroups: BTreeMap<String, String>,
    /// By uid. Of those who have no cgroup (yet) only what the kubelet said last.
    identities: HashMap<String, Identity>,
    /// The choices that mean each pod, by its cgroup; the others are left out.
    chosen: Arc<BTreeMap<String, Vec<Scope>>>,
    schedule: Schedule,
    told: Told,
}

/// Number of links, which tells of cgroups (kernfs), and time of the last change, which tells of other directories.
type Look = (u64, i64, i64);

/// What is known of a pod.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    namespace: String,
    labels: Option<Labels>,
}

/// What the kubelet has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    answers: u64,
    failures: u64,
    error: Option<String>,
}

/// What operators see of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodsStatus {
    /// Whether the configuration chooses among pods.
    pub is_choosing: bool,
    /// Choices that mean each pod, by its cgroup.
    pub chosen: Arc<BTreeMap<String, Vec<Scope>>>,
    /// Pods that nobody chose.
    pub others: usize,
    /// Pods of which not enough is known.
    pub unknown: usize,
    /// Answers of the kubelet.
    pub answers: u64,
    /// Questions that it did not answer.
    pub failures: u64,
    /// Why it did not answer the last one.
    pub error: Option<String>,
}

impl Selection {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(hierarchy: &Hierarchy) -> Self {
        Self::at(hierarchy.mount.clone(), pod::POD_LOGS.into())
    }

    fn at(mount: PathBuf, logs: PathBuf) -> Self {
        Self {
            mount,
            logs,
            walk: Walk::default(),
            parents: Vec::new(),
            wanted: BTreeSet::new(),
            needs_labels: false,
            cgroups: BTreeMap::new(),
            identities: HashMap::new(),
            chosen: Arc::default(),
            schedule: Schedule::default(),
            told: Told::default(),
        }
    }

    /// Looks which pods there are, if a snapshot chooses among them. Call it about once a second.
    pub fn look(&mut self, now: Instant, snapshot: &Snapshot) {
        let of_inbound = snapshot.inbound.iter().flat_map(|inbound| &inbound.scopes);
        let of_intercept = Treatment::ALL.into_iter().flat_map(|one| snapshot.intercept.treated(one));
        let of_limits = snapshot.intercept.quotas.iter().flat_map(|entry| &entry.scopes);
        let scopes = of_intercept.chain(of_limits).chain(of_inbound);
        self.wanted = scopes.filter(|scope| matches!(scope, Scope::Pods(_))).cloned().collect();
        self.needs_labels = self.wanted.iter().any(needs_labels);
        self.schedule.set_wanted(now, self.needs_labels);
        if !self.needs_labels {
            self.told.error = None;
        }
        if self.wanted.is_empty() {
            let schedule = std::mem::take(&mut self.schedule);
            let told = std::mem::take(&mut self.told);
            *self = Self { schedule, told, ..Self::at(self.mount.clone(), self.logs.clone()) };
            return;
        }
        let before = std::mem::take(&mut self.cgroups);
        self.cgroups = self.find_cgroups(now);
        self.read_names();
        let is_new = |path: &&String| !before.contains_key(*path);
        if self.needs_labels && self.unknown().any(|path| is_new(&path)) {
            self.schedule.handle_newcomer(now);
        }
        self.choose();
    }

    /// Tells whether it is worth a look now, because pods have come or gone. Costs a stat(2) for each class of pods.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.parents.iter().any(|(dir, look)| look_at(dir) != *look)
    }

    /// Tells whether the kubelet is to be asked now.
    pub fn poll_due(&mut self, now: Instant) -> bool {
        self.schedule.poll_due(now)
    }

    /// When [`poll_due`](Self::poll_due) will say yes.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.schedule.next_due()
    }

    /// Takes up what the kubelet said.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        interval: Duration,
        answer: Result<Vec<ListedPod>, KubeletError>,
    ) {
        let kind = match answer {
            Ok(pods) => {
                self.take_list(pods);
                if self.unknown().next().is_none() { Answer::Complete } else { Answer::Incomplete }
            }
            Err(error) => {
                self.take_error(error.to_string());
                Answer::Failed
            }
        };
        self.schedule.handle_answer(now, interval, kind);
    }

    /// Cgroups of the pods that a snapshot treats in some way by what they are.
    #[must_use]
    pub fn treated(&self, snapshot: &Snapshot) -> BTreeSet<(Treatment, String)> {
        let of = |treatment| {
            let scopes = snapshot.intercept.treated(treatment);
            let is_in = move |choices: &[Scope]| choices.iter().any(|one| scopes.contains(one));
            let pods = self.chosen.iter().filter(move |(_, choices)| is_in(choices));
            pods.map(move |(path, _)| (treatment, path.clone()))
        };
        Treatment::ALL.into_iter().flat_map(of).collect()
    }

    /// Cgroups of the pods that the scopes of a snapshot mean.
    #[must_use]
    pub fn in_scope(&self, snapshot: &Snapshot) -> BTreeSet<String> {
        let treated = self.treated(snapshot).into_iter();
        treated.filter(|(treatment, _)| *treatment == Treatment::Caught).map(|(_, path)| path).collect()
    }

    /// The scopes that a cgroup is known by; `None` if it is in no scope of a snapshot.
    #[must_use]
    pub fn known_as(&self, cgroup: &str, snapshot: &Snapshot) -> Option<Vec<Scope>> {
        let own = Scope::Cgroup(cgroup.to_owned());
        let choices = choices(&self.chosen, cgroup);
        let is_in = snapshot.intercept.scopes.iter().any(|scope| match scope {
            // A namespace is that of a whole pod, whichever of its containers a scope names.
            Scope::Cgroup(_) => scope.holds(&own) || own.holds(scope),
            Scope::Pods(_) => choices.contains(scope),
            Scope::Netns(_) => false,
        });
        is_in.then(|| [own].into_iter().chain(choices.iter().cloned()).collect())
    }

    /// What operators see.
    #[must_use]
    pub fn status(&self) -> PodsStatus {
        let Told { answers, failures, error } = self.told.clone();
        let unknown = self.unknown().filter(|path| !self.chosen.contains_key(*path)).count();
        let others = self.cgroups.len().saturating_sub(unknown + self.chosen.len());
        let is_choosing = !self.wanted.is_empty();
        PodsStatus {
            is_choosing,
            chosen: Arc::clone(&self.chosen),
            others,
            unknown,
            answers,
            failures,
            error,
        }
    }

    fn find_cgroups(&mut self, now: Instant) -> BTreeMap<String, String> {
        let (mount, mut found) = (self.mount.clone(), BTreeMap::new());
        let parents = &mut self.parents;
        parents.clear();
        self.walk.each(now, vec![mount.clone()], |dir, _| {
            let Some(path) = dir.strip_prefix(&mount).ok().and_then(Path::to_str) else {
                return Below::Nothing;
            };
            let path = format!("/{path}");
            match PodCgroup::parse(&path) {
                Some(pod) => {
                    found.insert(path.clone(), pod.uid);
                    Below::Nothing
                }
                // A pod that comes while another one goes must be seen: nobody else tells of it.
                None if path.contains("kubepods") => {
                    // Before it is read: what comes meanwhile is news.
                    parents.push((dir.to_owned(), look_at(dir)));
                    Below::Now
                }
                None => Below::Known,
            }
        });
        found
    }

    /// Reads the names of pods that have none yet.
    fn read_names(&mut self) {
        if self.cgroups.values().all(|uid| self.identities.contains_key(uid)) {
            return;
        }
        // Folders of logs outlive their pods.
        let here: HashSet<&String> = self.cgroups.values().collect();
        self.identities.retain(|uid, identity| identity.labels.is_some() || here.contains(uid));
        for (uid, name) in pod::names(&self.logs) {
            let identity = || Identity { namespace: name.namespace, labels: None };
            self.identities.entry(uid).or_insert_with(identity);
        }
    }

    fn take_list(&mut self, pods: Vec<ListedPod>) {
        self.told.answers += 1;
        if self.told.error.take().is_some() {
            tracing::info!(pods = pods.len(), "the kubelet answers again");
        }
        let here: HashSet<&String> = self.cgroups.values().collect();
        self.identities.retain(|uid, _| here.contains(uid));
        for ListedPod { uids, namespace, labels } in pods {
            for uid in uids {
                let identity = Identity { namespace: namespace.clone(), labels: Some(labels.clone()) };
                self.identities.insert(uid, identity);
            }
        }
        self.choose();
    }

    fn take_error(&mut self, error: String) {
        self.told.failures += 1;
        if self.told.error.as_ref() != Some(&error) {
            tracing::warn!(
                %error,
                "the kubelet does not tell the labels of pods; those that are known stay as they are"
            );
            self.told.error = Some(error);
        }
    }

    /// Cgroups of pods of which not enough is known to choose.
    fn unknown(&self) -> impl Iterator<Item = &String> {
        let is_unknown = |uid: &String| match self.identities.get(uid) {
            Some(identity) => self.needs_labels && identity.labels.is_none(),
            None => true,
        };
        self.cgroups.iter().filter(move |(_, uid)| is_unknown(uid)).map(|(path, _)| path)
    }

    fn choose(&mut self) {
        let choices = |uid: &String| -> Vec<Scope> {
            let known = self.identities.get(uid);
            let namespace = known.map(|known| known.namespace.as_str());
            let labels = known.and_then(|known| known.labels.as_ref());
            let means = |scope: &&Scope| matches!(scope, Scope::Pods(selector) if selector.selects(namespace, labels));
            self.wanted.iter().filter(means).cloned().collect()
        };
        let all = self.cgroups.iter().map(|(path, uid)| (path.clone(), choices(uid)));
        let chosen: BTreeMap<_, _> = all.filter(|(_, choices)| !choices.is_empty()).collect();
        if *self.chosen != chosen {
            self.chosen = Arc::new(chosen);
        }
    }
}

fn look_at(dir: &Path) -> Option<Look> {
    fs::metadata(dir).ok().map(|dir| (dir.nlink(), dir.mtime(), dir.mtime_nsec()))
}

/// The choices that mean the pod of a cgroup.
#[must_use]
pub fn choices<'a>(chosen: &'a BTreeMap<String, Vec<Scope>>, cgroup: &str) -> &'a [Scope] {
    let choices = PodCgroup::parse(cgroup).and_then(|pod| chosen.get(pod.path));
    choices.map_or(&[], Vec::as_slice)
}

fn needs_labels(scope: &Scope) -> bool {
    matches!(scope, Scope::Pods(selector) if selector.needs_labels())
}

#[cfg(test)]
mod tests;
