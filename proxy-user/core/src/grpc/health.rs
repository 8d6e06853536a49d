//! The question whether a server serves (`grpc.health.v1`), and its answer: two messages of protobuf with one field each.
//!
//! ```text
//!   HealthCheckRequest  { string service = 1; }
//!   HealthCheckResponse { ServingStatus status = 1; }
//! ```

use super::PREFIX_BYTES;

/// Path of the call.
pub const CHECK_PATH: &str = "/grpc.health.v1.Health/Check";

/// Bytes of an answer that are looked at, its prefix included. One takes seven; the rest is room for fields of later versions.
pub const MOST_CHECK_BYTES: usize = 1024;

/// Tag of a field with number 1 that is a text.
const SERVICE_TAG: u8 = 1 << 3 | 2;
/// Number of the answer's field.
const STATUS_FIELD: u64 = 1;

/// What a server says of itself or of one of its services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It serves.
    Yes,
    /// It does not.
    No,
    /// It does not know yet.
    Unknown,
    /// There is no such service. Servers say that with the status `not_found`, and with this when they are watched.
    NoService,
    /// A number that no version up to now has.
    Other(i32),
}

impl Serving {
    /// Its name in the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "SERVING",
            Self::No => "NOT_SERVING",
            Self::Unknown => "UNKNOWN",
            Self::NoService => "SERVICE_UNKNOWN",
            Self::Other(_) => "a status that has no name",
        }
    }

    fn from_number(number: i32) -> Self {
        match number {
            0 => Self::Unknown,
            1 => Self::Yes,
            2 => Self::No,
            3 => Self::NoService,
            other => Self::Other(other),
        }
    }
}

/// Why the body of an answer says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckAnswerError {
    /// Nobody said that we could read that.
    #[error("the answer is compressed")]
    Compressed,
    /// It is no message, or more than one.
    #[error("the answer is not one message")]
    NotOneMessage,
    /// The message is not what protobuf writes.
    #[error("the answer is no protobuf")]
    NoProtobuf,
}

/// Writes the body of a call that asks for a service, or with an empty name for the server as a whole.
///
/// # Panics
/// If the name is 4 GiB long.
#[must_use]
pub fn encode_check(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    // An empty text is what an absent field means (proto3).
    if !service.is_empty() {
        message.push(SERVICE_TAG);
        push_varint(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).expect("names of services are short");
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

/// Reads the body of an answer. Fields that are not known are passed over, and of a field that comes twice the last counts, as
/// protobuf wants it.
///
/// # Errors
/// If it is no answer.
pub fn decode_check(body: &[u8]) -> Result<Serving, CheckAnswerError> {
    let (prefix, mut message) = body.split_at_checked(PREFIX_BYTES).ok_or(CheckAnswerError::NotOneMessage)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    match prefix[0] {
        0 => {}
        1 => return Err(CheckAnswerError::Compressed),
        _ => return Err(CheckAnswerError::NotOneMessage),
    }
    if usize::try_from(length) != Ok(message.len()) {
        return Err(CheckAnswerError::NotOneMessage);
    }
    let mut status = 0;
    while !message.is_empty() {
        if let Some(found) = take_field(&mut message).ok_or(CheckAnswerError::NoProtobuf)? {
            status = found;
        }
    }
    Ok(Serving::from_number(status))
}

/// Takes a field from the front: the status, or nothing if it is another one. None if it is no field.
fn take_field(bytes: &mut &[u8]) -> Option<Option<i32>> {
    let tag = take_varint(bytes)?;
    let (field, kind) = (tag >> 3, tag & 7);
    if field == 0 {
        return None;
    }
    let length = match kind {
        0 => {
            let value = take_varint(bytes)?;
            // An enum has 32 bits; what a writer sends beyond is cut off (protobuf's "Encoding").
            let [a, b, c, d, ..] = value.to_le_bytes();
            return Some((field == STATUS_FIELD).then(|| i32::from_le_bytes([a, b, c, d])));
        }
        1 => 8,
        2 => usize::try_from(take_varint(bytes)?).ok()?,
        5 => 4,
        // Groups are in no message of version 3.
        _ => return None,
    };
    *bytes = bytes.split_at_checked(length)?.1;
    Some(None)
}

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

/// Takes a number from the front: seven bits in each byte, the lowest first, at most ten bytes.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    const MOST_VARINT_BYTES: usize = 10;
    let length = bytes.iter().take(MOST_VARINT_BYTES).position(|byte| byte & 0x80 == 0)? + 1;
    let (number, rest) = bytes.split_at(length);
    *bytes = rest;
    Some(number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::CheckAnswerError::{Compressed, NoProtobuf, NotOneMessage};
    use super::*;

    fn answer(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0][..], &length, message].concat()
    }

    #[test]
    fn questions_are_what_protobuf_writes() {
        assert_eq!(encode_check(""), [0; 5]);
        assert_eq!(encode_check("shop"), b"\0\0\0\0\x06\x0a\x04shop");
        let long = "x".repeat(300);
        assert_eq!(encode_check(&long), [b"\0\0\0\x01\x2f\x0a\xac\x02", long.as_bytes()].concat());
    }

    #[test]
    fn answers_mean_what_their_number_says() {
        for (message, serving) in [
            (&b""[..], Serving::Unknown),
            (b"\x08\x00", Serving::Unknown),
            (b"\x08\x01", Serving::Yes),
            (b"\x08\x02", Serving::No),
            (b"\x08\x03", Serving::NoService),
            (b"\x08\x07", Serving::Other(7)),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Serving::Other(-1)),
            (b"\x08\x02\x08\x01", Serving::Yes),
            (b"\x0a\x02ab\x10\x05\x1d1234\x21\x31\x32\x33\x34\x35\x36\x37\x38\x08\x01", Serving::Yes),
        ] {
            assert_eq!(decode_check(&answer(message)), Ok(serving), "{message:x?}");
        }
    }

    #[test]
    fn what_is_no_answer_is_told() {
        assert_eq!(decode_check(b""), Err(NotOneMessage));
        assert_eq!(decode_check(b"\0\0\0\0\x02\x08"), Err(NotOneMessage), "half of a message");
        assert_eq!(decode_check(b"\0\0\0\0\0\0\0\0\0\0"), Err(NotOneMessage), "two of them");
        assert_eq!(decode_check(b"\x01\0\0\0\x02\x08\x01"), Err(Compressed));
        for message in
            [&b"\x08"[..], b"\x08\x80", b"\x00\x01", b"\x0b", b"\x12\x05ab", b"\x15abc", b"\x11abc"]
        {
            assert_eq!(decode_check(&answer(message)), Err(NoProtobuf), "{message:x?}");
        }
        let endless = [&[0x08][..], &[0x80; 10], &[1]].concat();
        assert_eq!(decode_check(&answer(&endless)), Err(NoProtobuf));
    }

    proptest! {
        #[test]
        fn no_answer_panics(message in prop::collection::vec(any::<u8>(), 0..64), body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_check(&body);
            let _ = decode_check(&answer(&message));
        }

        #[test]
        fn numbers_read_back(value in any::<u64>(), rest in prop::collection::vec(any::<u8>(), 0..4)) {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, value);
            bytes.extend_from_slice(&rest);
            let mut left = bytes.as_slice();
            prop_assert_eq!((take_varint(&mut left), left), (Some(value), rest.as_slice()));
        }
    }
}
