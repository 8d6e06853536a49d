//! What a run found out, as it is kept in `bench/results`.

use serde::{Deserialize, Serialize};

use crate::report::Sample;

/// Name of the row without a proxy.
pub const DIRECT: &str = "direct";

/// Everything about one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// Day of the run, UTC.
    pub date: String,
    /// Processor, kernel and so on: what a reader needs for comparing, nothing that names the machine.
    pub machine: Vec<(String, String)>,
    /// Versions of the contestants.
    pub versions: Vec<(String, String)>,
    /// Contestants that could not be measured, and why.
    pub skipped: Vec<(String, String)>,
    /// Repetitions of each measurement, and length of each in milliseconds.
    pub repetitions: usize,
    /// Length of one measurement.
    pub length_ms: u64,
    /// The cases.
    pub cases: Vec<CaseResult>,
}

/// One case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// What it asks.
    pub question: String,
    /// Unit of the figure.
    pub unit: String,
    /// Where it stands in tables and pictures.
    #[serde(default)]
    pub group: Group,
    /// Day on which it was measured, UTC, if that was later than the whole run.
    #[serde(default)]
    pub date: String,
    /// One per contestant.
    pub rows: Vec<Row>,
    /// Contestants that take no part in it, and why.
    #[serde(default)]
    pub skipped: Vec<(String, String)>,
}

impl Results {
    /// Puts the cases of a later run, which measured only these, in the place of the older ones.
    ///
    /// # Errors
    /// With what differs, if the two runs cannot stand in one table.
    pub fn replace(&mut self, later: Self) -> Result<(), String> {
        if self.machine != later.machine {
            return Err(format!("they are of another machine: {:?}", self.machine));
        }
        if (self.repetitions, self.length_ms) != (later.repetitions, later.length_ms) {
            return Err(format!("they are of {} repetitions of {} ms", self.repetitions, self.length_ms));
        }
        for mut case in later.cases {
            case.date.clone_from(&later.date);
            match self.cases.iter_mut().find(|older| older.name == case.name) {
                Some(older) => *older = case,
                None => self.cases.push(case),
            }
        }
        Ok(())
    }
}

/// Cases that are read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Group {
    /// Connections and bytes, and what is around them.
    #[default]
    Tcp,
    /// Requests: HTTP/1.1, TLS, HTTP/2.
    Http,
}

impl Group {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Http];

    /// Head above its tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Http => "HTTP and TLS",
        }
    }
}

/// One contestant in one case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub name: String,
    /// Whether it is a product that people choose instead of Weir.
    pub is_rival: bool,
    /// Messages per second that were due, where they are sent at a fixed rate.
    #[serde(default)]
    pub asked_rate: Option<u32>,
    /// The figure to trust; none where there is no proxy.
    pub figure: Option<Spread>,
    /// Operations per second; bulk: MiB per second.
    pub rate: Option<Spread>,
    /// Half of the operations were faster, in microseconds.
    pub p50_us: Option<Spread>,
    /// One in a hundred was slower, in microseconds.
    pub p99_us: Option<Spread>,
    /// One in a thousand was slower, in microseconds.
    #[serde(default)]
    pub p999_us: Option<Spread>,
    /// At a fixed rate: one in a hundred was slower in the middle one of equal parts of the time, in microseconds.
    #[serde(default)]
    pub usual_p99_us: Option<Spread>,
    /// At a fixed rate: one in a hundred messages was sent so much after it was due, in microseconds.
    #[serde(default)]
    pub late_us: Option<Spread>,
    /// Load generator's processor time per operation, in microseconds.
    pub client_us: Option<Spread>,
    /// How busy the proxy kept its processor, 0 to 1: near 1 it is the limit.
    #[serde(default)]
    pub proxy_busy: Option<Spread>,
    /// How busy load generator and backend kept theirs.
    #[serde(default)]
    pub load_busy: Option<Spread>,
    /// How busy the processor of the proxy was with anything, 0 to 1, by samples.
    pub proxy_core: Option<Spread>,
    /// How busy the processor of load generator and backend was with anything.
    pub load_core: Option<Spread>,
    /// Processors that were busy with something that is no part of the bench.
    pub strangers: Option<Spread>,
    /// Operations that failed, in all repetitions.
    pub failures: u64,
    /// What went wrong, if anything did.
    pub errors: Vec<String>,
}

