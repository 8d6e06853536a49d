//! What client and backend of the HTTP cases have in common: requests, bodies that can be checked, TLS.
//!
//! A request says how long the answer's body is to be and which one, so that an answer that belongs to another connection is
//! found out: `/b/BYTES/SEED`.

pub mod answer;
pub mod channel;
pub mod tls;

/// Host of the one route that every contestant has.
pub const HOST: &str = "bench.test";
/// gRPC method of the one route.
pub const METHOD: &str = "/bench.Bench/Echo";
/// Where paths of the backend begin.
pub const PATH: &str = "/b/";

/// Bodies repeat themselves after so many bytes: a prime, so that nothing that is lost or doubled goes unseen.
const PERIOD: usize = 251;
/// Most bytes of a body in one piece.
const PIECE_BYTES: usize = 256 << 10;

/// Bytes of all bodies: any piece of any body is a slice of it.
#[derive(Debug)]
pub struct Pattern(Vec<u8>);

impl Default for Pattern {
    fn default() -> Self {
        let byte = |at: usize| u8::try_from(at % PERIOD).unwrap_or_default();
        Self((0..PERIOD + PIECE_BYTES).map(byte).collect())
    }
}

impl Pattern {
    /// The bytes at this place of a body, `most` of them or as many as come in one piece.
    #[must_use]
    pub fn piece(&self, seed: usize, place: u64, most: u64) -> &[u8] {
        let place = usize::try_from(place % PERIOD as u64).unwrap_or_default();
        let begin = (seed % PERIOD * 31 + place) % PERIOD;
        let len = usize::try_from(most).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        &self.0[begin..begin + len]
    }
}

/// The request for a body of `bytes`.
#[must_use]
pub fn request(bytes: u64, seed: usize, is_last: bool) -> Vec<u8> {
    let close = if is_last { "connection: close\r\n" } else { "" };
    format!(
        "GET {PATH}{bytes}/{seed} HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: weir-bench\r\naccept: */*\r\n{close}\r\n"
    )
    .into()
}

/// End of a head, from its first byte to behind the empty line, if it has come; what was looked at before need not be again.
#[must_use]
pub fn head_len(bytes: &[u8], looked_at: usize) -> Option<usize> {
    let from = looked_at.saturating_sub(3);
    bytes[from..].windows(4).position(|four| four == b"\r\n\r\n").map(|at| from + at + 4)
}

/// The value of a header in a head; names are written in any case.
#[must_use]
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    let value = |line: &'a [u8]| {
        let (found, rest) = line.split_at_checked(name.len())?;
        let rest = rest.strip_prefix(b":").filter(|_| found.eq_ignore_ascii_case(name.as_bytes()))?;
        str::from_utf8(rest).ok().map(str::trim)
    };
    lines.filter_map(value).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_body_fit_together_and_bodies_differ() {
        let pattern = Pattern::default();
        let whole = pattern.piece(7, 0, 1000).to_vec();
        let parts = [pattern.piece(7, 0, 300), pattern.piece(7, 300, 700)].concat();
        assert_eq!(whole, parts);
        assert_ne!(pattern.piece(7, 0, 100), pattern.piece(8, 0, 100));
        assert_eq!(pattern.piece(250, u64::MAX, u64::MAX).len(), PIECE_BYTES);
    }

    #[test]
    fn headers_are_found_whatever_their_case_and_not_in_other_names() {
        let head = b"HTTP/1.1 200 OK\r\nx-content-length: 9\r\nContent-Length:  12 \r\n\r\n";
        assert_eq!(header(head, "content-length"), Some("12"));
        assert_eq!(header(head, "content"), None);
        assert_eq!(header(b"content-length: 3\r\n\r\n", "content-length"), None, "that is the first line");
    }

    #[test]
    fn the_end_of_a_head_is_found_across_reads() {
        let head = b"GET / HTTP/1.1\r\n\r\nmore";
        assert_eq!(head_len(head, 0), Some(18));
        for cut in 0..18 {
            assert_eq!(head_len(&head[..cut], 0), None);
            assert_eq!(head_len(head, cut), Some(18), "{cut}");
        }
    }
}
