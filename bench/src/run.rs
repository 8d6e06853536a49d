//! Measuring: who, in which order, how often.

pub mod control;
pub mod overhead;
pub mod progress;
pub mod rate;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use self::progress::Progress;
use crate::case::{Case, Front, Work};
use crate::contestant::certificate::Certificate;
use crate::contestant::weir::{self, Weir};
use crate::contestant::{self, Name, Ports, Proxy, Tools};
use crate::place::{LOAD_CORE, Place};
use crate::report::Sample;
use crate::results::{CaseResult, Group, Row};

/// What was measured of each, and what went wrong.
type Found<T> = BTreeMap<Name, (Vec<T>, Vec<String>)>;

/// Everything that a measurement needs.
#[derive(Debug)]
pub struct Bench<'a> {
    /// Network, cgroup and processors.
    pub place: &'a Place,
    /// Programs.
    pub tools: &'a Tools,
    /// A folder for configs and logs.
    pub scratch: &'a Path,
    /// How thoroughly.
    pub plan: Plan,
}

/// How thoroughly everything is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Repetitions of every measurement.
    pub repetitions: usize,
    /// Those of memory, which is nearly the same each time and takes the longest.
    pub memory_repetitions: usize,
    /// Time before each for caches and pools to fill.
    pub warm_up_ms: u64,
    /// Length of each.
    pub length_ms: u64,
    /// Most connections that memory is measured with; they are opened one by one.
    pub most_idle: u32,
    /// Most rates where they are fixed.
    pub most_rates: usize,
    /// Whether those who only forward bytes are measured at fixed rates, too: they say little that is not in other cases.
    pub is_everybody_at_rates: bool,
    /// Sizes of the configuration that connect() is measured with.
    pub services: &'static [u32],
}

impl Plan {
    /// For results that are kept.
    pub const FULL: Self = Self {
        repetitions: 5,
        memory_repetitions: 3,
        warm_up_ms: 300,
        length_ms: 1000,
        most_idle: u32::MAX,
        most_rates: usize::MAX,
        is_everybody_at_rates: true,
        services: &[10, 10_000, 100_000],
    };
    /// For a look at all cases in five minutes, also where others are at work: three of them on a quiet machine.
    pub const QUICK: Self = Self {
        repetitions: 2,
        memory_repetitions: 1,
        warm_up_ms: 100,
        length_ms: 200,
        most_idle: 2000,
        most_rates: 2,
        is_everybody_at_rates: false,
        services: &[10, 10_000],
    };
}

/// Rivals and baselines for a group of cases, which are up during the whole run.
#[derive(Debug)]
pub struct Field {
    group: Group,
    running: BTreeMap<Name, Proxy>,
    names: Vec<Name>,
    /// Weirs that were seen to have what a front asks: each look takes a start.
    weirs: BTreeSet<(Name, Front)>,
    /// Who is not here, and why.
    pub skipped: Vec<(String, String)>,
}

impl Field {
    /// Starts everybody that is wanted and can be had.
    #[must_use]
    pub fn start(group: Group, bench: &Bench<'_>, wanted: &[Name]) -> Self {
        let mut field = Self {
            group,
            running: BTreeMap::new(),
            names: Vec::new(),
            weirs: BTreeSet::new(),
            skipped: Vec::new(),
        };
        for name in wanted.iter().copied().filter(|name| name.plays(group)) {
            if name == Name::Direct || name.is_weir() {
                field.names.push(name);
                continue;
            }
            match contestant::rival(name, group, bench.place, bench.tools, bench.scratch) {
                Ok(proxy) => {
                    field.running.insert(name, proxy);
                    field.names.push(name);
                }
                Err(error) => field.skipped.push((name.as_str().to_owned(), format!("{error:#}"))),
            }
        }
        field
    }

    /// How many are measured.
    #[must_use]
    pub fn count(&self) -> usize {
        self.names.len()
    }
}

