//! Compression of fields in HTTP/2 (HPACK, RFC 7541): one [`Decoder`] and one [`Encoder`] for each connection.
//!
//! Which fields a message may have and how long a head may be is for the caller to say: a block whose fields it refuses is
//! decoded to its end all the same, else the tables of both sides would differ.

mod decoder;
mod encoder;
mod finder;
mod fixed;
pub(super) mod huffman;
mod integer;
mod key;
mod names;
mod table;

pub use self::decoder::{DecodeError, Decoder};
pub use self::encoder::Encoder;

/// What a dynamic table may hold before SETTINGS say something else (RFC 9113, 6.5.2).
const TABLE_BYTES: u32 = 4096;

/// A field of a head or of trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name, as it came.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// It must never be put into a table, here or further on (RFC 7541, 7.1.3).
    pub is_sensitive: bool,
}

#[cfg(test)]
mod tests;
