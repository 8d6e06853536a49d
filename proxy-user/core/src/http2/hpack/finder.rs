//! Finding entries of a dynamic table by what they say.

use std::hash::Hasher as _;
use std::mem;

use rustc_hash::FxHasher;

use super::key::{FieldKey, is_same};
use super::table::{Entry, Table};

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

/// Hashes of all bytes of a name, and of a field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashes {
    name: u32,
    field: u32,
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
        let index = chains.index(chains.fields[place::<FIELD_CHAINS>(key.0)]);
        let entry = table.entry(index)?;
        if is_same(entry.name, name) && is_same(entry.value, value) {
            return Some(index);
        }
        chains.walk(
            table,
            index,
            |link| link.older_field,
            |entry| entry.link.key == key && entry.name == name && entry.value == value,
        )
    }

    /// Index of the newest entry with this name.
    pub(super) fn name(&self, table: &Table<Link>, hashes: Hashes, name: &[u8]) -> Option<usize> {
        let chains = self.chains.as_ref()?;
        let index = chains.index(chains.names[place::<NAME_CHAINS>(hashes.name)]);
        chains.walk(table, index, |link| link.older_name, |entry| entry.name == name)
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
    /// Index of the entry with a number; it lies beyond the table if the entry is no more.
    fn index(&self, number: u16) -> usize {
        usize::from(self.newest.wrapping_sub(number))
    }

    #[inline(never)]
    fn walk(
        &self,
        table: &Table<Link>,
        mut index: usize,
        older: impl Fn(&Link) -> u16,
        is_it: impl Fn(&Entry<'_, Link>) -> bool,
    ) -> Option<usize> {
        loop {
            let entry = table.entry(index)?;
            if is_it(&entry) {
                return Some(index);
            }
            let next = self.index(older(entry.link));
            if next <= index {
                return None;
            }
            index = next;
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
