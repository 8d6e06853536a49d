//! The project's chores, as `cargo xtask COMMAND`.
//!
//! Knows the repository by its files only and depends on no other crate of it, so that it builds in seconds and
//! still runs when everything else is broken. A new command is a module with `pub(crate) struct Args` (clap),
//! `pub(crate) fn run(&Repo, Args) -> anyhow::Result<ExitCode>` and one line in [`Command`] and [`main`].

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "what a command prints is its result")]

mod bench;
mod demo;
mod ebpf;
mod fuzz;
mod machine;
mod process;
mod repo;
mod scratch;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::repo::Repo;

/// Chores of the Weir repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures Weir beside a direct connection and its rivals
    Bench(bench::Args),
    /// Shows what Weir does, on this machine and in a minute: interception, balancing, failures, statistics
    Demo(demo::Args),
    /// Rebuilds the committed kernel object from proxy-ebpf, or checks that it still matches its source
    Ebpf(ebpf::Args),
    /// Feeds random input to every parser for a while
    Fuzz(fuzz::Args),
    /// Runs the test rings and prints `N passed, N failed, N skipped`
    Test(test::Args),
    /// Checks import order, crate borders and what files may contain
    Tidy,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let repo = Repo::here();
    let result = match cli.command {
        Command::Bench(args) => bench::run(&repo, &args),
        Command::Demo(args) => demo::run(&repo, &args),
        Command::Ebpf(args) => ebpf::run(&repo, &args),
        Command::Fuzz(args) => fuzz::run(&repo, &args),
        Command::Test(args) => test::run(&repo, &args),
        Command::Tidy => tidy::run(&repo),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
