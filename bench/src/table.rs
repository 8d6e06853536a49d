//! Results as tables: for the terminal, and as Markdown for `PERFORMANCE.md`.

use crate::results::{CaseResult, Results, Row, Spread};

/// Columns of a table.
const HEADS: [&str; 7] =
    ["contestant", "figure (min-max)", "of best rival", "per second", "p50 µs", "p99 µs", "strangers"];

/// One case for the terminal.
#[must_use]
pub fn text(case: &CaseResult) -> String {
    let rows: Vec<[String; HEADS.len()]> = case.rows.iter().map(|row| cells(case, row)).collect();
    let heads = HEADS.map(ToOwned::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().chain([&heads]).map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    let line = |row: &[String; HEADS.len()]| {
        let cells = row.iter().zip(&widths).enumerate();
        let padded = cells.map(|(column, (cell, width))| {
            let gap = " ".repeat(width - cell.chars().count());
            if column == 0 { format!("{cell}{gap}") } else { format!("{gap}{cell}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut text = format!("{}: {} [{}]\n  {}\n", case.name, case.question, case.unit, line(&heads));
    for row in &rows {
        text += &format!("  {}\n", line(row));
    }
    for row in &case.rows {
        text += &notes(row).iter().map(|note| format!("  ! {}: {note}\n", row.name)).collect::<String>();
    }
    text
}

/// All cases for `PERFORMANCE.md`.
#[must_use]
pub fn markdown(results: &Results) -> String {
    let list = |pairs: &[(String, String)]| {
        pairs.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join("; ")
    };
    let mut text = format!(
        "Measured {}: {} repetitions of {} ms. Machine: {}. Versions: {}.\n",
        results.date,
        results.repetitions,
        results.length_ms,
        list(&results.machine),
        list(&results.versions)
    );
    for (name, reason) in &results.skipped {
        text += &format!("\nNot measured: {name} ({reason}).\n");
    }
    for case in &results.cases {
        text += &format!("\n### {}\n\n{}. Figure: {}.\n\n", case.name, case.question, case.unit);
        text += &format!("| {} |\n|---|{}\n", HEADS.join(" | "), "--:|".repeat(HEADS.len() - 1));
        for row in &case.rows {
            text += &format!("| {} |\n", cells(case, row).join(" | "));
        }
        for row in &case.rows {
            text += &notes(row).iter().map(|note| format!("\n{}: {note}\n", row.name)).collect::<String>();
        }
    }
    text
}

/// Failed operations, and the first error of each kind.
fn notes(row: &Row) -> Vec<String> {
    let mut notes = row.errors.clone();
    notes.dedup();
    if row.failures > 0 {
        notes.push(format!("{} operations failed", row.failures));
    }
    notes
}

fn cells(case: &CaseResult, row: &Row) -> [String; HEADS.len()] {
    let ratio = case.best_rival().zip(row.figure).map(|((_, best), own)| format!("{:.2}", own.median / best));
    let plain = |spread: Option<Spread>| spread.map(|spread| short(spread.median)).unwrap_or_default();
    [
        row.name.clone(),
        row.figure
            .map(|f| format!("{} ({}-{})", short(f.median), short(f.min), short(f.max)))
            .unwrap_or_default(),
        ratio.unwrap_or_default(),
        plain(row.rate),
        plain(row.p50_us),
        plain(row.p99_us),
        row.strangers.map(|spread| format!("{:.0} %", spread.median * 100.0)).unwrap_or_default(),
    ]
}

/// Three significant digits, as far as they matter.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weir_is_set_against_the_best_rival_and_not_the_nearest() {
        let row = |name: &str, is_rival, value| Row {
            name: name.into(),
            is_rival,
            figure: Spread::of([value]),
            ..Row::default()
        };
        let case = CaseResult {
            name: "case".into(),
            question: "what".into(),
            unit: "µs".into(),
            rows: vec![row("weir-ring", false, 6.0), row("nginx", true, 8.0), row("envoy", true, 12.0)],
        };
        let text = text(&case);
        assert!(text.lines().any(|line| line.contains("weir-ring") && line.contains("0.75")), "{text}");
        assert!(text.lines().any(|line| line.contains("envoy") && line.contains("1.50")), "{text}");
    }
}
