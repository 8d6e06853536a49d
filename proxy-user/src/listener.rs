//! Accepting connections and finding out where they wanted to go.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proxy_bpf::abi::key::{Addr, OriginalDstKey};
use proxy_core::addr::{ClientAddr, OriginalDst};
use proxy_core::id::ServiceId;
use proxy_core::outcome::Reason;
use proxy_io::{sock, watch};

use crate::connection::{self, Accepted, Local};

/// Connections accepted before others get their turn.
const TURN_ACCEPTS: usize = 64;
/// Pause when the process is out of descriptors: the listener stays readable, and asking at once would spin.
const EMFILE_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket with what its connections are for.
#[derive(Debug)]
pub struct Listening {
    /// The socket; it may be shared with other workers.
    pub socket: OwnedFd,
    /// Its address.
    pub address: std::net::SocketAddr,
    /// How to tell the service of a connection.
    pub purpose: Purpose,
}

/// How the service of an accepted connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// By the original destination that the kernel stored; the address is the listener's part of its key.
    Intercepted(Addr),
    /// By the listener.
    Explicit(ServiceId),
}

/// Accepts from one socket for as long as the task lives.
pub(crate) async fn serve(local: Rc<Local>, listening: Listening) {
    let address = listening.address;
    if let Err(error) = accept_all(local, listening).await {
        tracing::error!(%address, %error, "listener stopped");
    }
}

async fn accept_all(local: Rc<Local>, listening: Listening) -> io::Result<()> {
    // Readiness, not an accept in the ring: a killed process's ring lets go of its listeners late, and in between new
    // connections would be sent to a socket that nobody serves.
    let socket = watch::readable(listening.socket)?;
    loop {
        let mut ready = socket.readable().await?;
        for turn in 0.. {
            if turn == TURN_ACCEPTS {
                tokio::task::yield_now().await;
                break;
            }
            match local.driver.accept(socket.get_ref()) {
                Ok(Some((fd, peer))) => {
                    handle_accepted(&local, listening.purpose, fd, peer, listening.address)
                }
                Ok(None) => {
                    ready.clear_ready();
                    break;
                }
                Err(error) if sock::is_out_of_descriptors(&error) => {
                    tracing::warn!(%error, "cannot accept; raise LimitNOFILE");
                    local.pipes.close_idle();
                    tokio::time::sleep(EMFILE_PAUSE).await;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn handle_accepted(
    local: &Rc<Local>,
    purpose: Purpose,
    fd: OwnedFd,
    peer: std::net::SocketAddr,
    listener: std::net::SocketAddr,
) {
    let client = ClientAddr(proxy_core::addr::canonical(peer));
    let Some(budget) = local.shared.budget.try_acquire() else {
        return refuse(local, &fd, client, Reason::Limit);
    };
    let accepted = match purpose {
        Purpose::Explicit(service) => {
            let original_dst = OriginalDst(listener);
            Accepted { client, original_dst, service, cgroup_id: 0, is_remote: true, _budget: budget }
        }
        Purpose::Intercepted(listener) => match take_original_dst(local, client, listener) {
            Some(found) => Accepted {
                client,
                original_dst: OriginalDst(found.address.into()),
                service: ServiceId(found.service),
                cgroup_id: found.cgroup_id,
                is_remote: false,
                _budget: budget,
            },
            None => return refuse(local, &fd, client, Reason::NoOriginalDst),
        },
    };
    tokio::task::spawn_local(connection::run(Rc::clone(local), fd, accepted));
}

/// Takes what the kernel programs stored when the SYN was sent; each connection's entry is there once.
fn take_original_dst(
    local: &Local,
    client: ClientAddr,
    listener: Addr,
) -> Option<proxy_bpf::abi::value::OriginalDst> {
    let maps = local.shared.maps.as_ref()?;
    let key =
        OriginalDstKey { netns_cookie: local.shared.netns_cookie, source: Addr::from(client.0), listener };
    match maps.original_dst.take(&key) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "cannot read the map of original destinations");
            None
        }
    }
}

/// Resets a connection that cannot be served, and counts it.
fn refuse(local: &Local, fd: &OwnedFd, client: ClientAddr, reason: Reason) {
    let _ = sock::set_linger_reset(fd);
    let stray = &local.shared.stats.stray;
    stray.opened.fetch_add(1, Ordering::Relaxed);
    stray.handle_end(reason, 0, 0);
    tracing::debug!(%client, reason = reason.as_str(), "connection refused");
}
