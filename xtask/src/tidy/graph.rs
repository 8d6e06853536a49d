//! Which module of a crate imports which, and whether they import in a circle.
//!
//! Modules mean those at the top of a crate, with everything inside them: that is the size at which a reader asks
//! "what do I have to know before this?". Nothing below is answerable once two of them need each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Offence;
use super::path;
use super::token::{self, Token};
use crate::repo::Repo;

const RULE: &str = "import cycle";

/// Folder and library name of each crate whose modules may not import in a circle.
const CRATES: [(&str, &str); 4] = [
    ("proxy-user", "proxy_user"),
    ("proxy-user/core", "proxy_core"),
    ("proxy-user/io", "proxy_io"),
    ("proxy-user/bpf", "proxy_bpf"),
];

/// The binary's root file, as a module beside the library's.
pub(super) const MAIN: &str = "main";

/// One import of one top-level module by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) file: String,
    pub(super) line: usize,
}

/// The top-level modules of one crate, each with its file, and the imports between them.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) modules: BTreeMap<String, String>,
    pub(super) edges: Vec<Edge>,
}

pub(super) fn check(repo: &Repo) -> Result<Vec<Offence>> {
    let mut offences = Vec::new();
    for (folder, name) in CRATES {
        let graph = Graph::read(repo, folder, name)?;
        for cycle in graph.cycles() {
            let names: Vec<&str> = cycle.iter().map(|edge| edge.from.as_str()).collect();
            let circle = format!("{} > {}", names.join(" > "), names[0]);
            offences.extend(cycle.iter().map(|edge| Offence {
                file: edge.file.clone(),
                line: edge.line,
                rule: RULE,
                what: format!("`{}` imports `{}`, which closes {circle}", edge.from, edge.to),
            }));
        }
    }
    Ok(offences)
}

impl Graph {
    /// Reads `FOLDER/src`; a crate that is not there has no modules.
    pub(super) fn read(repo: &Repo, folder: &str, crate_name: &str) -> Result<Self> {
        let src = repo.path(folder).join("src");
        let mut files = Vec::new();
        if src.is_dir() {
            rust_files(&src, &mut files)?;
        }
        files.sort();
        let mut sources = Vec::new();
        for file in files {
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let module = module_of(file.strip_prefix(&src).unwrap_or(&file));
            sources.push((repo.relative(&file), module, token::without_tests(&token::tokens(&text))));
        }
        Ok(Self::build(&sources, crate_name))
    }

    fn build(sources: &[(String, Vec<String>, Vec<Token>)], crate_name: &str) -> Self {
        let is_root = |module: &[String]| module.is_empty() || module == [MAIN];
        let roots = || sources.iter().filter(|(_, module, _)| is_root(module));
        // a module that only tests declare is left out with them
        let declared: BTreeSet<String> = roots()
            .flat_map(|(_, _, tokens)| path::declared_modules(tokens))
            .chain([MAIN.to_owned()])
            .collect();
        let offered: BTreeMap<String, Vec<String>> =
            roots().flat_map(|(_, _, tokens)| path::reexports(tokens)).collect();

        let mut graph = Self::default();
        for (file, module, tokens) in sources {
            let Some(from) = module.first().filter(|name| declared.contains(*name)) else { continue };
            // of a module's files, the one that is named for it sorts last: `a.rs` after `a/b.rs`
            graph.modules.insert(from.clone(), file.clone());
            for reference in path::references(tokens, module, crate_name) {
                let Some(first) = reference.segments.first() else { continue };
                let through = offered.get(first).filter(|_| !declared.contains(first));
                let to = through.and_then(|path| path.first()).unwrap_or(first);
                if to != from && declared.contains(to) {
                    let (to, line) = (to.clone(), reference.line);
                    graph.edges.push(Edge { from: from.clone(), to, file: file.clone(), line });
                }
            }
        }
        graph
    }

    /// Circles as one import after the other, so that every module in any circle is on at least one of them.
    pub(super) fn cycles(&self) -> Vec<Vec<&Edge>> {
        let mut seen = BTreeSet::new();
        let mut cycles = Vec::new();
        for module in self.modules.keys() {
            if seen.contains(module) {
                continue;
            }
            if let Some(cycle) = self.way_round(module) {
                seen.extend(cycle.iter().map(|edge| edge.from.clone()));
                cycles.push(cycle);
            }
        }
        cycles
    }

