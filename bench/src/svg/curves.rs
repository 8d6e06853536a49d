//! Latency over rate: one panel per quantile, one line per contestant.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{escape, page};
use crate::results::{CaseResult, Group, Results, Row, Spread};
use crate::table::short;

const PANEL_WIDTH: usize = 290;
const PANEL_HEIGHT: usize = 300;
/// Room for the numbers of the vertical axis.
const LEFT: usize = 50;
const TOP: usize = 50;
const BOTTOM: usize = 40;
const GAP: usize = 20;
const LEGEND_WIDTH: usize = 160;
const LEGEND_STEP: usize = 18;
/// Lines of the same color are told apart by their dashes; contestants come in the order of the tables.
const WEIR: &str = "#0b7a75";
const OTHERS: [&str; 9] =
    ["#c0392b", "#d68910", "#7d3c98", "#2e6da4", "#7e5109", "#5d6d7e", "#b03a8c", "#1b2631", "#52be80"];
const DASHES: [&str; 3] = ["", "7 4", "2 3"];

/// A quantile of a row.
type Quantile = fn(&Row) -> Option<Spread>;
const PANELS: [(&str, Quantile); 3] =
    [("p50", |row| row.p50_us), ("p99", |row| row.p99_us), ("p99.9", |row| row.p999_us)];

/// How the line of one contestant looks.
struct Pen {
    color: &'static str,
    dashes: &'static str,
}

/// Draws the first case of a group at fixed rates; none if there is no such case.
#[must_use]
pub fn curves(results: &Results, group: Group) -> Option<String> {
    let case = results.cases.iter().find(|case| case.group == group && case.is_paced())?;
    let pens = pens(case);
    let mut svg = String::new();
    for (index, (name, quantile)) in PANELS.into_iter().enumerate() {
        panel(&mut svg, case, &pens, (GAP + index * (PANEL_WIDTH + GAP), name, quantile));
    }
    legend(&mut svg, &pens, GAP + PANELS.len() * (PANEL_WIDTH + GAP));
    let width = PANELS.len() * (PANEL_WIDTH + GAP) + GAP + LEGEND_WIDTH;
    Some(page(width, PANEL_HEIGHT.max(TOP + pens.len() * LEGEND_STEP) + GAP, &svg))
}

/// One pen for each contestant, in the order of the rows.
fn pens(case: &CaseResult) -> Vec<(&str, Pen)> {
    let mut names: Vec<&str> = case.rows.iter().map(|row| row.name.as_str()).collect();
    names.dedup();
    let (mut weirs, mut others) = (DASHES.iter().cycle(), OTHERS.iter().cycle());
    let mut pen = |name: &str| match name.starts_with("weir") {
        true => Pen { color: WEIR, dashes: weirs.next().copied().unwrap_or_default() },
        false => Pen { color: others.next().copied().unwrap_or_default(), dashes: "" },
    };
    names.into_iter().map(|name| (name, pen(name))).collect()
}

/// Where values stand: rates in equal steps, latencies by their logarithm.
struct Scale {
    x: usize,
    rates: Vec<u32>,
    lowest: f64,
    highest: f64,
}

impl Scale {
    fn new(case: &CaseResult, x: usize, quantile: Quantile) -> Self {
        let mut rates: Vec<u32> = case.rows.iter().filter_map(|row| row.asked_rate).collect();
        rates.sort_unstable();
        rates.dedup();
        let values = || case.rows.iter().filter_map(|row| Some(quantile(row)?.median));
        let power = |value: f64, round: fn(f64) -> f64| 10_f64.powf(round(value.max(1.0).log10()));
        let lowest = power(values().fold(f64::INFINITY, f64::min).min(1e6), f64::floor);
        let highest = power(values().fold(10.0, f64::max), f64::ceil).max(lowest * 10.0);
        Self { x, rates, lowest, highest }
    }