impl Bench<'_> {
    /// Starts a rival or a baseline anew.
    fn renew(&self, name: Name, field: &mut Field) -> Result<()> {
        if name == Name::Direct || name.is_weir() {
            return Ok(());
        }
        // ended first, since both use the same ports
        field.running.remove(&name);
        let proxy = contestant::rival(name, field.group, self.place, self.tools, self.scratch)?;
        field.running.insert(name, proxy);
        Ok(())
    }

    /// Measures one case with everybody.
    #[must_use]
    pub fn traffic(&self, case: &Case, field: &mut Field, progress: &mut Progress) -> CaseResult {
        let is_memory = case.work.is_memory();
        // without a proxy process there is no memory of one
        let has_figure = |name: Name| name != Name::Direct && !(is_memory && name == Name::WeirDirect);
        let is_asked = |name: Name| name != Name::WeirBusy && (!is_memory || has_figure(name));
        let (names, skipped) = self.part(case, field, is_asked);
        let mut found: Found<Sample> = self.in_turn(case, &names, field, progress);
        let row = |name: &Name| {
            let (samples, errors) = found.remove(name).unwrap_or_default();
            let figure = |sample: &Sample| case.work.figure(sample).filter(|_| has_figure(*name));
            Row::new(name.as_str(), name.is_rival(), &samples, figure, errors)
        };
        CaseResult { skipped, ..case.result(names.iter().map(row).collect()) }
    }

    /// Who takes part in a case; and who would, but lacks what it asks, and why.
    fn part(
        &self,
        case: &Case,
        field: &mut Field,
        is_asked: impl Fn(Name) -> bool,
    ) -> (Vec<Name>, Vec<(String, String)>) {
        let (mut names, mut skipped) = (Vec::new(), Vec::new());
        for name in field.names.clone().into_iter().filter(|name| is_asked(*name)) {
            match case.work.front().map_or(Ok(()), |front| self.try_front(name, front, field)) {
                Ok(()) => names.push(name),
                Err(error) => {
                    skipped.push((name.as_str().to_owned(), format!("not available: {error:#}")));
                }
            }
        }
        (names, skipped)
    }

    /// Says why not, unless a contestant answers a request of this front.
    fn try_front(&self, name: Name, front: Front, field: &mut Field) -> Result<()> {
        let probe = |ports| contestant::probe(front, ports, self.scratch);
        if name == Name::Direct {
            return probe(Ports::BACKEND);
        }
        if !name.is_weir() {
            return probe(field.running.get(&name).context("it does not run any more")?.ports());
        }
        if field.weirs.contains(&(name, front)) {
            return Ok(());
        }
        let config = weir::edge_config(front, self.scratch);
        weir::check(self.tools, self.scratch, &config)?;
        let _turn = weir::turn()?;
        let weir = Weir::start((name, weir::EDGE), self.place, self.tools, self.scratch, &config)?;
        probe(weir::EDGE).map_err(|error| weir.proxy.blame(&error))?;
        field.weirs.insert((name, front));
        Ok(())
    }

    /// Measures everybody in turn, beginning with another one in each repetition.
    fn in_turn<T: DeserializeOwned>(
        &self,
        case: &Case,
        names: &[Name],
        field: &mut Field,
        progress: &mut Progress,
    ) -> Found<T> {
        let is_memory = case.work.is_memory();
        let repetitions = if is_memory { self.plan.memory_repetitions } else { self.plan.repetitions };
        let mut found: Found<T> = BTreeMap::new();
        progress.begin_steps(names.len() * repetitions);
        for repetition in 0..repetitions {
            for turn in 0..names.len() {
                let name = names[(turn + repetition) % names.len()];
                let (samples, errors) = found.entry(name).or_default();
                // memory that an earlier repetition made it take would count as its own
                let renewed = if is_memory { self.renew(name, field) } else { Ok(()) };
                match renewed.and_then(|()| self.measure(name, case.work, field)) {
                    Ok(sample) => samples.push(sample),
                    Err(error) => {
                        errors.push(format!("{error:#}"));
                        errors.extend(self.revive(name, field));
                    }
                }
                progress.step();
            }
        }
        found
    }

    /// Gives one that failed a new start, since nobody knows what state it is in; says why if it gets none.
    fn revive(&self, name: Name, field: &mut Field) -> Option<String> {
        // tried once: each failure takes its time, and the others are waiting
        let failure = field.running.contains_key(&name).then(|| self.renew(name, field))?.err()?;
        Some(format!("it cannot be started again: {failure:#}"))
    }

    fn measure<T: DeserializeOwned>(&self, name: Name, work: Work, field: &Field) -> Result<T> {
        let _turn = weir::turn()?;
        if name == Name::Direct {
            return self.load(LOAD_CORE, work, Ports::BACKEND, &[], false);
        }
        if !name.is_weir() {
            let proxy = field.running.get(&name).context("it does not run any more")?;
            let sample = self.load(LOAD_CORE, work, proxy.ports(), &proxy.pids()?, false);
            return sample.map_err(|error| proxy.blame(&error));
        }
        let (ports, config) = match work.front() {
            Some(front) => (weir::EDGE, weir::edge_config(front, self.scratch)),
            None if name == Name::WeirDirect => (weir::DIRECT_LANE, weir::traffic_config(self.place)),
            None => (weir::PROXY_LANE, weir::traffic_config(self.place)),
        };
        let weir = Weir::start((name, ports), self.place, self.tools, self.scratch, &config)?;
        let sample = self.load(LOAD_CORE, work, ports, &weir.proxy.pids()?, work.front().is_none());
        sample.map_err(|error| weir.proxy.blame(&error))
    }

    /// Runs the load generator once.
    fn load<T: DeserializeOwned>(
        &self,
        core: u32,
        work: Work,
        ports: Ports,
        pids: &[u32],
        is_intercepted: bool,
    ) -> Result<T> {
        let load = &self.tools.load;
        let mut command =
            if is_intercepted { self.place.intercepted(core, load) } else { self.place.command(core, load) };
        work.add_args(&mut command, ports, &Certificate::within(self.scratch).cert);
        command.args(["--warm-up-ms", &self.plan.warm_up_ms.to_string()]);
        command.args(["--length-ms", &self.plan.length_ms.to_string()]);
        for pid in pids {
            command.args(["--watch", &pid.to_string()]);
        }
        Ok(serde_json::from_str(&output(&mut command)?)?)
    }
}

/// What a command prints; its complaint is the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot start the load generator")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
