//! Names of a request that outlive it: `x-request-id`, and the trace that it belongs to (`traceparent`, W3C Trace Context).
//!
//! A request that comes without `x-request-id` gets one, so that its lines in several logs can be found. `traceparent` is
//! passed on as it came, valid or not, and never made: whoever makes one begins a trace, and says that somebody records the
//! spans in it. Weir records none, so its parent would be missing in every trace. (The standard's section 4.3 lets an
//! intermediary that takes no part in a trace pass the header on unchanged.)

/// Longest `x-request-id` of a client that is kept: more than a UUID, a ULID or a trace's header need.
const MOST_ID_BYTES: usize = 128;

/// A new name for a request: a random UUID (RFC 9562, version 4) in its usual text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 36]);

impl RequestId {
    /// Makes a name from random bytes.
    #[must_use]
    pub fn new(mut random: [u8; 16]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        random[6] = random[6] & 0x0f | 0x40;
        random[8] = random[8] & 0x3f | 0x80;
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (index, byte) in random.into_iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 15)];
            at += 2;
        }
        Self(text)
    }

    /// The text, as bytes of a header.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("digits and hyphens are UTF-8")
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Tells whether a client's own `x-request-id` is kept: short enough, and nothing but visible ASCII that no log could take for
/// anything else. Another one is replaced.
#[must_use]
pub fn is_kept_request_id(value: &[u8]) -> bool {
    let is_plain = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'<' | b'>');
    !value.is_empty() && value.len() <= MOST_ID_BYTES && value.iter().all(is_plain)
}

/// What a valid `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent<'a> {
    /// Number of the whole trace: 32 hexadecimal digits in lower case.
    pub trace_id: &'a str,
    /// Number of the caller's span: 16 such digits.
    pub parent_id: &'a str,
    /// The caller records it.
    pub is_sampled: bool,
}

impl<'a> TraceParent<'a> {
    /// Reads a header's value; none if it is not valid (W3C Trace Context, 3.2).
    ///
    /// Of versions to come only what version 00 defines is read, as the standard asks.
    #[must_use]
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        const BYTES: usize = 55;
        let text = str::from_utf8(value).ok()?;
        let (known, rest) = text.split_at_checked(BYTES)?;
        let mut parts = known.split('-');
        let mut part = |digits: usize| {
            let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            parts.next().filter(|part| part.len() == digits && part.bytes().all(is_hex))
        };
        let (version, trace_id, parent_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let is_longer_allowed = version != "00" && rest.starts_with('-');
        let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
        if version == "ff"
            || !(rest.is_empty() || is_longer_allowed)
            || is_zero(trace_id)
            || is_zero(parent_id)
        {
            return None;
        }
        let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace_id, parent_id, is_sampled })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn names_are_uuids_of_version_4() {
        assert_eq!(RequestId::new([0; 16]).as_str(), "00000000-0000-4000-8000-000000000000");
        assert_eq!(RequestId::new([0xff; 16]).as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        let bytes: [u8; 16] = std::array::from_fn(|n| u8::try_from(n * 17).unwrap());
        assert_eq!(format!("{:?}", RequestId::new(bytes)), "00112233-4455-4677-8899-aabbccddeeff");
    }

    #[test]
    fn sane_names_of_clients_are_kept() {
        for kept in ["1", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "Root=1-67891233-abcdef;x=y", &"x".repeat(128)] {
            assert!(is_kept_request_id(kept.as_bytes()), "{kept}");
        }
        for replaced in ["", "a b", "a\tb", "a\"b", "a\\b", "<b>", "é", "a\u{7f}", &"x".repeat(129)] {
            assert!(!is_kept_request_id(replaced.as_bytes()), "{replaced:?}");
        }
    }

    #[test]
    fn traces_are_read_as_the_standard_says() {
        let parent = "00f067aa0ba902b7";
        let valid = format!("00-{TRACE}-{parent}-01");
        let read = TraceParent::parse(valid.as_bytes()).unwrap();
        assert_eq!(read, TraceParent { trace_id: TRACE, parent_id: parent, is_sampled: true });
        let is_sampled = |text: String| TraceParent::parse(text.as_bytes()).map(|parent| parent.is_sampled);
        assert_eq!(is_sampled(format!("00-{TRACE}-{parent}-00")), Some(false));
        assert_eq!(is_sampled(format!("00-{TRACE}-{parent}-ff")), Some(true), "unknown flags do not matter");
        assert_eq!(is_sampled(format!("cc-{TRACE}-{parent}-01-what-comes")), Some(true), "a version to come");
        for wrong in [
            String::new(),
            format!("ff-{TRACE}-{parent}-01"),
            format!("00-{TRACE}-{parent}-01-more"),
            format!("01-{TRACE}-{parent}-01more"),
            format!("00-{TRACE}-{parent}-1"),
            format!("00-{}-{parent}-01", TRACE.to_uppercase()),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00_{TRACE}-{parent}-01"),
            format!("0-{TRACE}0-{parent}-01"),
            format!("00-{TRACE}-{parent}-0g"),
            format!("00-{TRACE}-{parent}é-"),
        ] {
            assert_eq!(TraceParent::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_new_name_is_one_that_would_be_kept(random in any::<[u8; 16]>()) {
            prop_assert!(is_kept_request_id(RequestId::new(random).as_bytes()));
        }

        #[test]
        fn no_bytes_panic(value in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = (TraceParent::parse(&value), is_kept_request_id(&value));
        }
    }
}
