//! Programs of others on the hooks that Weir sits on.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd as _;

use aya::programs::loaded_programs;
use proxy_io::bpf::{self, AttachType};

use crate::cgroup::Hierarchy;
use crate::load::HOOKS;

/// A program of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Other {
    /// Path of the cgroup that it is attached to, below the mount.
    pub cgroup: String,
    /// Its id.
    pub id: u32,
    /// Its name, of which the kernel keeps 15 bytes; empty if it has none or is gone.
    pub name: String,
    /// Where it sits.
    pub hook: &'static str,
}

/// Lists the programs on our hooks, of all cgroups, whose ids are not `ours`. One look at each cgroup and each program of the
/// machine.
#[must_use]
pub fn others(hierarchy: &Hierarchy, ours: &[u32]) -> Vec<Other> {
    let mut found = Vec::new();
    for (_, cgroup) in hierarchy.all() {
        // A cgroup may vanish while it is looked at.
        let Ok(dir) = File::open(hierarchy.mount.join(cgroup.trim_start_matches('/'))) else { continue };
        for hook in &HOOKS {
            let ids = bpf::query(dir.as_fd(), hook.kind).unwrap_or_default();
            let foreign = ids.into_iter().filter(|id| !ours.contains(id));
            found.extend(foreign.map(|id| {
                let (cgroup, name) = (cgroup.clone(), String::new());
                Other { cgroup, id, name, hook: word(hook.kind) }
            }));
        }
    }
    if !found.is_empty() {
        let names: HashMap<u32, String> = loaded_programs()
            .flatten()
            .filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned())))
            .collect();
        for one in &mut found {
            one.name = names.get(&one.id).cloned().unwrap_or_default();
        }
    }
    found.sort();
    found
}

/// A hook as bpftool calls it.
fn word(kind: AttachType) -> &'static str {
    match kind {
        AttachType::SockCreate => "sock_create",
        AttachType::Connect4 => "connect4",
        AttachType::Connect6 => "connect6",
        AttachType::GetPeerName4 => "getpeername4",
        AttachType::GetPeerName6 => "getpeername6",
        AttachType::SockOps => "sock_ops",
        AttachType::SkLookup => "sk_lookup",
        AttachType::Iter => "iter",
    }
}
