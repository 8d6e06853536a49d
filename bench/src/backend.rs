//! The far side: one port that gives back what it is sent, one that sends without end, and servers of HTTP.

pub mod grpc;
pub mod http;

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;

use crate::client::pingpong::interrupted;
use crate::contestant::Ports;
use crate::http::tls;

/// Token of the listener; connections count up from 0.
const LISTENER: Token = Token(usize::MAX);
/// Connections that may wait for their accept: as many as Linux allows by default (net.core.somaxconn). With the 128 of the
/// standard library the queue overflows when a stranger has our processor for a moment, and each connection that is turned
/// away costs its client a second.
const QUEUE_LEN: u32 = 4096;
/// Bytes of one read and write.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes of one write of the endless port.
const SOURCE_BYTES: usize = 256 << 10;

/// Serves all ports for ever, HTTPS with this certificate and its key; says `ready` on standard output first.
///
/// # Errors
/// If an address is taken.
pub fn run(ports: Ports, certificate: &Path, key: &Path) -> Result<()> {
    let source = listen(ports.source)?;
    source.set_nonblocking(false)?;
    thread::spawn(move || {
        for stream in source.incoming().flatten() {
            thread::spawn(move || pour(stream));
        }
    });
    let (plain, secure, grpc) = (listen(ports.http)?, listen(ports.https)?, listen(ports.grpc)?);
    let server = tls::Server::new(certificate, key)?;
    spawn("http", move || http::run(plain, secure, server));
    spawn("grpc", move || grpc::run(grpc));
    let listener = TcpListener::from_std(listen(ports.echo)?);
    writeln!(io::stdout(), "ready")?;
    Echo { listener, poll: Poll::new()?, conns: Slab::new() }.run()
}

/// Runs a server that should not end; if it does, clients see nobody and the log says why.
fn spawn(name: &'static str, server: impl FnOnce() -> Result<()> + Send + 'static) {
    thread::spawn(move || {
        if let Err(error) = server() {
            let _ = writeln!(io::stderr(), "{name}: {error:#}");
        }
    });
}

/// Opens a listener that does not block. By way of tokio: the standard library has no say in the length of the queue.
fn listen(address: SocketAddr) -> Result<std::net::TcpListener> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    let listener = socket.bind(address).and_then(|()| socket.listen(QUEUE_LEN));
    Ok(listener.with_context(|| format!("cannot listen on {address}"))?.into_std()?)
}

/// Sends until the other side has enough.
fn pour(mut stream: std::net::TcpStream) {
    let block = vec![0x5a; SOURCE_BYTES];
    while stream.write_all(&block).is_ok() {}
}

struct Echo {
    listener: TcpListener,
    poll: Poll,
    conns: Slab<Conn>,
}

struct Conn {
    stream: TcpStream,
    /// What the kernel did not take; nothing more is read until it has.
    unsent: Vec<u8>,
}

impl Echo {
    fn run(mut self) -> Result<()> {
        self.poll.registry().register(&mut self.listener, LISTENER, Interest::READABLE)?;
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            self.poll.poll(&mut events, None).or_else(interrupted)?;
            for event in &events {
                if event.token() == LISTENER {
                    let conn = |stream| Ok(Conn { stream, unsent: Vec::new() });
                    accept_all(&self.listener, self.poll.registry(), &mut self.conns, conn)?;
                } else if let Some(conn) = self.conns.get_mut(event.token().0)
                    && conn.advance(&mut buffer).is_err()
                {
                    self.conns.remove(event.token().0);
                }
            }
        }
    }
}

/// Accepts all that wait, and makes connections of them; their places are their tokens.
fn accept_all<C>(
    listener: &TcpListener,
    registry: &Registry,
    conns: &mut Slab<C>,
    make: impl Fn(TcpStream) -> Result<C>,
) -> Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // the peer gave up in the queue
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error).context("cannot accept"),
        };
        stream.set_nodelay(true).ok();
        let place = conns.vacant_entry();
        registry.register(&mut stream, Token(place.key()), Interest::READABLE | Interest::WRITABLE)?;
        place.insert(make(stream)?);
    }
}

impl Conn {
    /// Gives back what has come; an error is the end of the connection.
    fn advance(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) => return waiting(error),
            }
        }
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) => return waiting(error),
            };
            let sent = self.stream.write(&buffer[..count]).or_else(|error| waiting(error).map(|()| 0))?;
            if sent < count {
                self.unsent.extend_from_slice(&buffer[sent..count]);
                return Ok(());
            }
            if count < buffer.len() {
                // a short read has emptied the socket, and what comes later is a new event (epoll(7))
                return Ok(());
            }
        }
    }
}

/// Nothing is wrong if there is just nothing to do.
fn waiting(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }
}
