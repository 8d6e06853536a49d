//! Finding the end of a head, however its bytes arrive.

use super::Fault;

/// Empty lines before a request that are overlooked (RFC 9112, 2.2).
const LEADING_LINES: u16 = 1;

/// Looks for the empty line that ends a head. Remembers how far it looked, so that a head that comes byte by byte costs
/// no more than one that comes at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// Bytes that were looked at.
    seen: usize,
    /// Where the current line begins.
    line: usize,
    /// Lines so far that are not empty.
    lines: u16,
    leading: u16,
}

impl Scan {
    /// Looks at all bytes of a message so far, of which those of the last call are the beginning. Gives the length of the
    /// head once it is complete.
    ///
    /// # Errors
    /// `LineEnd` for a line feed without a carriage return, which parsers read differently; `HeadTooLarge` and
    /// `TooManyFields` beyond `most_bytes` and `most_fields`.
    pub fn find(
        &mut self,
        bytes: &[u8],
        most_bytes: usize,
        most_fields: usize,
    ) -> Result<Option<usize>, Fault> {
        for offset in memchr::memchr_iter(b'\n', &bytes[self.seen..]) {
            let at = self.seen + offset;
            let text = &bytes[self.line..at];
            let Some(text) = text.strip_suffix(b"\r") else { return Err(Fault::LineEnd) };
            self.line = at + 1;
            if !text.is_empty() {
                self.lines = self.lines.saturating_add(1);
                // The first line is none of the fields.
                if usize::from(self.lines) > most_fields + 1 {
                    return Err(Fault::TooManyFields);
                }
            } else if self.lines > 0 {
                return if at + 1 > most_bytes { Err(Fault::HeadTooLarge) } else { Ok(Some(at + 1)) };
            } else if self.leading == LEADING_LINES {
                return Err(Fault::StartLine);
            } else {
                self.leading += 1;
            }
        }
        self.seen = bytes.len();
        if bytes.len() >= most_bytes { Err(Fault::HeadTooLarge) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(bytes: &[u8]) -> Result<Option<usize>, Fault> {
        Scan::default().find(bytes, 64, 3)
    }

    #[test]
    fn the_head_ends_with_its_empty_line() {
        assert_eq!(find(b"GET / HTTP/1.1\r\na: b\r\n\r\nrest"), Ok(Some(24)));
        assert_eq!(
            find(b"\r\nGET / HTTP/1.1\r\n\r\n"),
            Ok(Some(20)),
            "one empty line in front is overlooked"
        );
        assert_eq!(find(b"GET / HTTP/1.1\r\na: b\r\n\r"), Ok(None));
        assert_eq!(find(b""), Ok(None));
    }

    #[test]
    fn what_parsers_read_differently_or_is_too_much_is_refused() {
        assert_eq!(find(b"GET / HTTP/1.1\na: b\r\n"), Err(Fault::LineEnd));
        assert_eq!(find(b"GET / HTTP/1.1\r\n\n"), Err(Fault::LineEnd));
        assert_eq!(find(b"\r\n\r\nGET"), Err(Fault::StartLine));
        assert_eq!(find(b"G\r\na\r\nb\r\nc\r\nd\r\n\r\n"), Err(Fault::TooManyFields));
        assert_eq!(find(&[b'a'; 64]), Err(Fault::HeadTooLarge));
        let mut long = vec![b'a'; 61];
        long.extend(b"\r\n\r\n");
        assert_eq!(find(&long), Err(Fault::HeadTooLarge));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(bytes in "[a\r\n]{0,80}", cuts in prop::collection::vec(0usize..80, 0..8)) {
            let bytes = bytes.as_bytes();
            let whole = find(bytes);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut scan = Scan::default();
            let mut split = Ok(None);
            for cut in cuts {
                split = scan.find(&bytes[..cut], 64, 3);
                if split != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(split, whole);
        }
    }
}
