//! The header `grpc-message`: text for people, in the characters that a header may have.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Encodes a text as a value of `grpc-message`: what is not printable ASCII, and `%`, becomes `%XX`. So do blanks at either end,
/// which the specification lets stand but HTTP/2 does not (RFC 9113, 8.2.1).
#[must_use]
pub fn encode_message(text: &str) -> Cow<'_, str> {
    let is_plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'%';
    if text.bytes().all(is_plain) && !text.starts_with(' ') && !text.ends_with(' ') {
        return Cow::Borrowed(text);
    }
    let mut value = String::with_capacity(text.len() + 16);
    let last = text.len() - 1;
    for (at, byte) in text.bytes().enumerate() {
        let is_blank_at_end = byte == b' ' && (at == 0 || at == last);
        if is_plain(byte) && !is_blank_at_end {
            value.push(char::from(byte));
        } else {
            write!(value, "%{byte:02X}").expect("a string takes everything");
        }
    }
    Cow::Owned(value)
}

/// Reads a value of `grpc-message`. What is no encoding stays as it is and what is no UTF-8 is replaced: the specification wants
/// nothing of it to be lost. It may have control characters, as any text of a peer.
#[must_use]
pub fn decode_message(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, behind @ ..] = rest {
        let decoded = match (first, behind) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_stays_and_the_rest_is_encoded() {
        assert!(matches!(encode_message("no endpoint is usable"), Cow::Borrowed(_)));
        assert!(matches!(encode_message(""), Cow::Borrowed("")));
        assert_eq!(encode_message("100 % caf\u{e9}\n"), "100 %25 caf%C3%A9%0A");
        assert_eq!(encode_message(" a b "), "%20a b%20");
    }

    #[test]
    fn what_is_no_encoding_is_kept() {
        for (value, text) in
            [("a%20b", "a b"), ("%", "%"), ("%4", "%4"), ("%zz%41", "%zzA"), ("%c3%A9", "\u{e9}")]
        {
            assert_eq!(decode_message(value.as_bytes()), text);
        }
        assert_eq!(decode_message(b"%FF\xfe"), "\u{fffd}\u{fffd}");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_legal_and_reads_back(text in any::<String>()) {
            let value = encode_message(&text);
            prop_assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)));
            prop_assert_eq!(value.trim(), &*value);
            prop_assert_eq!(decode_message(value.as_bytes()), text);
        }

        #[test]
        fn nothing_panics(value in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode_message(&value);
        }
    }
}
