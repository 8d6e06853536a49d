//! Other network namespaces that are known: what a connection from one is counted against, and where it goes on from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proxy_io::netns::Netns;
use tokio::sync::watch;

use crate::stats::application::Application;
use crate::stats::conn::Share;

/// A network namespace other than Weir's own, as long as it is to be served.
#[derive(Debug)]
pub struct Namespace {
    /// The way into it.
    pub netns: Arc<Netns>,
    /// What its connections are counted against.
    pub share: Arc<Share>,
    /// Whose they are.
    pub application: Arc<Application>,
}

/// Those that are known, by their cookies: written by the control task, read by workers.
#[derive(Debug, Default)]
pub struct Namespaces(watch::Sender<HashMap<u64, Arc<Namespace>>>);

impl Namespaces {
    /// Makes one known.
    pub fn put(&self, namespace: Arc<Namespace>) {
        self.0.send_modify(|all| drop(all.insert(namespace.netns.cookie(), namespace)));
    }

    /// Forgets one.
    pub fn remove(&self, cookie: u64) {
        self.0.send_if_modified(|all| all.remove(&cookie).is_some());
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0.send_modify(HashMap::clear);
    }

    /// Finds one.
    #[must_use]
    pub fn get(&self, cookie: u64) -> Option<Arc<Namespace>> {
        self.0.borrow().get(&cookie).cloned()
    }

    /// The cookies of all.
    #[must_use]
    pub fn cookies(&self) -> Vec<u64> {
        self.0.borrow().keys().copied().collect()
    }

    /// Finds one, and waits for so long until it is known.
    pub async fn wait(&self, cookie: u64, most: Duration) -> Option<Arc<Namespace>> {
        let mut all = self.0.subscribe();
        let known = all.wait_for(|all| all.contains_key(&cookie));
        tokio::time::timeout(most, known).await.ok()?.ok()?.get(&cookie).cloned()
    }
}
