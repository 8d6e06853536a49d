//! Plain text for people: aligned columns and units that can be read at a glance.

use std::time::Duration;

/// Forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Prints rows in columns as wide as their widest cell; the last column is as wide as it is.
#[must_use]
pub fn align(rows: &[Vec<String>]) -> String {
    let column_count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..column_count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Prints a number of bytes with three significant digits: `1.21 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// Prints a time in microseconds: `85µs`, `1.2ms`, `3.5s`.
#[must_use]
pub fn micros(us: u32) -> String {
    match us {
        0..1000 => format!("{us}µs"),
        1000..1_000_000 => format!("{:.1}ms", f64::from(us) / 1e3),
        _ => format!("{:.1}s", f64::from(us) / 1e6),
    }
}

/// Prints an age by its two largest units: `0.4s`, `12s`, `3m05s`, `2h10m`, `5d03h`.
#[must_use]
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", age.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn three_digits(value: f64) -> String {
    match value {
        _ if value < 9.995 => format!("{value:.2}"),
        _ if value < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["A", "LONG", "C"], ["ab", "µ", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(align(&rows), "A   LONG  C\nab  µ\n");
        assert_eq!(align(&[]), "");
    }

    #[test]
    fn units_change_where_the_number_would_get_long() {
        let shown: Vec<String> =
            [0, 1023, 1024, 1_269_760, 10_475_274, 1_048_575, u64::MAX].map(bytes).to_vec();
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "1.21 MiB", "9.99 MiB", "1.00 MiB", "16.0 EiB"]);
        assert_eq!([85, 999, 1200, 3_500_000].map(micros), ["85µs", "999µs", "1.2ms", "3.5s"]);
        let ages = [400, 12_000, 185_000, 7_800_000, 442_800_000].map(|ms| age(Duration::from_millis(ms)));
        assert_eq!(ages, ["0.4s", "12s", "3m05s", "2h10m", "5d03h"]);
    }
}
