//! Following the applications that are counted: who they are, and whether they are still there.

use proxy_bpf::cgroup::Hierarchy;
use proxy_core::pod::PodCgroup;
use proxy_core::snapshot::Scope;

use super::Control;
use crate::pods;
use crate::record::cgroup::Application;
use crate::stats::application::Key;

impl Control {
    /// Names the cgroups that have connected since the last time, and forgets applications that are gone. Those in other network
    /// namespaces have their names from whoever serves these.
    pub fn follow_applications(&mut self) {
        let applications = &self.parts.shared.stats.applications;
        for id in applications.nameless_cgroups() {
            match self.cgroups.application(id) {
                Some(found) => {
                    let own = Scope::Cgroup(found.cgroup.to_string());
                    let choices = pods::choices(&self.parts.status.pods.chosen, &found.cgroup);
                    let known_as = [own].into_iter().chain(choices.iter().cloned()).collect();
                    applications.name(Key::Cgroup(id), &name(&found), known_as);
                }
                None if id == 0 || self.cgroups.is_gone(id) => applications.leave(Key::Cgroup(id)),
                // A pass was made just now; the next time there is another one.
                None => {}
            }
        }
        let named = applications.cgroups();
        let hierarchy = (!named.is_empty()).then(Hierarchy::find).and_then(Result::ok);
        let is_there = |id: u64, path: &str| {
            hierarchy.as_ref().is_none_or(|all| all.cgroup(path).is_ok_and(|cgroup| cgroup.id == id))
        };
        for (id, _) in named.iter().filter(|(id, path)| !is_there(*id, path)) {
            applications.leave(Key::Cgroup(*id));
        }
        applications.sweep();
    }
}

/// What an application in a cgroup is called: by its pod, if it is one's.
fn name(application: &Application) -> String {
    match &application.pod {
        Some(pod) => pod.to_string(),
        None => PodCgroup::parse(&application.cgroup)
            .map_or_else(|| application.cgroup.to_string(), |pod| pod.path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::pod::PodName;

    #[test]
    fn containers_are_called_by_their_pod() {
        let uid = "0f3c1b2a-1111-2222-3333-444455556666";
        let cgroup = format!("/kubepods/pod{uid}/one");
        let pod = PodName { namespace: "shop".to_owned(), name: "web-1".to_owned() };
        for (cgroup, pod, expected) in [
            (cgroup.as_str(), Some(pod), "shop/web-1"),
            (cgroup.as_str(), None, &cgroup[..cgroup.len() - 4]),
            ("/system.slice/a.service", None, "/system.slice/a.service"),
        ] {
            let application = Application { cgroup: cgroup.into(), pod: pod.map(Arc::new) };
            assert_eq!(name(&application), expected);
        }
    }
}
