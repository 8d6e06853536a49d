//! The chunked transfer coding (RFC 9112, 7.1), read strictly: what is passed on is passed on as it came, so nothing may
//! come that somebody else could read differently.

use super::Fault;

/// Bytes of a chunk's size line: 16 digits and extensions, which nobody uses.
const MOST_LINE_BYTES: u16 = 256;
/// Hexadecimal digits of a size: what fits into 64 bits.
const MOST_DIGITS: u8 = 16;

/// Follows a chunked body.
///
/// ```text
///   Size ──;──> Extension ──CR──> SizeEnd ──LF, size > 0──> Data ──> DataCr ──> DataLf ──> Size
///                                    └─LF, size 0──> Trailer (lines) ──empty line──> Done
/// ```
#[derive(Debug)]
pub struct Chunked {
    state: State,
    size: u64,
    digits: u8,
    line_bytes: u16,
    trailer: Vec<u8>,
    trailers: usize,
    trailer_bytes: usize,
    /// Lines of trailers, if somebody wants them.
    kept: Option<Vec<u8>>,
    most_trailers: usize,
    most_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    Trailer,
    Done,
}

/// Trailers that would change what was said about the message already (RFC 9110, 6.5.1), or who is said to have sent it:
/// there are servers that take trailers for headers.
const FORBIDDEN_TRAILERS: [&str; 22] = [
    "content-length",
    "transfer-encoding",
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
    "content-encoding",
    "content-type",
    "content-range",
    "trailer",
    "authorization",
    "proxy-authorization",
    "cookie",
    "expect",
    "te",
    "upgrade",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

impl Chunked {
    /// Begins a body with at most so many trailers, in so many bytes.
    #[must_use]
    pub fn new(most_trailers: usize, most_bytes: usize) -> Self {
        Self {
            state: State::Size,
            size: 0,
            digits: 0,
            line_bytes: 0,
            trailer: Vec::new(),
            trailers: 0,
            trailer_bytes: 0,
            kept: None,
            most_trailers,
            most_bytes,
        }
    }

    /// Keeps the trailers, for somebody who cannot pass them on as they came.
    #[must_use]
    pub fn keeping_trailers(mut self) -> Self {
        self.kept = Some(Vec::new());
        self
    }

    /// The lines of the trailers, each checked and with its end; none if there are none, or are not kept.
    #[must_use]
    pub fn take_trailers(&mut self) -> Vec<u8> {
        self.kept.take().unwrap_or_default()
    }

    /// Tells whether the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Tells how many of these bytes belong to the body, and moves on by them; `data` is given what is inside the chunks.
    ///
    /// # Errors
    /// `Chunk` or `Trailer`, at the first byte that is wrong.
    pub fn take(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, Fault> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let count = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len() - at);
                data(&bytes[at..at + count]);
                self.size -= count as u64;
                at += count;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<(), Fault> {
        self.state = match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => State::SizeEnd,
            (State::Size, b';') if self.digits > 0 => self.extended()?,
            (State::Size, byte) => self.digit(byte)?,
            (State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, b'\t' | b' '..=0x7e | 0x80..) => self.extended()?,
            (State::SizeEnd, b'\n') => self.begin_chunk(),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::Trailer, byte) => self.trailer(byte)?,
            _ => return Err(Fault::Chunk),
        };
        Ok(())
    }

    fn extended(&mut self) -> Result<State, Fault> {
        self.line_bytes += 1;
        if self.line_bytes > MOST_LINE_BYTES { Err(Fault::Chunk) } else { Ok(State::Extension) }
    }

    fn digit(&mut self, byte: u8) -> Result<State, Fault> {
        let digit = char::from(byte).to_digit(16).ok_or(Fault::Chunk)?;
        self.digits += 1;
        if self.digits > MOST_DIGITS {
            return Err(Fault::Chunk);
        }
        self.size = self.size << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn begin_chunk(&mut self) -> State {
        self.digits = 0;
        self.line_bytes = 0;
        if self.size == 0 { State::Trailer } else { State::Data }
    }

    fn trailer(&mut self, byte: u8) -> Result<State, Fault> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > self.most_bytes {
            return Err(Fault::HeadTooLarge);
        }
        self.trailer.push(byte);
        if byte != b'\n' {
            return Ok(State::Trailer);
        }
        if self.trailer == b"\r\n" {
            self.trailer = Vec::new();
            return Ok(State::Done);
        }
        self.trailers += 1;
        if self.trailers > self.most_trailers {
            return Err(Fault::TooManyFields);
        }
        check_trailer(&self.trailer)?;
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&self.trailer);
        }
        self.trailer.clear();
        Ok(State::Trailer)
    }
}

