//! Frames (RFC 9113, 4 and 6): what stands before each payload, and their types, flags and settings.

pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const PRIORITY: u8 = 0x2;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PUSH_PROMISE: u8 = 0x5;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;
pub const CONTINUATION: u8 = 0x9;
/// RFC 9218, 7.1.
pub const PRIORITY_UPDATE: u8 = 0x10;

/// Of DATA and HEADERS.
pub const END_STREAM: u8 = 0x1;
/// Of SETTINGS and PING.
pub const ACK: u8 = 0x1;
/// Of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 0x4;
/// Of DATA and HEADERS.
pub const PADDED: u8 = 0x8;
/// Of HEADERS: a priority stands before the fields.
pub const HAS_PRIORITY: u8 = 0x20;

/// Settings (RFC 9113, 6.5.2).
pub const HEADER_TABLE_SIZE: u16 = 0x1;
pub const ENABLE_PUSH: u16 = 0x2;
pub const MAX_CONCURRENT_STREAMS: u16 = 0x3;
pub const INITIAL_WINDOW_SIZE: u16 = 0x4;
pub const MAX_FRAME_SIZE: u16 = 0x5;
pub const MAX_HEADER_LIST_SIZE: u16 = 0x6;
/// RFC 8441, 3.
pub const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;

/// What a client says first (RFC 9113, 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, type, flags and stream.
pub const HEAD_BYTES: usize = 9;
/// Of one setting.
pub const SETTING_BYTES: usize = 6;
/// The longest payload as long as nobody offered more (RFC 9113, 6.5.2), which nobody does here.
pub const MOST_PAYLOAD_BYTES: usize = 16 << 10;
/// The largest number of a stream, and the largest window (RFC 9113, 5.1.1 and 6.9.1).
pub const MOST: u32 = u32::MAX >> 1;

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    /// Of the payload.
    pub length_bytes: u32,
}

impl Head {
    /// Reads it; the bit before the number of the stream means nothing.
    #[must_use]
    pub fn read([a, b, c, kind, flags, e, f, g, h]: [u8; HEAD_BYTES]) -> Self {
        let length_bytes = u32::from_be_bytes([0, a, b, c]);
        Self { kind, flags, stream: u32::from_be_bytes([e, f, g, h]) & MOST, length_bytes }
    }

    /// Writes it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let [_, a, b, c] = self.length_bytes.to_be_bytes();
        let [e, f, g, h] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, e, f, g, h]
    }

    /// Tells whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_is_written() {
        let head = Head { kind: HEADERS, flags: END_HEADERS, stream: 0x0102_0304, length_bytes: 0x0a_0b0c };
        assert_eq!(head.to_bytes(), [0xa, 0xb, 0xc, 1, 4, 1, 2, 3, 4]);
        assert_eq!(Head::read(head.to_bytes()), head);
        assert_eq!(Head::read([0, 0, 0, 0, 0, 0x80, 0, 0, 1]).stream, 1);
    }
}
