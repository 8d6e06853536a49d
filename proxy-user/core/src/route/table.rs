//! The rules for one host, in the order in which they are tried.

use std::sync::Arc;

use regex::bytes::Regex;

use super::router::TextMap;
use super::{Action, Match, PathPattern, Request, Rule, TextPattern, regex};

/// Rules for one host: exact paths, then prefixes from the longest on, then regular expressions, then what takes any path:
/// else no expression beside a rule for everything else would ever be asked.
///
/// Within each of these a match with a method goes before one without, then more headers before fewer, then more parameters
/// of the query, then the order of routes, rules and matches (Gateway API, HTTPRouteRule.matches).
#[derive(Debug, Default)]
pub(super) struct Table {
    exact: TextMap<Vec<Candidate>>,
    /// By prefix, without a slash at its end: `/` is the empty text, and so is no condition on the path.
    prefixes: TextMap<Vec<Candidate>>,
    /// Lengths of the prefixes that occur, longest first.
    prefix_bytes: Vec<usize>,
    regexes: Vec<(Regex, Candidate)>,
    /// What finds its rule by the host alone.
    unconditional: Option<Arc<Rule>>,
}

/// One match of a rule, without its path.
#[derive(Debug)]
struct Candidate {
    rule: Arc<Rule>,
    /// Nothing to look at: the path alone decides. The most frequent case by far.
    is_plain: bool,
    /// False for the prefix `/`, which `*` does not have (RFC 9112, 3.2.4).
    takes_any_path: bool,
    methods: Box<[Box<str>]>,
    headers: Box<[(Box<str>, Text)]>,
    query: Box<[(Box<str>, Text)]>,
}

/// A condition on a text, compiled.
#[derive(Clone, Debug)]
pub(super) enum Text {
    Exact(Box<str>),
    Regex(Regex),
    /// Not an expression, which the config refuses.
    Never,
}

impl Table {
    pub(super) fn new<'r>(rules: impl Iterator<Item = &'r Arc<Rule>>) -> Self {
        let mut table = Self::default();
        let all = Match::default();
        for rule in rules {
            if table.unconditional.is_none() && is_unconditional(rule) {
                table.unconditional = Some(Arc::clone(rule));
            }
            if rule.matches.is_empty() {
                table.add(rule, &all);
            }
            rule.matches.iter().for_each(|condition| table.add(rule, condition));
        }
        // Stable: what is equal stays in order.
        table.exact.values_mut().for_each(|candidates| candidates.sort_by_key(Candidate::rank));
        table.prefixes.values_mut().for_each(|candidates| candidates.sort_by_key(Candidate::rank));
        table.regexes.sort_by_key(|(_, candidate)| candidate.rank());
        table.prefix_bytes = table.prefixes.keys().map(|prefix| prefix.len()).collect();
        table.prefix_bytes.sort_unstable_by(|a, b| b.cmp(a));
        table.prefix_bytes.dedup();
        table
    }

    fn add(&mut self, rule: &Arc<Rule>, condition: &Match) {
        let candidate = Candidate::new(rule, condition);
        match &condition.path {
            None => self.prefixes.entry("".into()).or_default().push(candidate),
            Some(PathPattern::Exact(path)) => self.exact.entry(path.clone()).or_default().push(candidate),
            Some(PathPattern::Prefix(prefix)) => {
                let prefix = prefix.trim_end_matches('/');
                self.prefixes.entry(prefix.into()).or_default().push(candidate);
            }
            Some(PathPattern::Regex(text)) => {
                self.regexes.extend(regex(text).ok().map(|regex| (regex, candidate)))
            }
        }
    }

    /// Finds the rule for a request, and how much of its path matched by prefix.
    pub(super) fn find(&self, request: &impl Request) -> Option<(&Arc<Rule>, usize)> {
        let path = request.path();
        if !self.exact.is_empty()
            && let Some(candidate) = self.exact.get(path).and_then(|all| first(all, request))
        {
            return Some((&candidate.rule, path.len()));
        }
        for bytes in self.prefix_bytes.iter().filter(|bytes| **bytes > 0) {
            if let Some(candidate) = self.prefixes_of(path, *bytes).and_then(|all| first(all, request)) {
                return Some((&candidate.rule, *bytes));
            }
        }
        let fits =
            |regex: &Regex, candidate: &Candidate| regex.is_match(path.as_bytes()) && candidate.fits(request);
        if let Some((_, candidate)) = self.regexes.iter().find(|(regex, candidate)| fits(regex, candidate)) {
            return Some((&candidate.rule, path.len()));
        }
        let candidate = self.prefixes_of(path, 0).and_then(|all| first(all, request))?;
        Some((&candidate.rule, 0))
    }

    /// Finds the candidates for the prefix of this length, if it consists of whole elements of the path.
    fn prefixes_of(&self, path: &str, bytes: usize) -> Option<&Vec<Candidate>> {
        let ends_an_element = bytes == 0 || matches!(path.as_bytes().get(bytes), None | Some(b'/'));
        if !ends_an_element {
            return None;
        }
        self.prefixes.get(path.get(..bytes)?)
    }

    /// The first rule that forwards whatever comes.
    pub(super) fn unconditional(&self) -> Option<&Arc<Rule>> {
        self.unconditional.as_ref()
    }
}

