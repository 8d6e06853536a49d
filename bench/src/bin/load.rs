//! Load generator and backend of the bench.
//!
//! Prints one line of JSON when it has measured: a `proxy_bench::report::Sample`, or a list of them for several rates.

#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::{Parser, Subcommand};
use proxy_bench::backend;
use proxy_bench::client::{Job, bulk, connect, idle, pingpong, rate, request};

/// Makes work for a proxy, or does the work behind it.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves: one port gives back what it is sent, one sends without end
    Backend {
        #[arg(long)]
        echo: SocketAddr,
        #[arg(long)]
        source: SocketAddr,
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
    /// Tries to connect until somebody accepts; prints when that was, in nanoseconds since 1970
    Until {
        #[arg(long)]
        target: SocketAddr,
        #[arg(long, default_value_t = 30)]
        limit_s: u64,
    },
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
        Command::Backend { echo, source } => return backend::run(echo, source),
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
        Command::Bulk { common, streams } => bulk::run(&common.into(), streams)?,
        Command::Request { common } => request::run(&common.into())?,
        Command::Connect { common } => connect::run(&common.into())?,
        Command::Idle { common, connections } => idle::run(&common.into(), connections)?,
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&sample)?)?;
    Ok(())
}
