//! What is asked of the contestants.

use std::process::Command;

use crate::contestant::Ports;
use crate::report::Sample;
use crate::results::{CaseResult, Row};

/// Messages per second of the cases at a fixed rate. The last one is near what load generator and backend can do together
/// on one processor without a proxy.
pub const RATES: [u32; 4] = [5_000, 10_000, 20_000, 40_000];

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name on the command line and in tables.
    pub name: &'static str,
    /// What it asks, for readers.
    pub question: &'static str,
    /// What is done.
    pub work: Work,
}

/// Kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Messages there and back on open connections.
    Pingpong {
        /// Connections.
        connections: u32,
        /// Bytes of a message.
        bytes: u32,
    },
    /// The same at each of [`RATES`], whatever comes back.
    Rate {
        /// Connections.
        connections: u32,
        /// Bytes of a message.
        bytes: u32,
    },
    /// Downloads.
    Bulk {
        /// Streams at once.
        streams: u32,
    },
    /// Connect, ask, answer, close.
    Request,
    /// Connections that were used once.
    Idle {
        /// Connections.
        connections: u32,
    },
    /// connect() and close with and without Weir; has its own contestants.
    Overhead,
    /// Loading and changing a large configuration; has its own contestants.
    ControlPlane,
}

/// All cases.
pub const CASES: [Case; 11] = [
    Case {
        name: "l4-pingpong-1x64",
        question: "64 bytes there and back on 1 connection: nothing can be batched",
        work: Work::Pingpong { connections: 1, bytes: 64 },
    },
    Case {
        name: "l4-pingpong-64x64",
        question: "64 bytes there and back on 64 connections",
        work: Work::Pingpong { connections: 64, bytes: 64 },
    },
    Case {
        name: "l4-pingpong-64x1k",
        question: "1 KiB there and back on 64 connections",
        work: Work::Pingpong { connections: 64, bytes: 1024 },
    },
    Case {
        name: "l4-pingpong-512x64",
        question: "64 bytes there and back on 512 connections",
        work: Work::Pingpong { connections: 512, bytes: 64 },
    },
    Case {
        name: "l4-rate-64x64",
        question: "64 bytes there and back at a fixed rate over 64 connections; latency from the time that each message is \
                   due at",
        work: Work::Rate { connections: 64, bytes: 64 },
    },
    Case { name: "bulk-1", question: "1 download, per MiB", work: Work::Bulk { streams: 1 } },
    Case { name: "bulk-8", question: "8 downloads at once, per MiB", work: Work::Bulk { streams: 8 } },
    Case {
        name: "connect-close",
        question: "connect, 64 bytes there and back, close; 16 at once",
        work: Work::Request,
    },
    Case {
        name: "idle-memory",
        question: "memory of the process (Pss) per connection that was used once and then rests; 9,000 of them, or as many as \
                   the limit on open files allows",
        work: Work::Idle { connections: 9000 },
    },
    Case {
        name: "connect-overhead",
        question: "connect() and close in the client, nothing sent: no Weir, the direct lane (hit), an address that is no \
                   service (miss)",
        work: Work::Overhead,
    },
    Case {
        name: "control-plane",
        question: "10,000 services with 100,000 endpoints: from start to ready, and from a changed file to the first \
                   connection that sees one changed endpoint",
        work: Work::ControlPlane,
    },
];

impl Case {
    /// What was found out about it.
    #[must_use]
    pub fn result(&self, rows: Vec<Row>) -> CaseResult {
        let (name, question, unit) = (self.name.into(), self.question.into(), self.work.unit().into());
        CaseResult { name, question, unit, rows }
    }
}

impl Work {
    /// Leaves out what the machine does not allow: a proxy may have so many connections at once.
    pub fn fit(&mut self, most: u32) {
        if let Self::Idle { connections } = self {
            *connections = most.min(*connections);
        }
    }

    /// Unit of the figure.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Pingpong { .. } | Self::Rate { .. } => "CPU µs per round trip",
            Self::Bulk { .. } => "CPU µs per MiB",
            Self::Request => "CPU µs per connection",
            Self::Idle { .. } => "KiB per connection",
            Self::Overhead => "client CPU µs per connection",
            Self::ControlPlane => "ms",
        }
    }

    /// The figure to trust.
    #[must_use]
    pub fn figure(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Pingpong { .. } | Self::Rate { .. } | Self::Bulk { .. } | Self::Request => {
                Some(sample.proxy_us())
            }
            Self::Idle { .. } => {
                let (before, with) = sample.memory?;
                Some((with as f64 - before as f64) / 1024.0 / sample.ops.max(1.0))
            }
            Self::Overhead => Some(sample.client_us()),
            Self::ControlPlane => None,
        }
    }

    /// Adds the arguments of `load` for a client of these ports.
    pub fn add_args(self, command: &mut Command, ports: Ports) {
        let (mode, target) = match self {
            Self::Pingpong { .. } => ("pingpong", ports.echo),
            Self::Rate { .. } => ("rate", ports.echo),
            Self::Bulk { .. } => ("bulk", ports.source),
            Self::Request => ("request", ports.echo),
            Self::Idle { .. } => ("idle", ports.echo),
            Self::Overhead | Self::ControlPlane => ("connect", ports.echo),
        };
        command.args([mode, "--target", &target.to_string()]);
        match self {
            Self::Pingpong { connections, bytes } => {
                command.args(["--connections", &connections.to_string(), "--bytes", &bytes.to_string()]);
            }
            Self::Rate { connections, bytes } => {
                command.args(["--connections", &connections.to_string(), "--bytes", &bytes.to_string()]);
                command.args(RATES.iter().flat_map(|rate| ["--rate".to_owned(), rate.to_string()]));
            }
            Self::Bulk { streams } => drop(command.args(["--streams", &streams.to_string()])),
            Self::Idle { connections } => drop(command.args(["--connections", &connections.to_string()])),
            Self::Request | Self::Overhead | Self::ControlPlane => {}
        }
    }
}
