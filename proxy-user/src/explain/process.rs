//! One process, as far as it matters for the scopes.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proxy_bpf::cgroup::{Hierarchy, View};
use proxy_core::snapshot::{Intercept, Scope, Treatment};
use proxy_io::netns::{Netns, file_id};
use serde::{Deserialize, Serialize};

use crate::pods;

/// A process that connects, or might.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number in the pid namespace that Weir sees.
    pub pid: u32,
    /// Name of its program, cut at 15 characters by the kernel.
    pub name: String,
    /// Its cgroup, below the cgroup v2 mount.
    pub cgroup: String,
    /// The scope that it is in; null if it is in none.
    pub scope: Option<String>,
    /// The scope that it is in whose connections fail closed; null if it is in none.
    #[serde(default)]
    pub fail_closed: Option<String>,
    /// Where its sockets live.
    pub netns: Place,
}

/// A network namespace as seen by Weir.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Weir's own.
    Home,
    /// Another one, in which Weir listens.
    Served,
    /// Another one, in which Weir does not listen (yet).
    NotServed,
}

impl Process {
    /// Looks at a process; `pods` are the choices that mean each pod, by its cgroup. `is_served` tells of the cookie of another
    /// namespace whether Weir listens there.
    ///
    /// # Errors
    /// `NotFound` if there is no such process.
    pub fn look(
        pid: u32,
        intercept: &Intercept,
        pods: &BTreeMap<String, Vec<Scope>>,
        is_served: impl FnOnce(u64) -> io::Result<bool>,
    ) -> io::Result<Self> {
        let cgroup = View::of(&Hierarchy::find()?).of_process(pid)?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm"))?.trim_end().to_owned();
        let file = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let is_home = file_id(&file)? == file_id("/proc/self/ns/net")?;
        let netns = match is_home {
            true => Place::Home,
            false if is_served(Netns::open(&file)?.cookie())? => Place::Served,
            false => Place::NotServed,
        };
        let [scope, fail_closed] = [Treatment::Caught, Treatment::FailClosed].map(|treatment| {
            scope_of(intercept.treated(treatment), pods::choices(pods, &cgroup), &cgroup, &file)
        });
        Ok(Self { pid, name, cgroup, scope, fail_closed, netns })
    }
}

/// The scope that holds a process; of several, the first in their order.
fn scope_of(scopes: &HashSet<Scope>, choices: &[Scope], cgroup: &str, netns: &Path) -> Option<String> {
    let mut scopes: Vec<&Scope> = scopes.iter().collect();
    scopes.sort();
    let holds = |scope: &&Scope| match scope {
        Scope::Cgroup(path) => is_below(cgroup, path),
        Scope::Netns(path) => {
            let files = (file_id(netns), file_id(path));
            matches!(files, (Ok(own), Ok(named)) if own == named)
        }
        Scope::Pods(_) => choices.contains(scope),
    };
    scopes.into_iter().find(holds).map(ToString::to_string)
}

fn is_below(cgroup: &str, scope: &str) -> bool {
    let scope = scope.trim_end_matches('/');
    cgroup.strip_prefix(scope).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_hold_what_is_below_them() {
        assert!(is_below("/app.slice/a", "/app.slice") && is_below("/app.slice", "/app.slice"));
        assert!(is_below("/anything", "/") && is_below("/", "/"));
        assert!(!is_below("/app.slice2", "/app.slice") && !is_below("/", "/app.slice"));
    }

    #[test]
    fn this_process_is_at_home_and_in_the_scope_of_all() {
        let scopes = HashSet::from([Scope::Cgroup("/".to_owned())]);
        let intercept = Intercept { scopes, ..Intercept::default() };
        let pods = BTreeMap::new();
        let found = Process::look(std::process::id(), &intercept, &pods, |_| unreachable!("it is at home"));
        match found {
            Ok(process) => {
                assert_eq!(process.netns, Place::Home);
                assert_eq!(process.scope.as_deref(), Some("cgroup /"));
            }
            Err(error) => eprintln!("SKIPPED: no cgroup v2: {error}"),
        }
        let found = Process::look(std::process::id(), &Intercept::default(), &pods, |_| Ok(false));
        assert!(found.is_ok_and(|process| process.scope.is_none()));
        assert!(Process::look(u32::MAX, &intercept, &pods, |_| Ok(false)).is_err());
    }
}
