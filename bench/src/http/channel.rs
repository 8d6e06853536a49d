//! A stream with or without TLS, blocking or not.

use std::io::{self, Read, Write};

use rustls::Connection;

/// What a request goes through.
#[derive(Debug)]
pub enum Channel<S> {
    /// As it is.
    Plain(S),
    /// Through TLS; the handshake goes along with the first reads and writes.
    Tls(S, Box<Connection>),
}

impl<S: Read + Write> Channel<S> {
    /// Sends what TLS has left to send; it is not an error if there is no room for it yet.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn push(&mut self) -> io::Result<()> {
        let Self::Tls(stream, session) = self else { return Ok(()) };
        while session.wants_write() {
            match session.write_tls(stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether a read that did not fill its buffer has emptied the socket (epoll(7)): TLS may hold more.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl<S: Read + Write> Read for Channel<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let (stream, session) = match self {
                Self::Plain(stream) => return stream.read(buffer),
                Self::Tls(stream, session) => (stream, session),
            };
            match session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            session.read_tls(stream)?;
            session.process_new_packets().map_err(io::Error::other)?;
            self.push()?;
        }
    }
}

impl<S: Read + Write> Write for Channel<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let session = match self {
            Self::Plain(stream) => return stream.write(bytes),
            Self::Tls(_, session) => session,
        };
        // a session takes 64 KiB that are not sent yet; nothing more before they are
        let count = session.writer().write(bytes)?;
        self.push()?;
        if count == 0 && !bytes.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()
    }
}
