//! Names of cgroups by their ids, looked up when somebody reads and not while connections wait.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_bpf::cgroup::Hierarchy;
use proxy_core::pod::PodCgroup;

use super::pod::{self, PodName};

/// Least time between two passes over the hierarchy: a pass costs some milliseconds on a node with a thousand cgroups.
const LEAST_PASS_INTERVAL: Duration = Duration::from_millis(200);
/// Ids without a name that are remembered, so that none of them costs a second pass.
const MOST_UNKNOWN: usize = 4096;

/// An application, as far as its cgroup tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Path of the cgroup below the v2 mount.
    pub cgroup: Arc<str>,
    /// Its pod, if it is one of a pod whose name is known.
    pub pod: Option<Arc<PodName>>,
}

/// Paths of cgroups below the v2 mount; one pass over the hierarchy learns them all.
///
/// Names of cgroups that were seen alive are kept until the next pass, so a connection may outlive its cgroup a little.
#[derive(Debug, Default)]
pub struct CgroupNames {
    known: HashMap<u64, Option<Application>>,
    last_pass: Option<Instant>,
}

impl CgroupNames {
    /// Tells of a cgroup; none if it is 0 or gone. May read the hierarchy.
    pub fn application(&mut self, id: u64) -> Option<Application> {
        if id == 0 {
            return None;
        }
        if let Some(known) = self.known.get(&id) {
            return known.clone();
        }
        if self.last_pass.is_some_and(|last| last.elapsed() < LEAST_PASS_INTERVAL) {
            return None;
        }
        let hierarchy = Hierarchy::find().map(|hierarchy| hierarchy.all()).unwrap_or_default();
        self.take_pass(hierarchy, id);
        self.last_pass = Some(Instant::now());
        self.known.get(&id).cloned().flatten()
    }

    /// Tells whether a pass has shown that there is no such cgroup any more.
    #[must_use]
    pub fn is_gone(&self, id: u64) -> bool {
        self.known.get(&id).is_some_and(Option::is_none)
    }

    fn take_pass(&mut self, found: Vec<(u64, String)>, wanted: u64) {
        let unknown_count = self.known.values().filter(|known| known.is_none()).count();
        self.known.retain(|_, known| known.is_none() && unknown_count < MOST_UNKNOWN);
        let pods: HashMap<String, Arc<PodName>> =
            pod::names(Path::new(pod::POD_LOGS)).into_iter().map(|(uid, name)| (uid, name.into())).collect();
        self.known.extend(found.into_iter().map(|(id, path)| {
            // Most nodes have none: then no path is parsed.
            let is_pod = || PodCgroup::parse(&path).and_then(|cgroup| pods.get(&cgroup.uid).cloned());
            let pod = if pods.is_empty() { None } else { is_pod() };
            (id, Some(Application { cgroup: path.into(), pod }))
        }));
        self.known.entry(wanted).or_insert(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_last_pass_and_unknown_ids_are_remembered() {
        let mut names = CgroupNames::default();
        assert_eq!(names.application(0), None);
        assert!(names.last_pass.is_none(), "0 is no cgroup");
        names.take_pass(vec![(1, "/".to_owned()), (5, "/app.slice".to_owned())], 7);
        assert_eq!(&*names.application(5).unwrap().cgroup, "/app.slice");
        assert_eq!(names.application(7), None);
        assert!(names.is_gone(7) && !names.is_gone(5) && !names.is_gone(6));
        assert!(names.last_pass.is_none(), "no pass was needed");
        names.take_pass(vec![(9, "/new".to_owned())], 9);
        assert_eq!(names.known.keys().copied().collect::<std::collections::BTreeSet<_>>(), [7, 9].into());
    }

    #[test]
    fn unknown_ids_are_forgotten_when_they_are_many() {
        let mut names = CgroupNames::default();
        (1..=MOST_UNKNOWN as u64).for_each(|id| names.take_pass(Vec::new(), id));
        assert_eq!(names.known.len(), MOST_UNKNOWN);
        names.take_pass(Vec::new(), u64::MAX);
        assert_eq!(names.known.len(), 1);
    }
}
