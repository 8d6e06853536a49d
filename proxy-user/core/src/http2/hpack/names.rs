//! What an encoder knows of names.

use super::fixed;

/// What is to be expected of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// They may come again.
    Repeats,
    /// Each message has another one, which would only push out what comes again.
    Changes,
    /// They may be what a table that clients share must not tell (RFC 7541, 7.1.3).
    Secret,
}

/// A name that an encoder knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    text: &'static str,
    /// Where the static table has it first; 0 if it has not.
    pub(super) index: usize,
    pub(super) habit: Habit,
}

/// Names with other habits than [`Habit::Repeats`], those of the static table first.
///
/// nghttp2, with which Envoy speaks HTTP/2, leaves nearly the same out of its table, and so does h2. Both leave out paths, too, but
/// those of gRPC repeat; that many of other paths do not is for the encoder to see.
const HABITS: [(&str, Habit); 25] = [
    ("age", Habit::Changes),
    ("authorization", Habit::Secret),
    ("content-length", Habit::Changes),
    ("content-range", Habit::Changes),
    ("cookie", Habit::Secret),
    ("date", Habit::Changes),
    ("etag", Habit::Changes),
    ("expires", Habit::Changes),
    ("if-modified-since", Habit::Changes),
    ("if-none-match", Habit::Changes),
    ("last-modified", Habit::Changes),
    ("location", Habit::Changes),
    ("proxy-authorization", Habit::Secret),
    ("range", Habit::Changes),
    ("set-cookie", Habit::Changes),
    ("b3", Habit::Changes),
    ("grpc-timeout", Habit::Changes),
    ("grpc-trace-bin", Habit::Changes),
    ("traceparent", Habit::Changes),
    ("tracestate", Habit::Changes),
    ("x-b3-parentspanid", Habit::Changes),
    ("x-b3-spanid", Habit::Changes),
    ("x-b3-traceid", Habit::Changes),
    ("x-envoy-upstream-service-time", Habit::Changes),
    ("x-request-id", Habit::Changes),
];

/// Names that are not in the static table.
const OTHERS: usize = 10;
/// Names of the static table.
const FIXED: usize = 52;
const NAMES: [Name; FIXED + OTHERS] = names();

const SLOT_BITS: u32 = 8;
/// Found by trying: gives each of [`NAMES`] a slot of its own, which the compiler checks.
const MULTIPLIER: u32 = 0x3dc0_7bbb;
/// By its slot: one more than the place of a name; 0 if there is none.
const SLOTS: [u8; 1 << SLOT_BITS] = slots();

/// Finds a name by one look.
pub(super) fn find(text: &[u8]) -> Option<&'static Name> {
    let place = usize::from(*SLOTS.get(slot(text))?).checked_sub(1)?;
    NAMES.get(place).filter(|name| name.text.as_bytes() == text)
}

/// Length, first, middle and last byte tell names apart.
const fn slot(text: &[u8]) -> usize {
    let (Some(first), Some(last)) = (text.first(), text.last()) else { return 0 };
    let mixed = u32::from_le_bytes([*first, text[text.len() / 2], *last, text.len().to_le_bytes()[0]]);
    (mixed.wrapping_mul(MULTIPLIER) >> (u32::BITS - SLOT_BITS)) as usize
}

const fn names() -> [Name; FIXED + OTHERS] {
    let mut names = [Name { text: "", index: 0, habit: Habit::Repeats }; FIXED + OTHERS];
    let (mut count, mut index) = (0, 1);
    while index <= fixed::COUNT {
        let text = fixed::ENTRIES[index - 1].0;
        // Entries with the same name are neighbours.
        if count == 0 || !is_same(names[count - 1].text, text) {
            names[count] = Name { text, index, habit: Habit::Repeats };
            count += 1;
        }
        index += 1;
    }
    let mut at = 0;
    while at < HABITS.len() {
        let (text, habit) = HABITS[at];
        let mut place = 0;
        while place < count && !is_same(names[place].text, text) {
            place += 1;
        }
        if place == count {
            names[count] = Name { text, index: 0, habit };
            count += 1;
        } else {
            names[place].habit = habit;
        }
        at += 1;
    }
    assert!(count == names.len(), "every name has its place");
    names
}

#[expect(clippy::cast_possible_truncation, reason = "there are fewer names than slots")]
const fn slots() -> [u8; 1 << SLOT_BITS] {
    let mut slots = [0; 1 << SLOT_BITS];
    let mut place = 0;
    while place < NAMES.len() {
        let slot = slot(NAMES[place].text.as_bytes());
        assert!(slots[slot] == 0, "two names in one slot: try another multiplier");
        place += 1;
        slots[slot] = place as u8;
    }
    slots
}

const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}
