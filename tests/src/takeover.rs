//! Either side of a live upgrade, as a process of another version would speak it.

use std::io::{Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proxy_io::unix;
use serde_json::{Value, json};

/// Where a newer process asks.
pub const SOCKET: &str = "/run/weir/takeover.sock";
/// Time for an answer.
const LIMIT: Duration = Duration::from_secs(20);

/// Says one message as the protocol has it.
///
/// # Panics
/// If nobody listens any more.
pub fn say(mut stream: &UnixStream, message: &Value, fds: &[BorrowedFd<'_>]) {
    let text = message.to_string();
    let mut bytes = u32::try_from(text.len()).expect("it is short").to_be_bytes().to_vec();
    bytes.extend(u32::try_from(fds.len()).expect("they are few").to_be_bytes());
    bytes.extend(text.bytes());
    stream.write_all(&bytes).expect("somebody listens");
    if !fds.is_empty() {
        unix::send_fds(stream, fds).expect("somebody listens");
    }
}

/// Hears one, and how many descriptors came along.
///
/// # Panics
/// If none comes.
#[must_use]
pub fn hear(mut stream: &UnixStream) -> (Value, usize) {
    let mut lengths = [0; 8];
    stream.read_exact(&mut lengths).expect("a message");
    let lengths = u64::from_be_bytes(lengths);
    let (body, fds) = (lengths >> 32, lengths & u64::from(u32::MAX));
    let mut text = vec![0; usize::try_from(body).expect("32 bits")];
    stream.read_exact(&mut text).expect("a whole message");
    let mut count = 0;
    while (count as u64) < fds {
        count += unix::recv_fds(stream).expect("descriptors").len();
    }
    (serde_json::from_slice(&text).expect("JSON"), count)
}

/// Says a newer process's first word and hears the answer, with the number of its descriptors.
///
/// # Panics
/// If nobody answers.
#[must_use]
pub fn say_hello(protocol: u32, abi: u32) -> (UnixStream, Value, usize) {
    let stream = UnixStream::connect(SOCKET).expect("somebody listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time above zero");
    let hello = json!({"protocol": protocol, "abi": abi, "version": "9.9.9", "process": 1, "more": []});
    say(&stream, &hello, &[]);
    let (answer, count) = hear(&stream);
    (stream, answer, count)
}
