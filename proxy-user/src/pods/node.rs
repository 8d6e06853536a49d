//! The node listener, one for each family: it takes the connections of namespaces in which Weir does not listen yet, while they reach it.
//!
//! Nobody can know that of a namespace before its first connection, so it is concluded from those that are served: each is asked once by a
//! [probe](super::probe). New ones are sent there while one of them reaches it and none of them fails to. One that fails may be alone with
//! that (a network policy of its own), but the next pod of its kind would lose its first connections.
//!
//! ```text
//!   closed ──> untried ──> reached <──> missed
//!                 └──────────────────────^
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_bpf::abi::key::{Addr, ListenerKey};
use proxy_bpf::abi::value::{FAMILY_V4, FAMILY_V6, NodeListenerValue};
use proxy_bpf::maps::Maps;
use proxy_core::snapshot::NodeListener;
use proxy_io::sock;
use tokio::task::JoinSet;

use super::probe::probe;
use super::{Pod, Surroundings};
use crate::listener::{Listening, Purpose, open_proxied};
use crate::takeover::{SocketName, Sockets};
use crate::worker::{Command, Worker};

/// Time before a namespace that did not reach the listener is asked again, twice as long each time: addresses, routes and policies of a
/// new pod may come late.
const AGAIN: Duration = Duration::from_secs(2);
/// The longest such time.
const LONGEST_AGAIN: Duration = Duration::from_secs(60);
/// Probes under way at once.
const MOST_PROBES: usize = 16;

/// What a probe found.
pub struct Probed {
    pub(super) cookie: u64,
    family: u32,
    pub(super) listener: Addr,
    pub(super) result: Result<(), String>,
}

/// What operators see of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeListenerStatus {
    /// Its address.
    pub address: SocketAddr,
    /// New namespaces are sent there.
    pub is_reached: bool,
    /// The namespace that does not reach it, and why.
    pub missed_by: Option<(String, String)>,
}

/// What is known of a namespace and the listener of a family.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// What the last probe found.
    last: Option<Result<(), String>>,
    is_asked: bool,
    /// Failed probes in a row.
    failures: u32,
    again: Option<Instant>,
}

/// The listeners of both families.
pub(super) struct NodeListeners {
    each: [OneFamily; 2],
    probes: JoinSet<Probed>,
}

struct OneFamily {
    family: u32,
    open: Option<Open>,
    status: Option<NodeListenerStatus>,
    /// Why it is not open; said once.
    error: Option<String>,
}

struct Open {
    address: Addr,
    owner: u32,
    socket: Arc<OwnedFd>,
    /// Some namespace has reached it, which may be gone.
    was_reached: bool,
    /// Nobody accepts from it just now.
    is_paused: bool,
}

impl Open {
    fn listening(&self) -> Listening {
        let Self { address, socket, .. } = self;
        let (socket, purpose) = (Arc::clone(socket), Purpose::Node(*address));
        Listening { socket, address: SocketAddr::from(*address), purpose }
    }

    async fn tell(&self, command: Command, workers: &[Worker]) -> io::Result<()> {
        let sent = workers[self.owner as usize].mailbox.send(command).await;
        sent.map_err(|_| io::Error::other("the worker has ended"))
    }
}

