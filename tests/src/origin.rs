//! HTTP servers in Python on the far side: parsers that are not ours, and tell what they took for a request.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::http::Peer;
use crate::net::Net;
use crate::process::{self, Running};
use crate::skip;
use crate::world::World;

const SOURCE: &str = include_str!("python/origin.py");
/// Time to start and to say something, on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// Asked for behind everything else.
const FENCE: &str = "/fence";
/// Interpreters that may have h11: Debian's own has Debian's packages, one in front of it in `PATH` has not.
const INTERPRETERS: [&str; 2] = ["python3", "/usr/bin/python3"];

/// Who parses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// h11: strict.
    H11,
    /// The standard library: lenient.
    Library,
}

/// A server; it ends with this.
pub struct Origin {
    running: Running,
    address: SocketAddr,
}

impl Origin {
    /// Starts one; or reports that the test is skipped, because h11 is not installed.
    ///
    /// # Panics
    /// If the address is taken.
    #[must_use]
    pub fn start(world: &World, address: SocketAddr, kind: Kind) -> Option<Self> {
        let python = match kind {
            Kind::Library => Some(INTERPRETERS[0]),
            Kind::H11 => INTERPRETERS.into_iter().find(|python| has_h11(python)),
        };
        let Some(python) = python else {
            skip::skip("h11 for Python is not installed");
            return None;
        };
        let word = if kind == Kind::H11 { "h11" } else { "library" };
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let mut command = world.far().command(Path::new(python));
        command.args(["-c", SOURCE, word, &host, &port]);
        let running = Running::start(&mut command).expect("python can be started");
        assert!(running.line(LIMIT).is_some(), "{kind:?} on {address} (its error is above)");
        Some(Self { running, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes the requests so far. Those that were answered are among them: each is told before its answer.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn take_seen(&self, net: &Net) -> Vec<Value> {
        let mut fence = Peer::connect(net, self.address);
        fence.say(format!("GET {FENCE} HTTP/1.1\r\nHost: fence\r\n\r\n"));
        assert_eq!(fence.answer().status(), 200);
        let lines = std::iter::from_fn(|| self.running.line(LIMIT));
        let said = lines.map(|line| serde_json::from_str::<Value>(&line).expect("it speaks JSON"));
        said.take_while(|said| said["target"] != FENCE).filter(|said| said["target"].is_string()).collect()
    }
}

fn has_h11(python: &str) -> bool {
    process::output(std::process::Command::new(python).args(["-c", "import h11"])).is_ok()
}
