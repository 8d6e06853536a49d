//! Blocks of fields that a codec could not read (RFC 7541): whether they cannot be decompressed, or say what no message may.
//!
//! Only for those: it knows no dynamic table, so of a block that is right nothing follows.

use std::str;

use super::fault::Breach;
use super::frame::{CONTINUATION, END_HEADERS, Frame, HAS_PRIORITY, HEADERS};
use super::hpack::huffman;

/// Entries of the static table (RFC 7541, appendix A).
const STATIC: usize = 61;
/// The most that a dynamic table of 4,096 bytes has (RFC 7541, 4.1): nobody is offered a larger one.
const DYNAMIC: usize = 4096 / 32;
const TABLE_BYTES: usize = 4096;
/// Longer ones mean nothing that there could be.
const INTEGER_BYTES: u32 = 5;

/// Why a block was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// It goes on in what is not there.
    Short,
    Undecodable,
    /// It says what no message may (RFC 9113, 8.2 and 8.3).
    Malformed,
}

/// What is wrong with the first of some frames with fields that has something wrong; none if that does not show.
pub(super) fn breach(mut frames: &[u8]) -> Option<Breach> {
    let mut block = Vec::new();
    while let Some((frame, head_bytes)) = Frame::read(frames) {
        let payload = &frames[head_bytes..];
        let left_bytes = usize::try_from(frame.left_bytes).unwrap_or(usize::MAX);
        let is_whole = payload.len() >= left_bytes;
        let (payload, rest) = payload.split_at(payload.len().min(left_bytes));
        if frame.kind == HEADERS {
            block.clear();
        }
        if frame.kind == HEADERS || frame.kind == CONTINUATION {
            block.extend_from_slice(fields(&frame, payload));
        }
        let has_ended = is_whole && frame.flags & END_HEADERS != 0;
        match read(&block) {
            Err(Stop::Malformed) => return Some(Breach::Protocol),
            Err(Stop::Undecodable) => return Some(Breach::Compression),
            Err(Stop::Short) if has_ended => return Some(Breach::Compression),
            Err(Stop::Short) | Ok(()) => {}
        }
        frames = rest;
    }
    None
}

/// What of a payload is fields.
fn fields<'a>(frame: &Frame, payload: &'a [u8]) -> &'a [u8] {
    if frame.kind != HEADERS {
        return payload;
    }
    let begin = if frame.flags & HAS_PRIORITY == 0 { 0 } else { 5 };
    let end = usize::try_from(frame.left_bytes - frame.padding_bytes.min(frame.left_bytes)).unwrap_or(0);
    payload.get(begin..end.min(payload.len())).unwrap_or_default()
}

fn read(mut block: &[u8]) -> Result<(), Stop> {
    let mut is_first = true;
    while let Some(first) = block.first() {
        // RFC 7541, 6: the first bits tell which form it is.
        match first.leading_zeros() {
            0 => check_index(integer(&mut block, 7)?, 1)?,
            1 => field(&mut block, 6)?,
            2 => {
                let is_allowed = is_first && integer(&mut block, 5)? <= TABLE_BYTES;
                ensure(is_allowed, Stop::Undecodable)?;
                continue;
            }
            _ => field(&mut block, 4)?,
        }
        is_first = false;
    }
    Ok(())
}

/// A field that is said, whose name may stand in a table.
fn field(block: &mut &[u8], prefix_bits: u32) -> Result<(), Stop> {
    let index = integer(block, prefix_bits)?;
    check_index(index, 0)?;
    let name = if index == 0 { Some(string(block)?) } else { None };
    let value = string(block)?;
    let kind = match &name {
        Some(name) => kind_of_name(name)?,
        None => kind_of_index(index),
    };
    let is_right = match kind {
        Kind::Plain => value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)),
        Kind::Text => str::from_utf8(&value).is_ok(),
        Kind::Token => !value.is_empty() && value.iter().all(|byte| is_token(*byte)),
        Kind::Status => false,
    };
    ensure(is_right, Stop::Malformed)
}

/// What a field's value may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Text,
    Token,
    /// Not in what a client says.
    Status,
}

fn kind_of_index(index: usize) -> Kind {
    match index {
        1 | 4..=7 => Kind::Text,
        2 | 3 => Kind::Token,
        8..=14 => Kind::Status,
        // One in the dynamic table may be any; what no field may have is checked alone.
        _ => Kind::Plain,
    }
}

fn kind_of_name(name: &[u8]) -> Result<Kind, Stop> {
    match name {
        b":method" => Ok(Kind::Token),
        b":authority" | b":scheme" | b":path" | b":protocol" => Ok(Kind::Text),
        b":status" => Ok(Kind::Status),
        name => {
            let is_lower = |byte: &u8| is_token(*byte) && !byte.is_ascii_uppercase();
            let is_name = !name.is_empty() && name.iter().all(is_lower);
            ensure(is_name, Stop::Malformed).map(|()| Kind::Plain)
        }
    }
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn check_index(index: usize, least: usize) -> Result<(), Stop> {
    ensure((least..=STATIC + DYNAMIC).contains(&index), Stop::Undecodable)
}

/// RFC 7541, 5.1.
fn integer(block: &mut &[u8], prefix_bits: u32) -> Result<usize, Stop> {
    let most = (1usize << prefix_bits) - 1;
    let prefix = usize::from(byte(block)?) & most;
    if prefix < most {
        return Ok(prefix);
    }
    let mut value = most;
    for at in 0..INTEGER_BYTES - 1 {
        let next = byte(block)?;
        value += usize::from(next & 0x7f) << (7 * at);
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Stop::Undecodable)
}

/// RFC 7541, 5.2.
fn string(block: &mut &[u8]) -> Result<Vec<u8>, Stop> {
    let is_huffman = block.first().is_some_and(|byte| byte & 0x80 != 0);
    let len = integer(block, 7)?;
    let (coded, rest) = block.split_at_checked(len).ok_or(Stop::Short)?;
    *block = rest;
    if !is_huffman {
        return Ok(coded.to_vec());
    }
    let mut bytes = Vec::new();
    huffman::decode(coded, &mut bytes).ok_or(Stop::Undecodable)?;
    Ok(bytes)
}

fn byte(block: &mut &[u8]) -> Result<u8, Stop> {
    let (first, rest) = block.split_first().ok_or(Stop::Short)?;
    *block = rest;
    Ok(*first)
}

fn ensure(holds: bool, stop: Stop) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(stop) }
}

#[cfg(test)]
mod tests;