impl NodeListeners {
    pub(super) fn new() -> Self {
        let each =
            [FAMILY_V4, FAMILY_V6].map(|family| OneFamily { family, open: None, status: None, error: None });
        Self { each, probes: JoinSet::new() }
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = (SocketName, &Arc<OwnedFd>)> {
        let reached = self.each.iter().filter(|one| one.is_reached());
        reached.filter_map(|one| Some((SocketName::Node { family: one.family }, &one.open.as_ref()?.socket)))
    }

    pub(super) fn close(&mut self) {
        self.each.iter_mut().for_each(|one| one.open = None);
    }

    /// Has nobody accept from them: what comes meanwhile waits in the kernel.
    pub(super) async fn pause(&mut self, workers: &[Worker]) {
        for open in self.each.iter_mut().filter_map(|one| one.open.as_mut()) {
            let command = Command::Unlisten(open.listening().name());
            open.is_paused = open.tell(command, workers).await.is_ok();
        }
    }

    /// Has their workers accept from them again.
    pub(super) async fn resume(&mut self, workers: &[Worker]) {
        for open in self.each.iter_mut().filter_map(|one| one.open.as_mut()).filter(|open| open.is_paused) {
            let command = Command::Listen(open.listening());
            open.is_paused = open.tell(command, workers).await.is_err();
        }
    }

    pub(super) fn status(&self) -> Vec<NodeListenerStatus> {
        self.each.iter().filter_map(|one| one.status.clone()).collect()
    }

    /// Opens and closes what the configuration says, and asks the namespaces that have not been asked.
    pub(super) async fn follow(
        &mut self,
        served: &mut HashMap<u64, Pod>,
        taken_over: &mut Sockets,
        around: Surroundings<'_>,
    ) {
        for one in &mut self.each {
            let failed = one.place(served, taken_over, around).await.err().map(|error| error.to_string());
            if let Some(error) = failed.as_ref().filter(|_| failed != one.error) {
                tracing::warn!(%error, "no node listener; it is tried again");
            }
            one.error = failed;
            if around.may_probe {
                one.ask(served, around, &mut self.probes);
            }
            one.show(served, around.maps);
        }
    }

    /// The next end of a probe; `None` if none is under way.
    pub(super) async fn next_probe(&mut self) -> Option<Probed> {
        loop {
            match self.probes.join_next().await? {
                Ok(probed) => return Some(probed),
                Err(error) => tracing::error!(%error, "a probe ended unexpectedly"),
            }
        }
    }

    /// Takes note of it; tells whether it is the first one of its namespace.
    pub(super) fn handle_probe(
        &mut self,
        probed: &Probed,
        served: &mut HashMap<u64, Pod>,
        maps: &Maps,
    ) -> bool {
        let one = &mut self.each[probed.family as usize];
        let is_current = one.open.as_ref().is_some_and(|open| open.address == probed.listener);
        let Some(pod) = served.get_mut(&probed.cookie).filter(|_| is_current) else { return false };
        let reach = &mut pod.reach[probed.family as usize];
        let is_first = reach.last.is_none();
        let failures = if probed.result.is_ok() { 0 } else { reach.failures + 1 };
        let pause = AGAIN * 2_u32.saturating_pow(failures.saturating_sub(1)).min(64);
        let again = probed.result.is_err().then(|| Instant::now() + pause.min(LONGEST_AGAIN));
        *reach = Reach { last: Some(probed.result.clone()), is_asked: false, failures, again };
        one.show(served, maps);
        is_first
    }
}

impl OneFamily {
    fn is_v4(&self) -> bool {
        self.family == FAMILY_V4
    }

    fn is_reached(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.is_reached)
    }

    async fn place(
        &mut self,
        served: &mut HashMap<u64, Pod>,
        taken_over: &mut Sockets,
        around: Surroundings<'_>,
    ) -> io::Result<()> {
        if let Some(socket) = taken_over.take(&SocketName::Node { family: self.family }) {
            // One of this process's own, if the other's came late.
            self.unlisten(served, around).await;
            self.listen(socket, true, around).await?;
        }
        let wanted = self.wanted(served, around);
        if wanted == self.ip() {
            return Ok(());
        }
        self.unlisten(served, around).await;
        let Some(ip) = wanted else { return Ok(()) };
        match open_proxied(Addr::from(SocketAddr::new(ip, 0)), self.is_v4())? {
            Some(socket) => self.listen(socket, false, around).await,
            None => Ok(()),
        }
    }

    fn ip(&self) -> Option<IpAddr> {
        self.open.as_ref().map(|open| SocketAddr::from(open.address).ip())
    }

    /// Where the listener is to be. An address that was chosen is kept unless nobody reaches it any more.
    fn wanted(&self, served: &HashMap<u64, Pod>, around: Surroundings<'_>) -> Option<IpAddr> {
        match &around.snapshot.intercept.node_listener {
            NodeListener::Off => None,
            NodeListener::On(ips) => ips.iter().copied().find(|ip| ip.is_ipv4() == self.is_v4()),
            NodeListener::Auto => {
                let has = |is_good| {
                    let mut last = served.values().filter_map(|pod| self.of(pod).last.as_ref());
                    last.any(|result| result.is_ok() == is_good)
                };
                let was_reached = self.open.as_ref().is_some_and(|open| open.was_reached);
                if has(true) || (was_reached && !has(false)) {
                    return self.ip();
                }
                // The oldest one, so that it does not change with every look.
                let pods = served.iter().filter_map(|(cookie, pod)| Some((*cookie, self.source(pod)?)));
                let own = pods.min().and_then(|(_, pod)| sock::route_source(SocketAddr::new(pod, 1)));
                own.filter(|ip| !ip.is_loopback() && !is_link_local(*ip)).or_else(|| self.ip())
            }
        }
    }

