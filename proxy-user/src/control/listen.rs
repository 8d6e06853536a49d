//! Listening sockets: those of the proxy lane, which the kernel programs redirect to, and those of the config.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use proxy_bpf::abi::config::{LISTENER_COUNT_MAX, LISTENER_COUNT_MIN, listener};
use proxy_bpf::abi::key::ListenerKey;
use proxy_bpf::abi::value::{FAMILY_V4, FAMILY_V6};
use proxy_bpf::maps::Maps;
use proxy_core::snapshot::Snapshot;

use crate::listener::{ListenerName, Listening, Purpose, open, open_proxied};
use crate::takeover::{SocketName, Sockets};
use crate::worker::{Command, Worker};

/// Listeners of the proxy lane per family: at least [`LISTENER_COUNT_MIN`], and as many for one worker as for another,
/// because the kernel draws among listeners. Workers beyond [`LISTENER_COUNT_MAX`] get none.
#[must_use]
pub fn intercepted_count(workers: usize) -> u32 {
    let workers = u32::try_from(workers).unwrap_or(u32::MAX).clamp(1, LISTENER_COUNT_MAX);
    workers * LISTENER_COUNT_MIN.div_ceil(workers)
}

/// Opens `count` listeners of the proxy lane per family, as far as they were not taken over, and shows them to the kernel
/// programs. Each is for one worker; those that follow one another are for different ones.
///
/// IPv6 is left out where the host has none. What was taken over beyond `count` is served, too, and not shown: somebody
/// may be on the way there.
///
/// # Errors
/// The first socket or map operation that fails; for example another process on one of the ports.
pub fn open_intercepted(
    maps: &Maps,
    netns_cookie: u64,
    count: u32,
    taken_over: &mut Sockets,
) -> io::Result<Vec<(SocketName, Listening)>> {
    let mut opened = Vec::new();
    for (family, is_v4) in [(FAMILY_V4, true), (FAMILY_V6, false)] {
        for index in 0..count {
            let name = SocketName::Home { family, index };
            let socket = match taken_over.take(&name) {
                Some(socket) => socket,
                None => match open_proxied(listener(is_v4, index), is_v4)? {
                    Some(socket) => socket,
                    None => {
                        tracing::warn!("this host has no IPv6: IPv6 connections are not proxied");
                        break;
                    }
                },
            };
            maps.listeners.put(&ListenerKey { netns_cookie, family, index }, socket.as_fd())?;
            opened.push(intercepted(name, socket, is_v4, index));
        }
    }
    for (name, socket) in taken_over.split(|name| matches!(name, SocketName::Home { .. })) {
        if let SocketName::Home { family, index } = name {
            opened.push(intercepted(name, socket, family == FAMILY_V4, index));
        }
    }
    Ok(opened)
}

fn intercepted(name: SocketName, socket: OwnedFd, is_v4: bool, index: u32) -> (SocketName, Listening) {
    let abi = listener(is_v4, index);
    let purpose = Purpose::Intercepted(abi);
    (name, Listening { socket: Arc::new(socket), address: SocketAddr::from(abi), purpose })
}

/// The listeners of the config; all workers accept from each. What is done with a connection is looked up when it is
/// accepted, so only a change of addresses opens or closes anything.
pub struct Listeners {
    open: HashMap<SocketAddr, Arc<OwnedFd>>,
    taken_over: Sockets,
}

impl Listeners {
    /// Begins with none; some may have been taken over.
    #[must_use]
    pub fn new(taken_over: Sockets) -> Self {
        Self { open: HashMap::new(), taken_over }
    }

    /// What is open now.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketName, &Arc<OwnedFd>)> {
        self.open.iter().map(|(address, socket)| (SocketName::Listener(*address), socket))
    }

    /// Lets go of all; the workers close them when they are told to drain.
    pub fn close(&mut self) {
        self.open.clear();
    }

    /// Closes what was taken over and is in no configuration any more.
    pub fn close_taken_over(&mut self) {
        self.taken_over.close();
    }

    /// Opens what a snapshot wants and is not open, and tells the workers; what cannot be opened is an error, and then
    /// nothing is changed.
    ///
    /// # Errors
    /// The first address that cannot be listened on.
    pub async fn open_new(&mut self, workers: &[Worker], snapshot: &Snapshot) -> io::Result<()> {
        let mut sockets = Vec::new();
        for address in wanted(snapshot).into_iter().filter(|address| !self.open.contains_key(address)) {
            let context = |error: io::Error| {
                io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
            };
            let socket = match self.taken_over.take(&SocketName::Listener(address)) {
                Some(socket) => socket,
                None => retry_in_use(address).await.map_err(context)?,
            };
            sockets.push((address, Arc::new(socket)));
        }
        for (address, socket) in sockets {
            tell(workers, || {
                let socket = Arc::clone(&socket);
                Command::Listen(Listening { socket, address, purpose: Purpose::Explicit })
            })
            .await;
            self.open.insert(address, socket);
        }
        Ok(())
    }

    /// Closes what a snapshot does not want any more.
    pub async fn close_old(&mut self, workers: &[Worker], snapshot: &Snapshot) {
        let wanted = wanted(snapshot);
        let old: Vec<_> = self.open.keys().copied().filter(|address| !wanted.contains(address)).collect();
        for address in old {
            self.open.remove(&address);
            tell(workers, || Command::Unlisten(name(address))).await;
        }
    }
}

fn wanted(snapshot: &Snapshot) -> HashSet<SocketAddr> {
    snapshot.listeners.iter().map(|listener| listener.address).collect()
}

fn name(address: SocketAddr) -> ListenerName {
    ListenerName { netns_cookie: 0, address }
}

/// Opens a listener; an address that a worker is just giving up is free within milliseconds.
async fn retry_in_use(address: SocketAddr) -> io::Result<OwnedFd> {
    const TRIES: u32 = 50;
    for _ in 1..TRIES {
        match open(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            result => return result,
        }
    }
    open(address)
}

async fn tell(workers: &[Worker], make: impl Fn() -> Command) {
    for worker in workers {
        // A worker that has ended serves nobody; the process is about to end, too.
        let _ = worker.mailbox.send(make()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_has_as_many_listeners_as_the_others() {
        for workers in [1, 2, 3, 7, 8, 9, 64, 253, 254] {
            let count = intercepted_count(workers) as usize;
            assert_eq!(count % workers, 0, "{count} for {workers}");
            assert!((LISTENER_COUNT_MIN..=LISTENER_COUNT_MAX).contains(&intercepted_count(workers)));
        }
        assert_eq!(intercepted_count(2), 8);
        assert_eq!(intercepted_count(5000), LISTENER_COUNT_MAX);
    }
}
