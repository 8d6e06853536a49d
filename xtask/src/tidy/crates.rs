//! The borders between crates: who depends on whom, on what from outside, and where `unsafe` and aya may stand.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Offence;
use super::token::{self, Kind};
use crate::repo::Repo;

const RULE_BORDER: &str = "crate border";
const RULE_UNSAFE: &str = "unsafe fence";
const RULE_AYA: &str = "aya fence";
const RULE_REASON: &str = "dependency without a reason";

/// Where every dependency has its line.
const REASONS: &str = "proxy-user/ARCHITECTURE.md";

/// One crate and what it may know.
struct Crate {
    folder: &'static str,
    name: &'static str,
    /// Crates of this repository that it may depend on.
    ours: &'static [&'static str],
    /// Everything else that it may depend on, `None` for anything with a reason in ARCHITECTURE.md.
    others: Option<Others>,
    may_be_unsafe: bool,
    may_name_aya: bool,
}

struct Others {
    normal: &'static [&'static str],
    dev: &'static [&'static str],
}

const fn ordinary(folder: &'static str, name: &'static str, ours: &'static [&'static str]) -> Crate {
    Crate { folder, name, ours, others: None, may_be_unsafe: false, may_name_aya: false }
}

const CRATES: [Crate; 11] = [
    // `common` is the kernel ABI: it knows neither side
    Crate { may_be_unsafe: true, ..ordinary("proxy-ebpf/common", "proxy-ebpf-common", &[]) },
    Crate {
        may_be_unsafe: true,
        may_name_aya: true,
        ..ordinary("proxy-ebpf", "proxy-ebpf", &["proxy-ebpf-common"])
    },
    // decisions without I/O: the short list is what keeps clocks, sockets and runtimes out
    Crate {
        others: Some(Others {
            normal: &["base64", "rand", "regex", "rustc-hash", "thiserror", "xxhash-rust"],
            dev: &["loona-hpack", "proptest"],
        }),
        ..ordinary("proxy-user/core", "proxy-core", &[])
    },
    Crate { may_be_unsafe: true, ..ordinary("proxy-user/io", "proxy-io", &[]) },
    Crate {
        may_name_aya: true,
        ..ordinary("proxy-user/bpf", "proxy-bpf", &["proxy-ebpf-common", "proxy-core", "proxy-io"])
    },
    ordinary("proxy-user", "proxy-user", &["proxy-ebpf-common", "proxy-core", "proxy-io", "proxy-bpf"]),
    ordinary("tests", "proxy-tests", &["proxy-user", "proxy-core", "proxy-io"]),
    ordinary(
        "tests/fuzz",
        "proxy-fuzz",
        &["proxy-user", "proxy-bpf", "proxy-core", "proxy-io", "proxy-ebpf-common"],
    ),
    ordinary(
        "bench",
        "proxy-bench",
        &["proxy-user", "proxy-core", "proxy-io", "proxy-tests", "proxy-ebpf-common"],
    ),
    // a rival: it knows nothing of Weir
    ordinary("bench/pingora", "bench-pingora", &[]),
    ordinary("xtask", "xtask", &[]),
];

pub(super) fn check(repo: &Repo) -> Result<Vec<Offence>> {
    let mut offences = unknown_members(repo)?;
    let mut reasons_wanted = Vec::new();
    for one in &CRATES {
        let file = format!("{}/Cargo.toml", one.folder);
        if !repo.path(&file).is_file() {
            continue;
        }
        let manifest = fs::read_to_string(repo.path(&file)).with_context(|| format!("cannot read {file}"))?;
        let dependencies = dependencies(&manifest);
        offences.extend(dependencies.iter().filter_map(|dependency| one.judge(&file, dependency)));
        let outside = dependencies.into_iter().filter(|dependency| !is_ours(&dependency.name));
        reasons_wanted.extend(outside.map(|dependency| (file.clone(), dependency)));
        offences.extend(sources(repo, one)?);
    }
    offences.extend(without_reason(repo, &reasons_wanted)?);
    Ok(offences)
}

fn is_ours(name: &str) -> bool {
    CRATES.iter().any(|one| one.name == name)
}

