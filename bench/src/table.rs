//! Results as tables: for the terminal, and as Markdown for `PERFORMANCE.md`.

use crate::results::{CaseResult, Group, Results, Row, Spread};

/// One column: its head, and what stands in it for a row.
type Column = (&'static str, fn(&CaseResult, &Row) -> String);

/// All columns; those that have nothing to say in a case are left out.
const COLUMNS: [Column; 17] = [
    ("contestant", |_, row| row.name.clone()),
    ("asked per second", |_, row| row.asked_rate.map(|rate| rate.to_string()).unwrap_or_default()),
    ("figure (min-max)", |_, row| row.figure.map(range).unwrap_or_default()),
    ("of best rival", of_best_rival),
    ("per second", |_, row| median(row.rate)),
    ("p50 µs", |_, row| median(row.p50_us)),
    ("p99 µs", |_, row| median(row.p99_us)),
    ("usual p99 µs", |_, row| median(row.usual_p99_us)),
    ("p99.9 µs", |_, row| median(row.p999_us)),
    ("p50 over direct", |case, row| over_direct(case, row, |row| row.p50_us)),
    ("p99 over direct", |case, row| over_direct(case, row, |row| row.p99_us)),
    ("usual p99 over direct", |case, row| over_direct(case, row, |row| row.usual_p99_us)),
    ("p99.9 over direct", |case, row| over_direct(case, row, |row| row.p999_us)),
    ("sent late, p99 µs", |_, row| median(row.late_us)),
    ("proxy busy", |_, row| percent(row.proxy_busy)),
    ("load busy", |_, row| percent(row.load_busy)),
    ("strangers", |_, row| percent(row.strangers)),
];

/// Share of the asked rate below which it was not kept.
const KEPT: f64 = 0.98;
/// The load generator measures itself where messages are sent later than this, and by more than this share of the latency.
const LATE: (f64, f64) = (200.0, 0.5);

/// One case for the terminal.
#[must_use]
pub fn text(case: &CaseResult) -> String {
    let lines = lines(case);
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = format!("{}: {} [{}]\n", case.name, case.question, case.unit);
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let gap = " ".repeat(width - cell.chars().count());
            if column == 0 { format!("{cell}{gap}") } else { format!("{gap}{cell}") }
        });
        text += &format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    for (name, reason) in &case.skipped {
        text += &format!("  ! {name}: {reason}\n");
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
    for group in Group::ALL {
        let cases: Vec<String> =
            results.cases.iter().filter(|case| case.group == group).map(section).collect();
        if !cases.is_empty() {
            text += &format!("\n### {}\n{}", group.as_str(), cases.concat());
        }
    }
    text
}

/// One case, with its head.
fn section(case: &CaseResult) -> String {
    let mut text = format!("\n#### {}\n\n{}. Figure: {}.", case.name, case.question, case.unit);
    if !case.date.is_empty() {
        text += &format!(" Measured alone, {}.", case.date);
    }
    text += "\n\n";
    for (index, line) in lines(case).iter().enumerate() {
        text += &format!("| {} |\n", line.join(" | "));
        if index == 0 {
            text += &format!("|---|{}\n", "--:|".repeat(line.len() - 1));
        }
    }
    for (name, reason) in &case.skipped {
        text += &format!("\n{name}: {reason}\n");
    }
    for row in &case.rows {
        text += &notes(row).iter().map(|note| format!("\n{}: {note}\n", row.name)).collect::<String>();
    }
    text
}

/// The heads and a line per row, of those columns that have something to say.
fn lines(case: &CaseResult) -> Vec<Vec<String>> {
    let filled: Vec<(&str, Vec<String>)> = COLUMNS
        .iter()
        .map(|(head, cell)| (*head, case.rows.iter().map(|row| cell(case, row)).collect()))
        .filter(|(_, cells): &(&str, Vec<String>)| cells.iter().any(|cell| !cell.is_empty()))
        .collect();
    let heads = filled.iter().map(|(head, _)| (*head).to_owned()).collect();
    let line = |row: usize| filled.iter().map(|(_, cells)| cells[row].clone()).collect();
    std::iter::once(heads).chain((0..case.rows.len()).map(line)).collect()
}

