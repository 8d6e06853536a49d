//! Counts the instructions of Weir's small parts, and says which take more than was accepted.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use proxy_bench::instructions::valgrind::Counter;
use proxy_bench::instructions::{Figures, Line};
use proxy_bench::part::{PARTS, Part, Run};

/// Counts instructions of small parts.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Does one part as often as it wants to be counted: what runs in valgrind
    Run { part: String },
    /// Counts all parts and sets them against the accepted figures
    Compare {
        /// File with the accepted figures
        #[arg(long)]
        accepted: PathBuf,
        /// Accepts what is counted
        #[arg(long)]
        accept: bool,
        /// Folder for what nobody needs afterwards
        #[arg(long)]
        scratch: PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Mode::Run { part } => {
            let part = Part::find(&part).with_context(|| format!("no part {part}"))?;
            instructions_count_from_here(&mut part.prepare()?, part.times);
            Ok(ExitCode::SUCCESS)
        }
        Mode::Compare { accepted, accept, scratch } => compare(&accepted, accept, &scratch),
    }
}

/// Valgrind finds it by its name, and sees its end only if it returns after what it called.
#[inline(never)]
fn instructions_count_from_here(run: &mut Run, times: u64) {
    run(times);
    black_box(times);
}

fn compare(file: &Path, accept: bool, scratch: &Path) -> Result<ExitCode> {
    let counter = Counter::new(std::env::current_exe()?, scratch)?;
    let parts = PARTS.into_iter().map(|part| Ok((part.name.to_owned(), counter.count(part)?)));
    let figures = Figures { tools: tools()?, parts: parts.collect::<Result<_>>()? };
    let accepted: Figures = match fs::read_to_string(file) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("cannot read {}", file.display()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Figures::default(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let lines = figures.against(&accepted);
    show(&lines)?;
    if accept {
        fs::write(file, serde_json::to_string_pretty(&figures)? + "\n")?;
        writeln!(io::stdout(), "Accepted.")?;
        return Ok(ExitCode::SUCCESS);
    }
    judge(&lines, &figures.other_tools(&accepted))
}

/// Figures of other tools cannot be compared: that is said, and is nobody's mistake.
fn judge(lines: &[Line], other_tools: &[String]) -> Result<ExitCode> {
    let problems: Vec<String> = lines.iter().filter_map(Line::problem).collect();
    if !other_tools.is_empty() {
        let why = other_tools.join("; ");
        writeln!(io::stdout(), "*** INSTRUCTIONS WERE NOT COMPARED: {why}. Count once more with --accept.")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut stderr = io::stderr();
    for problem in &problems {
        writeln!(stderr, "error: {problem}")?;
    }
    if !problems.is_empty() {
        writeln!(stderr, "If that is the price of something, say so in the commit and count with --accept.")?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(lines: &[Line]) -> Result<()> {
    let mut stdout = io::stdout();
    let number = |value: Option<f64>| value.map(|value| format!("{value:.1}")).unwrap_or_default();
    writeln!(stdout, "{:<26}{:>14}{:>14}{:>10}", "instructions of one", "accepted", "now", "change")?;
    for line in lines {
        let change = line.change_percent().map(|percent| format!("{percent:+.1} %")).unwrap_or_default();
        let remark = if line.is_much_better() { "  better: worth --accept" } else { "" };
        let (old, new) = (number(line.old), number(line.new));
        writeln!(stdout, "{:<26}{old:>14}{new:>14}{change:>10}{remark}", line.name)?;
    }
    Ok(())
}

/// Everything that counts depend on beside the code.
fn tools() -> Result<BTreeMap<String, String>> {
    let asked: [(&str, &str, &[&str]); 3] = [
        ("rustc", "rustc", &["-V"]),
        ("valgrind", "valgrind", &["--version"]),
        ("libc", "getconf", &["GNU_LIBC_VERSION"]),
    ];
    let tools = asked.into_iter().map(|(name, program, args)| {
        let output =
            Command::new(program).args(args).output().with_context(|| format!("cannot run {program}"))?;
        Ok((name.to_owned(), String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    });
    tools.collect()
}
