//! Measures everybody and writes the results. `cargo xtask bench` starts it in namespaces of its own.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use proxy_bench::case::{CASES, Case, Work};
use proxy_bench::contestant::certificate::Certificate;
use proxy_bench::contestant::{self, Name, Ports, Tools};
use proxy_bench::place::{self, Place};
use proxy_bench::results::{Group, Results};
use proxy_bench::run::progress::Progress;
use proxy_bench::run::{Bench, Field, Plan};
use proxy_bench::{machine, svg, table};

/// Lines of `PERFORMANCE.md` between which the current tables stand.
const MARKS: (&str, &str) = ("<!-- current tables: begin -->\n", "<!-- current tables: end -->");

/// Compares Weir with its rivals.
#[derive(Debug, Parser)]
struct Cli {
    /// Everything in five minutes: fewer and shorter repetitions
    #[arg(long)]
    quick: bool,
    /// Only this case; repeatable
    #[arg(long = "case")]
    cases: Vec<String>,
    /// Only this contestant; repeatable
    #[arg(long = "proxy")]
    proxies: Vec<String>,
    /// Name of the client's cgroup
    #[arg(long)]
    cgroup: String,
    /// Folder of this crate, for results
    #[arg(long)]
    folder: PathBuf,
    /// The `weir` to measure
    #[arg(long)]
    weir: PathBuf,
    /// The `envoy` to measure
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// The program on Pingora to measure
    #[arg(long)]
    pingora: Option<PathBuf>,
    /// Folder for configs and logs
    #[arg(long)]
    scratch: PathBuf,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let (mut cases, names) = (wanted_cases(&cli.cases)?, wanted_names(&cli.proxies)?);
    let own = std::env::current_exe()?;
    let beside = |name| own.with_file_name(name);
    let tools = Tools {
        weir: cli.weir.clone(),
        load: beside("load"),
        relay: beside("relay"),
        envoy: cli.envoy.clone(),
        pingora: cli.pingora.clone(),
    };
    let place = Place::set_up(&cli.cgroup)?;
    place::clean_up_on_signal(place.cgroup().to_owned(), cli.scratch.clone())?;
    let plan = if cli.quick { Plan::QUICK } else { Plan::FULL };
    for case in &mut cases {
        case.work.fit(place.most_connections().min(plan.most_idle), plan.most_rates);
    }
    let results = run(&cli, plan, &place, &tools, &cases, &names)?;
    let has_errors = results.cases.iter().flat_map(|case| &case.rows).any(|row| !row.errors.is_empty());
    keep(&cli, results)?;
    Ok(if has_errors { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn run(
    cli: &Cli,
    plan: Plan,
    place: &Place,
    tools: &Tools,
    cases: &[Case],
    names: &[Name],
) -> Result<Results> {
    let bench = Bench { place, tools, scratch: &cli.scratch, plan };
    Certificate::make(&cli.scratch)?;
    let _backend = contestant::backend(place, tools, &cli.scratch).context("backend")?;
    let groups = Group::ALL.into_iter().filter(|group| cases.iter().any(|case| case.work.group() == *group));
    let mut fields: Vec<(Group, Field)> =
        groups.map(|group| (group, Field::start(group, &bench, names))).collect();
    let mut skipped: Vec<_> = fields.iter().flat_map(|(_, field)| field.skipped.clone()).collect();
    skipped.sort();
    skipped.dedup();
    let version = |name: &Name| Some((name.as_str().to_owned(), contestant::version(*name, tools)?));
    let mut results = Results {
        date: machine::today(),
        machine: machine::facts(&place.congestion(Ports::BACKEND.echo)?, place.files()),
        versions: names.iter().filter_map(version).collect(),
        skipped,
        repetitions: plan.repetitions,
        length_ms: plan.length_ms,
        cases: Vec::new(),
    };
    let mut stdout = io::stdout();
    for (name, value) in results.machine.iter().chain(&results.versions) {
        writeln!(stdout, "{name}: {value}")?;
    }
    for (name, reason) in &results.skipped {
        writeln!(stdout, "not measured: {name}: {reason}")?;
    }
    let contestants = |case: &Case| {
        fields.iter().filter(|(group, _)| *group == case.work.group()).map(|(_, field)| field.count()).sum()
    };
    let guesses = cases.iter().map(|case| (case.name, plan.guess(case.work, contestants(case))));
    let mut progress = Progress::new(guesses.collect());
    for case in cases {
        progress.begin_case();
        let field = fields.iter_mut().find(|(group, _)| *group == case.work.group());
        let (_, field) = field.context("a case of no group")?;
        let result = match case.work {
            Work::Overhead => bench.overhead(case, &mut progress),
            Work::ControlPlane => bench.control_plane(case, &mut progress),
            work if !work.rates().is_empty() => bench.rate(case, field, &mut progress),
            _ => bench.traffic(case, field, &mut progress),
        };
        progress.end_case();
        writeln!(stdout, "{}", table::text(&result))?;
        results.cases.push(result);
    }
    Ok(results)
}

/// Keeps what was measured as it should be: everybody, and as often and as long as the rest.
fn keep(cli: &Cli, results: Results) -> Result<()> {
    let mut stdout = io::stdout();
    if cli.quick || !cli.proxies.is_empty() {
        writeln!(stdout, "A look only: bench/results stays as it is.")?;
        return Ok(());
    }
    if cli.cases.is_empty() {
        return save(&cli.folder, &results);
    }
    let kept = fs::read(cli.folder.join("results/latest.json")).context("cannot read bench/results")?;
    let mut whole: Results = serde_json::from_slice(&kept).context("bench/results/latest.json")?;
    match whole.replace(results) {
        Ok(()) => save(&cli.folder, &whole),
        Err(reason) => Ok(writeln!(stdout, "bench/results stays as it is: {reason}.")?),
    }
}

fn save(folder: &Path, results: &Results) -> Result<()> {
    let kept = folder.join("results");
    fs::create_dir_all(&kept)?;
    fs::write(kept.join("latest.json"), serde_json::to_string_pretty(results)? + "\n")?;
    for (group, suffix) in Group::ALL.into_iter().zip(["", "-http"]) {
        fs::write(kept.join(format!("cpu{suffix}.svg")), svg::bars(results, group))?;
        if let Some(curves) = svg::curves(results, group) {
            fs::write(kept.join(format!("latency{suffix}.svg")), curves)?;
        }
    }
    let file = folder.join("PERFORMANCE.md");
    let page = fs::read_to_string(&file).context("cannot read bench/PERFORMANCE.md")?;
    let (head, rest) = page.split_once(MARKS.0).context("PERFORMANCE.md has no place for the tables")?;
    let (_, tail) = rest.split_once(MARKS.1).context("PERFORMANCE.md has no end of the tables")?;
    fs::write(file, format!("{head}{}{}{}{tail}", MARKS.0, table::markdown(results), MARKS.1))?;
    writeln!(
        io::stdout(),
        "Written: bench/PERFORMANCE.md and bench/results: latest.json, and cpu.svg and latency.svg of TCP and of HTTP"
    )?;
    Ok(())
}

fn wanted_cases(words: &[String]) -> Result<Vec<Case>> {
    if words.is_empty() {
        return Ok(CASES.into());
    }
    let find = |word: &String| CASES.iter().find(|case| case.name == word).copied();
    let names = CASES.map(|case| case.name).join(", ");
    words
        .iter()
        .map(|word| find(word).with_context(|| format!("no case {word}; there are {names}")))
        .collect()
}

fn wanted_names(words: &[String]) -> Result<Vec<Name>> {
    if words.is_empty() {
        return Ok(Name::ALL.into());
    }
    for word in words {
        if !Name::ALL.iter().any(|name| name.as_str() == word) {
            bail!("no contestant {word}; there are {}", Name::ALL.map(Name::as_str).join(", "));
        }
    }
    // in the order of the tables, whatever order they were asked for in
    Ok(Name::ALL.into_iter().filter(|name| words.iter().any(|word| word == name.as_str())).collect())
}
