//! The far side's customers: each mode is one kind of work, done until the time is over.

pub mod bulk;
pub mod connect;
pub mod grpc;
pub mod http;
pub mod http_idle;
pub mod http_rate;
pub mod idle;
mod open_loop;
pub mod pingpong;
pub mod rate;
pub mod request;

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// What every mode is told.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where to connect to.
    pub target: SocketAddr,
    /// Processes whose processor time is reported: the proxy.
    pub watched: Vec<u32>,
    /// Time before the measurement, for caches and pools to fill.
    pub warm_up: Duration,
    /// Length of the measurement.
    pub length: Duration,
}

impl Job {
    /// A connection whose reads and writes never wait, and whose bytes are sent at once.
    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.target).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}
