//! `cargo xtask tidy`: holds the code to the borders that compilers do not see.
//!
//! Everything is read from the files alone. A rule lives in the submodule that is named for it, gives [`Offence`]s
//! and never stops at the first one.

mod crates;
mod graph;
mod path;
mod rooms;
mod text;
mod token;

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use crate::repo::Repo;

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Offence {
    /// Relative to the root, with `/`.
    file: String,
    /// Counted from 1.
    line: usize,
    /// Short and fixed, so that it can be searched for.
    rule: &'static str,
    what: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.what)
    }
}

pub(crate) fn run(repo: &Repo) -> Result<ExitCode> {
    let mut offences = Vec::new();
    offences.extend(rooms::check(repo)?);
    offences.extend(graph::check(repo)?);
    offences.extend(crates::check(repo)?);
    let files = text::files(repo)?;
    offences.extend(text::check(repo, &files)?);
    offences.sort();
    offences.dedup();

    for warning in text::long_files(repo, &files)? {
        println!("warning: {warning}");
    }
    for offence in &offences {
        println!("{offence}");
    }
    if offences.is_empty() {
        println!("tidy: {} files, nothing to say", files.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {} offences", offences.len());
    Ok(ExitCode::FAILURE)
}

/// A small fake repository for the tests of the rules.
#[cfg(test)]
mod fixture {
    use std::fs;

    use super::Offence;
    use crate::repo::Repo;
    use crate::scratch::Scratch;

    pub(super) struct Tree {
        scratch: Scratch,
    }

    impl Tree {
        pub(super) fn with(files: &[(&str, &str)]) -> Self {
            let tree = Self { scratch: Scratch::new("tidy-test").unwrap() };
            for (name, content) in files {
                tree.write(name, content.as_bytes());
            }
            tree
        }

        pub(super) fn write(&self, name: &str, content: &[u8]) {
            let path = self.scratch.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        pub(super) fn repo(&self) -> Repo {
            Repo::at(self.scratch.path())
        }
    }

    /// `file:line rule` of every offence, in order.
    pub(super) fn places(mut offences: Vec<Offence>) -> Vec<String> {
        offences.sort();
        offences.iter().map(|one| format!("{}:{} {}", one.file, one.line, one.rule)).collect()
    }
}
