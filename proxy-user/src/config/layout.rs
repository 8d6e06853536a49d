//! Where in the text each service stands, and which of them a change of the text can touch.

use std::ops::Range;

use super::error::Position;
use super::yaml::{Node, Tree, Value};

/// Places of the items of `services`, as byte offsets: each begins with its line `  - ...` and ends where the next one
/// begins, so that the comments behind an item are a part of it.
///
/// Known only for a list in block style whose items are whole lines that say all that they mean.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Where the items begin; at least one, ascending.
    pub(super) starts: Vec<usize>,
    /// Where the last one ends: at the next key of the file, or at its end.
    pub(super) end: usize,
    /// Most values that the text can have, as [`super::yaml::MAX_VALUES`] counts them.
    pub(super) values_count: usize,
}

/// What has to be read anew because of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Touched {
    /// Items of the old text: those that differ, and one neighbour on each side.
    pub(super) items: Range<usize>,
    /// Whether the first and the last of them are neighbours, whose lines are the same in both texts.
    pub(super) has_neighbours: (bool, bool),
    /// Their place in the old text.
    pub(super) old: Range<usize>,
    /// What stands there in the new one.
    pub(super) new: Range<usize>,
}

impl Layout {
    /// Finds the services of a file without mistakes.
    pub(super) fn of(text: &str, tree: &Tree<'_>, root: &Node<'_>) -> Option<Self> {
        let Value::Map(entries) = &root.value else { return None };
        let index = entries.iter().position(|entry| entry.key == "services")?;
        let Value::List(items) = &entries[index].node.value else { return None };
        if tree.has_anchors() || has_other_line_ends(text) || items.is_empty() {
            return None;
        }
        let mut lines = Lines { text, number: 1, start: 0 };
        let starts = items.iter().map(|item| lines.item(tree.position(item.origin)));
        let starts = starts.collect::<Option<_>>()?;
        let end = match entries.get(index + 1) {
            Some(next) => lines.key(next.key_at)?,
            None => text.len(),
        };
        let is_at_margin = entries[index].key_at.column == 1;
        is_at_margin.then_some(Self { starts, end, values_count: tree.values_count() })
    }

    /// Finds what a change of the text touches; `None` if more than services, or if nothing changed.
    ///
    /// The neighbours are there to be read again: they come out as they were unless the change reaches into them.
    pub(super) fn touched(&self, old: &str, new: &str) -> Option<Touched> {
        let (same_before, same_behind) = same_ends(old.as_bytes(), new.as_bytes());
        let differs = same_before..old.len() - same_behind;
        if old == new || differs.start < *self.starts.first()? || differs.end > self.end {
            return None;
        }
        let item_at = |at: usize| self.starts.partition_point(|start| *start <= at) - 1;
        let (first, last) = (item_at(differs.start), item_at(differs.end));
        let has_neighbours = (first > 0, last + 1 < self.starts.len());
        let items = first.saturating_sub(1)..(last + 2).min(self.starts.len());
        let old_range = self.starts[items.start]..self.start(items.end);
        let new_range = old_range.start..new.len() - (old.len() - old_range.end);
        Some(Touched { items, has_neighbours, old: old_range, new: new_range })
    }

    /// Where an item begins, or the last one ends.
    pub(super) fn start(&self, item: usize) -> usize {
        self.starts.get(item).copied().unwrap_or(self.end)
    }

    /// Follows a change: other items, given by where they begin in the new text, for those that were touched.
    pub(super) fn replace(&mut self, touched: &Touched, starts: impl Iterator<Item = usize>) {
        let moved = |at: usize| at - touched.old.end + touched.new.end;
        self.end = moved(self.end);
        self.starts[touched.items.end..].iter_mut().for_each(|start| *start = moved(*start));
        self.starts.splice(touched.items.clone(), starts);
    }
}

/// A line may end without `\n` for the parser but not for us.
fn has_other_line_ends(text: &str) -> bool {
    text.split('\r').skip(1).any(|rest| !rest.starts_with('\n'))
}

/// Lines by number, asked for in ascending order.
struct Lines<'t> {
    text: &'t str,
    number: u32,
    start: usize,
}

impl Lines<'_> {
    /// Where an item begins whose value stands behind the dash, in the same line.
    fn item(&mut self, value: Position) -> Option<usize> {
        let before = self.before(value)?;
        (before.trim_matches(' ') == "-" && before.ends_with(' ')).then_some(self.start)
    }

    /// Where a key begins that has its line's first column.
    fn key(&mut self, key: Position) -> Option<usize> {
        self.before(key)?.is_empty().then_some(self.start)
    }

    /// What stands in a line before a column; the column is in characters, so nothing but ASCII is understood.
    fn before(&mut self, position: Position) -> Option<&str> {
        while self.number < position.line {
            self.start += self.text[self.start..].find('\n')? + 1;
            self.number += 1;
        }
        let column = usize::try_from(position.column).ok()?;
        self.text[self.start..].get(..column - 1).filter(|before| before.is_ascii())
    }
}

/// How many bytes two texts have in common at their beginning, and behind that at their end.
fn same_ends(a: &[u8], b: &[u8]) -> (usize, usize) {
    /// Compared at once: memcmp(3) is several times as fast as we are.
    const BLOCK_BYTES: usize = 4096;
    let blocks = a.chunks_exact(BLOCK_BYTES).zip(b.chunks_exact(BLOCK_BYTES)).take_while(|(a, b)| a == b);
    let before = blocks.count() * BLOCK_BYTES;
    let before = before + a[before..].iter().zip(&b[before..]).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[before..], &b[before..]);
    let blocks = a.rchunks_exact(BLOCK_BYTES).zip(b.rchunks_exact(BLOCK_BYTES)).take_while(|(a, b)| a == b);
    let behind = blocks.count() * BLOCK_BYTES;
    let (a, b) = (&a[..a.len() - behind], &b[..b.len() - behind]);
    (before, behind + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_two_texts_have_in_common_is_found(
            same in "[ab]{0,9000}", put in "[ab]{0,3}", from in 0_usize..9000, len in 0_usize..3,
        ) {
            let from = from.min(same.len());
            let mut other = same.clone();
            other.replace_range(from..(from + len).min(same.len()), &put);
            let (a, b) = (same.as_bytes(), other.as_bytes());
            let (before, behind) = same_ends(a, b);
            let shorter = a.len().min(b.len());
            prop_assert!(before + behind <= shorter);
            prop_assert_eq!(&a[..before], &b[..before]);
            prop_assert_eq!(&a[a.len() - behind..], &b[b.len() - behind..]);
            let is_longest = before == shorter || a[before] != b[before];
            prop_assert!(is_longest);
            let ends = (a.len() - behind, b.len() - behind);
            prop_assert!(before + behind == shorter || a[ends.0 - 1] != b[ends.1 - 1]);
        }
    }
}
