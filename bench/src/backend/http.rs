//! An HTTP/1.1 server: bodies of any length by path, connections that stay open until the client says otherwise.

use std::io::{self, Read as _, Write as _};

use anyhow::Result;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::{BUFFER_BYTES, accept_all, waiting};
use crate::client::pingpong::interrupted;
use crate::http::channel::Channel;
use crate::http::{PATH, Pattern, head_len, header, tls};

/// Tokens of the listeners; connections count up from 0.
const PLAIN: Token = Token(usize::MAX);
const SECURE: Token = Token(usize::MAX - 1);
/// Most bytes of a body that go out together with their head: one write for all but downloads.
const WITH_HEAD_BYTES: u64 = 64 << 10;
/// Most bytes of a request; those of all contestants have a few hundred.
const MOST_REQUEST_BYTES: usize = 16 << 10;

/// Serves both listeners for ever.
///
/// # Errors
/// If a listener cannot be polled any more.
pub fn run(plain: std::net::TcpListener, secure: std::net::TcpListener, server: tls::Server) -> Result<()> {
    let (plain, secure) = (TcpListener::from_std(plain), TcpListener::from_std(secure));
    Server { plain, secure, server, poll: Poll::new()?, conns: Slab::new() }.run()
}

struct Server {
    plain: TcpListener,
    secure: TcpListener,
    server: tls::Server,
    poll: Poll,
    conns: Slab<Conn>,
}

impl Server {
    fn run(mut self) -> Result<()> {
        self.poll.registry().register(&mut self.plain, PLAIN, Interest::READABLE)?;
        self.poll.registry().register(&mut self.secure, SECURE, Interest::READABLE)?;
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER_BYTES];
        let pattern = Pattern::default();
        loop {
            self.poll.poll(&mut events, None).or_else(interrupted)?;
            for event in &events {
                let token = event.token();
                if token == PLAIN || token == SECURE {
                    self.accept_all(token == SECURE)?;
                } else if let Some(conn) = self.conns.get_mut(token.0)
                    && conn.advance(&mut buffer, &pattern).is_err()
                {
                    self.conns.remove(token.0);
                }
            }
        }
    }

    fn accept_all(&mut self, is_secure: bool) -> Result<()> {
        let listener = if is_secure { &self.secure } else { &self.plain };
        accept_all(listener, self.poll.registry(), &mut self.conns, |stream| {
            Ok(Conn::new(match is_secure {
                true => Channel::Tls(stream, self.server.connection()?),
                false => Channel::Plain(stream),
            }))
        })
    }
}

struct Conn {
    channel: Channel<TcpStream>,
    /// Of the next request.
    received: Vec<u8>,
    reply: Reply,
}

impl Conn {
    fn new(channel: Channel<TcpStream>) -> Self {
        Self { channel, received: Vec::new(), reply: Reply::default() }
    }

    /// Does what can be done now; an error is the end of the connection.
    fn advance(&mut self, buffer: &mut [u8], pattern: &Pattern) -> io::Result<()> {
        self.channel.push()?;
        loop {
            if let Err(error) = self.reply.send(&mut self.channel, pattern) {
                return waiting(error);
            }
            if self.reply.is_last {
                self.channel.push()?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if let Some(len) = head_len(&self.received, 0) {
                self.reply = Reply::to(&self.received[..len], pattern)?;
                self.received.drain(..len);
                continue;
            }
            if self.received.len() > MOST_REQUEST_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            match self.channel.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) => return waiting(error),
            }
        }
    }
}

/// What is left to send.
#[derive(Debug, Default)]
struct Reply {
    /// The head, and all of a body that is not large.
    start: Vec<u8>,
    sent: usize,
    seed: usize,
    /// Place in the body, and its end.
    place: u64,
    end: u64,
    is_last: bool,
}

impl Reply {
    fn to(request: &[u8], pattern: &Pattern) -> io::Result<Self> {
        let (bytes, seed) = asked(request).ok_or(io::ErrorKind::InvalidData)?;
        let is_last = header(request, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let close = if is_last { "connection: close\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {bytes}\r\n{close}\r\n"
        );
        let mut reply = Self { start: head.into_bytes(), sent: 0, seed, place: 0, end: bytes, is_last };
        if bytes <= WITH_HEAD_BYTES {
            reply.start.extend_from_slice(pattern.piece(seed, 0, bytes));
            reply.place = bytes;
        }
        Ok(reply)
    }

    fn send(&mut self, channel: &mut Channel<TcpStream>, pattern: &Pattern) -> io::Result<()> {
        while self.sent < self.start.len() {
            self.sent += channel.write(&self.start[self.sent..])?;
        }
        while self.place < self.end {
            self.place += channel.write(pattern.piece(self.seed, self.place, self.end - self.place))? as u64;
        }
        Ok(())
    }
}

/// Length and seed of the body that is asked for.
fn asked(request: &[u8]) -> Option<(u64, usize)> {
    let line = str::from_utf8(request.split(|byte| *byte == b'\r').next()?).ok()?;
    let (bytes, seed) = line.strip_prefix("GET ")?.split(' ').next()?.strip_prefix(PATH)?.split_once('/')?;
    Some((bytes.parse().ok()?, seed.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request;

    #[test]
    fn requests_are_understood_and_others_are_not() {
        assert_eq!(asked(&request(10_240, 17, false)), Some((10_240, 17)));
        assert_eq!(asked(b"GET /b/100/x HTTP/1.1\r\n\r\n"), None);
        assert_eq!(asked(b"POST /b/100/1 HTTP/1.1\r\n\r\n"), None);
        let pattern = Pattern::default();
        let is_last = |is_last| Reply::to(&request(100, 1, is_last), &pattern).unwrap().is_last;
        assert_eq!((is_last(true), is_last(false)), (true, false));
    }
}
