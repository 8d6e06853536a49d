//! Names of cgroups by their ids, looked up when somebody reads and not while connections wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_bpf::cgroup::Hierarchy;

/// Least time between two passes over the hierarchy: a pass costs some milliseconds on a node with a thousand cgroups.
const LEAST_PASS_INTERVAL: Duration = Duration::from_millis(200);
/// Ids without a name that are remembered, so that none of them costs a second pass.
const MOST_UNKNOWN: usize = 4096;

/// Paths of cgroups below the v2 mount; one pass over the hierarchy learns them all.
///
/// Names of cgroups that were seen alive are kept until the next pass, so a connection may outlive its cgroup a little.
#[derive(Debug, Default)]
pub struct CgroupNames {
    paths: HashMap<u64, Option<Arc<str>>>,
    last_pass: Option<Instant>,
}

impl CgroupNames {
    /// Gives the path of a cgroup; none if it is 0 or gone. May read the hierarchy.
    pub fn path(&mut self, id: u64) -> Option<Arc<str>> {
        if id == 0 {
            return None;
        }
        if let Some(known) = self.paths.get(&id) {
            return known.clone();
        }
        if self.last_pass.is_some_and(|last| last.elapsed() < LEAST_PASS_INTERVAL) {
            return None;
        }
        let hierarchy = Hierarchy::find().map(|hierarchy| hierarchy.all()).unwrap_or_default();
        self.take_pass(hierarchy, id);
        self.last_pass = Some(Instant::now());
        self.paths.get(&id).cloned().flatten()
    }

    fn take_pass(&mut self, found: Vec<(u64, String)>, wanted: u64) {
        let unknown_count = self.paths.values().filter(|path| path.is_none()).count();
        self.paths.retain(|_, path| path.is_none() && unknown_count < MOST_UNKNOWN);
        self.paths.extend(found.into_iter().map(|(id, path)| (id, Some(path.into()))));
        self.paths.entry(wanted).or_insert(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_last_pass_and_unknown_ids_are_remembered() {
        let mut names = CgroupNames::default();
        assert_eq!(names.path(0), None);
        assert!(names.last_pass.is_none(), "0 is no cgroup");
        names.take_pass(vec![(1, "/".to_owned()), (5, "/app.slice".to_owned())], 7);
        assert_eq!(names.path(5).as_deref(), Some("/app.slice"));
        assert_eq!(names.path(7), None);
        assert!(names.last_pass.is_none(), "no pass was needed");
        names.take_pass(vec![(9, "/new".to_owned())], 9);
        assert_eq!(names.paths.keys().copied().collect::<std::collections::BTreeSet<_>>(), [7, 9].into());
    }

    #[test]
    fn unknown_ids_are_forgotten_when_they_are_many() {
        let mut names = CgroupNames::default();
        (1..=MOST_UNKNOWN as u64).for_each(|id| names.take_pass(Vec::new(), id));
        assert_eq!(names.paths.len(), MOST_UNKNOWN);
        names.take_pass(Vec::new(), u64::MAX);
        assert_eq!(names.paths.len(), 1);
    }
}
