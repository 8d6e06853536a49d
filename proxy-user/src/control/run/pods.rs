//! Following the network namespaces of the scopes.

use std::sync::Arc;
use std::time::Instant;

use proxy_core::snapshot::{Scope, Snapshot};

use super::{Control, Parts};
use crate::pods::{Surroundings, Wanted};

impl Control {
    async fn follow_pods(&mut self, snapshot: &Snapshot) {
        let Parts { publisher, shared, maps, workers, kernel, is_taking_over, .. } = &self.parts;
        let may_steer = !is_taking_over;
        let named = publisher.namespaces().map(|(path, cookie)| Wanted {
            name: path.to_owned(),
            file: path.into(),
            cookie,
            known_as: vec![Scope::Netns(path.to_owned())],
            cgroup_id: 0,
        });
        // What has a name in the config is called by it.
        let wanted = self.parts.finder.wanted().chain(named);
        self.pods.follow(wanted, Surroundings { snapshot, shared, maps, workers, kernel, may_steer }).await;
    }

    /// Serves the namespaces that the kernel programs told of.
    pub(super) async fn handle_newcomers(&mut self) {
        while let Some(newcomer) = self.parts.newcomers.poll_event() {
            self.parts.finder.handle_newcomer(newcomer.netns_cookie, newcomer.process);
        }
        let snapshot = Arc::clone(&self.snapshot);
        self.follow_pods(&snapshot).await;
    }

    /// Looks for namespaces in the cgroups of the scopes.
    pub(super) async fn look_for_pods(&mut self) {
        let snapshot = Arc::clone(&self.snapshot);
        let scopes = snapshot.intercept.scopes.iter();
        self.parts.finder.look(
            Instant::now(),
            scopes.filter_map(|scope| match scope {
                Scope::Cgroup(path) => Some(path.as_str()),
                Scope::Netns(_) => None,
            }),
        );
        self.follow_pods(&snapshot).await;
    }
}
