//! The head of a frame (RFC 9113, 4.1).

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const PRIORITY: u8 = 0x2;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PUSH_PROMISE: u8 = 0x5;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;
/// RFC 9218, 7.1.
pub(super) const PRIORITY_UPDATE: u8 = 0x10;

/// Of DATA and HEADERS.
pub(super) const END_STREAM: u8 = 0x1;
/// Of SETTINGS and PING.
pub(super) const ACK: u8 = 0x1;
/// Of HEADERS and CONTINUATION.
pub(super) const END_HEADERS: u8 = 0x4;
/// Of DATA and HEADERS.
pub(super) const PADDED: u8 = 0x8;
/// Of HEADERS: a priority stands before the fields.
pub(super) const HAS_PRIORITY: u8 = 0x20;

/// Length, type, flags and stream.
pub(super) const HEAD_BYTES: usize = 9;
/// With what is read of some payloads: the increment of a WINDOW_UPDATE, or the length of padding.
pub(super) const MAX_HEAD_BYTES: usize = HEAD_BYTES + 4;

/// The bit before the number of a stream, and before a window's increment, means nothing.
const NO_RESERVED_BIT: u32 = u32::MAX >> 1;

#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// Of the whole payload.
    pub(super) length_bytes: u32,
    /// Of the payload, behind what was read of it.
    pub(super) left_bytes: u32,
    pub(super) padding_bytes: u32,
    /// Of a WINDOW_UPDATE that has the right length.
    pub(super) increment: u32,
}

impl Frame {
    /// Reads the head of a frame and what else is needed of it, and tells how many bytes that are; none if there are not enough.
    #[inline(always)]
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let [a, b, c, kind, flags, e, f, g, h, rest @ ..] = bytes else { return None };
        let (kind, flags) = (*kind, *flags);
        let length_bytes = u32::from_be_bytes([0, *a, *b, *c]);
        let stream = u32::from_be_bytes([*e, *f, *g, *h]) & NO_RESERVED_BIT;
        let left_bytes = length_bytes;
        let frame = Self { kind, flags, stream, length_bytes, left_bytes, padding_bytes: 0, increment: 0 };
        match kind {
            DATA | HEADERS if flags & PADDED != 0 && length_bytes > 0 => {
                let padding_bytes = u32::from(*rest.first()?);
                Some((Self { left_bytes: length_bytes - 1, padding_bytes, ..frame }, HEAD_BYTES + 1))
            }
            WINDOW_UPDATE if length_bytes == 4 => {
                let increment = u32::from_be_bytes(*rest.first_chunk()?) & NO_RESERVED_BIT;
                Some((Self { left_bytes: 0, increment, ..frame }, MAX_HEAD_BYTES))
            }
            _ => Some((frame, HEAD_BYTES)),
        }
    }
}