/// Tells whether no trailer may have this name.
#[must_use]
pub fn is_forbidden_trailer(name: &str) -> bool {
    FORBIDDEN_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

fn check_trailer(line: &[u8]) -> Result<(), Fault> {
    if !line.ends_with(b"\r\n") {
        return Err(Fault::LineEnd);
    }
    let mut block = line.to_vec();
    block.extend_from_slice(b"\r\n");
    let mut slots = [httparse::EMPTY_HEADER; 1];
    match httparse::parse_headers(&block, &mut slots) {
        Ok(httparse::Status::Complete((_, [field]))) => {
            if is_forbidden_trailer(field.name) {
                Err(Fault::Trailer)
            } else {
                Ok(())
            }
        }
        _ => Err(Fault::Trailer),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes a body that comes in pieces: bytes that belong to it, data, and whether it is complete.
    fn take(pieces: &[&[u8]]) -> Result<(usize, Vec<u8>, bool), Fault> {
        let mut chunked = Chunked::new(2, 64);
        let (mut used, mut data) = (0, Vec::new());
        for piece in pieces {
            let count = chunked.take(piece, |bytes| data.extend_from_slice(bytes))?;
            used += count;
            if count < piece.len() {
                break;
            }
        }
        Ok((used, data, chunked.is_done()))
    }

    #[test]
    fn chunks_extensions_and_trailers_are_understood() {
        let body = b"5\r\nhello\r\n00B;a=b;c\r\n, wide world\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\nnext";
        assert!(take(&[body]).is_err(), "11 bytes were said, 12 came");
        let body = b"5\r\nhello\r\n00c;a=b;c\r\n, wide world\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\nnext";
        assert_eq!(take(&[body]), Ok((body.len() - 4, b"hello, wide world".to_vec(), true)));
        assert_eq!(take(&[b"0\r\n\r\n"]), Ok((5, vec![], true)));
        assert_eq!(take(&[b"1\r\na\r\n"]), Ok((6, b"a".to_vec(), false)));
    }

    #[test]
    fn what_could_be_read_differently_is_refused() {
        let chunk: [&[u8]; 13] = [
            b"\r\n",
            b" 1\r\na",
            b"1 \r\na",
            b"0x1\r\na",
            b"+1\r\na",
            b"-1\r\na",
            b"1\na",
            b"1;a\nb",
            b"1;\0\r\na",
            b"1\r\nab\r\n",
            b"1\r\na\n",
            b"00000000000000001\r\na",
            b"g\r\n",
        ];
        for body in chunk {
            assert_eq!(take(&[body]), Err(Fault::Chunk), "{:?}", String::from_utf8_lossy(body));
        }
        let trailer: [&[u8]; 6] = [
            b"0\r\nno colon\r\n",
            b"0\r\na : b\r\n",
            b"0\r\n a: b\r\n",
            b"0\r\na: \0\r\n",
            b"0\r\nHost: b\r\n",
            b"0\r\nX-Forwarded-For: b\r\n",
        ];
        for body in trailer {
            assert_eq!(take(&[body]), Err(Fault::Trailer), "{:?}", String::from_utf8_lossy(body));
        }
        assert_eq!(take(&[b"0\r\na: b\n"]), Err(Fault::LineEnd));
        assert_eq!(take(&[b"0\r\na:\r\nb:\r\nc:\r\n"]), Err(Fault::TooManyFields));
        assert_eq!(take(&[b"0\r\na: ", &[b'x'; 70]]), Err(Fault::HeadTooLarge));
        let long = [b"1;", &[b'x'; 300][..]].concat();
        assert_eq!(take(&[&long]), Err(Fault::Chunk));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(bytes in "([0-3]{1,2}|\r\n|a|;|:){0,40}", cut in 0usize..80, other in 0usize..80) {
            let bytes = bytes.as_bytes();
            let (first, second) = (cut.min(bytes.len()), other.min(bytes.len()));
            let (first, second) = (first.min(second), first.max(second));
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            prop_assert_eq!(take(&pieces), take(&[bytes]));
        }
    }
}
