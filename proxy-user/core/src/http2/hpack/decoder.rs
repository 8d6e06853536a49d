//! Blocks to fields.

use std::ops::Range;

use super::table::Table;
use super::{Field, TABLE_BYTES, fixed, huffman, integer};

/// What a decoder keeps of its scratch buffer between blocks: enough for most heads, little for a connection that rests.
const SCRATCH_BYTES: usize = 512;
/// Changes of the table's size that a block may begin with: the smallest one and the last (RFC 7541, 4.2).
const MAX_SIZE_CHANGES: usize = 2;

/// Why a block cannot be decoded: all of them end the connection with COMPRESSION_ERROR (RFC 9113, 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends inside a field.
    #[error("a block of fields that ends inside a field")]
    Truncated,
    /// An integer is longer than anything it could mean.
    #[error("an integer in a block of fields that is too long")]
    Integer,
    /// An index is 0 or lies beyond the tables.
    #[error("an index that is in no table of fields")]
    Index,
    /// A string's code is wrong: EOS inside, or padding that is too long or not all ones.
    #[error("a string in a block of fields that is no Huffman code")]
    Huffman,
    /// The table is to become larger than was allowed.
    #[error("a table of fields that is larger than allowed")]
    TableTooLarge,
    /// The table's size changes behind a field, or more often than is of any use.
    #[error("a change of the size of the table of fields where none may be")]
    SizeChange,
}

/// Decodes the blocks of one peer on one connection.
#[derive(Debug)]
pub struct Decoder {
    pub(super) table: Table<()>,
    allowed_bytes: usize,
    /// Strings of the field at hand that are not in the block as they are.
    scratch: Vec<u8>,
}

impl Decoder {
    /// Makes one for a peer that may have a table of `table_bytes`, as our SETTINGS_HEADER_TABLE_SIZE says.
    ///
    /// Until the peer changes it the table has 4,096 bytes, which is what a peer begins with that has not seen our settings
    /// (RFC 9113, 6.5.2). Allocates nothing.
    #[must_use]
    pub fn new(table_bytes: u32) -> Self {
        Self { table: Table::new(bytes(TABLE_BYTES)), allowed_bytes: bytes(table_bytes), scratch: Vec::new() }
    }

    /// Decodes one whole block (HEADERS and its CONTINUATIONs joined) and gives each field to `take`, in order.
    ///
    /// # Errors
    /// `take` may have had some fields before one is found. The connection is of no use any more.
    pub fn decode(&mut self, mut block: &[u8], mut take: impl FnMut(Field<'_>)) -> Result<(), DecodeError> {
        let result = self.size_changes(&mut block).and_then(|()| self.fields(&mut block, &mut take));
        self.scratch.clear();
        self.scratch.shrink_to(SCRATCH_BYTES);
        result
    }

    fn size_changes(&mut self, block: &mut &[u8]) -> Result<(), DecodeError> {
        for _ in 0..MAX_SIZE_CHANGES {
            if block.first().is_none_or(|first| first.leading_zeros() != 2) {
                break;
            }
            let max_bytes = integer::decode(block, 5)?;
            if max_bytes > self.allowed_bytes {
                return Err(DecodeError::TableTooLarge);
            }
            self.table.set_max_bytes(max_bytes);
        }
        Ok(())
    }

    fn fields(&mut self, block: &mut &[u8], take: &mut impl FnMut(Field<'_>)) -> Result<(), DecodeError> {
        while let Some(first) = block.first() {
            // RFC 7541, 6: the first bits tell which form it is.
            match first.leading_zeros() {
                0 => {
                    let index = integer::decode(block, 7)?;
                    let (name, value) = entry(&self.table, index)?;
                    take(Field { name, value, is_sensitive: false });
                }
                1 => {
                    let field =
                        literal(block, 6, &self.table, &mut self.scratch)?.field(&self.scratch, false);
                    take(field);
                    self.table.insert(field.name, field.value, ());
                }
                2 => return Err(DecodeError::SizeChange),
                zeros => {
                    let is_sensitive = zeros == 3;
                    take(
                        literal(block, 4, &self.table, &mut self.scratch)?.field(&self.scratch, is_sensitive),
                    );
                }
            }
        }
        Ok(())
    }
}

/// A field that is said in whole or in part.
struct Literal<'a> {
    name: Text<'a>,
    value: Text<'a>,
}

/// Where a string is.
enum Text<'a> {
    /// In the block or in the static table.
    Plain(&'a [u8]),
    Scratch(Range<usize>),
}

impl<'a> Literal<'a> {
    fn field(self, scratch: &'a [u8], is_sensitive: bool) -> Field<'a> {
        Field { name: self.name.bytes(scratch), value: self.value.bytes(scratch), is_sensitive }
    }
}

impl<'a> Text<'a> {
    fn bytes(self, scratch: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Scratch(range) => scratch.get(range).unwrap_or_default(),
        }
    }
}

fn literal<'a>(
    block: &mut &'a [u8],
    prefix_bits: u32,
    table: &Table<()>,
    scratch: &mut Vec<u8>,
) -> Result<Literal<'a>, DecodeError> {
    scratch.clear();
    let name = match integer::decode(block, prefix_bits)? {
        0 => string(block, scratch)?,
        index => match fixed::entry(index) {
            Some((name, _)) => Text::Plain(name),
            None => {
                // The entry may have to go when this field becomes one.
                scratch.extend_from_slice(entry(table, index)?.0);
                Text::Scratch(0..scratch.len())
            }
        },
    };
    let value = string(block, scratch)?;
    Ok(Literal { name, value })
}

/// RFC 7541, 5.2.
fn string<'a>(block: &mut &'a [u8], scratch: &mut Vec<u8>) -> Result<Text<'a>, DecodeError> {
    let is_huffman = block.first().is_some_and(|byte| byte & 0x80 != 0);
    let len = integer::decode(block, 7)?;
    let (coded, rest) = block.split_at_checked(len).ok_or(DecodeError::Truncated)?;
    *block = rest;
    if !is_huffman {
        return Ok(Text::Plain(coded));
    }
    let start = scratch.len();
    huffman::decode(coded, scratch).ok_or(DecodeError::Huffman)?;
    Ok(Text::Scratch(start..scratch.len()))
}

fn entry(table: &Table<()>, index: usize) -> Result<(&[u8], &[u8]), DecodeError> {
    match index.checked_sub(fixed::COUNT + 1) {
        Some(index) => table.entry(index).map(|entry| (entry.name, entry.value)),
        None => fixed::entry(index),
    }
    .ok_or(DecodeError::Index)
}

fn bytes(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
