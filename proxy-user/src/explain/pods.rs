//! What a look at pods finds, where the configuration chooses among them.

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use proxy_bpf::cgroup::Hierarchy;
use proxy_core::id::{Registry, Version};
use proxy_core::snapshot::{Scope, Snapshot};

use super::finding::Finding;
use crate::config::Config;
use crate::pods::{KubeletError, Selection, kubelet};

/// The pods of this node and the kubelet's word for them.
pub(super) struct Pods {
    mount: PathBuf,
    selection: Selection,
    snapshot: Snapshot,
    /// None if it need not be asked.
    kubelet: Option<Finding>,
}

impl Pods {
    /// Looks at cgroups, and asks the kubelet if labels matter.
    pub(super) fn look(config: &Config, hierarchy: &Hierarchy) -> Self {
        let snapshot = config.snapshot(&mut Registry::default(), Version(0), None);
        let (mut selection, now) = (Selection::new(hierarchy), Instant::now());
        selection.look(now, &snapshot);
        let kubelet = config.needs_kubelet().then(|| {
            let answer = ask(config);
            let finding = told(config, &answer);
            selection.handle_answer(now, config.kubelet.interval, answer);
            finding
        });
        Self { mount: hierarchy.mount.clone(), selection, snapshot, kubelet }
    }

    /// What the kubelet says, if it was asked.
    pub(super) fn kubelet(&self) -> Option<Finding> {
        self.kubelet.clone()
    }

    /// Folders of the cgroups of the pods that a scope means.
    pub(super) fn dirs(&self, scope: &Scope) -> Vec<PathBuf> {
        let mut only = self.snapshot.clone();
        only.intercept.scopes.retain(|other| other == scope);
        let below = |path: &String| self.mount.join(path.trim_start_matches('/'));
        self.selection.in_scope(&only).iter().map(below).collect()
    }
}

fn ask(config: &Config) -> Result<Vec<crate::pods::ListedPod>, KubeletError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error: io::Error| KubeletError::Connect(error))?;
    runtime.block_on(kubelet::ask(&config.kubelet))
}

fn told<T>(config: &Config, answer: &Result<Vec<T>, KubeletError>) -> Finding {
    let (what, address) = ("kubelet", config.kubelet.address);
    match answer {
        Ok(pods) => Finding::ok(what, format!("{address} tells the labels of {} pods", pods.len())),
        Err(error) => Finding::problem(
            what,
            format!("{address} does not tell the labels of pods: {error}"),
            "a running Weir goes by what it knew, and misses new pods; see intercept.kubelet in the example configuration, \
             and the rights that the manifests give",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::config;

    #[test]
    fn a_kubelet_that_is_away_is_a_problem_only_where_labels_matter() {
        let Ok(hierarchy) = Hierarchy::find() else {
            eprintln!("SKIPPED: there is no cgroup v2 mount");
            return;
        };
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = std::env::temp_dir().join(format!("weir-doctor-pods-{}.yaml", std::process::id()));
        for (scope, is_asked) in [("{namespaces: [shop]}", false), ("{labels: {app: none-of-all}}", true)] {
            let kubelet = format!("{{address: \"{closed}\", read_only: true}}");
            let text =
                format!("services: []\nintercept: {{scopes: [{{pods: {scope}}}], kubelet: {kubelet}}}\n");
            std::fs::write(&path, text).unwrap();
            let config = config::load(&path).unwrap();
            let pods = Pods::look(&config, &hierarchy);
            assert_eq!(pods.kubelet().is_some(), is_asked);
            if let Some(finding) = pods.kubelet() {
                assert_eq!(finding.level, Level::Problem);
                assert!(finding.found.contains("cannot connect"), "{finding:?}");
            }
            assert!(pods.dirs(config.intercept.scopes.iter().next().unwrap()).is_empty());
        }
        std::fs::remove_file(path).unwrap();
    }
}
