//! Reading a scrape.

use std::collections::BTreeMap;

/// Samples of one scrape, by series: `name{label="value",...}` as it is written.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads the text format.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            // a label's value may hold spaces, so the value is what stands behind the braces
            let (end, _) = line.rmatch_indices('}').next().unwrap_or((0, ""));
            let space = line[end..].find(' ')? + end;
            let value = line[space..].split_whitespace().next()?.parse().ok()?;
            Some((line[..space].to_owned(), value))
        };
        Self(samples.filter_map(sample).collect())
    }

    /// Adds up all series of a name whose labels contain every given pair.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|(_, value)| value).sum()
    }

    /// Says whether there is a series of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.matching(name, &[]).next().is_some()
    }

    /// All series of a name.
    pub fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = (&'a str, f64)> {
        let fits = move |series: &str| {
            let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
            series_name == name
                && labels.iter().all(|(key, value)| series_labels.contains(&format!("{key}=\"{value}\"")))
        };
        self.0.iter().filter(move |(series, _)| fits(series)).map(|(series, value)| (series.as_str(), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_name_and_labels_and_added_up() {
        let metrics = Metrics::parse(
            "# HELP opened Opened.\n# TYPE opened counter\nopened_total{service=\"a b\",lane=\"proxy\"} 3\n\
             opened_total{service=\"a b\",lane=\"direct\"} 4 1700000000\nup 1\n# EOF\n",
        );
        assert!((metrics.sum("opened_total", &[]) - 7.0).abs() < f64::EPSILON);
        let direct = metrics.sum("opened_total", &[("service", "a b"), ("lane", "direct")]);
        assert!((direct - 4.0).abs() < f64::EPSILON);
        assert!(metrics.has("up"));
        assert!(!metrics.has("opened"));
    }
}
