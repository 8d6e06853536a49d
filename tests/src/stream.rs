//! A stream of bytes whose every part is known, so that both ends can check what they get.

use std::sync::OnceLock;

/// Length of the pattern: a prime, so that a lost, doubled or swapped block of any usual size shows. The clients in
/// `python/client.py` make the same one.
pub const PATTERN_BYTES: usize = 65_521;
/// Times that the pattern stands in one buffer.
const REPEATS: usize = 17;

/// The pattern, several times over: from any place within the first, one can read a MiB without wrapping around.
pub fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let mut x: u32 = 1;
        let one: Vec<u8> = (0..PATTERN_BYTES)
            .map(|_| {
                // the constants of the C standard's example for rand()
                x = x.wrapping_mul(1_103_515_245).wrapping_add(12_345) & 0x7fff_ffff;
                x.to_le_bytes()[2]
            })
            .collect();
        one.repeat(REPEATS)
    })
}

/// The stream from a place on, as much as is at hand (at least a MiB).
#[must_use]
pub fn from(position: u64) -> &'static [u8] {
    let at = usize::try_from(position % PATTERN_BYTES as u64).expect("less than the pattern's length");
    &pattern()[at..]
}

/// Checks a stream piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct Check {
    /// Bytes seen.
    pub bytes: u64,
    /// Whether anything was not what it should be.
    pub is_broken: bool,
}

impl Check {
    /// Looks at the next piece, at most a MiB.
    pub fn feed(&mut self, piece: &[u8]) {
        self.is_broken |= from(self.bytes).get(..piece.len()) != Some(piece);
        self.bytes += piece.len() as u64;
    }
}

/// Bytes that no compression shortens and no shift leaves alike.
#[must_use]
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_of_the_stream_is_intact_and_a_changed_byte_is_not() {
        let whole: Vec<u8> = pattern()[..PATTERN_BYTES * 3].to_vec();
        for piece in [1, 1000, 4096, 65_536, 100_000] {
            let mut check = Check::default();
            whole.chunks(piece).for_each(|piece| check.feed(piece));
            assert!(!check.is_broken, "{piece}");
            assert_eq!(check.bytes, whole.len() as u64);
        }
        let mut broken = whole.clone();
        broken[70_000] ^= 1;
        let mut check = Check::default();
        broken.chunks(4096).for_each(|piece| check.feed(piece));
        assert!(check.is_broken);
    }

    #[test]
    fn a_lost_block_is_noticed() {
        let whole = &pattern()[..PATTERN_BYTES * 2];
        let mut check = Check::default();
        check.feed(&whole[..4096]);
        check.feed(&whole[8192..12288]);
        assert!(check.is_broken);
    }
}