/// What went wrong, each error once.
fn notes(row: &Row) -> Vec<String> {
    let mut notes = row.errors.clone();
    notes.dedup();
    if row.failures > 0 {
        notes.push(format!("{} operations failed", row.failures));
    }
    if let (Some(asked), Some(rate)) = (row.asked_rate, row.rate)
        && rate.median < f64::from(asked) * KEPT
    {
        notes.push(format!("{asked} per second were not kept: {:.0}", rate.median));
    }
    if let (Some(asked), Some(late), Some(p99)) = (row.asked_rate, row.late_us, row.p99_us)
        && late.median > LATE.0.max(p99.median * LATE.1)
    {
        notes.push(format!(
            "at {asked} per second the load generator was late itself: {} µs",
            short(late.median)
        ));
    }
    notes
}

fn of_best_rival(case: &CaseResult, row: &Row) -> String {
    let ratio = case.best_rival(row).zip(row.figure).map(|((_, best), own)| own.median / best);
    ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default()
}

/// What the proxy adds; for fixed rates only, since a closed loop sends as much as comes back.
fn over_direct(case: &CaseResult, row: &Row, value: fn(&Row) -> Option<Spread>) -> String {
    let direct = row.asked_rate.and_then(|_| case.direct(row)).filter(|direct| direct.name != row.name);
    let excess = direct.and_then(value).zip(value(row)).map(|(direct, own)| own.median - direct.median);
    excess.map(short).unwrap_or_default()
}

fn median(spread: Option<Spread>) -> String {
    spread.map(|spread| short(spread.median)).unwrap_or_default()
}

fn range(spread: Spread) -> String {
    format!("{} ({}-{})", short(spread.median), short(spread.min), short(spread.max))
}

fn percent(spread: Option<Spread>) -> String {
    spread.map(|spread| format!("{:.0} %", spread.median * 100.0)).unwrap_or_default()
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

    fn row(name: &str, is_rival: bool, value: f64) -> Row {
        Row { name: name.into(), is_rival, figure: Spread::of([value]), ..Row::default() }
    }

    fn case(rows: Vec<Row>) -> CaseResult {
        let (name, question, unit, date) = ("case".into(), "what".into(), "µs".into(), String::new());
        CaseResult { name, question, unit, group: Group::Tcp, date, rows, skipped: Vec::new() }
    }

    #[test]
    fn weir_is_set_against_the_best_rival_and_not_the_nearest() {
        let rows = vec![row("weir-ring", false, 6.0), row("nginx", true, 8.0), row("envoy", true, 12.0)];
        let text = text(&case(rows));
        assert!(text.lines().any(|line| line.contains("weir-ring") && line.contains("0.75")), "{text}");
        assert!(text.lines().any(|line| line.contains("envoy") && line.contains("1.50")), "{text}");
    }

    #[test]
    fn at_a_fixed_rate_everybody_is_set_against_the_same_rate() {
        let at = |name: &str, is_rival, asked: u32, rate: f64, p99: f64| Row {
            asked_rate: Some(asked),
            rate: Spread::of([rate]),
            p99_us: Spread::of([p99]),
            ..row(name, is_rival, p99)
        };
        let text = text(&case(vec![
            at("direct", false, 10, 10.0, 100.0),
            at("direct", false, 20, 20.0, 150.0),
            at("nginx", true, 10, 10.0, 300.0),
            at("nginx", true, 20, 15.0, 950.0),
        ]));
        let line =
            |rate: &str| text.lines().find(|line| line.contains("nginx") && line.contains(rate)).unwrap();
        assert!(line("  10  ").contains(" 200"), "{text}");
        assert!(line("  20  ").contains(" 800") && line("  20  ").contains("1.00"), "{text}");
        assert!(text.contains("20 per second were not kept: 15"), "{text}");
    }

    #[test]
    fn who_takes_no_part_is_named_below_the_table_and_groups_have_heads() {
        let skipped = vec![("weir-ring".to_owned(), "not available: unknown key `listeners`".to_owned())];
        let http = CaseResult { group: Group::Http, skipped, ..case(vec![row("nginx", true, 8.0)]) };
        assert!(text(&http).contains("! weir-ring: not available: unknown key"), "{}", text(&http));
        let tcp = case(vec![row("haproxy", true, 3.0)]);
        let page = markdown(&Results { cases: vec![http, tcp], ..Results::default() });
        let places = ["### TCP", "| haproxy |", "### HTTP", "| nginx |", "weir-ring: not available"];
        let places: Vec<_> = places.iter().map(|word| page.find(word)).collect();
        assert!(places[0].is_some() && places.is_sorted(), "{places:?} {page}");
    }

    #[test]
    fn columns_without_content_are_left_out() {
        let text = text(&case(vec![row("nginx", true, 8.0)]));
        assert!(!text.contains("asked") && !text.contains("p99") && text.contains("figure"), "{text}");
    }
}
