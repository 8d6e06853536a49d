//! What applications may have: whom each entry is for must be clear.

use std::ops::RangeInclusive;

use proxy_core::rate::Quota;
use proxy_core::snapshot::Scope;

use super::super::error::Finding;
use super::super::resolve;
use super::Check;

const BYTES_PER_SECOND: RangeInclusive<u64> = Quota::LEAST_BYTES_PER_SECOND..=Quota::MOST_BYTES_PER_SECOND;

impl Check<'_, '_> {
    pub(super) fn applications(&mut self) {
        // Where each scope was first decided for; the empty one is everybody.
        let mut before: Vec<(Vec<Scope>, super::Origin)> = Vec::new();
        for at in &self.file.intercept.limits {
            self.size(at.value.bytes_per_second.as_ref(), BYTES_PER_SECOND);
            self.served_scopes(&at.value.scopes);
            let scopes: Vec<Scope> = resolve::scopes(&at.value.scopes);
            let is_decided = |scope: Option<&Scope>| {
                before.iter().find(|(wide, _)| {
                    wide.is_empty() || scope.is_some_and(|one| wide.iter().any(|wide| wide.holds(one)))
                })
            };
            let decided = if scopes.is_empty() {
                is_decided(None)
            } else {
                let all: Option<Vec<_>> = scopes.iter().map(|scope| is_decided(Some(scope))).collect();
                all.and_then(|all| all.first().copied())
            };
            if let Some((_, first)) = decided {
                let line = self.line(*first);
                let problem =
                    format!("never used: the entry in line {line} is for all of them, and comes before");
                self.report(at.origin, Finding::new(problem).expected("narrow scopes before wide ones"));
            }
            before.push((scopes, at.origin));
        }
    }
}
