//! The header `grpc-retry-pushback-ms`: when an endpoint wants to see a call again (gRPC proposal A6, "Pushback").

use std::time::Duration;

/// Longest pause that an endpoint may ask for. A call that waits holds its message and its client's stream; whoever is told to
/// wait longer can do that better himself.
pub const MAX_PUSHBACK: Duration = Duration::from_secs(30);

/// What an endpoint says about another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// None is wanted.
    Never,
    /// One is welcome after this time, in place of the pause that would be drawn.
    After(Duration),
}

impl Pushback {
    /// Reads a value of `grpc-retry-pushback-ms`: a number of 32 bits. A negative one means none, as does whatever is no number.
    #[must_use]
    pub fn from_header(value: &[u8]) -> Self {
        let digits_only = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i32>().ok());
        let millis = number.filter(|_| digits_only).and_then(|number| u64::try_from(number).ok());
        millis.map_or(Self::Never, |millis| Self::After(Duration::from_millis(millis)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_no_time_means_never() {
        for (value, millis) in [("0", 0), ("1500", 1500), ("2147483647", 2_147_483_647)] {
            assert_eq!(
                Pushback::from_header(value.as_bytes()),
                Pushback::After(Duration::from_millis(millis))
            );
        }
        for value in
            ["", "-1", "-0", "+1", "1.5", " 1", "1s", "2147483648", "99999999999999999999", "\u{661}"]
        {
            assert_eq!(Pushback::from_header(value.as_bytes()), Pushback::Never, "{value:?}");
        }
        assert_eq!(Pushback::from_header(b"\xff"), Pushback::Never);
    }
}
