//! Network namespaces other than Weir's own: listeners inside, and what the kernel programs must know of each.
//!
//! A namespace is served from the look that found it to the look at which it is gone. A descriptor or a socket keeps a
//! namespace alive: everything here is let go then, and what open connections hold ends with them.

mod find;
pub mod kubelet;
mod list;
mod node;
mod probe;
mod schedule;
mod selection;
mod steer;
mod walk;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use proxy_bpf::abi::config::listener;
use proxy_bpf::abi::key::{Addr, ListenerKey};
use proxy_bpf::abi::value::{FAMILY_V4, FAMILY_V6, NetnsValue};
use proxy_bpf::load::Kernel;
use proxy_bpf::maps::Maps;
use proxy_core::snapshot::{Scope, Snapshot};
use proxy_io::netns::{self, Netns};
use proxy_io::sock;

use crate::connection::{Namespace, Shared};
use crate::listener::{ListenerName, Listening, Purpose, open_proxied};
use crate::stats::application::Key;
use crate::takeover::{SocketName, Sockets};
use crate::worker::{Command, Worker};

/// Addresses that stand for "anywhere else" where no service tells which route matters (RFC 5737, RFC 3849).
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

pub use self::find::Finder;
pub use self::kubelet::KubeletError;
pub use self::list::ListedPod;
pub use self::node::{NodeListenerStatus, Probed};
use self::node::{NodeListeners, Reach};
pub use self::selection::{PodsStatus, Selection, choices};
use self::steer::Steered;

/// A namespace that is to be served.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What it is called in the log.
    pub name: String,
    /// The file by which it can be entered.
    pub file: PathBuf,
    /// Its cookie (SO_NETNS_COOKIE).
    pub cookie: u64,
    /// The scopes that it is known by: the file that the config names, the cgroup that it was found in.
    pub known_as: Vec<Scope>,
    /// Cgroup of its pod, or 0.
    pub cgroup_id: u64,
}

/// What is needed to serve them.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The snapshot in force.
    pub snapshot: &'a Snapshot,
    /// What the workers share.
    pub shared: &'a Shared,
    /// Maps of the kernel programs.
    pub maps: &'a Maps,
    /// The workers.
    pub workers: &'a [Worker],
    /// The kernel programs.
    pub kernel: &'a Kernel,
    /// Connections to applications are this process's to take: no other one that it takes over from does.
    pub may_steer: bool,
    /// Workers accept, and entries of original destinations stay until they are taken.
    pub may_probe: bool,
    /// A newer process has copies of the listeners.
    pub is_handing_over: bool,
}

/// The namespaces that are served.
pub struct Pods {
    /// Those that have listeners; all that are known can be entered.
    served: HashMap<u64, Pod>,
    node: NodeListeners,
    /// Listeners of namespaces that an earlier process served and this one has not met yet.
    taken_over: Sockets,
    /// Why the others are not; said once.
    failed: HashMap<u64, String>,
    /// Worker that accepts for the next namespace.
    next_owner: usize,
}

/// One namespace.
struct Pod {
    name: String,
    /// The scopes that its application is known by.
    known_as: Vec<Scope>,
    namespace: Arc<Namespace>,
    listeners: Vec<(ListenerName, SocketName, Arc<OwnedFd>)>,
    owner: usize,
    value: NetnsValue,
    inbound: Steered,
    /// Whether it reaches the node listeners, by family.
    reach: [Reach; 2],
}

impl Pods {
    /// Begins with none; some may have been taken over.
    #[must_use]
    pub fn new(taken_over: Sockets) -> Self {
        Self {
            served: HashMap::new(),
            node: NodeListeners::new(),
            taken_over,
            failed: HashMap::new(),
            next_owner: 0,
        }
    }

