//! What is asked of the contestants.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::contestant::Ports;
use crate::report::Sample;
use crate::results::{CaseResult, Group, Row};

/// Messages per second of the cases at a fixed rate. The last one is near what load generator and backend can do together
/// on one processor without a proxy.
const RATES: &[u32] = &[5_000, 10_000, 20_000, 40_000];
/// The same for HTTP, where everybody does more for each request.
const HTTP_RATES: &[u32] = &[5_000, 10_000, 20_000];

/// Milliseconds per GB of a microsecond per MiB.
const MS_PER_GB: f64 = 1e9 / 1_048_576.0 / 1e3;
/// Bytes of one answer where downloads are measured: none ends often.
const BULK_BYTES: u64 = 256 << 20;
/// Connections at once where each carries one request.
const CLOSE_AT_ONCE: u32 = 16;

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
    /// The same at fixed rates, whatever comes back.
    Rate {
        /// Connections.
        connections: u32,
        /// Bytes of a message.
        bytes: u32,
        /// Messages per second.
        rates: &'static [u32],
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
    /// HTTP requests on open connections.
    Http {
        /// What clients speak.
        front: Front,
        /// Connections.
        connections: u32,
        /// Bytes of an answer's body.
        bytes: u32,
    },
    /// HTTP requests with a connection for each.
    HttpClose {
        /// What clients speak.
        front: Front,
    },
    /// HTTP requests at fixed rates, whatever comes back.
    HttpRate {
        /// Connections.
        connections: u32,
        /// Bytes of an answer's body.
        bytes: u32,
        /// Requests per second.
        rates: &'static [u32],
    },
    /// Downloads by HTTP.
    HttpBulk {
        /// What clients speak.
        front: Front,
        /// Downloads at once.
        streams: u32,
    },
    /// HTTP connections that were used once.
    HttpIdle {
        /// What clients speak.
        front: Front,
        /// Connections.
        connections: u32,
    },
    /// Unary gRPC calls.
    Grpc {
        /// Connections.
        connections: u32,
        /// Calls at once on each.
        streams: u32,
        /// Bytes of a message.
        bytes: u32,
    },
    /// gRPC calls that have begun and say nothing more.
    GrpcIdle {
        /// Connections.
        connections: u32,
        /// Calls on each.
        streams: u32,
    },
    /// connect() and close with and without Weir; has its own contestants.
    Overhead,
    /// Loading and changing a large configuration; has its own contestants.
    ControlPlane,
}

/// What clients of an HTTP case speak; the backend behind it has no TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Front {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 without TLS, from its first byte.
    Grpc,
}

impl Front {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Http, Self::Https, Self::Grpc];

    /// Where it is served.
    #[must_use]
    pub fn of(self, ports: Ports) -> SocketAddr {
        match self {
            Self::Http => ports.http,
            Self::Https => ports.https,
            Self::Grpc => ports.grpc,
        }
    }
}

