//! Messages there and back on connections that stay open, one under way on each.

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::client::Job;
use crate::cpu::{self, Window};
use crate::histogram::Histogram;
use crate::report::Sample;

/// Time without any answer after which the proxy counts as stuck.
const STUCK: Duration = Duration::from_secs(5);

struct Conn {
    stream: TcpStream,
    message: Vec<u8>,
    sent: usize,
    received: usize,
    began: Instant,
}

/// Measures `connections` with messages of `bytes`; every answer is compared with what was sent.
///
/// # Errors
/// If a connection fails or answers wrongly, or nothing comes back any more.
pub fn run(job: &Job, connections: usize, bytes: usize) -> Result<Sample> {
    let mut poll = Poll::new()?;
    let mut conns = Vec::with_capacity(connections);
    for index in 0..connections {
        let mut stream = TcpStream::from_std(job.connect()?);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        conns.push(Conn {
            stream,
            message: message(index, bytes),
            sent: 0,
            received: 0,
            began: Instant::now(),
        });
    }
    let mut buffer = vec![0; bytes.max(1) * 2];
    let mut latency = Histogram::default();
    for conn in &mut conns {
        conn.send()?;
    }
    turn(&mut poll, &mut conns, &mut buffer, &mut latency, job.warm_up)?;
    latency.clear();
    let window = Window::open(&job.watched)?;
    let ops = turn(&mut poll, &mut conns, &mut buffer, &mut latency, job.length)?;
    let usage = window.close()?;
    Ok(Sample { ops: ops as f64, usage, latency: latency.quantiles(), ..Sample::default() })
}

/// Different on each connection, so that mixed-up connections are found out.
pub(crate) fn message(index: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((index * 31 + at) % 251).unwrap_or_default()).collect()
}

fn turn(
    poll: &mut Poll,
    conns: &mut [Conn],
    buffer: &mut [u8],
    latency: &mut Histogram,
    length: Duration,
) -> Result<u64> {
    let mut events = Events::with_capacity(1024);
    let until = Instant::now() + length;
    let mut ops = 0;
    loop {
        poll.poll(&mut events, Some(STUCK)).or_else(interrupted)?;
        ensure!(!events.is_empty(), "no answer for {} s", STUCK.as_secs());
        for event in &events {
            let Some(conn) = conns.get_mut(event.token().0) else { continue };
            if event.is_readable() && conn.handle_readable(buffer)? {
                latency.record(cpu::as_ns(conn.began.elapsed()));
                ops += 1;
                conn.begin()?;
            } else if conn.sent < conn.message.len() {
                conn.send()?;
            }
        }
        if Instant::now() >= until {
            return Ok(ops);
        }
    }
}

/// A signal that is no reason to stop waiting.
pub(crate) fn interrupted(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

impl Conn {
    fn begin(&mut self) -> Result<()> {
        (self.sent, self.received, self.began) = (0, 0, Instant::now());
        self.send()
    }

    /// Sends what the kernel takes; the rest goes when it says that there is room.
    fn send(&mut self) -> Result<()> {
        while self.sent < self.message.len() {
            match self.stream.write(&self.message[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }

    /// Takes what has come; true when the answer is complete.
    fn handle_readable(&mut self, buffer: &mut [u8]) -> Result<bool> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => bail!("closed in the middle"),
                Ok(count) => {
                    let expected = self.message.get(self.received..self.received + count);
                    ensure!(expected == Some(&buffer[..count]), "a wrong answer");
                    self.received += count;
                    if self.received == self.message.len() {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
    }
}
