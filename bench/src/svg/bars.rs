//! A picture of the figures: one panel per case, one bar per contestant, shorter is better.

use std::fmt::Write as _;

use super::{color, escape, page};
use crate::results::{CaseResult, Group, Results, Row};
use crate::table::short;

const PANEL_WIDTH: usize = 440;
const BAR_HEIGHT: usize = 16;
const NAME_WIDTH: usize = 110;
/// Room for the number behind the longest bar.
const VALUE_WIDTH: usize = 60;
const HEAD_HEIGHT: usize = 44;
const COLUMNS: usize = 2;
const GAP: usize = 20;

/// Draws the cases of a group that have a rival in them.
#[must_use]
pub fn bars(results: &Results, group: Group) -> String {
    let cases = results.cases.iter().filter(|case| case.group == group && has_bars(case));
    let cases: Vec<&CaseResult> = cases.collect();
    let heights: Vec<usize> =
        cases.chunks(COLUMNS).map(|row| row.iter().map(|c| height(c)).max().unwrap_or(0)).collect();
    let width = COLUMNS * (PANEL_WIDTH + GAP) + GAP;
    let total: usize = heights.iter().map(|height| height + GAP).sum::<usize>() + GAP;
    let mut svg = String::new();
    let mut y = GAP;
    for (row, height) in cases.chunks(COLUMNS).zip(heights) {
        for (column, case) in row.iter().enumerate() {
            panel(&mut svg, case, GAP + column * (PANEL_WIDTH + GAP), y);
        }
        y += height + GAP;
    }
    page(width, total, &svg)
}

/// Rates would be four bars for each contestant; they have a picture of their own.
fn has_bars(case: &CaseResult) -> bool {
    !case.is_paced() && case.rows.iter().any(|row| row.is_rival && row.figure.is_some())
}

fn height(case: &CaseResult) -> usize {
    HEAD_HEIGHT + case.rows.iter().filter(|row| row.figure.is_some()).count() * (BAR_HEIGHT + 4)
}

fn panel(svg: &mut String, case: &CaseResult, x: usize, y: usize) {
    let rows: Vec<(&Row, f64)> =
        case.rows.iter().filter_map(|row| Some((row, row.figure?.median.max(0.0)))).collect();
    let longest = rows.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let room = (PANEL_WIDTH - NAME_WIDTH - VALUE_WIDTH) as f64;
    // writing to a String cannot fail
    let _ =
        writeln!(svg, "<text x=\"{x}\" y=\"{}\" font-weight=\"bold\">{}</text>", y + 14, escape(&case.name));
    let unit = format!("{}, less is better", case.unit);
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{}\" fill=\"#666666\">{}</text>", y + 30, escape(&unit));
    for (index, (row, value)) in rows.iter().enumerate() {
        let top = y + HEAD_HEIGHT + index * (BAR_HEIGHT + 4);
        let (left, base) = (x + NAME_WIDTH, top + 12);
        let length = value / longest * room;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>",
            left - 6,
            escape(&row.name)
        );
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{}\"/>",
            color(row)
        );
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{base}\">{}</text>",
            left as f64 + length + 4.0,
            short(*value)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Spread;

    #[test]
    fn the_longest_bar_is_the_largest_figure_and_names_are_escaped() {
        let row = |name: &str, is_rival, value| Row {
            name: name.into(),
            is_rival,
            figure: Spread::of([value]),
            ..Row::default()
        };
        let case = CaseResult {
            name: "a<b".into(),
            question: String::new(),
            unit: "µs".into(),
            group: Group::Tcp,
            date: String::new(),
            rows: vec![row("weir-ring", false, 5.0), row("nginx", true, 10.0)],
            skipped: Vec::new(),
        };
        let results = Results { cases: vec![case], ..Results::default() };
        assert!(!bars(&results, Group::Http).contains("nginx"), "that is the other picture");
        let svg = bars(&results, Group::Tcp);
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"), "{svg}");
        assert!(svg.contains("width=\"270.0\"") && svg.contains("width=\"135.0\""), "{svg}");
    }
}