    /// The address that a namespace is known to connect from.
    fn source(&self, pod: &Pod) -> Option<IpAddr> {
        let ip_be = pod.value.source_ip_be[self.family as usize];
        let source = SocketAddr::from(Addr { ip_be, port_be: 0, pad: 0 }).ip();
        (ip_be != [0; 4]).then_some(source)
    }

    fn of<'a>(&self, pod: &'a Pod) -> &'a Reach {
        &pod.reach[self.family as usize]
    }

    async fn listen(
        &mut self,
        socket: OwnedFd,
        was_reached: bool,
        around: Surroundings<'_>,
    ) -> io::Result<()> {
        let socket = Arc::new(socket);
        let address = Addr::from(sock::local_addr(&socket)?);
        let owner = u32::try_from(self.family as usize % around.workers.len()).unwrap_or(0);
        let open = Open { address, owner, socket, was_reached, is_paused: false };
        open.tell(Command::Listen(open.listening()), around.workers).await?;
        around.maps.listeners.put(&ListenerKey::node(self.family), open.socket.as_fd())?;
        self.open = Some(open);
        Ok(())
    }

    async fn unlisten(&mut self, served: &mut HashMap<u64, Pod>, around: Surroundings<'_>) {
        let Some(open) = self.open.take() else { return };
        self.show(served, around.maps);
        let _ = around.maps.listeners.remove(&ListenerKey::node(self.family));
        let _ = open.tell(Command::Unlisten(open.listening().name()), around.workers).await;
        for pod in served.values_mut() {
            pod.reach[self.family as usize] = Reach::default();
        }
    }

    fn ask(&self, served: &mut HashMap<u64, Pod>, around: Surroundings<'_>, probes: &mut JoinSet<Probed>) {
        let (Some(open), Some(maps)) = (&self.open, &around.shared.maps) else { return };
        let (now, family, listener) = (Instant::now(), self.family, open.address);
        for (cookie, pod) in served {
            let Reach { last, is_asked, again, .. } = self.of(pod);
            let is_due = last.is_none() || again.is_some_and(|again| again <= now);
            if *is_asked || !is_due || self.source(pod).is_none() || probes.len() >= MOST_PROBES {
                continue;
            }
            let (cookie, maps, namespace) = (*cookie, Arc::clone(maps), Arc::clone(&pod.namespace));
            pod.reach[family as usize].is_asked = true;
            probes.spawn(async move {
                let result = probe(&namespace, &maps, listener).await;
                Probed { cookie, family, listener, result }
            });
        }
    }

    /// Tells the kernel programs whether new namespaces are to be sent to the listener, and operators what has changed.
    fn show(&mut self, served: &HashMap<u64, Pod>, maps: &Maps) {
        let probed = || served.values().filter_map(|pod| Some((&pod.name, self.of(pod).last.as_ref()?)));
        let is_reached = probed().any(|(_, result)| result.is_ok());
        // Always the same one of several.
        let missed_by = probed().filter_map(|(name, result)| Some((name, result.as_ref().err()?))).min();
        let missed_by = missed_by.map(|(name, why)| (name.clone(), why.clone()));
        let was_reached = self.open.as_mut().is_some_and(|open| {
            open.was_reached |= is_reached;
            open.was_reached
        });
        let is_reached = was_reached && missed_by.is_none();
        let status = self.open.as_ref().map(|open| NodeListenerStatus {
            address: open.address.into(),
            is_reached,
            missed_by,
        });
        if status == self.status {
            return;
        }
        let told = match &self.open {
            Some(open) if is_reached => {
                let value = NodeListenerValue { address: open.address, owner: open.owner };
                maps.node_listeners.put(&self.family, &value)
            }
            _ => maps.node_listeners.remove(&self.family).map(drop),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "cannot tell the kernel programs of the node listener; it is tried again");
            return;
        }
        let before = std::mem::replace(&mut self.status, status);
        let (had_missed, was_reached) =
            before.map_or((false, false), |before| (before.missed_by.is_some(), before.is_reached));
        match &self.status {
            Some(NodeListenerStatus { address, missed_by: Some((netns, error)), .. }) if !had_missed => {
                let text = "a network namespace does not reach the node listener: the first connections of new ones get \
                            what `fail` says";
                tracing::warn!(%address, netns, error, "{text}");
            }
            Some(NodeListenerStatus { address, is_reached: true, .. }) if !was_reached => {
                tracing::info!(%address, "the node listener takes the first connections of new network namespaces");
            }
            _ => {}
        }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}