    fn x(&self, rate: u32) -> f64 {
        let index = self.rates.iter().position(|other| *other == rate).unwrap_or_default();
        let step = (PANEL_WIDTH - LEFT) as f64 / self.rates.len().max(1) as f64;
        (self.x + LEFT) as f64 + step * (index as f64 + 0.5)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value.max(1.0) / self.lowest).log10() / (self.highest / self.lowest).log10();
        let (top, bottom) = (TOP as f64, (PANEL_HEIGHT - BOTTOM) as f64);
        bottom - share * (bottom - top)
    }
}

/// Where it begins, what it is called, and what it shows.
type Place<'a> = (usize, &'a str, Quantile);

fn panel(svg: &mut String, case: &CaseResult, pens: &[(&str, Pen)], (x, name, quantile): Place<'_>) {
    let scale = Scale::new(case, x, quantile);
    // writing to a String cannot fail
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"20\" font-weight=\"bold\">{name} of {}</text>",
        escape(&case.name)
    );
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"36\" fill=\"#666666\">µs from the due time, less is better</text>"
    );
    axes(svg, &scale);
    for (name, pen) in pens {
        let points: BTreeMap<u32, f64> = case
            .rows
            .iter()
            .filter(|row| row.name == *name)
            .filter_map(|row| Some((row.asked_rate?, quantile(row)?.median)))
            .collect();
        let points =
            points.iter().map(|(rate, value)| format!("{:.1},{:.1}", scale.x(*rate), scale.y(*value)));
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-dasharray=\"{}\"/>",
            points.collect::<Vec<_>>().join(" "),
            pen.color,
            pen.dashes
        );
    }
}

fn axes(svg: &mut String, scale: &Scale) {
    let (left, right) = (scale.x + LEFT, scale.x + PANEL_WIDTH);
    let mut value = scale.lowest;
    while value <= scale.highest {
        let y = scale.y(value);
        let _ = writeln!(svg, "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#dddddd\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 4,
            y + 4.0,
            short(value)
        );
        value *= 10.0;
    }
    for rate in &scale.rates {
        let (x, y) = (scale.x(*rate), PANEL_HEIGHT - BOTTOM + 16);
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{rate}/s</text>");
    }
}

fn legend(svg: &mut String, pens: &[(&str, Pen)], x: usize) {
    for (index, (name, pen)) in pens.iter().enumerate() {
        let y = TOP + index * LEGEND_STEP;
        let _ = writeln!(
            svg,
            "<path d=\"M{x} {y}h26\" stroke=\"{}\" stroke-width=\"2\" stroke-dasharray=\"{}\"/>",
            pen.color, pen.dashes
        );
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\">{}</text>", x + 32, y + 4, escape(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contestant_has_a_line_in_every_panel_and_slower_is_higher() {
        let row = |name: &str, asked: u32, value: f64| Row {
            name: name.into(),
            asked_rate: Some(asked),
            p50_us: Spread::of([value]),
            p99_us: Spread::of([value * 3.0]),
            p999_us: Spread::of([value * 20.0]),
            ..Row::default()
        };
        let rows = vec![
            row("weir-ring", 10, 50.0),
            row("weir-ring", 20, 90.0),
            row("nginx", 10, 60.0),
            row("nginx", 20, 900.0),
        ];
        let (name, question, unit) = ("rate".into(), String::new(), String::new());
        let case = CaseResult {
            name,
            question,
            unit,
            group: Group::Http,
            date: String::new(),
            rows,
            skipped: Vec::new(),
        };
        let scale = Scale::new(&case, 0, PANELS[0].1);
        assert!(scale.y(900.0) < scale.y(60.0) && scale.x(10) < scale.x(20));
        let results = Results { cases: vec![case], ..Results::default() };
        let svg = curves(&results, Group::Http).unwrap();
        assert_eq!(svg.matches("<polyline").count(), 6, "{svg}");
        assert!(svg.contains(">20/s<") && svg.contains(">nginx<"), "{svg}");
        assert_eq!(curves(&results, Group::Tcp), None);
    }
}
