//! Latencies at fixed rates: one row for each contestant and rate.

use super::progress::Progress;
use super::{Bench, Field, Found};
use crate::case::Case;
use crate::contestant::Name;
use crate::report::Sample;
use crate::results::{CaseResult, Row};

impl Bench<'_> {
    /// Measures everybody at every rate; one after the other in one go, so that nobody is started for each.
    #[must_use]
    pub fn rate(&self, case: &Case, field: &mut Field, progress: &mut Progress) -> CaseResult {
        let is_asked = |name: Name| self.plan.is_everybody_at_rates || !name.is_for_bytes();
        let (names, skipped) = self.part(case, field, is_asked);
        let mut found: Found<Vec<Sample>> = self.in_turn(case, &names, field, progress);
        let rows = names.iter().flat_map(|name| {
            let (samples, errors) = found.remove(name).unwrap_or_default();
            rows(case, *name, &samples, &errors)
        });
        CaseResult { skipped, ..case.result(rows.collect()) }
    }
}

/// One row per rate; what went wrong stands once.
fn rows(case: &Case, name: Name, repetitions: &[Vec<Sample>], errors: &[String]) -> Vec<Row> {
    let has_figure = name != Name::Direct;
    let row = |(index, rate): (usize, u32)| {
        let samples: Vec<Sample> = repetitions.iter().filter_map(|all| all.get(index).cloned()).collect();
        let errors = if index == 0 { errors.to_vec() } else { Vec::new() };
        let figure = |sample: &Sample| case.work.figure(sample).filter(|_| has_figure);
        Row { asked_rate: Some(rate), ..Row::new(name.as_str(), name.is_rival(), &samples, figure, errors) }
    };
    case.work.rates().iter().copied().enumerate().map(row).collect()
}
