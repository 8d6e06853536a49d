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

/// Opens every address and serves until the server is stopped or dropped.
///
/// The caller holds the lock of the run folder, so a socket file that is there already is nobody's.
///
/// # Errors
/// The address that cannot be listened on.
pub async fn serve<S: Source>(source: S, addresses: &Addresses) -> io::Result<Server> {
    let admin = Arc::new(Admin::new(source));
    let mut server = Server::default();
    server.add(Listener::tcp(addresses.admin).await?, Access::ReadOnly, &admin);
    if let Some(metrics) = addresses.metrics {
        server.add(Listener::tcp(metrics).await?, Access::MetricsOnly, &admin);
    }
    server.add(Listener::unix(&addresses.socket)?, Access::Full, &admin);
    Ok(server)
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
