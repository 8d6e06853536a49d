//! What is wrong with a config: all of it, in the order of the file.

use std::fmt;

use serde::Serialize;

/// Most mistakes that are kept and shown; whoever has more repairs these first.
pub const MAX_SHOWN: usize = 100;

/// Longest part of a source line that is shown, in characters.
const MAX_EXCERPT_CHARS: usize = 160;

/// A place in the file; both numbers count from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// One thing that is wrong.
///
/// Displayed as `weir.yaml:12:5: services[0].lanne: unknown key; did you mean 'lane'?`, one line without the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Name of the file, as it was given.
    pub file: String,
    /// Where, unless the file could not be read at all.
    pub position: Option<Position>,
    /// Path inside the file, for example `services[2].health.interval`; empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What stands there.
    pub found: Option<String>,
    /// What could stand there.
    pub expected: Option<String>,
    /// What to do about it.
    pub suggestion: Option<String>,
    /// The line of the file, without its end.
    pub source: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(": ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)?;
        if let Some(found) = &self.found {
            write!(f, ": found {found}")?;
        }
        if let Some(expected) = &self.expected {
            write!(f, ", expected {expected}")?;
        }
        self.suggestion.as_ref().map_or(Ok(()), |suggestion| write!(f, "; {suggestion}"))
    }
}

/// Everything that is wrong with a config, sorted by place; never empty.
///
/// Displayed as one line for each mistake, each followed by the source line with a caret under the place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct ConfigErrors {
    /// The first mistakes, at most [`MAX_SHOWN`].
    pub mistakes: Vec<Mistake>,
    /// How many more there are.
    pub more_count: usize,
}

impl ConfigErrors {
    /// Makes the error for a file that could not be read.
    pub(super) fn unreadable(file: &str, problem: String) -> Self {
        let mistake = Mistake {
            file: file.to_owned(),
            position: None,
            path: String::new(),
            problem,
            found: None,
            expected: None,
            suggestion: None,
            source: None,
        };
        Self { mistakes: vec![mistake], more_count: 0 }
    }

    /// Counts the mistakes, shown or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.mistakes.len() + self.more_count
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}")?;
            if let (Some(source), Some(position)) = (&mistake.source, mistake.position) {
                write!(f, "\n    {source}\n    {}^", indent(source, position.column))?;
            }
        }
        if self.more_count > 0 { write!(f, "\nand {} more", self.more_count) } else { Ok(()) }
    }
}

/// Blanks that are as wide as what stands before the column, tabs included.
fn indent(source: &str, column: u32) -> String {
    let before = source.chars().take(usize::try_from(column).unwrap_or(usize::MAX) - 1);
    before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect()
}

/// A mistake before it knows its file: what the checks hand to [`Mistakes::push`].
#[derive(Clone, Debug, Default)]
pub(super) struct Finding {
    pub(super) problem: String,
    pub(super) found: Option<String>,
    pub(super) expected: Option<String>,
    pub(super) suggestion: Option<String>,
}

impl Finding {
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), ..Self::default() }
    }

    pub(super) fn found(mut self, found: impl Into<String>) -> Self {
        self.found = Some(found.into());
        self
    }

    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    pub(super) fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }
}

/// Collects mistakes while a file is checked.
#[derive(Debug, Default)]
pub(super) struct Mistakes {
    kept: Vec<(Position, String, Finding)>,
    dropped_count: usize,
}

/// Most mistakes that are collected before sorting: a file of nothing but mistakes must not fill the memory.
const MAX_KEPT: usize = 10_000;

impl Mistakes {
    /// Adds a mistake; `path` is only called if it is kept.
    pub(super) fn push(&mut self, position: Position, path: impl FnOnce() -> String, finding: Finding) {
        if self.is_full() {
            self.dropped_count += 1;
        } else {
            self.kept.push((position, path(), finding));
        }
    }

    /// Tells whether further mistakes are only counted, so that nobody needs to think about what was meant.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= MAX_KEPT
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Sorts by place and cuts the source lines out of the text.
    pub(super) fn into_errors(mut self, file: &str, text: &str) -> ConfigErrors {
        self.kept.sort_by_key(|(position, ..)| *position);
        let total = self.kept.len() + self.dropped_count;
        self.kept.truncate(MAX_SHOWN);
        let lines: Vec<&str> = text.lines().collect();
        let mistakes: Vec<_> = self
            .kept
            .into_iter()
            .map(|(position, path, finding)| Mistake {
                file: file.to_owned(),
                position: Some(position),
                path,
                problem: finding.problem,
                found: finding.found,
                expected: finding.expected,
                suggestion: finding.suggestion,
                source: excerpt(&lines, position),
            })
            .collect();
        ConfigErrors { more_count: total - mistakes.len(), mistakes }
    }
}

/// The source line, unless the place is beyond what fits on a terminal.
fn excerpt(lines: &[&str], position: Position) -> Option<String> {
    let line = lines.get(usize::try_from(position.line).ok()?.checked_sub(1)?)?;
    let shown: String =
        line.chars().take(MAX_EXCERPT_CHARS).filter(|c| !c.is_control() || *c == '\t').collect();
    let fits = usize::try_from(position.column).ok()? <= MAX_EXCERPT_CHARS;
    (fits && !shown.trim().is_empty()).then_some(shown)
}

/// Puts what a file says into quotes, shortened: it is printed on terminals and in logs.
pub(super) fn quoted(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let shown: String = text.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    let shown = shown.replace("\\'", "'").replace("\\\"", "\"");
    if text.chars().nth(MAX_CHARS).is_some() { format!("'{shown}...'") } else { format!("'{shown}'") }
}
