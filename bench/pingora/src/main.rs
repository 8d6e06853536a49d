//! Pingora as a TCP and an HTTP proxy: what somebody writes who builds on it instead of using Weir.
//!
//! A server with one service for each argument, one thread each: `LISTEN=TARGET` relays bytes, over an upstream connection
//! made by Pingora's own connector for each downstream one; with `http:`, `https:` or `h2:` before it, it is an HTTP proxy
//! of pingora-proxy. Everything that Pingora decides stays as it comes, unless the bench asks the same of everybody.

#![forbid(unsafe_code)]

mod http;

use std::io::{self, Write as _};
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::Stream;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{Server, ShutdownWatch};
use pingora_core::services::listening::Service;
use pingora_core::upstreams::peer::BasicPeer;

/// What cargo built: `--version` answers from it.
const LOCK: &str = include_str!("../Cargo.lock");
/// Idle upstream connections that are kept: more than any case has clients at once.
const POOL_SIZE: usize = 1024;

/// Tries of a request, the first one included.
const TRIES: usize = 1;

/// Forwards every connection to one address.
struct Relay {
    connector: TransportConnector,
    target: BasicPeer,
}

#[async_trait]
impl ServerApp for Relay {
    async fn process_new(self: &Arc<Self>, mut downstream: Stream, _: &ShutdownWatch) -> Option<Stream> {
        let mut upstream = self.connector.new_stream(&self.target).await.ok()?;
        // how a connection ends is between its ends
        let _ = tokio::io::copy_bidirectional(&mut downstream, &mut upstream).await;
        None
    }
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if_eq("--version").is_some() {
        return writeln!(io::stdout(), "pingora-core {}", version());
    }
    // waits for nobody at its end: the bench has measured by then
    let conf = ServerConf {
        threads: 1,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        upstream_keepalive_pool_size: POOL_SIZE,
        max_retries: TRIES,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut certificate = http::Certificate::default();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--cert" => certificate.cert = arguments.next().unwrap_or_default(),
            "--key" => certificate.key = arguments.next().unwrap_or_default(),
            _ => add_service(&mut server, &argument, &certificate)?,
        }
    }
    server.run_forever()
}

fn add_service(server: &mut Server, argument: &str, certificate: &http::Certificate) -> io::Result<()> {
    let (kind, addresses) = match argument.split_once(':') {
        Some((kind @ ("http" | "https" | "h2"), addresses)) => (kind, addresses),
        _ => ("tcp", argument),
    };
    let (listen, target) = addresses
        .split_once('=')
        .ok_or_else(|| io::Error::other(format!("expected LISTEN=TARGET instead of {argument}")))?;
    match kind {
        "tcp" => {
            let relay = Relay { connector: TransportConnector::new(None), target: BasicPeer::new(target) };
            let mut service = Service::new(argument.to_owned(), relay);
            service.add_tcp(listen);
            server.add_service(service);
        }
        kind => {
            let service = http::service(&server.configuration, kind, listen, target, certificate)
                .map_err(|error| io::Error::other(error.to_string()))?;
            server.add_service(service);
        }
    }
    Ok(())
}

/// Version of Pingora in the lock file.
fn version() -> &'static str {
    let entry = LOCK.split("name = \"pingora-core\"").nth(1);
    entry.and_then(|rest| rest.split('"').nth(1)).unwrap_or("unknown")
}
