//! Both sides of a live upgrade, as far as they touch what is in force.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::health::EndpointReport;
use proxy_core::id::EndpointId;

use super::{Control, Phase};
use crate::takeover::{Ask, SocketName, Sockets, Successor};
use crate::worker::Command;

/// Longest time for the first checks of a process that takes over. Each endpoint's first check begins within 100 ms, so
/// this is for timeouts; an endpoint that has not answered by then counts as healthy, as at any start.
const SETTLE_TIME: Duration = Duration::from_secs(2);

impl Control {
    /// Finds out which endpoints are healthy before anything depends on it.
    pub async fn settle(&mut self) {
        let deadline = tokio::time::Instant::now() + SETTLE_TIME;
        let checked = self.snapshot.services().filter(|service| service.health.is_some());
        let mut waiting: HashSet<EndpointId> =
            checked.flat_map(|service| service.endpoints.iter().map(|endpoint| endpoint.id)).collect();
        while !waiting.is_empty() {
            let due = self.next_due();
            tokio::select! {
                Some(done) = self.checks.join_next() => {
                    if let Ok((endpoint, _)) = &done {
                        waiting.remove(endpoint);
                    }
                    self.handle_check(done);
                }
                () = super::until(due) => {
                    self.waiting_checks.extend(self.tracker.poll_due(Instant::now()));
                    self.start_checks();
                }
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        self.publish_health().await;
    }

    /// Makes this process the one that serves: the other has just let go, and had opened `late` after it had begun to.
    ///
    /// # Errors
    /// If the kernel's records cannot be read.
    pub async fn take_over(&mut self, late: Sockets) -> io::Result<()> {
        self.parts.records.reopen()?;
        for worker in self.parts.workers.iter() {
            let _ = worker.mailbox.send(Command::Release).await;
        }
        self.parts.is_taking_over = false;
        self.save_names();
        self.listeners.close_taken_over();
        self.pods.take_over(late);
        // Connections to applications, before the other one takes them no more.
        self.look_for_pods().await;
        self.pods.close_taken_over();
        Ok(())
    }

    /// Answers those who ask the control side, and does nothing else.
    pub async fn answer(&mut self) {
        while let Some(request) = self.requests.recv().await {
            self.handle_request(request).await;
        }
    }

    /// What is known about every endpoint's health.
    #[must_use]
    pub fn health(&self) -> Vec<EndpointReport> {
        self.tracker.report().collect()
    }

    /// Answers a newer process.
    pub(super) fn handle_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Sockets(answer) => {
                let sockets = self.sockets();
                let is_offered = sockets.is_ok();
                self.parts.status.is_handing_over = answer.send(sockets).is_ok() && is_offered;
            }
            Ask::Resume(error) => {
                self.parts.status.is_handing_over = false;
                tracing::warn!(%error, "a takeover failed; this process goes on");
            }
            Ask::HandOver(successor) => self.successor = Some(successor),
        }
        self.show_status();
    }

    /// Copies of everything that is accepted from.
    fn sockets(&self) -> Result<Vec<(SocketName, OwnedFd)>, String> {
        if self.parts.status.phase != Phase::Ready || self.drain.is_some() {
            return Err("it is starting or ending".to_owned());
        }
        let home = self.parts.home.iter().map(|(name, socket)| (name.clone(), socket));
        let all = home.chain(self.listeners.sockets()).chain(self.pods.sockets());
        let copies = all.map(|(name, socket)| Ok((name, socket.try_clone()?)));
        copies.collect::<io::Result<_>>().map_err(|error| format!("it cannot copy its sockets: {error}"))
    }

    /// Lets go of what the other is to accept from the very beginning, if it also gets what it has no copy of.
    pub async fn hand_over(&mut self, successor: &Successor) {
        if successor.gets_late_sockets() {
            self.pods.pause_node_listeners(&self.parts.workers).await;
        }
        // For those that have been accepted, and wait.
        self.know_newcomers(true);
    }

    /// What is accepted from in other network namespaces.
    pub fn pod_sockets(&self) -> impl Iterator<Item = (SocketName, &Arc<OwnedFd>)> {
        self.pods.sockets()
    }

    /// Goes on as if nobody had wanted to take over.
    pub async fn resume(&mut self) {
        self.parts.status.is_handing_over = false;
        self.pods.resume_node_listeners(&self.parts.workers).await;
        // The other may have written the names of services down.
        self.parts.names.0.handle_other_writer();
        self.save_names();
        self.show_status();
    }

    /// Closes everything that is accepted from, as far as workers do not hold it.
    pub fn close_listeners(&mut self) {
        self.parts.home.clear();
        self.listeners.close();
        self.pods.close_listeners();
    }
}
