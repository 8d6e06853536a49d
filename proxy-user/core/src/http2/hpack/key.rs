//! What tells most fields apart, and costs little.

/// Odd, and its bits are as good as random: 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, 6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hash of the lengths of name and value and of the last bytes of both, 8 of a value that has them: what repeats is found by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FieldKey(pub(super) u32);

impl FieldKey {
    #[inline]
    pub(super) const fn of(name: &[u8], value: &[u8]) -> Self {
        let value_bytes = match (value.last_chunk(), value) {
            (Some(last), _) => u64::from_le_bytes(*last),
            (None, [first, .., last]) => (*first as u64) << 8 | *last as u64,
            (None, [only]) => *only as u64,
            (None, []) => 0,
        };
        let name_byte = match name.last() {
            Some(last) => *last as u64,
            None => 0,
        };
        let lengths = (value.len() << 16 | name.len() << 8) as u64;
        Self(((value_bytes ^ (lengths | name_byte) << 24).wrapping_mul(MULTIPLIER) >> 32) as u32)
    }
}

/// Whether they are equal: most are so short that a call for it would cost more than looking.
#[inline]
pub(super) fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    match one.len() {
        8..=16 => {
            one.first_chunk::<8>() == other.first_chunk() && one.last_chunk::<8>() == other.last_chunk()
        }
        4..8 => one.first_chunk::<4>() == other.first_chunk() && one.last_chunk::<4>() == other.last_chunk(),
        0..4 => one.iter().eq(other),
        _ => one == other,
    }
}
