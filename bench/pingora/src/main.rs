//! Pingora as a TCP proxy: what somebody writes who builds on it instead of using Weir.
//!
//! A server with one service for each `LISTEN=TARGET` argument, one thread each, and an upstream connection made by
//! Pingora's own connector for each downstream one. Everything that Pingora decides stays as it comes.

#![forbid(unsafe_code)]

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
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--version") {
        return writeln!(io::stdout(), "pingora-core {}", version());
    }
    // waits for nobody at its end: the bench has measured by then
    let conf = ServerConf {
        threads: 1,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    for argument in arguments {
        let (listen, target) = argument
            .split_once('=')
            .ok_or_else(|| io::Error::other(format!("expected LISTEN=TARGET instead of {argument}")))?;
        let relay = Relay { connector: TransportConnector::new(None), target: BasicPeer::new(target) };
        let mut service = Service::new(argument.clone(), relay);
        service.add_tcp(listen);
        server.add_service(service);
    }
    server.run_forever()
}

/// Version of Pingora in the lock file.
fn version() -> &'static str {
    let entry = LOCK.split("name = \"pingora-core\"").nth(1);
    entry.and_then(|rest| rest.split('"').nth(1)).unwrap_or("unknown")
}
