//! How long heads and trailers may be, where a codec leaves out what is too much.

use super::frame::{CONTINUATION, HEADERS};

/// Length, type, flags and stream of a frame (RFC 9113, 4.1).
const FRAME_HEAD_BYTES: usize = 9;
/// What each field counts for beside its name and value (RFC 9113, 10.5.1).
pub const FIELD_BYTES: usize = 32;
/// More than the dynamic table of a codec with usual settings has (RFC 7541, 4.2): a longer field is said with all its bytes.
const TABLE_BYTES: u32 = 8 << 10;

/// Bounds on a list of fields, so that none is left out unseen.
///
/// A codec that is given a bound decodes the fields behind it, too, and drops them without a word. So it gets a wider one, and who
/// reads the fields compares with the true one. Between the two fits any number of fields, but for one that alone is as long as
/// the distance. Such a one is not in the table, so it is said byte for byte, at 5 bits for each byte at least (RFC 7541,
/// appendix B), and a block that is long enough for that is refused as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadBounds {
    /// What is allowed, and said in settings.
    pub list_bytes: u32,
    /// What the codec is told.
    pub codec_bytes: u32,
    /// What of an encoded block is too much. More than [`list_bytes`](Self::list_bytes): who encodes what is allowed as it should,
    /// never needs that.
    pub block_bytes: u32,
}

impl HeadBounds {
    /// Bounds for lists of so many bytes.
    #[must_use]
    pub fn new(list_bytes: u32) -> Self {
        let distance = list_bytes.saturating_mul(2).saturating_add(TABLE_BYTES);
        let block_bytes = distance / 8 * 5;
        Self { list_bytes, codec_bytes: list_bytes.saturating_add(distance), block_bytes }
    }
}

/// Follows how long blocks of fields are, as encoded.
#[derive(Clone, Debug)]
pub struct BlockMeter {
    most_bytes: u32,
    /// Payload that is to come.
    skip_bytes: u32,
    block_bytes: u32,
    /// The head of a frame, as far as it has come in pieces.
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: u8,
}

/// A block of fields is longer than allowed. What came behind it cannot be understood without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl BlockMeter {
    /// Begins behind so many bytes that are no frame.
    #[must_use]
    pub fn new(bounds: HeadBounds, preface_bytes: usize) -> Self {
        let skip_bytes = u32::try_from(preface_bytes).unwrap_or(u32::MAX);
        let (head, head_bytes) = ([0; FRAME_HEAD_BYTES], 0);
        Self { most_bytes: bounds.block_bytes, skip_bytes, block_bytes: 0, head, head_bytes }
    }

    /// Follows the next bytes.
    ///
    /// # Errors
    /// If a block is too long.
    pub fn follow(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        loop {
            let skipped = bytes.len().min(usize::try_from(self.skip_bytes).unwrap_or(usize::MAX));
            self.skip_bytes -= u32::try_from(skipped).unwrap_or(self.skip_bytes);
            bytes = &bytes[skipped..];
            let held = usize::from(self.head_bytes);
            let (some, rest) = bytes.split_at(bytes.len().min(FRAME_HEAD_BYTES - held));
            self.head[held..held + some.len()].copy_from_slice(some);
            bytes = rest;
            if held + some.len() < FRAME_HEAD_BYTES {
                self.head_bytes = u8::try_from(held + some.len()).unwrap_or(0);
                return Ok(());
            }
            self.head_bytes = 0;
            self.take()?;
        }
    }

    fn take(&mut self) -> Result<(), TooLong> {
        let [a, b, c, kind, ..] = self.head;
        self.skip_bytes = u32::from_be_bytes([0, a, b, c]);
        match kind {
            HEADERS => self.block_bytes = self.skip_bytes,
            CONTINUATION => self.block_bytes = self.block_bytes.saturating_add(self.skip_bytes),
            _ => return Ok(()),
        }
        if self.block_bytes > self.most_bytes { Err(TooLong) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, length_bytes: u32) -> Vec<u8> {
        let [_, a, b, c] = length_bytes.to_be_bytes();
        let mut frame = vec![a, b, c, kind, 0, 0, 0, 0, 1];
        frame.resize(FRAME_HEAD_BYTES + length_bytes as usize, kind);
        frame
    }

    #[test]
    fn one_field_that_fits_between_the_bounds_makes_a_block_too_long() {
        for list_bytes in [1, 1 << 10, 64 << 10, 1 << 20] {
            let HeadBounds { codec_bytes, block_bytes, .. } = HeadBounds::new(list_bytes);
            let distance = codec_bytes - list_bytes;
            assert!(block_bytes <= distance / 8 * 5 && block_bytes > list_bytes, "{list_bytes}");
            assert!(distance > 4096, "it is in no table");
        }
    }

    #[test]
    fn blocks_are_measured_over_their_frames() {
        let bounds = HeadBounds { list_bytes: 0, codec_bytes: 0, block_bytes: 100 };
        let said = [frame(HEADERS, 60), frame(CONTINUATION, 40), frame(0, 500), frame(HEADERS, 100)].concat();
        assert_eq!(BlockMeter::new(bounds, 0).follow(&said), Ok(()));
        let said = [frame(HEADERS, 60), frame(CONTINUATION, 41)].concat();
        assert_eq!(BlockMeter::new(bounds, 0).follow(&said), Err(TooLong));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            frames in prop::collection::vec((0u8..12, 0u32..80), 1..12),
            cuts in prop::collection::vec(0usize..900, 0..6),
        ) {
            let bounds = HeadBounds { list_bytes: 0, codec_bytes: 0, block_bytes: 100 };
            let said: Vec<u8> = frames.iter().flat_map(|(kind, bytes)| frame(*kind, *bytes)).collect();
            let whole = BlockMeter::new(bounds, 3).follow(&said);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(said.len())).collect();
            cuts.extend([0, said.len()]);
            cuts.sort_unstable();
            let mut meter = BlockMeter::new(bounds, 3);
            let split = cuts.windows(2).try_for_each(|two| meter.follow(&said[two[0]..two[1]]));
            prop_assert_eq!(split, whole);
        }
    }
}