/// Several measurements of the same thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// None of nothing.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

impl Row {
    /// Sums up the repetitions; `figure` says what is to be trusted.
    #[must_use]
    pub fn new(
        name: &str,
        is_rival: bool,
        samples: &[Sample],
        figure: impl Fn(&Sample) -> Option<f64>,
        errors: Vec<String>,
    ) -> Self {
        let spread = |value: &dyn Fn(&Sample) -> Option<f64>| Spread::of(samples.iter().filter_map(value));
        let core = |index: usize| move |sample: &Sample| sample.usage.core_busy_share.get(index).copied();
        Self {
            name: name.to_owned(),
            is_rival,
            asked_rate: None,
            figure: spread(&figure),
            rate: spread(&|sample| Some(sample.rate())),
            p50_us: spread(&|sample| Some(sample.latency?.p50_ns as f64 / 1e3)),
            p99_us: spread(&|sample| Some(sample.latency?.p99_ns as f64 / 1e3)),
            p999_us: spread(&|sample| Some(sample.latency?.p999_ns as f64 / 1e3)),
            usual_p99_us: spread(&|sample| Some(sample.pace?.usual_p99_ns as f64 / 1e3)),
            late_us: spread(&|sample| Some(sample.pace?.late.p99_ns as f64 / 1e3)),
            client_us: spread(&|sample| Some(sample.client_us())),
            proxy_busy: spread(&Sample::proxy_busy),
            load_busy: spread(&|sample| Some(sample.load_busy())),
            proxy_core: spread(&core(0)),
            load_core: spread(&core(1)),
            strangers: spread(&|sample| Some(sample.usage.strangers_share)),
            failures: samples.iter().map(|sample| sample.failures).sum(),
            errors,
        }
    }
}

impl CaseResult {
    /// The rival with the lowest figure under the same circumstances as this row.
    #[must_use]
    pub fn best_rival(&self, like: &Row) -> Option<(&str, f64)> {
        let rivals = self.rows.iter().filter(|row| row.is_rival && row.asked_rate == like.asked_rate);
        let figures = rivals.filter_map(|row| Some((row.name.as_str(), row.figure?.median)));
        figures.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// What is measured without a proxy under the same circumstances as this row.
    #[must_use]
    pub fn direct(&self, like: &Row) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == DIRECT && row.asked_rate == like.asked_rate)
    }

    /// Whether messages were sent at fixed rates.
    #[must_use]
    pub fn is_paced(&self) -> bool {
        self.rows.iter().any(|row| row.asked_rate.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn the_baseline_and_weir_are_no_rivals() {
        let row = |name: &str, is_rival, median| Row {
            name: name.into(),
            is_rival,
            figure: Spread::of([median]),
            ..Row::default()
        };
        let case = CaseResult {
            name: "case".into(),
            question: String::new(),
            unit: String::new(),
            group: Group::Tcp,
            date: String::new(),
            rows: vec![row("weir-ring", false, 1.0), row("nginx", true, 3.0), row("haproxy", true, 2.0)],
            skipped: Vec::new(),
        };
        assert_eq!(case.best_rival(&case.rows[0]), Some(("haproxy", 2.0)));
    }

    #[test]
    fn a_part_takes_the_place_of_what_was_measured_before_on_the_same_machine_only() {
        let case = |name: &str| CaseResult {
            name: name.into(),
            question: String::new(),
            unit: String::new(),
            group: Group::Tcp,
            date: String::new(),
            rows: Vec::new(),
            skipped: Vec::new(),
        };
        let whole = Results { cases: vec![case("a"), case("b")], ..Results::default() };
        let cases = vec![case("b"), case("c")];
        let part = Results { date: "later".into(), cases, ..Results::default() };
        let mut replaced = whole.clone();
        replaced.replace(part.clone()).unwrap();
        let dates: Vec<_> = replaced.cases.iter().map(|case| (&*case.name, &*case.date)).collect();
        assert_eq!(dates, [("a", ""), ("b", "later"), ("c", "later")]);
        let elsewhere = Results { machine: vec![("processor".into(), "x".into())], ..part.clone() };
        assert!(whole.clone().replace(elsewhere).unwrap_err().contains("another machine"));
        let hasty = Results { repetitions: 1, ..part };
        assert!(whole.clone().replace(hasty).unwrap_err().contains("0 repetitions"));
    }
}
