//! How much memory the process has, and may have: by the config, or the machine, and by every cgroup that it is in.
//!
//! A cgroup counts what the process's own figures do not: the queues of its sockets, maps, other processes. What of it is cache of
//! files can go at any time and does not count.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use proxy_bpf::cgroup::{Hierarchy, View};
use proxy_io::heap;

use crate::stats::overload::Share;

/// Names of a memory controller's files, in either version of cgroups.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Lines of `memory.stat`: cache of files, of all cgroups below.
    cache: [&'static str; 2],
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: ["total_inactive_file", "total_active_file"],
};
const V2: Files =
    Files { limit: "memory.max", usage: "memory.current", cache: ["inactive_file", "active_file"] };

/// Where memory is looked up.
pub(super) struct Memory {
    /// The process's own cgroup, the mount that it is below, and what files are called there.
    own: Option<(PathBuf, PathBuf, &'static Files)>,
    /// Kept open: it is read ten times a second.
    statm: Option<File>,
    page_bytes: u64,
    machine_bytes: u64,
    /// The cgroups that have a limit, as of the last slow look.
    limited: Vec<Limited>,
}

struct Limited {
    usage: PathBuf,
    limit_bytes: u64,
    cache_bytes: u64,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            own: own_cgroup(),
            statm: File::open("/proc/self/statm").ok(),
            page_bytes: heap::page_bytes(),
            machine_bytes: machine_bytes(&text("/proc/meminfo")),
            limited: Vec::new(),
        }
    }

    /// Finds the limits that there are now; they may change at any time.
    pub(super) fn look_slowly(&mut self) {
        self.limited.clear();
        let Some((own, mount, files)) = &self.own else { return };
        let all = own.ancestors().take_while(|folder| folder.starts_with(mount));
        self.limited.extend(all.filter_map(|folder| {
            let limit_bytes = text(folder.join(files.limit)).trim().parse().ok()?;
            // As good as none: version 1 says so by a number.
            (limit_bytes < self.machine_bytes).then(|| Limited {
                usage: folder.join(files.usage),
                limit_bytes,
                cache_bytes: cache_bytes(&text(folder.join("memory.stat")), files),
            })
        }));
    }

    /// What is in use where it is the scarcest.
    pub(super) fn look(&self, most: Option<u64>) -> Share {
        let own = Share { used: self.own_bytes(), bound: most.unwrap_or(self.machine_bytes) };
        let of_cgroups = self.limited.iter().map(|limited| {
            let used: u64 = text(&limited.usage).trim().parse().unwrap_or(0);
            Share { used: used.saturating_sub(limited.cache_bytes), bound: limited.limit_bytes }
        });
        of_cgroups.fold(own, |most, next| if next.pressure() > most.pressure() { next } else { most })
    }

    fn own_bytes(&self) -> u64 {
        let mut line = [0; STATM_BYTES];
        let count = self.statm.as_ref().and_then(|file| file.read_at(&mut line, 0).ok()).unwrap_or(0);
        std::str::from_utf8(&line[..count]).map_or(0, |line| own_pages(line) * self.page_bytes)
    }
}

/// Room for the seven numbers of proc_pid_statm(5).
const STATM_BYTES: usize = 160;

/// What cannot be read says nothing.
fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Memory that is no file's and shared with nobody: proc_pid_statm(5).
fn own_pages(statm: &str) -> u64 {
    let mut pages = statm.split_ascii_whitespace().skip(1).map_while(|field| field.parse::<u64>().ok());
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared)
}

/// proc_meminfo(5).
fn machine_bytes(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn cache_bytes(stat: &str, files: &Files) -> u64 {
    let pairs = stat.lines().filter_map(|line| line.split_once(' '));
    let cache = pairs.filter(|(key, _)| files.cache.contains(key));
    cache.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

/// The cgroup whose memory counts: of version 2, unless a hybrid machine has the controller in version 1.
fn own_cgroup() -> Option<(PathBuf, PathBuf, &'static Files)> {
    let shown = text("/proc/self/cgroup");
    let of_v1 = shown.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == "memory").then_some(path)
    });
    if let Some(path) = of_v1 {
        let mount = Hierarchy::v1_mounts().into_iter().find(|mount| mount.join(V1.limit).exists())?;
        return Some((below(&mount, path), mount, &V1));
    }
    let hierarchy = Hierarchy::find().ok()?;
    let path = View::of(&hierarchy).of_process(std::process::id()).ok()?;
    Some((below(&hierarchy.mount, &path), hierarchy.mount, &V2))
}

/// A cgroup's folder; the mount itself where a container sees nothing above its own.
fn below(mount: &Path, path: &str) -> PathBuf {
    let folder = mount.join(path.trim_start_matches('/'));
    if folder.is_dir() { folder } else { mount.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_files_of_the_kernel() {
        assert_eq!(own_pages("9000 5120 1024 300 0 700 0\n"), 4096);
        assert_eq!((own_pages(""), own_pages("1 2 3")), (0, 0));
        assert_eq!(machine_bytes("MemTotal:       16384 kB\nMemFree: 1 kB\n"), 16 << 20);
        let v2 = "anon 900\nfile 77\ninactive_file 10\nactive_file 20\nunevictable 3\n";
        assert_eq!(cache_bytes(v2, &V2), 30);
        let v1 = "inactive_file 1\nactive_file 2\ntotal_inactive_file 30\ntotal_active_file 40\n";
        assert_eq!(cache_bytes(v1, &V1), 70);
    }

    #[test]
    fn this_process_has_some_memory_and_may_have_more() {
        let mut memory = Memory::new();
        memory.look_slowly();
        let share = memory.look(None);
        assert!(share.used > 100_000 && share.bound > share.used, "{share:?}");
        assert_eq!(memory.look(Some(1)).bound, 1);
    }
}
