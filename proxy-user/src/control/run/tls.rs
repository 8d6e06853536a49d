//! Certificates: read with the configuration, and again when their files change.

use std::sync::Arc;

use proxy_core::snapshot::Snapshot;

use super::Control;
use crate::tls::{TlsProblem, TlsStore, TlsWatch};
use crate::worker::Command;

/// What is in force of TLS.
#[derive(Default)]
pub(super) struct Tls {
    pub(super) store: Arc<TlsStore>,
    watch: TlsWatch,
}

/// Reads what a snapshot needs beside what is in force.
pub(super) fn build(previous: &TlsStore, next: &Snapshot) -> Result<TlsStore, String> {
    let built = tokio::task::block_in_place(|| TlsStore::build(Some(previous), next));
    built.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

impl Control {
    /// Gives the workers what new connections begin TLS with; open ones keep what they have.
    pub(super) async fn put_tls(&mut self, store: Arc<TlsStore>) {
        for worker in self.parts.workers.iter() {
            let _ = worker.mailbox.send(Command::Tls(Arc::clone(&store))).await;
        }
        self.tls.store = store;
    }

    /// Reads files again that have changed. What is no longer good stays in force as it was, and is named once.
    pub(super) async fn look_at_certificates(&mut self) {
        if !self.tls.watch.poll_changed(&self.tls.store) {
            return;
        }
        let next = match build(&self.tls.store, &self.snapshot) {
            Ok(next) => next,
            Err(error) => return tracing::error!("TLS files were not read again:\n{error}"),
        };
        let known: Vec<TlsProblem> = self.tls.store.problems().cloned().collect();
        for problem in next.problems().filter(|problem| !known.contains(problem)) {
            tracing::error!(%problem, "a TLS file is no longer good; what it said before stays in force");
        }
        tracing::info!("TLS files have changed: new connections go by them");
        self.put_tls(Arc::new(next)).await;
    }
}
