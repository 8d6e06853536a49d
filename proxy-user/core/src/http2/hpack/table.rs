//! The dynamic table (RFC 7541, 2.3.2 and 4).

use std::collections::VecDeque;

/// What an entry counts beside its name and value (RFC 7541, 4.1).
const ENTRY_BYTES: usize = 32;

/// Entries, the newest with the lowest index; `L` is what its owner keeps with each.
///
/// Their text lies in one buffer, oldest first, each name before its value. What was evicted stays at its begin until the buffer
/// is full, so that an entry is one piece and costs no allocation of its own.
#[derive(Debug)]
pub(super) struct Table<L> {
    pub(super) text: Vec<u8>,
    /// How much of `text` was evicted.
    evicted_bytes: usize,
    places: VecDeque<Place<L>>,
    /// As RFC 7541 counts it, at most `max_bytes`.
    pub(super) size_bytes: usize,
    pub(super) max_bytes: usize,
}

/// An entry as it is found.
pub(super) struct Entry<'a, L> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) link: &'a L,
}

/// Where an entry is.
#[derive(Debug)]
struct Place<L> {
    /// Where it begins in `text`.
    start: usize,
    name_bytes: usize,
    value_bytes: usize,
    link: L,
}

impl<L> Table<L> {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { text: Vec::new(), evicted_bytes: 0, places: VecDeque::new(), size_bytes: 0, max_bytes }
    }

    /// An entry; `index` is 0 for the newest.
    pub(super) fn entry(&self, index: usize) -> Option<Entry<'_, L>> {
        let place = self.places.get(self.places.len().checked_sub(index + 1)?)?;
        let text = self.text.get(place.start..)?.get(..place.name_bytes + place.value_bytes)?;
        let (name, value) = text.split_at_checked(place.name_bytes)?;
        Some(Entry { name, value, link: &place.link })
    }

    /// Changes what it may hold.
    pub(super) fn set_max_bytes(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
        self.evict(max_bytes);
    }

    /// Adds an entry, for which older ones go. One that is larger than the table leaves it empty (RFC 7541, 4.4).
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8], link: L) {
        let entry_bytes = entry_bytes(name, value);
        self.evict(self.max_bytes.saturating_sub(entry_bytes));
        if entry_bytes > self.max_bytes {
            return;
        }
        self.make_room(name.len() + value.len());
        let start = self.text.len();
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.places.push_back(Place { start, name_bytes: name.len(), value_bytes: value.len(), link });
        self.size_bytes += entry_bytes;
    }

    fn evict(&mut self, most_bytes: usize) {
        while self.size_bytes > most_bytes {
            let Some(oldest) = self.places.pop_front() else { break };
            let text_bytes = oldest.name_bytes + oldest.value_bytes;
            self.evicted_bytes += text_bytes;
            self.size_bytes -= text_bytes + ENTRY_BYTES;
        }
    }

    /// Moves the text to the begin of a buffer that is full, if at least a third of it was evicted: a byte is moved twice at most
    /// before it goes.
    fn make_room(&mut self, text_bytes: usize) {
        let is_full = self.text.len() + text_bytes > self.text.capacity();
        if is_full && self.evicted_bytes >= self.text.len() / 3 {
            self.text.drain(..self.evicted_bytes);
            for place in &mut self.places {
                place.start -= self.evicted_bytes;
            }
            self.evicted_bytes = 0;
        }
    }
}

/// What an entry counts (RFC 7541, 4.1).
pub(super) fn entry_bytes(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + ENTRY_BYTES
}