impl Crate {
    /// Says what is wrong with a dependency of this crate, if anything.
    fn judge(&self, file: &str, dependency: &Dependency) -> Option<Offence> {
        let Dependency { name, kind, line } = dependency;
        let offence = |rule, what| Some(Offence { file: file.to_owned(), line: *line, rule, what });
        if is_ours(name) {
            if self.ours.contains(&name.as_str()) {
                return None;
            }
            return offence(RULE_BORDER, format!("{} may not depend on {name}", self.name));
        }
        if is_aya(name) && !self.may_name_aya {
            return offence(RULE_AYA, format!("only proxy-bpf and proxy-ebpf may depend on {name}"));
        }
        let others = self.others.as_ref()?;
        let allowed = match kind {
            Section::Normal => others.normal,
            Section::Dev => others.dev,
            Section::Build => &[],
        };
        if allowed.contains(&name.as_str())
            || (*kind == Section::Dev && others.normal.contains(&name.as_str()))
        {
            return None;
        }
        offence(RULE_BORDER, format!("{name} is not on the list of {}'s dependencies", self.name))
    }
}

fn is_aya(name: &str) -> bool {
    name == "aya" || name.starts_with("aya-") || name.starts_with("aya_")
}

/// Members of the workspace that no rule knows.
fn unknown_members(repo: &Repo) -> Result<Vec<Offence>> {
    const ROOT: &str = "Cargo.toml";
    if !repo.path(ROOT).is_file() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(repo.path(ROOT)).context("cannot read the root Cargo.toml")?;
    let mut offences = Vec::new();
    let lines = text.lines().enumerate().skip_while(|(_, line)| !line.trim_start().starts_with("members"));
    for (index, line) in lines {
        for member in line.split('"').skip(1).step_by(2) {
            if !CRATES.iter().any(|one| one.folder == member) {
                let what =
                    format!("`{member}` is in no list of xtask/src/tidy/crates.rs: say what it may know");
                offences.push(Offence { file: ROOT.to_owned(), line: index + 1, rule: RULE_BORDER, what });
            }
        }
        if line.contains(']') {
            break;
        }
    }
    Ok(offences)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Normal,
    Dev,
    Build,
}

#[derive(Debug, PartialEq, Eq)]
struct Dependency {
    name: String,
    kind: Section,
    line: usize,
}

/// Reads the dependencies of a manifest with the lines they stand on, those for one target included.
///
/// Knows as much TOML as manifests use: one key per line, or a table per dependency.
fn dependencies(manifest: &str) -> Vec<Dependency> {
    let mut found = Vec::new();
    let mut section = None;
    for (index, text) in manifest.lines().enumerate() {
        let line = index + 1;
        if let Some(header) = text.strip_prefix('[') {
            let (kind, name) = header_of(header.trim_end().trim_end_matches(']'));
            section = kind.filter(|_| name.is_none());
            if let (Some(kind), Some(name)) = (kind, name) {
                found.push(Dependency { name, kind, line });
            }
            continue;
        }
        let Some(kind) = section else { continue };
        // what starts with neither a letter nor a quoted key continues the line above, or is a comment
        let key: String = text
            .trim_start_matches('"')
            .chars()
            .take_while(|c| c.is_alphanumeric() || "-_".contains(*c))
            .collect();
        if !key.is_empty() && text.contains('=') {
            let renamed = text.split("package = \"").nth(1).and_then(|rest| rest.split('"').next());
            found.push(Dependency { name: renamed.unwrap_or(&key).to_owned(), kind, line });
        }
    }
    found
}

/// What a table's header opens: a section of dependencies, or (with a name) one of them.
fn header_of(header: &str) -> (Option<Section>, Option<String>) {
    if header.starts_with("workspace") {
        return (None, None);
    }
    let kind_of = |word: &str| match word {
        "dependencies" => Some(Section::Normal),
        "dev-dependencies" => Some(Section::Dev),
        "build-dependencies" => Some(Section::Build),
        _ => None,
    };
    let (before, last) = header.rsplit_once('.').unwrap_or(("", header));
    if let Some(kind) = kind_of(last) {
        return (Some(kind), None);
    }
    let above = before.rsplit_once('.').map_or(before, |(_, above)| above);
    (kind_of(above), Some(last.trim_matches('"').to_owned()))
}