    /// What is open now.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketName, &Arc<OwnedFd>)> {
        let listeners = self.served.values().flat_map(|pod| &pod.listeners);
        listeners.map(|(_, name, socket)| (name.clone(), socket)).chain(self.node.sockets())
    }

    /// Lets go of all listeners; the workers close them when they are told to drain.
    pub fn close_listeners(&mut self) {
        self.served.clear();
        self.node.close();
    }

    /// Has nobody accept the first connections of new namespaces: whoever takes over does.
    pub async fn pause_node_listeners(&mut self, workers: &[Worker]) {
        self.node.pause(workers).await;
    }

    /// Has workers accept them again.
    pub async fn resume_node_listeners(&mut self, workers: &[Worker]) {
        self.node.resume(workers).await;
    }

    /// Takes what the older process has opened since it began to hand over.
    pub fn take_over(&mut self, late: Sockets) {
        self.taken_over.extend(late);
    }

    /// Makes namespaces known whose connections have been accepted and wait for that, and nothing else.
    pub fn know(&self, wanted: impl Iterator<Item = Wanted>, shared: &Shared) {
        for one in wanted.filter(|one| shared.namespaces.get(one.cookie).is_none()) {
            if let Err(error) = Self::make_known(&one, shared) {
                tracing::debug!(netns = one.name, %error, "cannot enter a network namespace");
            }
        }
    }

    /// Closes what was taken over of namespaces that are not to be served any more: it would keep them alive.
    pub fn close_taken_over(&mut self) {
        let count = self.taken_over.close();
        if count > 0 {
            tracing::info!(
                count,
                "closed listeners that were taken over of network namespaces that were not found"
            );
        }
    }

    /// Opens listeners in namespaces that are new, closes those of namespaces that are gone.
    ///
    /// One that cannot be served is logged by name and tried again next time; its applications have the direct lane or
    /// what their service's `fail` says.
    pub async fn follow(&mut self, wanted: impl Iterator<Item = Wanted>, around: Surroundings<'_>) {
        let home = around.shared.netns_cookie;
        let wanted = merged(wanted.filter(|one| one.cookie != home));
        let known = around.shared.namespaces.cookies();
        for cookie in known.into_iter().filter(|cookie| !wanted.contains_key(cookie)) {
            self.close(cookie, around).await;
            around.shared.namespaces.remove(cookie);
            around.shared.stats.applications.leave(Key::Netns(cookie));
        }
        self.failed.retain(|cookie, _| wanted.contains_key(cookie));
        for one in wanted.into_values() {
            let mut result = match self.served.get_mut(&one.cookie) {
                Some(pod) => pod.refresh(around),
                None => self.open(&one, around).await,
            };
            if let Some(pod) = self.served.get_mut(&one.cookie) {
                if pod.known_as != one.known_as {
                    pod.known_as.clone_from(&one.known_as);
                    let applications = &around.shared.stats.applications;
                    applications.name(Key::Netns(one.cookie), &pod.name, pod.known_as.clone());
                }
                result = result.and(pod.inbound.follow(&pod.namespace.netns, &one.known_as, around));
            }
            self.report(&one, result);
        }
        // One that is opened now would not be handed over.
        if !around.is_handing_over {
            self.node.follow(&mut self.served, &mut self.taken_over, around).await;
        }
    }

    /// The next probe of the node listener that ends; `None` if none is under way.
    pub async fn next_probe(&mut self) -> Option<Probed> {
        self.node.next_probe().await
    }

    /// Takes note of a probe's end. Gives the namespace and the listener that it cannot reach, if connections from it may be on
    /// their way there: from before it was known.
    pub fn handle_probe(&mut self, probed: &Probed, maps: &Maps) -> Option<(u64, Addr)> {
        let is_first = self.node.handle_probe(probed, &mut self.served, maps);
        (is_first && probed.result.is_err()).then_some((probed.cookie, probed.listener))
    }

    /// What operators see of the node listeners.
    #[must_use]
    pub fn node_listeners(&self) -> Vec<NodeListenerStatus> {
        self.node.status()
    }

    async fn open(&mut self, wanted: &Wanted, around: Surroundings<'_>) -> io::Result<()> {
        let cookie = wanted.cookie;
        let Some(namespace) = Self::make_known(wanted, around.shared)? else {
            // Another one has taken its name since; the next look finds it.
            return Ok(());
        };
        let netns = &namespace.netns;
        let owner = self.next_owner % around.workers.len();
        self.next_owner += 1;
        let value =
            NetnsValue { owner: u32::try_from(owner).unwrap_or(0), ..sources(netns, around.snapshot)? };
        let taken_over = &mut self.taken_over;
        let opened = match netns.within(|| listeners(cookie, taken_over))? {
            // The older process has found it in the meantime, and hands that over, too.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && !around.may_steer => return Ok(()),
            opened => opened?,
        };
        let inbound = Steered::new(netns, value.owner, wanted.cgroup_id);
        let (name, known_as) = (wanted.name.clone(), wanted.known_as.clone());
        let (listeners, reach) = (Vec::new(), Default::default());
        let mut pod = Pod { name, known_as, namespace, listeners, owner, value, inbound, reach };
        // Whatever fails from here on is taken back as a whole.
        let result = pod.show(opened, around).await;
        self.served.insert(cookie, pod);
        match &result {
            Ok(()) => {
                tracing::info!(netns = wanted.name, cookie, worker = owner, "network namespace is served");
            }
            Err(_) => self.close(cookie, around).await,
        }
        result
    }

    /// Makes a namespace known to the workers: connections from it may have come to the node listener, and wait for that.
    fn make_known(wanted: &Wanted, shared: &Shared) -> io::Result<Option<Arc<Namespace>>> {
        let Wanted { name, file, cookie, known_as, .. } = wanted;
        let name = || shared.stats.applications.name(Key::Netns(*cookie), name, known_as.clone());
        if let Some(namespace) = shared.namespaces.get(*cookie) {
            name();
            return Ok(Some(namespace));
        }
        let netns = Arc::new(Netns::open(file)?);
        if netns.cookie() != *cookie {
            return Ok(None);
        }
        let share = shared.budget.share(*cookie);
        let namespace = Arc::new(Namespace { netns, share, application: name() });
        shared.namespaces.put(Arc::clone(&namespace));
        Ok(Some(namespace))
    }

    async fn close(&mut self, cookie: u64, around: Surroundings<'_>) {
        let Surroundings { maps, workers, .. } = around;
        let Some(mut pod) = self.served.remove(&cookie) else { return };
        pod.inbound.stop();
        let _ = maps.netns.remove(&cookie);
        for family in [FAMILY_V4, FAMILY_V6] {
            let _ = maps.listeners.remove(&ListenerKey { netns_cookie: cookie, family, index: 0 });
        }
        for (name, ..) in &pod.listeners {
            let _ = workers[pod.owner].mailbox.send(Command::Unlisten(*name)).await;
        }
        tracing::info!(netns = pod.name, cookie, "network namespace is not served any more");
    }

    fn report(&mut self, wanted: &Wanted, result: io::Result<()>) {
        let Wanted { name, cookie, .. } = wanted;
        let Err(error) = result else {
            self.failed.remove(cookie);
            return;
        };
        let text = error.to_string();
        if self.failed.get(cookie) != Some(&text) {
            tracing::warn!(netns = name, cookie, %error, "cannot serve a network namespace; it is tried again");
            self.failed.insert(*cookie, text);
        }
    }
}

