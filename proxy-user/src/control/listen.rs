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
use proxy_core::service::Limits;
use proxy_core::snapshot::{ExplicitListener, Serves, Snapshot};

use crate::listener::{ListenerName, Listening, Purpose, open, open_proxied, prepare};
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
        for listener in
            snapshot.listeners.iter().filter(|listener| !self.open.contains_key(&listener.address))
        {
            let address = listener.address;
            let context = |error: io::Error| {
                io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
            };
            let socket = match self.taken_over.take(&SocketName::Listener(address)) {
                Some(socket) => socket,
                None => retry_in_use(address).await.map_err(context)?,
            };
            prepare(&socket, listener, limits(snapshot, listener)).map_err(context)?;
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

    /// Closes what a snapshot does not want any more; what stays may be for something else now. A connection that came before
    /// that to a listener whose clients spoke first until now waits for a second.
    pub async fn settle(&mut self, workers: &[Worker], snapshot: &Snapshot) {
        let wanted = wanted(snapshot);
        let old: Vec<_> = self.open.keys().copied().filter(|address| !wanted.contains(address)).collect();
        for address in old {
            self.open.remove(&address);
            tell(workers, || Command::Unlisten(name(address))).await;
        }
        for listener in &snapshot.listeners {
            if let Some(socket) = self.open.get(&listener.address)
                && let Err(error) = prepare(socket, listener, limits(snapshot, listener))
            {
                tracing::warn!(address = %listener.address, %error, "cannot set options of a listener");
            }
        }
    }
}

/// What the connections of a listener inherit; those of one with routes are for nobody yet.
fn limits<'a>(snapshot: &'a Snapshot, listener: &ExplicitListener) -> &'a Limits {
    let service = match listener.serves {
        Serves::Service(id) => snapshot.service(id),
        Serves::Routes(_) => None,
    };
    service.map_or(&Limits::DEFAULT, |service| &service.limits)
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
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use proxy_core::id::{Registry, Version};

    use super::*;
    use crate::listener::DEFER_TIME;

    /// A listener of a config that is right but for its files, and the snapshot.
    fn listener(more: &str) -> (Arc<ExplicitListener>, Snapshot) {
        let text = format!(
            "services: [{{name: a, protocol: auto, addresses: ['10.96.0.1:80'], limits: {{user_timeout: 7s}}, \
             endpoints: [{{address: '10.0.0.1:80'}}]}}]\n\
             listeners: [{{address: '127.0.0.1:1', service: a, {more}}}]"
        );
        let config = crate::config::parse("test", &text).unwrap();
        let snapshot = config.snapshot(&mut Registry::default(), Version(1), None);
        (Arc::clone(&snapshot.listeners[0]), snapshot)
    }

    #[test]
    fn a_connection_is_accepted_with_its_first_bytes_where_the_client_is_the_first_to_speak() {
        let socket = open(([127, 0, 0, 1], 0).into()).unwrap();
        let accepting = TcpListener::from(socket.try_clone().unwrap());
        let address = accepting.local_addr().unwrap();
        let (at_once, with_its_bytes) = (true, false);
        for (more, expected) in [
            ("protocol: tcp", at_once),
            ("protocol: http", with_its_bytes),
            ("protocol: auto", at_once),
            ("protocol: tcp, proxy_protocol: required", with_its_bytes),
            ("protocol: tcp", at_once),
            ("protocol: tcp, tls: {certificates: [{cert: a.pem, key: a.key}]}", with_its_bytes),
        ] {
            let (listener, snapshot) = listener(more);
            prepare(&socket, &listener, limits(&snapshot, &listener)).unwrap();
            let client = TcpStream::connect(address).unwrap();
            // On a busy machine a connection that comes at once may take a moment.
            let began = Instant::now();
            let accept_within = |time| {
                std::iter::repeat_with(|| accepting.accept().is_ok())
                    .take_while(|_| began.elapsed() < time)
                    .any(|is_accepted| is_accepted)
            };
            let is_accepted = accept_within(DEFER_TIME / 2);
            assert_eq!(is_accepted, expected, "{more}");
            // Its end is something to say, too.
            drop(client);
            assert!(is_accepted || accept_within(Duration::from_secs(60)), "{more}");
        }
    }

    #[test]
    fn the_connections_of_a_listener_have_the_limits_of_its_service() {
        let (listener, snapshot) = listener("protocol: tcp");
        assert_eq!(limits(&snapshot, &listener).user_timeout, Duration::from_secs(7));
    }

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