/// Finds the first candidate that fits a request whose path does.
fn first<'t>(candidates: &'t [Candidate], request: &impl Request) -> Option<&'t Candidate> {
    candidates.iter().find(|candidate| candidate.fits(request))
}

impl Candidate {
    fn new(rule: &Arc<Rule>, condition: &Match) -> Self {
        let Match { path, headers, query, methods } = condition;
        let texts = |texts: &[(Box<str>, TextPattern)]| {
            texts.iter().map(|(name, pattern)| (name.clone(), Text::new(pattern))).collect()
        };
        let is_root =
            matches!(path, Some(PathPattern::Prefix(prefix)) if prefix.trim_end_matches('/').is_empty());
        Self {
            rule: Arc::clone(rule),
            is_plain: headers.is_empty() && query.is_empty() && methods.is_empty() && !is_root,
            takes_any_path: !is_root,
            methods: methods.clone().into(),
            headers: texts(headers),
            query: texts(query),
        }
    }

    /// Lower goes first.
    fn rank(&self) -> (bool, std::cmp::Reverse<usize>, std::cmp::Reverse<usize>) {
        use std::cmp::Reverse;
        (self.methods.is_empty(), Reverse(self.headers.len()), Reverse(self.query.len()))
    }

    fn fits(&self, request: &impl Request) -> bool {
        if self.is_plain {
            return true;
        }
        (self.takes_any_path || request.path().starts_with('/'))
            && (self.methods.is_empty() || self.methods.iter().any(|method| **method == *request.method()))
            && self
                .headers
                .iter()
                .all(|(name, text)| request.header(name).is_some_and(|value| text.fits(value)))
            && self.query.iter().all(|(name, text)| {
                parameter(request.query(), name).is_some_and(|value| text.fits(value.as_bytes()))
            })
    }
}

impl Text {
    pub(super) fn new(pattern: &TextPattern) -> Self {
        match pattern {
            TextPattern::Exact(text) => Self::Exact(text.clone()),
            TextPattern::Regex(text) => regex(text).map_or(Self::Never, Self::Regex),
        }
    }

    /// Tells whether a text fits as a whole.
    pub(super) fn fits(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Regex(regex) => regex.is_match(value),
            Self::Never => false,
        }
    }
}

/// Finds the value of the first parameter of a name; empty if it has no `=`.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|part| match part.strip_prefix(name)? {
        "" => Some(""),
        rest => rest.strip_prefix('='),
    })
}

/// Tells whether a rule forwards whatever its host is sent.
fn is_unconditional(rule: &Rule) -> bool {
    let is_empty = |condition: &Match| *condition == Match::default();
    let takes_all = rule.matches.is_empty() || rule.matches.iter().any(is_empty);
    takes_all && matches!(rule.action, Action::Forward { .. })
}