impl Pod {
    /// Hands the listeners to their worker and shows them to the kernel programs, these last.
    async fn show(
        &mut self,
        opened: Vec<(u32, Addr, Arc<OwnedFd>)>,
        around: Surroundings<'_>,
    ) -> io::Result<()> {
        let Surroundings { maps, workers, .. } = around;
        let netns_cookie = self.namespace.netns.cookie();
        let mut keys = Vec::new();
        for (family, abi, socket) in opened {
            let shown = Arc::clone(&socket);
            let (namespace, inbound) = (Arc::clone(&self.namespace), Arc::clone(self.inbound.shared()));
            let purpose = Purpose::InterceptedIn { namespace, listener: abi, inbound };
            let listening = Listening { socket, address: SocketAddr::from(abi), purpose };
            let name = SocketName::Pod { netns_cookie, family };
            self.listeners.push((listening.name(), name, Arc::clone(&shown)));
            let sent = workers[self.owner].mailbox.send(Command::Listen(listening)).await;
            sent.map_err(|_| io::Error::other("the worker has ended"))?;
            keys.push((ListenerKey { netns_cookie, family, index: 0 }, shown));
        }
        for (key, socket) in keys {
            maps.listeners.put(&key, socket.as_fd())?;
        }
        maps.netns.put(&netns_cookie, &self.value)
    }