/// All cases.
pub const CASES: [Case; 22] = [
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
        work: Work::Rate { connections: 64, bytes: 64, rates: RATES },
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
        question: "memory of the process (Pss) per connection that was used once and then rests; 9,000 of them (2,000 with \
                   --quick), or as many as the limit on open files allows",
        work: Work::Idle { connections: 9000 },
    },
    Case {
        name: "http1-100b",
        question: "HTTP/1.1 requests on 64 connections that stay open, answers of 100 bytes",
        work: Work::Http { front: Front::Http, connections: 64, bytes: 100 },
    },
    Case {
        name: "http1-10k",
        question: "the same with answers of 10 KiB",
        work: Work::Http { front: Front::Http, connections: 64, bytes: 10 << 10 },
    },
    Case {
        name: "http1-close",
        question: "HTTP/1.1 requests with a connection for each, which ends by connection: close; answers of 100 bytes; 16 at \
                   once",
        work: Work::HttpClose { front: Front::Http },
    },
    Case {
        name: "http1-rate",
        question: "HTTP/1.1 requests at a fixed rate over 64 connections, answers of 100 bytes; latency from the time that \
                   each request is due at",
        work: Work::HttpRate { connections: 64, bytes: 100, rates: HTTP_RATES },
    },
    Case {
        name: "http1-idle",
        question: "memory of the process (Pss) per HTTP/1.1 connection that carried one request and stays open; 9,000 of \
                   them (2,000 with --quick), or as many as the limit on open files allows",
        work: Work::HttpIdle { front: Front::Http, connections: 9000 },
    },
    Case {
        name: "https-100b",
        question: "http1-100b with TLS 1.3 between client and proxy, and none to the backend",
        work: Work::Http { front: Front::Https, connections: 64, bytes: 100 },
    },
    Case {
        name: "tls-handshake",
        question: "connect, a whole TLS 1.3 handshake (ECDSA P-256, X25519, nothing resumed), one request, close; 16 at once",
        work: Work::HttpClose { front: Front::Https },
    },
    Case {
        name: "tls-bulk",
        question: "8 downloads at once over TLS 1.3 (AES-128-GCM), without TLS from the backend; per second: MiB",
        work: Work::HttpBulk { front: Front::Https, streams: 8 },
    },
    Case {
        name: "https-idle",
        question: "http1-idle over TLS 1.3",
        work: Work::HttpIdle { front: Front::Https, connections: 9000 },
    },
    Case {
        name: "h2-grpc",
        question: "unary gRPC calls over HTTP/2 without TLS on both sides, messages of 100 bytes; 8 connections with 8 calls \
                   at once on each",
        work: Work::Grpc { connections: 8, streams: 8, bytes: 100 },
    },
    Case {
        name: "h2-idle",
        question: "memory of the process (Pss) per gRPC call that has said one message, waits, and stays open; 100 calls on \
                   each of 100 connections",
        work: Work::GrpcIdle { connections: 100, streams: 100 },
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
        let (date, group) = (String::new(), self.work.group());
        CaseResult { name, question, unit, group, date, rows, skipped: Vec::new() }
    }
}

impl Work {
    /// Leaves out what the machine does not allow, or the plan has no time for: a proxy may have so many connections at
    /// once, and of the rates so many are measured, the highest.
    pub fn fit(&mut self, most_connections: u32, most_rates: usize) {
        match self {
            Self::Idle { connections } | Self::HttpIdle { connections, .. } => {
                *connections = most_connections.min(*connections);
            }
            Self::Rate { rates, .. } | Self::HttpRate { rates, .. } => {
                *rates = &rates[rates.len().saturating_sub(most_rates)..];
            }
            _ => {}
        }
    }

    /// What clients of an HTTP case speak; none in the other cases.
    #[must_use]
    pub fn front(self) -> Option<Front> {
        match self {
            Self::Http { front, .. }
            | Self::HttpClose { front }
            | Self::HttpBulk { front, .. }
            | Self::HttpIdle { front, .. } => Some(front),
            Self::HttpRate { .. } => Some(Front::Http),
            Self::Grpc { .. } | Self::GrpcIdle { .. } => Some(Front::Grpc),
            _ => None,
        }
    }

    /// Where its results stand.
    #[must_use]
    pub fn group(self) -> Group {
        if self.front().is_some() { Group::Http } else { Group::Tcp }
    }

    /// Whether memory is measured and not time.
    #[must_use]
    pub fn is_memory(self) -> bool {
        matches!(self, Self::Idle { .. } | Self::HttpIdle { .. } | Self::GrpcIdle { .. })
    }

