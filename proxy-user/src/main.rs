//! Arguments, logging, exit code; nothing else.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "commands answer on standard output")]

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use proxy_io::heap::{self, Allocator};
use proxy_user::admin::client;
use proxy_user::cli::{Check, Cli, Command, Doctor, Io, LogLevel, Output, Run};
use proxy_user::config::{self, IoChoice, LogFormat, Source};
use proxy_user::tls::TlsProblem;
use proxy_user::{app, bug, explain};
use tracing_subscriber::EnvFilter;

/// See ARCHITECTURE, "Decisions".
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Exit code for missing rights: nothing is wrong with the machine or the file.
const NO_RIGHTS: u8 = 2;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => return run(&args),
        Command::Check(args) => return check(&args),
        Command::Doctor(args) => return doctor(&args),
        Command::Status(ask) => client::status(&ask.socket, ask.output),
        Command::Connections(args) => {
            client::connections(&args.ask.socket, args.service.as_deref(), args.ask.output, args.watch)
        }
        Command::Why(args) => client::why(&args.ask.socket, args.address, args.process, args.ask.output),
        Command::Reload(ask) => client::reload(&ask.socket, ask.output),
        Command::Drain(ask) => client::drain(&ask.socket, ask.output),
        Command::Detach => detach(),
        Command::Schema => {
            println!("{:#}", config::schema());
            Ok(())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "weir", &mut std::io::stdout());
            Ok(())
        }
    };
    exit_code(result)
}

fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not by eprintln, which panics if the disk is full.
            let _ = writeln!(std::io::stderr(), "weir: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Run) -> ExitCode {
    if let Some(missing) = explain::missing_rights() {
        eprintln!("weir: {missing}");
        return ExitCode::from(NO_RIGHTS);
    }
    // Without it Weir only needs more memory.
    let _ = heap::avoid_huge_pages();
    let source = match Source::open(&args.config) {
        Ok(source) => source,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::FAILURE;
        }
    };
    let options = app::Options {
        io: args.io.map(io),
        log_level: args.log_level.map(level),
        map_sizes: args.map_size.clone(),
        takeover: args.takeover,
        stay: args.stay,
    };
    let log = source.config().log;
    start_log(options.log_level.unwrap_or(log.level), log.format);
    bug::watch();
    exit_code(app::run(source, options))
}

fn io(io: Io) -> IoChoice {
    match io {
        Io::Auto => IoChoice::Auto,
        Io::Ring => IoChoice::Ring,
        Io::Epoll => IoChoice::Epoll,
    }
}

fn level(level: LogLevel) -> config::LogLevel {
    match level {
        LogLevel::Error => config::LogLevel::Error,
        LogLevel::Warn => config::LogLevel::Warn,
        LogLevel::Info => config::LogLevel::Info,
        LogLevel::Debug => config::LogLevel::Debug,
        LogLevel::Trace => config::LogLevel::Trace,
    }
}

fn start_log(level: config::LogLevel, format: LogFormat) {
    // aya tells of every relocation: that is nobody's business here.
    let filter = EnvFilter::new(format!("{},aya=info,aya_obj=info", level.as_str()));
    let is_terminal = std::io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal);
    // It would say so on standard error, and panic where even that cannot be written: on a full disk.
    let log = log.log_internal_errors(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

fn check(args: &Check) -> ExitCode {
    let config = config::load(&args.file);
    if let Ok(config) = &config
        && let Err(problems) = explain::read_certificates(config)
    {
        return print_problems(&problems, args.output);
    }
    match (config, args.output) {
        (Ok(config), Output::Table) => {
            println!("OK: {} services, {} listeners", config.services.len(), config.listeners.len());
            ExitCode::SUCCESS
        }
        (Ok(_), Output::Json) => {
            println!("[]");
            ExitCode::SUCCESS
        }
        (Err(errors), Output::Table) => {
            println!("{errors}");
            ExitCode::FAILURE
        }
        (Err(errors), Output::Json) => {
            println!("{}", serde_json::to_string_pretty(&errors).unwrap_or_else(|error| error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// Tells of certificates and keys that cannot be used, in a file that is right otherwise.
fn print_problems(problems: &[TlsProblem], output: Output) -> ExitCode {
    match output {
        Output::Table => problems.iter().for_each(|problem| println!("{problem}")),
        Output::Json => {
            println!("{}", serde_json::to_string_pretty(problems).unwrap_or_else(|error| error.to_string()));
        }
    }
    ExitCode::FAILURE
}

fn doctor(args: &Doctor) -> ExitCode {
    let report = explain::doctor::doctor(args.config.as_deref(), client::reach);
    println!("{}", report.render(args.output));
    if report.has_problem() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn detach() -> anyhow::Result<()> {
    let removed = app::detach()?;
    if removed.is_empty() {
        println!("nothing was attached");
    } else {
        println!("detached {}", removed.join(", "));
    }
    Ok(())
}
