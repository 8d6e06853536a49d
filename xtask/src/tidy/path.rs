//! The paths that a source file names inside its own crate.

use super::token::{Kind, Token};

/// A path from the crate's root, e.g. `["stats", "label", "Label"]`; a glob ends in `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
}

/// Every path through `crate`, `self`, `super` or the crate's own name, in `use` lines and elsewhere.
///
/// `module` is where the file's content lives, from the root. Bare paths are not followed: without `crate` or
/// `super` they can only reach the file's own children.
pub(super) fn references(tokens: &[Token], module: &[String], crate_name: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut place = Place { module: module.to_vec(), depth: 0, inline: Vec::new() };
    let mut at = 0;
    while at < tokens.len() {
        let starts_path = tokens.get(at + 1).is_some_and(|next| next.kind == Kind::Join)
            && (at == 0 || tokens[at - 1].kind != Kind::Join);
        let base = tokens[at].word().filter(|_| starts_path).and_then(|word| place.base(word, crate_name));
        if let Some(base) = base {
            at = tree(tokens, at + 2, base, &mut found);
        } else {
            place.follow(&tokens[at..]);
            at += 1;
        }
    }
    found
}

/// Names that a crate's root offers for something inside, as (name, path): `pub use detect::Verdict as V`.
pub(super) fn reexports(tokens: &[Token]) -> Vec<(String, Vec<String>)> {
    let mut names = Vec::new();
    let uses = tokens.iter().enumerate().filter(|(_, token)| token.is_word("use"));
    for (at, _) in uses {
        let skip = match tokens.get(at + 1).and_then(Token::word) {
            Some("crate" | "self") => 3,
            _ => 1,
        };
        let mut found = Vec::new();
        let end = tree(tokens, at + skip, Vec::new(), &mut found);
        let alias = match (tokens.get(end).is_some_and(|token| token.is_word("as")), found.len()) {
            (true, 1) => tokens.get(end + 1).and_then(Token::word),
            _ => None,
        };
        for Reference { segments, .. } in found {
            if let Some(name) = alias.or(segments.last().map(String::as_str)) {
                names.push((name.to_owned(), segments.clone()));
            }
        }
    }
    names
}

/// Modules that a root file declares in files of their own.
pub(super) fn declared_modules(tokens: &[Token]) -> Vec<String> {
    let triples = tokens.windows(3).filter(|three| three[0].is_word("mod") && three[2].is_sign(';'));
    triples.filter_map(|three| three[1].word().map(ToOwned::to_owned)).collect()
}

/// Where in the module tree the reader is, as inline modules open and close.
struct Place {
    module: Vec<String>,
    depth: usize,
    /// Depth at which each open inline module began.
    inline: Vec<usize>,
}

impl Place {
    fn follow(&mut self, tokens: &[Token]) {
        match &tokens[0].kind {
            Kind::Word(word) if word == "mod" => {
                let name = tokens.get(1).and_then(Token::word);
                if let (Some(name), true) = (name, tokens.get(2).is_some_and(|token| token.is_sign('{'))) {
                    self.module.push(name.to_owned());
                    self.inline.push(self.depth);
                }
            }
            Kind::Sign('{') => self.depth += 1,
            Kind::Sign('}') => {
                self.depth = self.depth.saturating_sub(1);
                if self.inline.last() == Some(&self.depth) {
                    self.inline.pop();
                    self.module.pop();
                }
            }
            _ => {}
        }
    }

    /// What a leading word stands for, as a path from the root.
    fn base(&self, word: &str, crate_name: &str) -> Option<Vec<String>> {
        match word {
            "crate" => Some(Vec::new()),
            "self" => Some(self.module.clone()),
            "super" => Some(parent(&self.module)),
            _ if word == crate_name => Some(Vec::new()),
            _ => None,
        }
    }
}

fn parent(module: &[String]) -> Vec<String> {
    module.split_last().map(|(_, above)| above.to_vec()).unwrap_or_default()
}

/// Reads one path or use tree that continues `prefix`; returns the index after it.
fn tree(tokens: &[Token], mut at: usize, mut prefix: Vec<String>, found: &mut Vec<Reference>) -> usize {
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        match tokens.get(at).map(|token| &token.kind) {
            Some(Kind::Word(word)) => {
                match word.as_str() {
                    "super" => prefix = parent(&prefix),
                    "self" => {}
                    _ => prefix.push(word.clone()),
                }
                at += 1;
                if tokens.get(at).is_none_or(|token| token.kind != Kind::Join) {
                    break;
                }
                at += 1;
            }
            Some(Kind::Sign('{')) => return group(tokens, at + 1, &prefix, found),
            Some(Kind::Sign('*')) => {
                prefix.push("*".to_owned());
                at += 1;
                break;
            }
            _ => break,
        }
    }
    found.push(Reference { segments: prefix, line });
    at
}

/// Reads the branches of a use tree, from after its `{`; returns the index after its `}`.
fn group(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Reference>) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.kind {
            Kind::Sign('}') => return at + 1,
            Kind::Sign(',') => at += 1,
            _ => {
                at = tree(tokens, at, prefix.to_vec(), found);
                // an alias names the branch anew and leads nowhere else
                while tokens.get(at).is_some_and(|next| !next.is_sign(',') && !next.is_sign('}')) {
                    at += 1;
                }
            }
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::token;

    fn paths(source: &str, module: &[&str]) -> Vec<String> {
        let module: Vec<String> = module.iter().map(|&part| part.to_owned()).collect();
        let tokens = token::tokens(source);
        references(&tokens, &module, "weir").iter().map(|one| one.segments.join("::")).collect()
    }

    #[test]
    fn use_trees_are_unfolded() {
        let source = "use crate::{a::{self, b as x, c::*}, d}; use weir::e::F;";
        assert_eq!(paths(source, &["m"]), ["a", "a::b", "a::c::*", "d", "e::F"]);
    }

    #[test]
    fn paths_in_code_and_macros_count() {
        let source = "fn f() -> crate::a::B { crate::c::d::<crate::e::F>(); $crate::g!() }";
        assert_eq!(paths(source, &["m"]), ["a::B", "c::d", "e::F", "g"]);
    }

    #[test]
    fn super_and_self_start_from_the_module() {
        assert_eq!(
            paths("use super::x; use super::super::y; use self::z;", &["a", "b"]),
            ["a::x", "y", "a::b::z"]
        );
    }

    #[test]
    fn inline_modules_move_the_starting_point_and_give_it_back() {
        let source = "mod inner { use super::x; fn f() { if a {} } use self::y; } use super::z;";
        assert_eq!(paths(source, &["a"]), ["a::x", "a::inner::y", "z"]);
    }

    #[test]
    fn a_crate_word_inside_a_path_or_alone_is_no_start() {
        assert!(paths("pub(crate) fn f(self) { other::weir::x() }", &["m"]).is_empty());
    }

    #[test]
    fn lines_point_at_the_branch() {
        let tokens = token::tokens("use crate::{\n    a,\n    b::C,\n};");
        let lines: Vec<usize> = references(&tokens, &[], "weir").iter().map(|one| one.line).collect();
        assert_eq!(lines, [2, 3]);
    }

    #[test]
    fn reexports_give_names_and_aliases() {
        let tokens = token::tokens("pub use a::B; pub use crate::c::D as E; pub use self::f::{G, h::I};");
        let names: Vec<String> =
            reexports(&tokens).iter().map(|(name, path)| format!("{name}={}", path.join("::"))).collect();
        assert_eq!(names, ["B=a::B", "E=c::D", "G=f::G", "I=f::h::I"]);
    }
}
