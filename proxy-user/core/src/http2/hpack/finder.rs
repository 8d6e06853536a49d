//! Finding entries of a dynamic table by what they say.

use std::hash::Hasher as _;
use std::mem;

use rustc_hash::FxHasher;

use super::table::{Entry, Table};

/// Odd, and its bits are even in their distribution: 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, 6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const FIELD_CHAINS: usize = 64;
const NAME_CHAINS: usize = 32;
/// Fields that were seen once are remembered, the latest of each place.
const SEEN: usize = 64;

/// Finds entries by chains of those whose hashes have the same low bits, by field and by name, from the newest to the oldest.
///
/// Entries have numbers, in the order in which they were inserted. What was evicted is older than everything that is left, so a chain
/// ends where its next entry is no more, and nothing is ever taken out. Numbers wrap: one from long ago may lead into another chain, in
/// which nothing is found that is not there. A chain has at most the entries of the table, 128, so a peer gains little by hashes that
/// are all the same.
#[derive(Debug, Default)]
pub(super) struct Finder {
    /// There are none as long as there is no entry.
    chains: Option<Box<Chains>>,
}

#[derive(Debug)]
struct Chains {
    /// Number of the entry that was inserted last.
    newest: u16,
    /// Number of the newest entry of each chain.
    fields: [u16; FIELD_CHAINS],
    names: [u16; NAME_CHAINS],
    seen: [u16; SEEN],
}

/// What each entry keeps: its place in the chains.
#[derive(Debug)]
pub(super) struct Link {
    key: FieldKey,
    older_field: u16,
    older_name: u16,
}

/// What tells most fields apart, and costs little: what repeats is found by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FieldKey(u32);

/// Hashes of all bytes of a name, and of a field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashes {
    name: u32,
    field: u32,
}

impl FieldKey {
    /// Mixes the lengths, the name's last byte, and up to 16 bytes of the value, half of them from either end.
    #[inline]
    pub(super) fn of(name: &[u8], value: &[u8]) -> Self {
        let (first, last) = match (value.first_chunk(), value.last_chunk()) {
            (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
            _ => match (value.first_chunk(), value.last_chunk()) {
                (Some(first), Some(last)) => {
                    (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into())
                }
                _ => (value.first().copied().unwrap_or(0).into(), value.last().copied().unwrap_or(0).into()),
            },
        };
        let name = name.len() << 8 | usize::from(name.last().copied().unwrap_or(0));
        let mixed = (first ^ (value.len() << 32 ^ name) as u64).wrapping_mul(MULTIPLIER) ^ last;
        Self(low_bits(mixed.wrapping_mul(MULTIPLIER) >> 32))
    }
}

impl Hashes {
    pub(super) fn of(name: &[u8], value: &[u8]) -> Self {
        let mut hasher = FxHasher::default();
        hasher.write(name);
        let name = low_bits(hasher.finish());
        hasher.write(value);
        Self { name, field: low_bits(hasher.finish()) }
    }
}

impl Finder {
    /// Index of the entry with this name and value; 0 is the newest.
    #[inline]
    pub(super) fn field(
        &self,
        table: &Table<Link>,
        key: FieldKey,
        name: &[u8],
        value: &[u8],
    ) -> Option<usize> {
        let chains = self.chains.as_ref()?;
        let newest = chains.fields[place::<FIELD_CHAINS>(key.0)];
        let is_it =
            |entry: &Entry<'_, Link>| entry.link.key == key && entry.name == name && entry.value == value;
        chains.walk(table, newest, |link| link.older_field, is_it)
    }

    /// Index of the newest entry with this name.
    pub(super) fn name(&self, table: &Table<Link>, hashes: Hashes, name: &[u8]) -> Option<usize> {
        let chains = self.chains.as_ref()?;
        let newest = chains.names[place::<NAME_CHAINS>(hashes.name)];
        chains.walk(table, newest, |link| link.older_name, |entry| entry.name == name)
    }

    /// Whether a field was seen before, as far as that is remembered; it is from now on.
    pub(super) fn was_seen(&mut self, hashes: Hashes) -> bool {
        let [_, _, tag @ ..] = hashes.field.to_le_bytes();
        let tag = u16::from_le_bytes(tag);
        let seen = &mut self.chains().seen[place::<SEEN>(hashes.field)];
        mem::replace(seen, tag) == tag
    }

    /// Puts the entry that is inserted next into its chains.
    pub(super) fn link(&mut self, key: FieldKey, hashes: Hashes) -> Link {
        let Chains { newest, fields, names, .. } = self.chains();
        *newest = newest.wrapping_add(1);
        let older_field = mem::replace(&mut fields[place::<FIELD_CHAINS>(key.0)], *newest);
        let older_name = mem::replace(&mut names[place::<NAME_CHAINS>(hashes.name)], *newest);
        Link { key, older_field, older_name }
    }

    fn chains(&mut self) -> &mut Chains {
        let empty =
            || Chains { newest: 0, fields: [0; FIELD_CHAINS], names: [0; NAME_CHAINS], seen: [0; SEEN] };
        self.chains.get_or_insert_with(|| Box::new(empty()))
    }
}

impl Chains {
    #[inline]
    fn walk(
        &self,
        table: &Table<Link>,
        newest: u16,
        older: impl Fn(&Link) -> u16,
        is_it: impl Fn(&Entry<'_, Link>) -> bool,
    ) -> Option<usize> {
        let (mut number, mut least) = (newest, 0);
        loop {
            let index = usize::from(self.newest.wrapping_sub(number));
            let entry = table.entry(index).filter(|_| index >= least)?;
            if is_it(&entry) {
                return Some(index);
            }
            number = older(entry.link);
            least = index + 1;
        }
    }
}

fn place<const PLACES: usize>(hash: u32) -> usize {
    usize::from(hash.to_le_bytes()[0]) % PLACES
}

fn low_bits(hash: u64) -> u32 {
    let [low @ .., _, _, _, _] = hash.to_le_bytes();
    u32::from_le_bytes(low)
}