/// Dependencies that no row of the table explains, each once.
fn without_reason(repo: &Repo, wanted: &[(String, Dependency)]) -> Result<Vec<Offence>> {
    let path = repo.path(REASONS);
    let text = if path.is_file() {
        fs::read_to_string(&path).with_context(|| format!("cannot read {REASONS}"))?
    } else {
        String::new()
    };
    let first_cells: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next()).collect();
    let mut seen = BTreeSet::new();
    let mut offences = Vec::new();
    for (file, Dependency { name, line, .. }) in wanted {
        let has_row = first_cells.iter().any(|cell| cell.contains(&format!("`{name}`")));
        if !has_row && seen.insert(name) {
            let what = format!("{REASONS} has no row beginning with {name} in backticks that says why");
            offences.push(Offence { file: file.clone(), line: *line, rule: RULE_REASON, what });
        }
    }
    Ok(offences)
}

/// Looks into a crate's Rust files for `unsafe` and aya.
fn sources(repo: &Repo, one: &Crate) -> Result<Vec<Offence>> {
    let mut files = Vec::new();
    let nested: Vec<PathBuf> =
        CRATES.iter().filter(|other| other.name != one.name).map(|other| repo.path(other.folder)).collect();
    collect(&repo.path(one.folder), &nested, &mut files)?;
    files.sort();
    let mut offences = Vec::new();
    for path in files {
        let file = repo.relative(&path);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
        let tokens = token::tokens(&text);
        let mut report = |line, rule, what: &str| {
            offences.push(Offence { file: file.clone(), line, rule, what: what.to_owned() })
        };
        if !one.may_be_unsafe {
            for token in tokens.iter().filter(|token| token.is_word("unsafe")) {
                report(
                    token.line,
                    RULE_UNSAFE,
                    "`unsafe` belongs in proxy-io, proxy-ebpf and its common crate",
                );
            }
            if is_crate_root(repo, one, &path) && !forbids_unsafe(&tokens) {
                report(1, RULE_UNSAFE, "this crate root lacks `#![forbid(unsafe_code)]`");
            }
        }
        if !one.may_name_aya {
            let in_path = |index: usize| {
                tokens.get(index + 1).is_some_and(|next| next.kind == Kind::Join)
                    || (index > 0
                        && (tokens[index - 1].kind == Kind::Join || tokens[index - 1].is_word("use")))
            };
            let named = tokens.iter().enumerate().filter(|(_, token)| token.word().is_some_and(is_aya));
            for (_, token) in named.filter(|(index, _)| in_path(*index)) {
                report(token.line, RULE_AYA, "only proxy-bpf and proxy-ebpf may name aya");
            }
        }
    }
    Ok(offences)
}

