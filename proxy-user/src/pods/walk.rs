//! Going through cgroups once a second, and reading only what changed.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where to go on from a directory.
pub(super) enum Below {
    /// Nowhere.
    Nothing,
    /// To the directories that were in it when it last had another number of links.
    Known,
    /// To those that are in it now, at the cost of reading it.
    Now,
}

/// Directories that were seen before.
#[derive(Default)]
pub(super) struct Walk {
    seen: HashMap<PathBuf, Seen>,
}

struct Seen {
    since: Instant,
    /// Links of the directory, two more than it has directories (kernfs). Where that is as before, the directory is not
    /// read: its dozens of files make a look at the cgroups of 500 pods cost 33 ms instead of 3. A cgroup that came
    /// while another one went does not show.
    links: u64,
    children: Vec<PathBuf>,
}

impl Walk {
    /// Visits directories and what is below them. `visit` hears for how long one has been there, as far as was seen.
    pub(super) fn each(
        &mut self,
        now: Instant,
        mut todo: Vec<PathBuf>,
        mut visit: impl FnMut(&Path, Duration) -> Below,
    ) {
        let mut seen = HashMap::new();
        while let Some(dir) = todo.pop() {
            let Ok(links) = fs::metadata(&dir).map(|dir| dir.nlink()) else { continue };
            let known = self.seen.remove(&dir);
            let since = known.as_ref().map_or(now, |known| known.since);
            let children = match (visit(&dir, now.duration_since(since)), known) {
                (Below::Nothing, _) => Vec::new(),
                (Below::Known, Some(known)) if known.links == links => known.children,
                (Below::Known | Below::Now, _) => children(&dir),
            };
            todo.extend(children.iter().cloned());
            seen.insert(dir, Seen { since, links, children });
        }
        self.seen = seen;
    }
}

/// A directory and all below it.
pub(super) fn below(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut index = 0;
    while let Some(dir) = all.get(index) {
        let found = children(dir);
        all.extend(found);
        index += 1;
    }
    all
}

/// Directories in a directory; none if it is gone.
fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
