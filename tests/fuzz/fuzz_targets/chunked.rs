//! Any bytes are a chunked body, the beginning of one, or none; the same however they are split, and never more than there is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_user::forward::http1::{Chunked, Fault};

/// Bytes that were the body's, what was inside, and whether it is complete.
type Taken = (usize, Vec<u8>, bool);

fn take<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Taken, Fault> {
    let mut chunked = Chunked::new(4, 256);
    let (mut used, mut data) = (0, Vec::new());
    for piece in pieces {
        let count = chunked.take(piece, |bytes| data.extend_from_slice(bytes))?;
        assert!(count <= piece.len());
        used += count;
        assert!(count == piece.len() || chunked.is_done(), "what is left is the next message's");
        if count < piece.len() {
            break;
        }
    }
    Ok((used, data, chunked.is_done()))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = (usize::from(input.0) + 1, input.1);
    let whole = take([bytes]);
    assert_eq!(take(bytes.chunks(size)), whole);
    assert_eq!(take(bytes.chunks(1)), whole);
    if let Ok((used, data, true)) = whole {
        assert_eq!(take([&bytes[..used]]), Ok((used, data.clone(), true)), "nothing behind it mattered");
        let end = if data.is_empty() { String::new() } else { format!("{:x}\r\n", data.len()) };
        let tail: &[u8] = if data.is_empty() { b"0\r\n\r\n" } else { b"\r\n0\r\n\r\n" };
        let one = [end.as_bytes(), &data, tail].concat();
        assert_eq!(take([&one[..]]), Ok((one.len(), data, true)));
    }
});
