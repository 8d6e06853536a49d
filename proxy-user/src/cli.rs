//! Arguments of `weir`. Types only.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub use crate::explain::Output;

/// Makes the network transparent to every application on this node: load balancing, health checking and statistics,
/// with no sidecar and no change to the application.
#[derive(Debug, Parser)]
#[command(name = "weir", version = crate::VERSION, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs in the foreground until SIGTERM; SIGHUP reloads the configuration.
    Run(Run),
    /// Checks a configuration file; needs no root.
    Check(Check),
    /// Looks at this machine: what Weir needs, what is there, and what to do about the difference.
    Doctor(Doctor),
    /// Shows where the running Weir stands.
    Status(Ask),
    /// Shows open connections with the kernel's figures.
    Connections(Connections),
    /// Says what becomes of a connection to an address, and why.
    Why(Why),
    /// Makes the running Weir read its configuration again.
    Reload(Ask),
    /// Makes the running Weir stop taking connections, let open ones end, and exit.
    Drain(Ask),
    /// Removes everything that a Weir which is no longer running left attached.
    Detach,
    /// Prints the JSON Schema of the configuration file, for editors.
    Schema,
    /// Prints a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

/// Arguments of `weir run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/weir/weir.yaml")]
    pub config: PathBuf,
    /// Driver of the workers; overrides the file.
    #[arg(long, value_name = "DRIVER")]
    pub io: Option<Io>,
    /// Least important level that is logged; overrides the file.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Another size for a map of the kernel programs, as NAME=ENTRIES; see `weir doctor` for the names. Repeatable.
    #[arg(long, value_name = "NAME=ENTRIES", value_parser = map_size)]
    pub map_size: Vec<(String, u32)>,
    /// Takes over from the Weir that runs, if one does: no connection is refused or cut, and if anything goes wrong, that
    /// one goes on. What it still carries ends within its drain_timeout.
    #[arg(long)]
    pub takeover: bool,
    /// After another Weir has taken over, stays until told to end, for supervisors that would start this one again; or
    /// ends with an error as soon as no Weir runs any more.
    #[arg(long)]
    pub stay: bool,
}

/// Drivers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Io {
    /// io_uring where it works, else epoll.
    Auto,
    /// io_uring or nothing.
    Ring,
    /// epoll.
    Epoll,
}

/// Levels of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogLevel {
    /// What must be repaired.
    Error,
    /// What an operator should know.
    Warn,
    /// Life cycle.
    Info,
    /// Every connection.
    Debug,
    /// Everything.
    Trace,
}

/// Arguments of `weir check`.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Configuration file.
    pub file: PathBuf,
    /// Form of the output.
    #[arg(short, long, default_value = "table")]
    pub output: Output,
}

/// Arguments of `weir doctor`.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Configuration file: looks at its scopes, too.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Form of the output.
    #[arg(short, long, default_value = "table")]
    pub output: Output,
}

/// Arguments of commands that ask the running Weir.
#[derive(Debug, clap::Args)]
pub struct Ask {
    /// Its socket.
    #[arg(long, value_name = "PATH", default_value = "/run/weir/admin.sock")]
    pub socket: PathBuf,
    /// Form of the output.
    #[arg(short, long, default_value = "table")]
    pub output: Output,
}

/// Arguments of `weir connections`.
#[derive(Debug, clap::Args)]
pub struct Connections {
    /// Where and how.
    #[command(flatten)]
    pub ask: Ask,
    /// Only connections to this service.
    #[arg(short, long, value_name = "NAME")]
    pub service: Option<String>,
    /// Shows them again every second until interrupted.
    #[arg(short, long)]
    pub watch: bool,
}

/// Arguments of `weir why`.
#[derive(Debug, clap::Args)]
pub struct Why {
    /// What an application connects to, for example 10.96.0.10:80 or [fd00::10]:80.
    #[arg(value_name = "IP:PORT")]
    pub address: std::net::SocketAddr,
    /// The application: looks at its scope and its network namespace, too.
    #[arg(short, long, value_name = "PID")]
    pub process: Option<u32>,
    /// Where and how.
    #[command(flatten)]
    pub ask: Ask,
}

fn map_size(text: &str) -> Result<(String, u32), String> {
    let (name, size) = text.split_once('=').ok_or("expected NAME=ENTRIES, for example ORIGINAL_DST=65536")?;
    let size = size.parse().ok().filter(|size| *size > 0).ok_or("expected a positive number of entries")?;
    let name = name.to_ascii_uppercase();
    if proxy_bpf::abi::map::ALL.contains(&&*name) {
        Ok((name, size))
    } else {
        Err(format!("no such map; maps are {}", proxy_bpf::abi::map::ALL.join(", ")))
    }
}