/// Rust files of a crate without those of the crates inside it.
fn collect(folder: &Path, nested: &[PathBuf], files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            let is_output = path.file_name().is_some_and(|name| name == "target");
            if !is_output && !nested.contains(&path) {
                collect(&path, nested, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn is_crate_root(repo: &Repo, one: &Crate, path: &Path) -> bool {
    let src = repo.path(one.folder).join("src");
    let Ok(inside) = path.strip_prefix(&src) else { return false };
    inside == Path::new("lib.rs")
        || inside == Path::new("main.rs")
        || inside.parent() == Some(Path::new("bin"))
}

fn forbids_unsafe(tokens: &[token::Token]) -> bool {
    tokens
        .windows(3)
        .any(|three| three[0].is_word("forbid") && three[1].is_sign('(') && three[2].is_word("unsafe_code"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::{Tree, places};

    const SAFE: &str = "//! A crate.\n#![forbid(unsafe_code)]\n";
    const TABLE: (&str, &str) = (
        REASONS,
        "| dependency | why |\n|---|---|\n| `rand` | draws |\n| `libc` | calls |\n| `aya` | loads |\n",
    );

    fn check_tree(files: &[(&str, &str)]) -> Vec<String> {
        let tree = Tree::with(files);
        tree.write(TABLE.0, TABLE.1.as_bytes());
        places(check(&tree.repo()).unwrap())
    }

    #[test]
    fn dependencies_are_read_in_every_spelling() {
        let manifest = r#"[package]
name = "x"
[dependencies]
a.workspace = true
b = { version = "1", features = [
    "c",
] }
d_e = { version = "1", package = "d-e" }
# f = "1"
[dev-dependencies.g]
version = "1"
[target.'cfg(target_os = "linux")'.build-dependencies]
h = "1"
[features]
i = []
[workspace.dependencies]
j = "1"
"#;
        let found: Vec<(String, Section, usize)> =
            dependencies(manifest).into_iter().map(|one| (one.name, one.kind, one.line)).collect();
        let expected = [
            ("a", Section::Normal, 4),
            ("b", Section::Normal, 5),
            ("d-e", Section::Normal, 8),
            ("g", Section::Dev, 10),
            ("h", Section::Build, 13),
        ];
        assert_eq!(found, expected.map(|(name, kind, line)| (name.to_owned(), kind, line)));
    }

    #[test]
    fn core_keeps_its_short_list() {
        let manifest =
            "[dependencies]\nrand = \"1\"\nlibc = \"1\"\nproxy-io = {}\n[dev-dependencies]\nrand = \"1\"\n";
        let found = check_tree(&[("proxy-user/core/Cargo.toml", manifest)]);
        assert_eq!(
            found,
            ["proxy-user/core/Cargo.toml:3 crate border", "proxy-user/core/Cargo.toml:4 crate border"]
        );
    }

    #[test]
    fn xtask_and_io_depend_on_none_of_ours() {
        let found = check_tree(&[
            ("xtask/Cargo.toml", "[dependencies]\nproxy-core.workspace = true\n"),
            ("proxy-user/io/Cargo.toml", "[dev-dependencies]\nproxy-bpf.workspace = true\n"),
            ("proxy-user/Cargo.toml", "[dependencies]\nproxy-bpf.workspace = true\n"),
        ]);
        assert_eq!(found, ["proxy-user/io/Cargo.toml:2 crate border", "xtask/Cargo.toml:2 crate border"]);
    }

    #[test]
    fn aya_stays_in_its_two_crates() {
        let aya = "[dependencies]\naya = \"0.14\"\n";
        let found = check_tree(&[
            ("proxy-user/bpf/Cargo.toml", aya),
            ("proxy-user/bpf/src/lib.rs", &format!("{SAFE}use aya::Ebpf;")),
            ("proxy-user/Cargo.toml", aya),
            ("proxy-user/src/lib.rs", &format!("{SAFE}use proxy_bpf::aya;\nfn f(aya: u8) {{}} // aya::no")),
        ]);
        assert_eq!(found, ["proxy-user/Cargo.toml:2 aya fence", "proxy-user/src/lib.rs:3 aya fence"]);
    }

    #[test]
    fn unsafe_stays_behind_its_fence() {
        let manifest = "[package]\n";
        let found = check_tree(&[
            ("proxy-user/Cargo.toml", manifest),
            ("proxy-user/src/lib.rs", "// #![forbid(unsafe_code)]\n"),
            ("proxy-user/src/main.rs", SAFE),
            ("proxy-user/io/Cargo.toml", manifest),
            ("proxy-user/io/src/lib.rs", "unsafe fn f() {}"),
            ("tests/Cargo.toml", manifest),
            ("tests/src/lib.rs", SAFE),
            ("tests/tests/node_a.rs", "fn f() {\n    unsafe { g() }\n}"),
        ]);
        assert_eq!(found, ["proxy-user/src/lib.rs:1 unsafe fence", "tests/tests/node_a.rs:2 unsafe fence"]);
    }

    #[test]
    fn a_dependency_without_a_row_is_reported_once() {
        let manifest = "[dependencies]\nlibc = \"1\"\nslab = \"1\"\n";
        let found = check_tree(&[("proxy-user/Cargo.toml", manifest), ("tests/Cargo.toml", manifest)]);
        assert_eq!(found, ["proxy-user/Cargo.toml:3 dependency without a reason"]);
    }

    #[test]
    fn a_new_member_needs_rules() {
        let root =
            "[workspace]\nmembers = [\n    \"xtask\",\n    \"proxy-helper\",\n]\nexclude = [\"other\"]\n";
        assert_eq!(check_tree(&[("Cargo.toml", root)]), ["Cargo.toml:4 crate border"]);
    }
}
