//! What no file of the repository may contain, and how long a file may grow.
//!
//! This file holds the words that it looks for, so it is the one file that it does not search.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Offence;
use crate::process;
use crate::repo::Repo;

const THIS_FILE: &str = "xtask/src/tidy/text.rs";

const RULE_PATH: &str = "path of a developer's machine";
const RULE_HOST: &str = "package host";
const RULE_SOURCE: &str = "package source";

/// Where work trees and homes live; true on one machine only.
const MACHINE_FOLDERS: [&str; 3] = ["/work/", "/root/", "/home/"];

/// Hosts that package clients fetch from: which one serves a machine is that machine's setting.
const PACKAGE_HOSTS: [&str; 10] = [
    "index.crates.io",
    "static.crates.io",
    "static.rust-lang.org",
    "deb.debian.org",
    "security.debian.org",
    "archive.ubuntu.com",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "proxy.golang.org",
    "artifactory",
];

/// The only place that a lock file may name: cargo writes it so whichever mirror it fetched from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Past this, look for the second idea that moved in. Tests do not count.
const LONG_FILE_LINES: usize = 500;

/// Files that are, or could be, committed: tracked ones and new ones that are not ignored.
///
/// Without git (a source archive) all files are taken but build output.
pub(super) fn files(repo: &Repo) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.arg("-C").arg(repo.root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let mut files = match process::output(&mut git) {
        Ok(list) => list.split('\0').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect(),
        Err(_) => {
            let mut files = Vec::new();
            walk(repo, repo.root(), &mut files)?;
            files
        }
    };
    files.retain(|name| repo.path(name).is_file()); // deleted ones are still tracked until the commit
    files.sort();
    Ok(files)
}

fn walk(repo: &Repo, folder: &Path, files: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if !path.is_dir() {
            files.push(repo.relative(&path));
        } else if name != "target" && name != ".git" {
            walk(repo, &path, files)?;
        }
    }
    Ok(())
}

pub(super) fn check(repo: &Repo, files: &[String]) -> Result<Vec<Offence>> {
    let mut offences = Vec::new();
    for file in files.iter().filter(|file| *file != THIS_FILE) {
        // read as bytes: the committed object must not tell where it was built either
        let bytes = fs::read(repo.path(file)).with_context(|| format!("cannot read {file}"))?;
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = String::from_utf8_lossy(line);
            let mut report =
                |rule, what| offences.push(Offence { file: file.clone(), line: index + 1, rule, what });
            for folder in MACHINE_FOLDERS.iter().filter(|folder| names_folder(&line, folder)) {
                report(RULE_PATH, format!("contains a path below {folder}"));
            }
            for host in PACKAGE_HOSTS.iter().filter(|host| line.contains(**host)) {
                report(RULE_HOST, format!("contains {host}"));
            }
            if file.ends_with("Cargo.lock") && line.starts_with("source = ") && !line.contains(REGISTRY) {
                report(RULE_SOURCE, format!("a lock file names {REGISTRY} and nothing else"));
            }
        }
    }
    Ok(offences)
}

/// True if the folder starts a path: in `a/home/b` it does not.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.~$*/>)]}".contains(c))
    })
}

/// Rust files that are long without their tests, as sentences.
pub(super) fn long_files(repo: &Repo, files: &[String]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let is_code = |file: &&String| file.ends_with(".rs") && !file.ends_with("/tests.rs");
    for file in files.iter().filter(is_code) {
        let text = fs::read_to_string(repo.path(file)).with_context(|| format!("cannot read {file}"))?;
        let length = length_without_tests(&text);
        if length > LONG_FILE_LINES {
            warnings
                .push(format!("{file}:1: {length} lines without tests; past {LONG_FILE_LINES}, split it"));
        }
    }
    Ok(warnings)
}

/// Lines before the section of tests, which stands last.
fn length_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let is_section = |two: &[&str]| two[0] == "#[cfg(test)]" && two[1].starts_with("mod tests");
    lines.windows(2).position(is_section).unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{Tree, places};

    fn check_tree(tree: &Tree) -> Vec<String> {
        let repo = tree.repo();
        places(check(&repo, &files(&repo).unwrap()).unwrap())
    }

    #[test]
    fn paths_of_a_machine_are_found_in_text_and_in_the_object() {
        let tree = Tree::with(&[
            ("README.md", "fine\nsee /home/me/weir\n"),
            ("target/debug/x", "/root/x"),
            ("src/a.rs", "let a = \"/work/x\"; // proc/1/root/etc ~/work/y {dir}/home/z https://h/home/i\n"),
        ]);
        tree.write("weir.bpf.o", b"\x7fELF\0\0/root/.cargo/registry\0\xff\xfe");
        assert_eq!(
            check_tree(&tree),
            [
                format!("README.md:2 {RULE_PATH}"),
                format!("src/a.rs:1 {RULE_PATH}"),
                format!("weir.bpf.o:1 {RULE_PATH}")
            ]
        );
    }

    #[test]
    fn package_hosts_and_foreign_sources_are_found() {
        let lock = format!("source = \"{REGISTRY}\"\nsource = \"registry+https://mirror.example/index\"\n");
        let tree = Tree::with(&[("Cargo.lock", &lock), (".ci/run", "curl https://static.crates.io/x\n")]);
        assert_eq!(
            check_tree(&tree),
            [format!(".ci/run:1 {RULE_HOST}"), format!("Cargo.lock:2 {RULE_SOURCE}")]
        );
    }

    #[test]
    fn only_lines_outside_tests_make_a_file_long() {
        let code = "x\n".repeat(LONG_FILE_LINES);
        let tests = format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}\n");
        let tree = Tree::with(&[
            ("ok.rs", &tests),
            ("long.rs", &format!("y\n{code}")),
            ("a/tests.rs", &format!("y\n{code}")),
        ]);
        let repo = tree.repo();
        let warnings = long_files(&repo, &files(&repo).unwrap()).unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("long.rs:1: 501 lines"), "{}", warnings[0]);
    }
}
