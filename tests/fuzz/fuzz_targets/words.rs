//! Words that a fuzzer would be long in finding.

const WORDS: [&[u8]; 21] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\r\nHost: x\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n",
    b"POST http://y/ HTTP/1.1\r\nHost: x\r\n",
    b"CONNECT y:1 HTTP/1.1\r\nHost: x\r\n",
    b"OPTIONS * HTTP/1.0\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 101 Go\r\n",
    b"HTTP/1.0 204 No\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: ",
    b"chunked",
    b"Connection: ",
    b"close, ",
    b"Upgrade",
    b": websocket",
    b"Expect: 100-continue",
    b"HTTP2-Settings: ",
    b"Keep-Alive: ",
    b"\xe9",
];

/// Puts a word in place of each byte that is not ASCII.
pub fn spell(bytes: &[u8]) -> Vec<u8> {
    let word = |byte: &u8| match byte {
        0..=0x7f => vec![*byte],
        _ => WORDS[usize::from(byte & 0x7f) % WORDS.len()].to_vec(),
    };
    bytes.iter().flat_map(word).collect()
}
