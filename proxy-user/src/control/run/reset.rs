//! Ending the open connections of endpoints that are lost.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use proxy_bpf::abi::key::Addr;
use proxy_bpf::abi::record::Record;
use proxy_bpf::abi::value::{Facts, lane};
use proxy_core::id::EndpointId;
use proxy_io::sock::SockDiag;

use super::Control;
use crate::worker::Command;

impl Control {
    /// Ends the open connections of endpoints in both lanes.
    pub(super) async fn reset(&self, lost: &[EndpointId]) {
        for worker in self.parts.workers.iter() {
            for endpoint in lost {
                let _ = worker.mailbox.send(Command::ResetEndpoint(*endpoint)).await;
            }
        }
        let reset = self.parts.kernel.open_live().and_then(proxy_bpf::events::read_live).map(|live| {
            let of_lost =
                |r: &&Record| r.facts.lane == lane::DIRECT && lost.contains(&EndpointId(r.facts.endpoint));
            self.destroy(live.iter().filter(of_lost))
        });
        match reset {
            Ok(Destroyed { count, failed, error }) => {
                tracing::info!(count, endpoints = lost.len(), "reset direct connections to lost endpoints");
                if let Some(error) = error {
                    tracing::warn!(failed, %error, "some direct connections to lost endpoints cannot be reset");
                }
            }
            Err(error) => tracing::warn!(%error, "cannot reset direct connections to lost endpoints"),
        }
    }

    /// Ends the attempts of a namespace's applications to connect to the node listener, which it does not reach: they would go on for
    /// two minutes (tcp(7), tcp_syn_retries).
    pub(super) fn reset_waiting(&self, netns_cookie: u64, listener: Addr) {
        let is_waiting = |record: &&Record| {
            let Facts { netns_cookie: cookie, real, established_ns, .. } = record.facts;
            cookie == netns_cookie && real == listener && established_ns == 0
        };
        let live = self.parts.kernel.open_live().and_then(proxy_bpf::events::read_live);
        match live.map(|live| self.destroy(live.iter().filter(is_waiting))) {
            Ok(Destroyed { count, error: None, .. }) => {
                tracing::debug!(count, "reset connections that do not reach the node listener")
            }
            Ok(Destroyed { error: Some(error), .. }) | Err(error) => {
                tracing::warn!(%error, "cannot reset connections that do not reach the node listener");
            }
        }
    }

    /// Resets connections by their socket's cookie, never by address alone: a successor may have the same. Goes on where a
    /// network namespace cannot be entered or a socket not be reached.
    fn destroy<'a>(&self, records: impl Iterator<Item = &'a Record>) -> Destroyed {
        // A netlink socket sees the network namespace that it was opened in.
        let open = |cookie: u64| match self.parts.shared.namespaces.get(cookie) {
            Some(namespace) => namespace.netns.within(SockDiag::open)?,
            None => SockDiag::open(),
        };
        destroy(records, open, |diag, facts| {
            diag.destroy(SocketAddr::from(facts.source), SocketAddr::from(facts.real), facts.cookie)
        })
    }
}

/// What became of the connections that were to be reset.
#[derive(Debug, Default)]
struct Destroyed {
    count: usize,
    failed: usize,
    /// The first one.
    error: Option<io::Error>,
}

/// Destroys sockets by a means that is opened once for each network namespace.
fn destroy<'a, D>(
    records: impl Iterator<Item = &'a Record>,
    open: impl Fn(u64) -> io::Result<D>,
    destroy: impl Fn(&mut D, &Facts) -> io::Result<bool>,
) -> Destroyed {
    let mut opened: HashMap<u64, Option<D>> = HashMap::new();
    let mut done = Destroyed::default();
    for Record { facts, .. } in records {
        let means = opened.entry(facts.netns_cookie).or_insert_with(|| match open(facts.netns_cookie) {
            Ok(means) => Some(means),
            Err(error) => {
                done.error.get_or_insert(error);
                None
            }
        });
        match means.as_mut().map(|means| destroy(means, facts)) {
            Some(Ok(is_destroyed)) => done.count += usize::from(is_destroyed),
            Some(Err(error)) => {
                done.failed += 1;
                done.error.get_or_insert(error);
            }
            None => done.failed += 1,
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_cannot_be_entered_keeps_no_other_from_its_resets() {
        let record = |netns_cookie, cookie| Record {
            facts: Facts { netns_cookie, cookie, ..Facts::default() },
            ..Record::default()
        };
        let records = [record(7, 1), record(8, 2), record(7, 3), record(9, 4), record(8, 5)];
        let open = |netns| if netns == 7 { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(netns) };
        let done = destroy(records.iter(), open, |_, facts| match facts.cookie {
            4 => Err(io::ErrorKind::NotFound.into()),
            cookie => Ok(cookie == 5),
        });
        assert_eq!((done.count, done.failed), (1, 3));
        assert_eq!(done.error.unwrap().kind(), io::ErrorKind::PermissionDenied, "the first one is told");
    }
}