    /// Breadth first from `start` until it comes back to `start`.
    fn way_round(&self, start: &str) -> Option<Vec<&Edge>> {
        let mut arrived_by: BTreeMap<&str, &Edge> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(module) = queue.pop_front() {
            for edge in self.edges.iter().filter(|edge| edge.from == module) {
                if arrived_by.contains_key(edge.to.as_str()) {
                    continue;
                }
                arrived_by.insert(&edge.to, edge);
                if edge.to != start {
                    queue.push_back(&edge.to);
                    continue;
                }
                let mut way = vec![edge];
                while way[way.len() - 1].from != start {
                    way.push(arrived_by[way[way.len() - 1].from.as_str()]);
                }
                way.reverse();
                return Some(way);
            }
        }
        None
    }
}

/// Module path of a file below `src`; files that hold tests only (`tests.rs`) are modules like any other, but nobody
/// outside tests imports them.
fn module_of(relative: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        relative.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    match parts.last().map(String::as_str) {
        Some("lib") if parts.len() == 1 => parts.clear(),
        Some("mod") => {
            parts.pop();
        }
        _ if parts.first().is_some_and(|first| first == "bin") => parts = vec![MAIN.to_owned()],
        _ => {}
    }
    parts
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let is_tests = path.file_stem().is_some_and(|stem| stem == "tests");
        if is_tests {
            continue;
        }
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{Tree, places};

    const LIB: (&str, &str) = ("proxy-user/core/src/lib.rs", "mod a; mod b; mod c; pub use b::Thing;");

    fn check_tree(files: &[(&str, &str)]) -> Vec<String> {
        let tree = Tree::with(files);
        places(check(&tree.repo()).unwrap())
    }

    #[test]
    fn a_circle_is_reported_at_each_of_its_imports() {
        let found = check_tree(&[
            LIB,
            ("proxy-user/core/src/a.rs", "use crate::b;"),
            ("proxy-user/core/src/b.rs", "\nfn f() { crate::c::g() }"),
            ("proxy-user/core/src/c/deep.rs", "use super::super::a::X;"),
        ]);
        assert_eq!(
            found,
            [
                "proxy-user/core/src/a.rs:1 import cycle",
                "proxy-user/core/src/b.rs:2 import cycle",
                "proxy-user/core/src/c/deep.rs:1 import cycle"
            ]
        );
    }

    #[test]
    fn a_circle_through_the_roots_reexport_is_seen() {
        let found = check_tree(&[
            LIB,
            ("proxy-user/core/src/a.rs", "use crate::Thing;"),
            ("proxy-user/core/src/b.rs", "use crate::a::Other;"),
        ]);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn imports_of_tests_and_within_a_module_make_no_circle() {
        let found = check_tree(&[
            LIB,
            (
                "proxy-user/core/src/a.rs",
                "use crate::b::X; mod inner; #[cfg(test)] mod tests { use crate::c; }",
            ),
            ("proxy-user/core/src/a/inner.rs", "use crate::a::Y;"),
            ("proxy-user/core/src/a/tests.rs", "use crate::c::Y;"),
            ("proxy-user/core/src/b.rs", "// use crate::a::X;"),
            ("proxy-user/core/src/c.rs", "use crate::a::X;"),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn every_module_in_a_circle_is_on_a_shortest_way_round() {
        let tree = Tree::with(&[
            LIB,
            ("proxy-user/core/src/a.rs", "use crate::{b, c};"),
            ("proxy-user/core/src/b.rs", "use crate::c;"),
            ("proxy-user/core/src/c.rs", "use crate::a;"),
        ]);
        let offences = check(&tree.repo()).unwrap();
        let circles: Vec<&str> = offences.iter().filter_map(|one| one.what.split("closes ").nth(1)).collect();
        assert_eq!(circles, ["a > c > a", "a > c > a", "b > c > a > b", "b > c > a > b", "b > c > a > b"]);
    }
}
