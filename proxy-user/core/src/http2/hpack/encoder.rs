//! Fields to blocks.

use super::table::{Table, entry_bytes};
use super::{Field, TABLE_BYTES, fixed, huffman, integer};

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
    table: Table,
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
        Self { table: Table::new(table_bytes), wanted_bytes: table_bytes, least_bytes: table_bytes }
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
            if max_bytes != self.table.max_bytes() {
                integer::encode(SIZE, 5, max_bytes, out);
                self.table.set_max_bytes(max_bytes);
            }
        }
        self.least_bytes = self.wanted_bytes;
    }

    /// Adds a field to the block that was begun last.
    pub fn field(&mut self, field: Field<'_>, out: &mut Vec<u8>) {
        let Field { name, value, is_sensitive } = field;
        let whole = self.find(|entry| entry == (name, value));
        if let Some(index) = whole.filter(|_| !is_sensitive) {
            return integer::encode(INDEXED, 7, index, out);
        }
        let name_index = self.find(|entry| entry.0 == name).unwrap_or(0);
        let is_inserted = !is_sensitive && entry_bytes(name, value) <= self.table.max_bytes();
        match (is_sensitive, is_inserted) {
            (true, _) => integer::encode(SENSITIVE, 4, name_index, out),
            (false, true) => integer::encode(INSERTED, 6, name_index, out),
            (false, false) => integer::encode(PLAIN, 4, name_index, out),
        }
        if name_index == 0 {
            string(name, out);
        }
        string(value, out);
        if is_inserted {
            self.table.insert(name, value);
        }
    }

    fn find(&self, is_it: impl Fn((&[u8], &[u8])) -> bool) -> Option<usize> {
        let entry = |index: usize| match index.checked_sub(fixed::COUNT + 1) {
            Some(at) => self.table.entry(at),
            None => fixed::entry(index),
        };
        (1..=fixed::COUNT + self.table.len()).find(|index| entry(*index).is_some_and(&is_it))
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