    /// The fixed rates that it is measured at, in operations per second; empty if it is measured as fast as can be.
    #[must_use]
    pub fn rates(self) -> &'static [u32] {
        match self {
            Self::Rate { rates, .. } | Self::HttpRate { rates, .. } => rates,
            _ => &[],
        }
    }

    /// Unit of the figure.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Pingpong { .. } | Self::Rate { .. } => "CPU µs per round trip",
            Self::Bulk { .. } => "CPU µs per MiB",
            Self::Request | Self::HttpClose { .. } => "CPU µs per connection",
            Self::Http { .. } | Self::HttpRate { .. } => "CPU µs per request",
            Self::HttpBulk { .. } => "CPU ms per GB",
            Self::Grpc { .. } => "CPU µs per call",
            Self::Idle { .. } | Self::HttpIdle { .. } => "KiB per connection",
            Self::GrpcIdle { .. } => "KiB per call",
            Self::Overhead => "client CPU µs per connection",
            Self::ControlPlane => "ms",
        }
    }

    /// The figure to trust.
    #[must_use]
    pub fn figure(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Pingpong { .. }
            | Self::Rate { .. }
            | Self::Bulk { .. }
            | Self::Request
            | Self::Http { .. }
            | Self::HttpClose { .. }
            | Self::HttpRate { .. }
            | Self::Grpc { .. } => Some(sample.proxy_us()),
            Self::HttpBulk { .. } => Some(sample.proxy_us() * MS_PER_GB),
            Self::Idle { .. } | Self::HttpIdle { .. } | Self::GrpcIdle { .. } => {
                let (before, with) = sample.memory?;
                Some((with as f64 - before as f64) / 1024.0 / sample.ops.max(1.0))
            }
            Self::Overhead => Some(sample.client_us()),
            Self::ControlPlane => None,
        }
    }

    /// Adds the arguments of `load` for a client of these ports, which knows this certificate.
    pub fn add_args(self, command: &mut Command, ports: Ports, certificate: &Path) {
        let mode = match self {
            Self::Pingpong { .. } => "pingpong",
            Self::Rate { .. } => "rate",
            Self::Bulk { .. } => "bulk",
            Self::Request => "request",
            Self::Idle { .. } => "idle",
            Self::Http { .. } | Self::HttpClose { .. } | Self::HttpBulk { .. } => "http",
            Self::HttpRate { .. } => "http-rate",
            Self::HttpIdle { .. } => "http-idle",
            Self::Grpc { .. } => "grpc",
            Self::GrpcIdle { .. } => "grpc-idle",
            Self::Overhead | Self::ControlPlane => "connect",
        };
        let target = match self.front() {
            Some(front) => front.of(ports),
            None if matches!(self, Self::Bulk { .. }) => ports.source,
            None => ports.echo,
        };
        command.args([mode, "--target", &target.to_string()]);
        if self.front() == Some(Front::Https) {
            command.arg("--tls").arg(certificate);
        }
        let mut add = |flag: &str, value: u64| {
            command.args([flag, &value.to_string()]);
        };
        match self {
            Self::Pingpong { connections, bytes }
            | Self::Rate { connections, bytes, .. }
            | Self::HttpRate { connections, bytes, .. }
            | Self::Http { connections, bytes, .. } => {
                add("--connections", connections.into());
                add("--bytes", bytes.into());
            }
            Self::Bulk { streams } => add("--streams", streams.into()),
            Self::Idle { connections } | Self::HttpIdle { connections, .. } => {
                add("--connections", connections.into());
            }
            Self::GrpcIdle { connections, streams } => {
                add("--connections", connections.into());
                add("--streams", streams.into());
            }
            Self::HttpClose { .. } => add("--connections", CLOSE_AT_ONCE.into()),
            Self::HttpBulk { streams, .. } => {
                add("--connections", streams.into());
                add("--bytes", BULK_BYTES);
            }
            Self::Grpc { connections, streams, bytes } => {
                add("--connections", connections.into());
                add("--streams", streams.into());
                add("--bytes", bytes.into());
            }
            Self::Request | Self::Overhead | Self::ControlPlane => {}
        }
        for rate in self.rates() {
            add("--rate", (*rate).into());
        }
        let form = match self {
            Self::HttpClose { .. } => Some("close"),
            Self::HttpBulk { .. } => Some("bulk"),
            _ => None,
        };
        command.args(form.into_iter().flat_map(|form| ["--form", form]));
    }
}
