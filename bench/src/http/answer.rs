//! Reads an answer: as little of it as is needed to know that it is whole and right.

use anyhow::{Context as _, Result, bail, ensure};

use super::{Pattern, head_len, header};

/// Most bytes of a head; those of all contestants have a few hundred.
const MOST_HEAD_BYTES: usize = 16 << 10;

/// One answer, as far as it has come.
#[derive(Debug)]
pub struct Answer {
    /// The body that was asked for.
    seed: usize,
    bytes: u64,
    head: Vec<u8>,
    /// Bytes of the body that have come; none before the head has.
    taken: Option<u64>,
}

impl Answer {
    /// To a request for this body.
    #[must_use]
    pub fn to(bytes: u64, seed: usize) -> Self {
        Self { seed, bytes, head: Vec::new(), taken: None }
    }

    /// Begins again, for the next answer to the same request.
    pub fn reset(&mut self) {
        self.head.clear();
        self.taken = None;
    }

    /// Takes what has come; true when the answer is complete.
    ///
    /// # Errors
    /// If it is no success, not as long as was asked for or without a length, has a wrong body, or goes on after its end.
    pub fn take(&mut self, bytes: &[u8], pattern: &Pattern) -> Result<bool> {
        if self.taken.is_some() {
            return self.take_body(bytes, pattern);
        }
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some(len) = head_len(&self.head, before) else {
            ensure!(self.head.len() < MOST_HEAD_BYTES, "a head without an end");
            return Ok(false);
        };
        let announced = body_len(&self.head[..len])?;
        ensure!(announced == self.bytes, "{announced} bytes instead of {}", self.bytes);
        self.taken = Some(0);
        self.take_body(&bytes[len - before..], pattern)
    }

    /// Bytes of the body that have come.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.unwrap_or_default()
    }

    fn take_body(&mut self, mut bytes: &[u8], pattern: &Pattern) -> Result<bool> {
        let mut taken = self.taken();
        while !bytes.is_empty() {
            ensure!(taken < self.bytes, "bytes after the end of the answer");
            let wanted = pattern.piece(self.seed, taken, (self.bytes - taken).min(bytes.len() as u64));
            let (found, rest) = bytes.split_at(wanted.len());
            ensure!(found == wanted, "a wrong body");
            taken += found.len() as u64;
            bytes = rest;
        }
        self.taken = Some(taken);
        Ok(taken == self.bytes)
    }
}

/// What a head says of its body.
fn body_len(head: &[u8]) -> Result<u64> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if !line.starts_with(b"HTTP/1.1 200") {
        bail!("it answers: {}", String::from_utf8_lossy(line));
    }
    let length = header(head, "content-length").context("an answer without content-length")?;
    length.parse().with_context(|| format!("an odd content-length: {length}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(head: &str, bytes: u64) -> Vec<u8> {
        [head.as_bytes(), Pattern::default().piece(3, 0, bytes)].concat()
    }

    #[test]
    fn an_answer_is_the_same_however_it_is_cut() {
        let pattern = Pattern::default();
        let text = answer("HTTP/1.1 200 OK\r\nserver: x\r\nContent-Length: 300\r\n\r\n", 300);
        for cut in 0..text.len() {
            let mut answer = Answer::to(300, 3);
            assert!(!answer.take(&text[..cut], &pattern).unwrap(), "{cut}");
            assert!(answer.take(&text[cut..], &pattern).unwrap(), "{cut}");
            assert_eq!(answer.taken(), 300);
        }
        let mut answer = Answer::to(300, 3);
        let ends: Vec<bool> = text.iter().map(|byte| answer.take(&[*byte], &pattern).unwrap()).collect();
        assert_eq!(ends.iter().position(|is_end| *is_end), Some(text.len() - 1));
    }

    #[test]
    fn the_next_answer_is_read_from_its_beginning() {
        let pattern = Pattern::default();
        let text = answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 5);
        let mut answer = Answer::to(5, 3);
        for _ in 0..3 {
            assert!(answer.take(&text, &pattern).unwrap());
            answer.reset();
        }
    }

    #[test]
    fn an_empty_body_ends_with_the_head() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        assert!(Answer::to(0, 3).take(text, &Pattern::default()).unwrap());
    }

    #[test]
    fn wrong_answers_are_found_out() {
        let right = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        let mut changed = answer(right, 5);
        *changed.last_mut().unwrap() ^= 1;
        let cases = [
            (
                answer("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\n", 5),
                "503 Service Unavailable",
            ),
            (answer("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n", 6), "6 bytes instead of 5"),
            (answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 5), "without content-length"),
            (answer("HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\n", 5), "odd content-length"),
            (answer(right, 6), "after the end"),
            (changed, "wrong body"),
            (vec![b'x'; MOST_HEAD_BYTES], "without an end"),
        ];
        for (text, reason) in cases {
            let error = Answer::to(5, 3).take(&text, &Pattern::default()).unwrap_err();
            assert!(format!("{error:#}").contains(reason), "{error:#} instead of {reason}");
        }
    }
}
