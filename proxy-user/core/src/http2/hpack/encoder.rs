//! Fields to blocks.

use super::finder::{Finder, Hashes, Link};
use super::key::FieldKey;
use super::names::{self, Habit};
use super::table::{Table, entry_bytes};
use super::{Field, TABLE_BYTES, fixed, huffman, integer};

/// Shorter credentials never go into a table, which clients may share: one after the other could be guessed until a block shows by
/// its length which is right (RFC 7541, 7.1). A password is shorter, even in base64, and a signed token longer. nghttp2 draws this
/// line at 20 for cookies, and sends each authorization in full, as h2 does with both: a kilobyte or so with each call.
const GUESSABLE_BYTES: usize = 64;
/// An entry that takes more than this part of the table would push out too much for what it may save.
const LARGE_PART: usize = 4;

/// A field that is in a table (RFC 7541, 6.1).
const INDEXED: u8 = 0x80;
/// One that becomes an entry (6.2.1).
const INSERTED: u8 = 0x40;
/// A new size of the table (6.3).
const SIZE: u8 = 0x20;
/// A field that nobody may put into a table (6.2.3).
const SENSITIVE: u8 = 0x10;
/// One that becomes no entry (6.2.2).
const PLAIN: u8 = 0;
const HUFFMAN: u8 = 0x80;

/// Encodes the blocks to one peer on one connection.
#[derive(Debug)]
pub struct Encoder {
    pub(super) table: Table<Link>,
    finder: Finder,
    /// What the table is to hold from the next block on.
    wanted_bytes: usize,
    /// The least that the peer has allowed since the last block.
    least_bytes: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// Makes one for a peer whose table has 4,096 bytes as long as its settings say nothing else (RFC 9113, 6.5.2).
    #[must_use]
    pub fn new() -> Self {
        let table_bytes = usize::try_from(TABLE_BYTES).unwrap_or(usize::MAX);
        Self {
            table: Table::new(table_bytes),
            finder: Finder::default(),
            wanted_bytes: table_bytes,
            least_bytes: table_bytes,
        }
    }

    /// Follows the peer's SETTINGS_HEADER_TABLE_SIZE, up to 4,096 bytes.
    ///
    /// The peer hears of a change at the begin of the next block, of the smallest size in between, too (RFC 7541, 4.2).
    pub fn set_table_bytes(&mut self, table_bytes: u32) {
        self.wanted_bytes = usize::try_from(table_bytes.min(TABLE_BYTES)).unwrap_or(usize::MAX);
        self.least_bytes = self.least_bytes.min(self.wanted_bytes);
    }

    /// Begins a block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        for max_bytes in [self.least_bytes, self.wanted_bytes] {
            if max_bytes != self.table.max_bytes {
                integer::encode(SIZE, 5, max_bytes, out);
                self.table.set_max_bytes(max_bytes);
            }
        }
        self.least_bytes = self.wanted_bytes;
    }

    /// Adds a field to the block that was begun last.
    ///
    /// It becomes an entry if its name is in none yet, or if it was seen before: what repeats is soon sent as an index, and what does
    /// not, such as the paths of a REST interface, leaves the table alone.
    pub fn field(&mut self, field: Field<'_>, out: &mut Vec<u8>) {
        let Field { name, value, is_sensitive } = field;
        let key = FieldKey::of(name, value);
        if !is_sensitive {
            let entry = || Some(fixed::COUNT + 1 + self.finder.field(&self.table, key, name, value)?);
            if let Some(index) = fixed::find(key, name, value).or_else(entry) {
                return integer::encode(INDEXED, 7, index, out);
            }
        }
        self.other(field, key, out);
    }

    /// Adds a field that may not be in the dynamic table, or is not yet.
    #[inline(never)]
    fn other(&mut self, field: Field<'_>, key: FieldKey, out: &mut Vec<u8>) {
        let Field { name, value, is_sensitive } = field;
        let known = names::find(name);
        let habit = known.map_or(Habit::Repeats, |known| known.habit);
        let is_secret = is_sensitive || (habit == Habit::Secret && value.len() < GUESSABLE_BYTES);
        let hashes = Hashes::of(name, value);
        let may_repeat = !is_secret && habit != Habit::Changes;
        let entry_of_name = self.finder.name(&self.table, hashes, name);
        let name_index = match known {
            Some(known) if known.index > 0 => known.index,
            _ => entry_of_name.map_or(0, |at| fixed::COUNT + 1 + at),
        };
        let is_small = entry_bytes(name, value) <= self.table.max_bytes / LARGE_PART;
        let is_new = if may_repeat { entry_of_name.is_none() } else { name_index == 0 };
        let is_inserted = !is_secret && is_small && (is_new || may_repeat && self.finder.was_seen(hashes));
        match (is_secret, is_inserted) {
            (true, _) => integer::encode(SENSITIVE, 4, name_index, out),
            (false, true) => integer::encode(INSERTED, 6, name_index, out),
            (false, false) => integer::encode(PLAIN, 4, name_index, out),
        }
        if name_index == 0 {
            string(name, out);
        }
        string(value, out);
        if is_inserted {
            let link = self.finder.link(key, hashes);
            self.table.insert(name, value, link);
        }
    }
}

/// RFC 7541, 5.2.
fn string(bytes: &[u8], out: &mut Vec<u8>) {
    let coded_bytes = huffman::coded_bytes(bytes);
    if coded_bytes < bytes.len() {
        integer::encode(HUFFMAN, 7, coded_bytes, out);
        huffman::encode(bytes, out);
    } else {
        integer::encode(0, 7, bytes.len(), out);
        out.extend_from_slice(bytes);
    }
}