    /// Looks again for routes that were not there: addresses come to a pod after its namespace.
    fn refresh(&mut self, around: Surroundings<'_>) -> io::Result<()> {
        if !self.value.source_ip_be.contains(&[0; 4]) {
            return Ok(());
        }
        let value =
            NetnsValue { owner: self.value.owner, ..sources(&self.namespace.netns, around.snapshot)? };
        if value == self.value {
            return Ok(());
        }
        self.value = value;
        around.maps.netns.put(&self.namespace.netns.cookie(), &value)
    }
}

/// Makes one of all that is known of each namespace; the last name counts.
fn merged(wanted: impl Iterator<Item = Wanted>) -> HashMap<u64, Wanted> {
    let mut all: HashMap<u64, Wanted> = HashMap::new();
    for one in wanted {
        let before = all.remove(&one.cookie);
        let (known_as, cgroup_id) = before.map_or((Vec::new(), 0), |one| (one.known_as, one.cgroup_id));
        let known_as = [known_as, one.known_as].concat();
        let cgroup_id = if one.cgroup_id == 0 { cgroup_id } else { one.cgroup_id };
        all.insert(one.cookie, Wanted { known_as, cgroup_id, ..one });
    }
    all
}

/// Opens one listener per family in this thread's namespace, if none was taken over. IPv6 is left out where there is none.
fn listeners(netns_cookie: u64, taken_over: &mut Sockets) -> io::Result<Vec<(u32, Addr, Arc<OwnedFd>)>> {
    if !netns::is_loopback_up()? {
        return Err(io::Error::other("its loopback interface is down"));
    }
    let mut opened = Vec::new();
    for (family, is_v4) in [(FAMILY_V4, true), (FAMILY_V6, false)] {
        let abi = listener(is_v4, 0);
        let socket = match taken_over.take(&SocketName::Pod { netns_cookie, family }) {
            Some(socket) => Some(socket),
            None => open_proxied(abi, is_v4)?,
        };
        opened.extend(socket.map(|socket| (family, abi, Arc::new(socket))));
    }
    Ok(opened)
}

/// Addresses that connections to services leave a namespace from.
///
/// One per family, by the first service that it has a route to: a pod has one way out. A namespace with several would
/// need one per service.
fn sources(netns: &Netns, snapshot: &Snapshot) -> io::Result<NetnsValue> {
    netns.within(|| {
        let services = || snapshot.services().flat_map(|service| service.addresses.iter().copied()).take(64);
        let elsewhere = || ELSEWHERE.into_iter().map(|ip| SocketAddr::new(ip, 1));
        let source_ip_be = [true, false].map(|is_v4| {
            let mut targets = services().chain(elsewhere()).filter(|address| address.is_ipv4() == is_v4);
            let source = targets.find_map(sock::route_source).filter(|ip| !ip.is_loopback());
            source.map_or([0; 4], |ip| Addr::from(SocketAddr::new(ip, 0)).ip_be)
        });
        NetnsValue { source_ip_be, owner: 0 }
    })
}
