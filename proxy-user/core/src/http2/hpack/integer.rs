//! Integers (RFC 7541, 5.1): what fits into the prefix, else the rest of it in groups of 7 bits, the lowest first.

use super::DecodeError;

/// Bytes behind the prefix. Four are good for 2^28, more than a block may be long; longer ones mean nothing that there could be.
const MORE_BYTES: u32 = 4;

/// Reads one whose first byte has `prefix_bits` (1 to 7) of it.
///
/// # Errors
/// `Truncated` and `Integer`.
#[inline]
pub(super) fn decode(block: &mut &[u8], prefix_bits: u32) -> Result<usize, DecodeError> {
    let most = (1usize << prefix_bits) - 1;
    let prefix = usize::from(byte(block)?) & most;
    if prefix < most { Ok(prefix) } else { decode_rest(block, most) }
}

fn decode_rest(block: &mut &[u8], mut value: usize) -> Result<usize, DecodeError> {
    for at in 0..MORE_BYTES {
        let next = byte(block)?;
        value += usize::from(next & 0x7f) << (7 * at);
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Integer)
}

/// Writes one behind the bits of `form` in its first byte.
#[inline]
pub(super) fn encode(form: u8, prefix_bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = u8::MAX >> (8 - prefix_bits);
    if value < usize::from(most) {
        return out.push(form | low_bits(value));
    }
    out.push(form | most);
    let mut rest = value - usize::from(most);
    while rest > 0x7f {
        out.push(low_bits(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low_bits(rest));
}

fn low_bits(value: usize) -> u8 {
    value.to_le_bytes()[0] & 0x7f
}

#[inline]
fn byte(block: &mut &[u8]) -> Result<u8, DecodeError> {
    let (first, rest) = block.split_first().ok_or(DecodeError::Truncated)?;
    *block = rest;
    Ok(*first)
}
