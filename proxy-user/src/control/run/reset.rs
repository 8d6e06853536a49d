//! Ending the open connections of endpoints that are lost.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::SocketAddr;

use proxy_bpf::abi::record::Record;
use proxy_bpf::abi::value::lane;
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
        let reset = self.parts.kernel.open_live().and_then(proxy_bpf::events::read_live).and_then(|live| {
            let of_lost =
                |r: &&Record| r.facts.lane == lane::DIRECT && lost.contains(&EndpointId(r.facts.endpoint));
            self.destroy(live.iter().filter(of_lost))
        });
        match reset {
            Ok(count) => {
                tracing::info!(count, endpoints = lost.len(), "reset direct connections to lost endpoints")
            }
            Err(error) => tracing::warn!(%error, "cannot reset direct connections to lost endpoints"),
        }
    }

    /// Resets connections by their socket's cookie, never by address alone: a successor may have the same.
    fn destroy<'a>(&self, records: impl Iterator<Item = &'a Record>) -> io::Result<usize> {
        // A netlink socket sees the network namespace that it was opened in.
        let mut diags: HashMap<u64, SockDiag> = HashMap::new();
        let mut count = 0;
        for Record { facts, .. } in records {
            let diag = match diags.entry(facts.netns_cookie) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => match self.pods.netns(facts.netns_cookie) {
                    Some(netns) => place.insert(netns.within(SockDiag::open)??),
                    None => place.insert(SockDiag::open()?),
                },
            };
            let (local, remote) = (SocketAddr::from(facts.source), SocketAddr::from(facts.real));
            count += usize::from(diag.destroy(local, remote, facts.cookie)?);
        }
        Ok(count)
    }
}
