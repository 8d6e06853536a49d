//! Overload: what is given up first must come first.

use proxy_core::overload::{OverloadPolicy, Rung};

use super::super::error::Finding;
use super::Check;

/// Weir at rest has a third of the least, and a size of more than the most is meant in another unit.
const MEMORY_BYTES: std::ops::RangeInclusive<u64> = 32 << 20..=1 << 50;

impl Check<'_, '_> {
    pub(super) fn overload(&mut self, policy: &OverloadPolicy) {
        let overload = &self.file.overload;
        self.size(overload.max_memory.as_ref(), MEMORY_BYTES);
        let mut before: Option<(Rung, u8)> = None;
        for rung in Rung::ALL {
            let Some(percent) = policy.threshold(rung) else { continue };
            if let Some((first, most)) = before.filter(|(_, most)| *most > percent) {
                // Where both are written the later one is told of; of one alone, that one.
                let at = overload.threshold(rung).or_else(|| overload.threshold(first));
                let problem =
                    format!("{} ({percent}%) would come before {} ({most}%)", rung.as_str(), first.as_str());
                let expected = "shares that do not shrink from stop_keep_alive to refuse_low, refuse, refuse_high and reset";
                if let Some(at) = at {
                    self.report(at.origin, Finding::new(problem).expected(expected));
                }
            }
            before = Some((rung, percent));
        }
    }
}
