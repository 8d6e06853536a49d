//! Connections that live for one request: connect, ask, answer, close.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};

use crate::client::Job;
use crate::client::pingpong::{interrupted, message};
use crate::cpu::{self, Window};
use crate::histogram::Histogram;
use crate::report::Sample;

/// Connections under way at once.
const AT_ONCE: usize = 16;
/// Bytes of the request and of the answer.
const BYTES: usize = 64;
/// Time without any answer after which the proxy counts as stuck.
const STUCK: Duration = Duration::from_secs(5);

struct Slot {
    stream: TcpStream,
    is_sent: bool,
    received: usize,
    began: Instant,
}

/// Measures how fast connections come and go. The client closes first.
///
/// # Errors
/// If nothing comes back any more.
pub fn run(job: &Job) -> Result<Sample> {
    let mut poll = Poll::new()?;
    let request = message(1, BYTES);
    let mut work = Work {
        target: job.target,
        request,
        slots: Vec::new(),
        latency: Histogram::default(),
        ops: 0,
        failures: 0,
    };
    for index in 0..AT_ONCE {
        let slot = work.open(poll.registry(), index)?;
        work.slots.push(slot);
    }
    work.turn(&mut poll, job.warm_up)?;
    work.latency.clear();
    (work.ops, work.failures) = (0, 0);
    let window = Window::open(&job.watched)?;
    work.turn(&mut poll, job.length)?;
    let usage = window.close()?;
    let latency = work.latency.quantiles();
    Ok(Sample { ops: work.ops as f64, failures: work.failures, usage, latency, ..Sample::default() })
}

struct Work {
    target: SocketAddr,
    request: Vec<u8>,
    slots: Vec<Slot>,
    latency: Histogram,
    ops: u64,
    failures: u64,
}

impl Work {
    fn open(&self, registry: &Registry, index: usize) -> io::Result<Slot> {
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.target)?;
        registry.register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Slot { stream, is_sent: false, received: 0, began })
    }

    fn turn(&mut self, poll: &mut Poll, length: Duration) -> Result<()> {
        let mut events = Events::with_capacity(AT_ONCE * 2);
        let until = Instant::now() + length;
        loop {
            poll.poll(&mut events, Some(STUCK)).or_else(interrupted)?;
            ensure!(!events.is_empty(), "no answer for {} s", STUCK.as_secs());
            for event in &events {
                let index = event.token().0;
                match self.slots[index].advance(&self.request) {
                    Ok(false) => continue,
                    Ok(true) => {
                        self.latency.record(cpu::as_ns(self.slots[index].began.elapsed()));
                        self.ops += 1;
                    }
                    Err(_) => self.failures += 1,
                }
                // assigning drops, and so closes, the old connection
                self.slots[index] = self.open(poll.registry(), index)?;
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }
}

impl Slot {
    /// Does what can be done now; true when the answer is complete.
    fn advance(&mut self, request: &[u8]) -> io::Result<bool> {
        if !self.is_sent {
            match self.stream.write(request) {
                Ok(count) if count == request.len() => self.is_sent = true,
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if is_early(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; BYTES * 2];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) if request.get(self.received..self.received + count) == Some(&buffer[..count]) => {
                self.received += count;
                Ok(self.received == request.len())
            }
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) if is_early(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Not connected yet, or nothing there yet.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}
