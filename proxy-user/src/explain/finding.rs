//! What a look at the machine found.

use std::fmt::Write as _;

use serde::Serialize;

use super::text::{Output, align};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Weir works, but not everything as one would expect.
    Warning,
    /// Weir cannot work like this.
    Problem,
}

impl Level {
    /// Word for tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub what: String,
    /// What is there.
    pub found: String,
    /// What to do about it; none if nothing is to be done.
    pub advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), found: found.into(), advice: None }
    }

    pub(super) fn warning(
        what: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, what: what.into(), found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn problem(
        what: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Problem, ..Self::warning(what, found, advice) }
    }
}

/// Everything that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which one would read them.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Tells whether Weir cannot work.
    #[must_use]
    pub fn has_problem(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Problem)
    }

    /// Prints it, without the last line end.
    #[must_use]
    pub fn render(&self, output: Output) -> String {
        match output {
            Output::Json => serde_json::to_string_pretty(self).unwrap_or_else(|error| error.to_string()),
            Output::Table => self.table(),
        }
    }

    fn table(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .findings
            .iter()
            .map(|one| vec![one.level.as_str().to_owned(), one.what.clone(), one.found.clone()])
            .collect();
        let mut text = String::new();
        for (line, finding) in align(&rows).lines().zip(&self.findings) {
            let _ = writeln!(text, "{line}");
            if let Some(advice) = &finding.advice {
                let _ = writeln!(text, "         -> {advice}");
            }
        }
        let count = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
        let _ = write!(text, "\n{problems} problems, {warnings} warnings");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_is_a_line_with_its_advice_below() {
        let report = Report {
            findings: vec![
                Finding::ok("kernel", "6.1"),
                Finding::warning("bpffs", "not mounted", "nothing: weir run mounts it"),
            ],
        };
        assert!(!report.has_problem());
        assert_eq!(
            report.render(Output::Table),
            "ok       kernel  6.1\nwarning  bpffs   not mounted\n         -> nothing: weir run mounts it\n\n\
             0 problems, 1 warnings"
        );
        let json: serde_json::Value = serde_json::from_str(&report.render(Output::Json)).unwrap();
        assert_eq!(json["findings"][1]["level"], "warning");
    }

    #[test]
    fn one_problem_is_enough() {
        let report = Report { findings: vec![Finding::ok("a", "b"), Finding::problem("c", "d", "e")] };
        assert!(report.has_problem());
    }
}
