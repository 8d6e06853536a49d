//! The interface for operators: HTTP on loopback for reading, on a unix socket for changes too.
//!
//! | where | who | what |
//! |---|---|---|
//! | `admin.address` | anybody on this machine | read; the Host header must name an address, so that no web page gets in by DNS |
//! | `admin.socket` (mode 0600) | root, and the `weir` command | read and change |
//! | `metrics.address` | a scraper | `/metrics` only |
//!
//! Served by the control runtime, never by a worker; what reads the kernel runs on threads that may block.

pub mod client;
mod clusters;
pub mod connections;
mod dump;
mod metrics;
mod route;
mod server;
mod source;
mod status;
mod why;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use self::server::Server;
pub use self::source::Source;

use self::route::{Access, Admin};
use self::server::Listener;
use crate::takeover::{NamedSockets, SocketName, Sockets};

/// Where to serve.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Loopback address that can only be read from.
    pub admin: SocketAddr,
    /// Unix socket that can change things.
    pub socket: PathBuf,
    /// Further address for /metrics.
    pub metrics: Option<SocketAddr>,
}

/// Every address, open and not served yet.
pub struct Opened(Vec<(Listener, Access)>);

/// Opens every address that was not taken over.
///
/// The caller holds the lock of the run folder, so a socket file that is there already is nobody's.
///
/// # Errors
/// The address that cannot be listened on.
pub async fn open(addresses: &Addresses, taken_over: &mut Sockets) -> io::Result<Opened> {
    let Addresses { admin, socket, metrics } = addresses;
    let mut opened = Vec::new();
    let taken = taken_over.take(&SocketName::Admin(*admin));
    opened.push((Listener::tcp(*admin, taken).await?, Access::ReadOnly));
    if let Some(metrics) = metrics {
        let taken = taken_over.take(&SocketName::Metrics(*metrics));
        opened.push((Listener::tcp(*metrics, taken).await?, Access::MetricsOnly));
    }
    let taken = taken_over.take(&SocketName::AdminSocket(socket.clone()));
    opened.push((Listener::unix(socket, taken)?, Access::Full));
    Ok(Opened(opened))
}

impl Opened {
    /// Copies of the sockets, for a newer process.
    ///
    /// # Errors
    /// If this process may have no more descriptors.
    pub fn copies(&self) -> io::Result<NamedSockets> {
        self.0.iter().map(|(listener, access)| listener.copy(*access)).collect()
    }

    /// Serves until the server is stopped or dropped.
    #[must_use]
    pub fn serve<S: Source>(self, source: S) -> Server {
        let admin = Arc::new(Admin::new(source));
        let mut server = Server::default();
        for (listener, access) in self.0 {
            server.add(listener, access, &admin);
        }
        server
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
