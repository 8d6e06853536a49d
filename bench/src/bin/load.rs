//! Load generator and backend of the bench.
//!
//! Prints one line of JSON when it has measured: a `proxy_bench::report::Sample`, or a list of them for several rates.

#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use proxy_bench::backend;
use proxy_bench::client::{
    Job, bulk, connect, grpc, http, http_idle, http_rate, idle, pingpong, rate, request,
};
use proxy_bench::contestant::Ports;
use proxy_bench::http::tls;

/// Makes work for a proxy, or does the work behind it.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves: one port gives back what it is sent, one sends without end, three speak HTTP
    Backend {
        #[arg(long)]
        echo: SocketAddr,
        #[arg(long)]
        source: SocketAddr,
        #[arg(long)]
        http: SocketAddr,
        #[arg(long)]
        https: SocketAddr,
        #[arg(long)]
        grpc: SocketAddr,
        /// What HTTPS shows
        #[arg(long)]
        cert: PathBuf,
        #[arg(long)]
        key: PathBuf,
    },
    /// Messages there and back on open connections
    Pingpong {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        #[arg(long, default_value_t = 64)]
        bytes: usize,
    },
    /// Messages there and back at fixed rates
    Rate {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 64)]
        connections: usize,
        #[arg(long, default_value_t = 64)]
        bytes: usize,
        /// Messages per second over all connections; repeatable
        #[arg(long = "rate", required = true)]
        rates: Vec<u32>,
    },
    /// Downloads
    Bulk {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 1)]
        streams: usize,
    },
    /// Connect, ask, answer, close
    Request {
        #[command(flatten)]
        common: Common,
    },
    /// Connect and close
    Connect {
        #[command(flatten)]
        common: Common,
    },
    /// Connections that were used once
    Idle {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 5000)]
        connections: usize,
    },
    /// HTTP/1.1 requests, one after the other on each connection
    Http {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        secure: Secure,
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// Of an answer's body
        #[arg(long, default_value_t = 100)]
        bytes: u64,
        #[arg(long, default_value = "keep-alive")]
        form: Form,
    },
    /// HTTP/1.1 requests at fixed rates
    HttpRate {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// Of an answer's body
        #[arg(long, default_value_t = 100)]
        bytes: u64,
        /// Requests per second over all connections; repeatable
        #[arg(long = "rate", required = true)]
        rates: Vec<u32>,
    },
    /// HTTP/1.1 connections that were used once
    HttpIdle {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        secure: Secure,
        #[arg(long, default_value_t = 5000)]
        connections: usize,
    },
    /// Unary gRPC calls
    Grpc {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 8)]
        connections: usize,
        /// Calls at once on each
        #[arg(long, default_value_t = 8)]
        streams: usize,
        /// Of a message
        #[arg(long, default_value_t = 100)]
        bytes: usize,
    },
    /// gRPC calls that have begun and say nothing more
    GrpcIdle {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 100)]
        connections: usize,
        /// Calls on each
        #[arg(long, default_value_t = 100)]
        streams: usize,
    },
    /// Tries to connect until somebody accepts; prints when that was, in nanoseconds since 1970
    Until {
        #[arg(long)]
        target: SocketAddr,
        #[arg(long, default_value_t = 30)]
        limit_s: u64,
    },
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// One request after the other
    KeepAlive,
    /// One request, with connection: close
    Close,
    /// One large answer after the other; counted are MiB
    Bulk,
}

impl From<Form> for http::Form {
    fn from(form: Form) -> Self {
        match form {
            Form::KeepAlive => Self::KeepAlive,
            Form::Close => Self::Close,
            Form::Bulk => Self::Bulk,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Secure {
    /// Over TLS, to a server that shows this certificate
    #[arg(long, value_name = "FILE")]
    tls: Option<PathBuf>,
}

impl Secure {
    fn client(&self) -> Result<Option<tls::Client>> {
        self.tls.as_deref().map(tls::Client::new).transpose()
    }
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Where to connect to
    #[arg(long)]
    target: SocketAddr,
    /// Process to watch; repeatable
    #[arg(long = "watch")]
    watched: Vec<u32>,
    #[arg(long, default_value_t = 300)]
    warm_up_ms: u64,
    #[arg(long, default_value_t = 1000)]
    length_ms: u64,
}

impl From<Common> for Job {
    fn from(common: Common) -> Self {
        Self {
            target: common.target,
            watched: common.watched,
            warm_up: Duration::from_millis(common.warm_up_ms),
            length: Duration::from_millis(common.length_ms),
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // one line, since it becomes a note below a table; nobody is left to complain to if it cannot be said
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let sample = match Cli::parse().command {
        Command::Backend { echo, source, http, https, grpc, cert, key } => {
            return backend::run(Ports { echo, source, http, https, grpc }, &cert, &key);
        }
        Command::Until { target, limit_s } => {
            let time = connect::until_accepted(target, Duration::from_secs(limit_s))?;
            let since = time.duration_since(SystemTime::UNIX_EPOCH)?;
            return Ok(writeln!(io::stdout(), "{}", since.as_nanos())?);
        }
        Command::Pingpong { common, connections, bytes } => {
            pingpong::run(&common.into(), connections, bytes)?
        }
        Command::Rate { common, connections, bytes, rates } => {
            let samples = rate::run(&common.into(), connections, bytes, &rates)?;
            return Ok(writeln!(io::stdout(), "{}", serde_json::to_string(&samples)?)?);
        }
        Command::HttpRate { common, connections, bytes, rates } => {
            let samples = http_rate::run(&common.into(), connections, bytes, &rates)?;
            return Ok(writeln!(io::stdout(), "{}", serde_json::to_string(&samples)?)?);
        }
        Command::Http { common, secure, connections, bytes, form } => {
            let ask = http::Ask { connections, bytes, form: form.into() };
            http::run(&common.into(), ask, secure.client()?)?
        }
        Command::HttpIdle { common, secure, connections } => {
            http_idle::run(&common.into(), connections, secure.client()?.as_ref())?
        }
        Command::Grpc { common, connections, streams, bytes } => {
            grpc::run(&common.into(), connections, streams, bytes)?
        }
        Command::GrpcIdle { common, connections, streams } => {
            grpc::idle(&common.into(), connections, streams)?
        }
        Command::Bulk { common, streams } => bulk::run(&common.into(), streams)?,
        Command::Request { common } => request::run(&common.into())?,
        Command::Connect { common } => connect::run(&common.into())?,
        Command::Idle { common, connections } => idle::run(&common.into(), connections)?,
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&sample)?)?;
    Ok(())
}
