//! How many instructions the small parts take, beside what was accepted last.
//!
//! Times differ by a third between two runs on a machine that others use too; the number of instructions does not differ
//! at all. What it does not see is waiting: for memory, for the kernel, for another processor.

pub mod valgrind;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// More above the accepted figure than this is a mistake, or wants to be accepted.
const TOLERANCE_PERCENT: f64 = 5.0;

/// Instructions of every part, and what they depend on beside the code.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Versions: another compiler makes other code, another C library copies memory in another way.
    pub tools: BTreeMap<String, String>,
    /// Instructions of a part done once, by its name.
    pub parts: BTreeMap<String, f64>,
}

/// What is to be said of one part.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Which part.
    pub name: String,
    /// Its accepted figure, if there is one.
    pub old: Option<f64>,
    /// What was counted now; none if the part is no more.
    pub new: Option<f64>,
}

impl Figures {
    /// Sets these figures against accepted ones, in the order of the names.
    #[must_use]
    pub fn against(&self, accepted: &Self) -> Vec<Line> {
        let mut names: Vec<&String> = self.parts.keys().chain(accepted.parts.keys()).collect();
        names.sort();
        names.dedup();
        let line = |name: &String| Line {
            name: name.clone(),
            old: accepted.parts.get(name).copied(),
            new: self.parts.get(name).copied(),
        };
        names.into_iter().map(line).collect()
    }

    /// Tools that differ from those of the accepted figures, as sentences.
    #[must_use]
    pub fn other_tools(&self, accepted: &Self) -> Vec<String> {
        let differing =
            self.tools.iter().filter(|(name, version)| accepted.tools.get(*name) != Some(version));
        let was = |name: &String| accepted.tools.get(name).map_or("unknown", String::as_str);
        differing.map(|(name, version)| format!("{name} is {version} and was {}", was(name))).collect()
    }
}

impl Line {
    /// By how many percent the new figure is above the old one.
    #[must_use]
    pub fn change_percent(&self) -> Option<f64> {
        let (old, new) = (self.old?, self.new?);
        (old > 0.0).then(|| (new - old) / old * 100.0)
    }

    /// What is wrong, if anything is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let name = &self.name;
        match (self.old, self.new, self.change_percent()) {
            (Some(old), Some(new), Some(change)) => (change > TOLERANCE_PERCENT).then(|| {
                format!("{name} takes {new:.1} instructions instead of {old:.1}, {change:.1} % more")
            }),
            (None, Some(new), _) => {
                Some(format!("{name} takes {new:.1} instructions, of which nothing was accepted"))
            }
            _ => Some(format!("{name} was not counted, but there is an accepted figure")),
        }
    }

    /// Whether it is so much better that the accepted figure would hide the way back.
    #[must_use]
    pub fn is_much_better(&self) -> bool {
        self.change_percent().is_some_and(|change| change < -TOLERANCE_PERCENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_tolerance_is_a_problem_with_all_its_figures() {
        let problems = problems(&[("a", 100.0), ("b", 100.0)], &[("a", 105.0), ("b", 112.5)]);
        assert_eq!(problems, ["b takes 112.5 instructions instead of 100.0, 12.5 % more"]);
    }

    #[test]
    fn parts_that_come_or_go_need_accepting() {
        let problems = problems(&[("old", 1.0)], &[("new", 2.0)]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("new takes 2.0") && problems[1].starts_with("old was not counted"));
    }

    #[test]
    fn less_is_no_problem_but_worth_accepting() {
        let line = Line { name: "a".into(), old: Some(100.0), new: Some(90.0) };
        assert!(line.problem().is_none() && line.is_much_better());
    }

    #[test]
    fn another_compiler_is_named() {
        let figures = |rustc: &str| Figures {
            tools: [("rustc".to_owned(), rustc.to_owned())].into(),
            parts: BTreeMap::new(),
        };
        assert_eq!(figures("1.96").other_tools(&figures("1.95")), ["rustc is 1.96 and was 1.95"]);
        assert!(figures("1.95").other_tools(&figures("1.95")).is_empty());
    }

    fn problems(old: &[(&str, f64)], new: &[(&str, f64)]) -> Vec<String> {
        let figures = |parts: &[(&str, f64)]| Figures {
            tools: BTreeMap::new(),
            parts: parts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        };
        figures(new).against(&figures(old)).iter().filter_map(Line::problem).collect()
    }
}
