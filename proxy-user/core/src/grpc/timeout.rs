//! The header `grpc-timeout`: the time that a call has left.

use std::time::Duration;

/// Digits that a value has at most (PROTOCOL-HTTP2, "TimeoutValue").
const MAX_DIGITS: usize = 8;
/// Largest value.
const MAX_VALUE: u128 = 99_999_999;

/// Units with their length in nanoseconds, finest first.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// Reads a value of `grpc-timeout`: one to eight digits and a unit. None if it is anything else; zero is over at once.
#[must_use]
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=MAX_DIGITS).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'n' => Duration::from_nanos(number),
        b'u' => Duration::from_micros(number),
        b'm' => Duration::from_millis(number),
        b'S' => Duration::from_secs(number),
        b'M' => Duration::from_secs(number * 60),
        b'H' => Duration::from_secs(number * 3600),
        _ => return None,
    })
}

/// A value of `grpc-timeout`, held where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutText {
    bytes: [u8; MAX_DIGITS + 1],
    /// Where it begins: digits are written from their end.
    start: u8,
}

impl TimeoutText {
    /// The value, ASCII.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

/// Writes the time that is left as a value of `grpc-timeout`, in the finest unit that it fits: never more than it is, and less
/// by a part of 100,000 at most.
///
/// No time at all is written as one nanosecond, because the specification wants a positive number; more than 99,999,999 hours
/// as that.
#[must_use]
pub fn format_timeout(left: Duration) -> TimeoutText {
    let left_ns = left.as_nanos().max(1);
    let (unit, unit_ns) = UNITS
        .into_iter()
        .find(|(_, unit_ns)| left_ns / unit_ns <= MAX_VALUE)
        .unwrap_or(UNITS[UNITS.len() - 1]);
    let mut value = (left_ns / unit_ns).min(MAX_VALUE);
    let mut text = TimeoutText { bytes: [unit; MAX_DIGITS + 1], start: 0 };
    for at in (0..MAX_DIGITS).rev() {
        text.bytes[at] = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        if value == 0 {
            text.start = u8::try_from(at).unwrap_or(0);
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_a_few_digits_and_a_unit() {
        for (value, time) in [
            ("1n", Duration::from_nanos(1)),
            ("50u", Duration::from_micros(50)),
            ("99999999m", Duration::from_millis(99_999_999)),
            ("00000010S", Duration::from_secs(10)),
            ("2M", Duration::from_secs(120)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(parse_timeout(value.as_bytes()), Some(time), "{value}");
        }
        for value in [
            "",
            "S",
            "1",
            "1s",
            "1h",
            "-1S",
            "+1S",
            "1.5S",
            " 1S",
            "1S ",
            "123456789n",
            "1 S",
            "1ms",
            "\u{661}S",
        ] {
            assert_eq!(parse_timeout(value.as_bytes()), None, "{value:?}");
        }
    }

    #[test]
    fn what_is_written_is_as_exact_as_its_digits_allow() {
        for (time, value) in [
            (Duration::ZERO, "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(2), "2000000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::MAX, "99999999H"),
        ] {
            let text = format_timeout(time);
            assert_eq!(std::str::from_utf8(text.as_bytes()), Ok(value));
        }
    }

    proptest! {
        /// From hop to hop a deadline shrinks and never grows, and no time is lost that counts.
        #[test]
        fn what_is_written_reads_back_as_no_more_and_hardly_less(seconds in 0..u64::MAX >> 24, nanos in 0u32..1_000_000_000) {
            let left = Duration::new(seconds >> (nanos % 40), nanos);
            let text = format_timeout(left);
            let read = parse_timeout(text.as_bytes()).unwrap();
            let most = Duration::from_secs(99_999_999 * 3600);
            prop_assert!(!read.is_zero());
            prop_assert!(read <= left.max(Duration::from_nanos(1)));
            prop_assert!(left.min(most) - read.min(left.min(most)) <= left / 100_000);
            let again = format_timeout(read);
            prop_assert_eq!(parse_timeout(again.as_bytes()), Some(read), "it is lossy once");
        }

        #[test]
        fn nothing_panics(value in prop::collection::vec(any::<u8>(), 0..12)) {
            let _ = parse_timeout(&value);
        }
    }
}
