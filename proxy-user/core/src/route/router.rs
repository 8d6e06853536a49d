//! Finds the rule for a request.
//!
//! ```text
//! host ──> exact names ──> `*.` suffixes, longest first ──> every host      until one of them has a rule that fits
//!               └────────────────┴──────────────────────────────┴──> a Table each, shared by hosts of the same routes
//! ```

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::table::Table;
use super::{HostPattern, Request, Route, Rule};

/// Several routes, compiled: finds the rule for a request.
///
/// The more specific match wins, whatever the order (Gateway API, HTTPRouteRule): first by host, an exact one before the
/// longest suffix before none; then as [`Table`] says. A request that nothing fits among the rules for its own host is left
/// to those for less specific ones.
#[derive(Debug, Default)]
pub struct Router {
    routes: Vec<Arc<Route>>,
    tables: Vec<Table>,
    exact: TextMap<u32>,
    /// By what hosts end with, from the dot on.
    suffixes: TextMap<u32>,
    longest_suffix_bytes: usize,
    any: Option<u32>,
}

/// The rule for a request.
#[derive(Clone, Debug)]
pub struct Found {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Bytes of the path that matched by prefix, for [`PathRewrite::Prefix`](super::PathRewrite::Prefix); the whole path if it
    /// matched otherwise.
    pub prefix_bytes: usize,
}

impl Router {
    /// Compiles routes. Takes time and memory by the number of hosts, and by that of rules for each different combination of
    /// routes that a host has.
    #[must_use]
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        let mut by_host: HashMap<Option<&HostPattern>, Vec<usize>> = HashMap::new();
        for (index, route) in routes.iter().enumerate() {
            if route.hosts.is_empty() {
                by_host.entry(None).or_default().push(index);
            }
            for host in &route.hosts {
                let of_host = by_host.entry(Some(host)).or_default();
                if of_host.last() != Some(&index) {
                    of_host.push(index);
                }
            }
        }
        let mut router = Self::default();
        let mut made: HashMap<Vec<usize>, u32> = HashMap::new();
        for (host, indexes) in by_host {
            let table = *made.entry(indexes).or_insert_with_key(|indexes| {
                let rules = indexes.iter().flat_map(|index| &routes[*index].rules);
                router.tables.push(Table::new(rules));
                u32::try_from(router.tables.len() - 1).expect("every table has a route of its own")
            });
            router.add(host, table);
        }
        Self { routes, ..router }
    }

    fn add(&mut self, host: Option<&HostPattern>, table: u32) {
        match host {
            None => self.any = Some(table),
            Some(HostPattern::Exact(host)) => drop(self.exact.insert(host.clone(), table)),
            Some(HostPattern::Suffix(suffix)) => {
                self.longest_suffix_bytes = self.longest_suffix_bytes.max(suffix.len());
                self.suffixes.insert(suffix.clone(), table);
            }
        }
    }

    /// Tells whether it was made of these very routes.
    #[must_use]
    pub fn is_of(&self, routes: &[Arc<Route>]) -> bool {
        self.routes.len() == routes.len() && self.routes.iter().zip(routes).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    #[cfg(test)]
    pub(super) fn table_count(&self) -> usize {
        self.tables.len()
    }

    /// Finds the rule for a request. Takes time by the length of host and path, and by the number of rules that differ in
    /// nothing but headers, query or method, or go by regular expressions.
    #[must_use]
    pub fn find(&self, request: &impl Request) -> Option<Found> {
        let (rule, prefix_bytes) = self.tables_for(request.host(), |table| table.find(request))?;
        Some(Found { rule: Arc::clone(rule), prefix_bytes })
    }

    /// Finds the rule for TLS that is passed on, by the name that the client asks for (lower case; empty if it asks for none):
    /// the first one for the host that forwards whatever comes.
    #[must_use]
    pub fn find_host(&self, host: &str) -> Option<Found> {
        let rule = self.tables_for(host, Table::unconditional)?;
        Some(Found { rule: Arc::clone(rule), prefix_bytes: 0 })
    }

    /// Asks the tables for a host, the most specific one first, until one of them answers.
    fn tables_for<'r, T>(&'r self, host: &str, ask: impl Fn(&'r Table) -> Option<T>) -> Option<T> {
        let ask = |index: &u32| ask(&self.tables[*index as usize]);
        if !self.exact.is_empty()
            && let Some(found) = self.exact.get(host).and_then(ask)
        {
            return Some(found);
        }
        if !self.suffixes.is_empty() {
            // At least one label in front of the dot, and nothing that is longer than every suffix.
            let first = host.len().saturating_sub(self.longest_suffix_bytes).max(1);
            let dots = (first..host.len()).filter(|at| host.as_bytes()[*at] == b'.');
            let found = dots.filter_map(|at| self.suffixes.get(&host[at..])).find_map(ask);
            if found.is_some() {
                return found;
            }
        }
        self.any.as_ref().and_then(ask)
    }
}

/// A map from texts that the config chose: whoever asks cannot add any, so collisions need no secret to be rare.
pub(super) type TextMap<V> = HashMap<Box<str>, V, BuildHasherDefault<TextHasher>>;

/// XXH3 over the one text that a key is.
#[derive(Debug, Default)]
pub(super) struct TextHasher(u64);

impl Hasher for TextHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }

    /// `str` ends with a byte that no text has, to tell apart keys of several texts. There is one.
    fn write_u8(&mut self, _: u8) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
