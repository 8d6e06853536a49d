//! Finding the network namespaces of the applications in cgroup scopes, by the processes that live in them.
//!
//! A namespace that was found is served for as long as one of its pod's processes lives in it. There are two ways to be
//! found: a look at the scopes' cgroups, about once a second, sees a pod's sandbox before its applications start; and the
//! kernel programs tell of a socket in a namespace that is not served.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proxy_bpf::cgroup::{Hierarchy, View};
use proxy_core::pod::PodCgroup;
use proxy_core::snapshot::Scope;
use proxy_io::netns::{FileId, Netns, file_id};

use super::Wanted;
use super::walk::{Below, Walk, below};
use crate::record::pod;

/// Time for which the processes of a new cgroup are looked at. A sandbox begins within milliseconds; what comes later
/// makes itself known by its first socket.
const SETTLE_TIME: Duration = Duration::from_secs(10);
/// Processes of one cgroup that are looked at: those of a pod share a namespace.
const MOST_PROCESSES: usize = 64;

/// The namespaces that were found.
pub struct Finder {
    mount: PathBuf,
    view: View,
    home: FileId,
    found: HashMap<u64, Found>,
    /// Cgroups of the scopes. One that came while another one went shows by its first socket.
    walk: Walk,
}

struct Found {
    /// Shows that the namespace is in use, and is the way into it.
    witness: u32,
    file: FileId,
    /// Cgroup directory in which the next witness is looked for when this one has ended.
    dir: PathBuf,
    cgroup_id: u64,
    name: String,
}

impl Finder {
    /// Knows no namespace yet.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub fn new(hierarchy: &Hierarchy) -> io::Result<Self> {
        Ok(Self {
            mount: hierarchy.mount.clone(),
            view: View::of(hierarchy),
            home: file_id("/proc/self/ns/net")?,
            found: HashMap::new(),
            walk: Walk::default(),
        })
    }

    /// Looks at the cgroups of the scopes, each a path below the mount, and at everybody who was found before.
    pub fn look<'a>(&mut self, now: Instant, scopes: impl Iterator<Item = &'a str>) {
        self.found.retain(|_, found| found.is_alive());
        let roots = scopes.map(|scope| self.mount.join(scope.trim_start_matches('/'))).collect();
        let mut known: HashSet<FileId> = self.found.values().map(|found| found.file).collect();
        known.insert(self.home);
        let mut walk = std::mem::take(&mut self.walk);
        walk.each(now, roots, |dir, age| {
            if age < SETTLE_TIME {
                self.look_at(dir, &mut known);
            }
            Below::Known
        });
        self.walk = walk;
    }

    /// Takes up the namespace of a process that the kernel programs told of.
    pub fn handle_newcomer(&mut self, netns_cookie: u64, process: u32) {
        let Ok(cgroup) = self.view.of_process(process) else { return };
        if !self.found.contains_key(&netns_cookie) {
            let dir = self.mount.join(cgroup.trim_start_matches('/'));
            self.take_up(&dir, process, Some(netns_cookie));
        }
    }

    /// What is to be served: where `known_as` knows scopes for the cgroup.
    pub fn wanted(&self, known_as: impl Fn(&str) -> Option<Vec<Scope>>) -> impl Iterator<Item = Wanted> {
        self.found.iter().filter_map(move |(cookie, found)| {
            Some(Wanted {
                name: found.name.clone(),
                file: netns_file(found.witness),
                cookie: *cookie,
                known_as: known_as(&self.below_mount(&found.dir))?,
                cgroup_id: found.cgroup_id,
            })
        })
    }

    /// Takes up the namespaces of a cgroup's processes that are not `known`.
    fn look_at(&mut self, dir: &Path, known: &mut HashSet<FileId>) {
        for process in processes(dir) {
            if file_id(netns_file(process)).is_ok_and(|file| known.insert(file)) {
                self.take_up(dir, process, None);
            }
        }
    }

    /// Takes up the namespace of a process, if it still is the one that is `expected`.
    fn take_up(&mut self, dir: &Path, witness: u32, expected: Option<u64>) {
        // A process may end at any time: then there is nothing to serve, or another one will show.
        let path = netns_file(witness);
        let (Ok(file), Ok(netns)) = (file_id(&path), Netns::open(&path)) else { return };
        let cookie = netns.cookie();
        if file == self.home || expected.is_some_and(|expected| expected != cookie) {
            return;
        }
        let cgroup = self.below_mount(dir);
        let (dir, name) = match PodCgroup::parse(&cgroup) {
            Some(pod) => {
                let name = pod::names(Path::new(pod::POD_LOGS)).remove(&pod.uid);
                let name = name.map_or_else(|| pod.path.to_owned(), |name| name.to_string());
                (self.mount.join(pod.path.trim_start_matches('/')), name)
            }
            None => (dir.to_owned(), cgroup),
        };
        // The number of a cgroup is that of its directory.
        let cgroup_id = fs::metadata(&dir).map_or(0, |dir| dir.ino());
        self.found.insert(cookie, Found { witness, file, dir, cgroup_id, name });
    }

    fn below_mount(&self, dir: &Path) -> String {
        format!("/{}", dir.strip_prefix(&self.mount).unwrap_or(dir).display())
    }
}

impl Found {
    /// Whether somebody still lives in the namespace; finds another witness if the last one is gone.
    fn is_alive(&mut self) -> bool {
        let lives_in = |process: &u32| file_id(netns_file(*process)).is_ok_and(|file| file == self.file);
        if lives_in(&self.witness) {
            return true;
        }
        let other = below(&self.dir).into_iter().flat_map(|dir| processes(&dir)).find(lives_in);
        self.witness = other.unwrap_or(self.witness);
        other.is_some()
    }
}

/// Some processes of a cgroup; those of another pid namespace than this one's are 0 there and left out.
fn processes(dir: &Path) -> Vec<u32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).take(MOST_PROCESSES).collect()
}

fn netns_file(process: u32) -> PathBuf {
    format!("/proc/{process}/ns/net").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_processes_are_no_newcomers() {
        let Ok(hierarchy) = Hierarchy::find() else {
            eprintln!("SKIPPED: there is no cgroup v2 mount");
            return;
        };
        let mut finder = Finder::new(&hierarchy).unwrap();
        finder.handle_newcomer(1, std::process::id());
        finder.handle_newcomer(1, u32::MAX);
        finder.look(Instant::now(), ["/no/such/cgroup"].into_iter());
        assert_eq!(finder.wanted(|_| Some(Vec::new())).count(), 0);
    }
}
