//! Messages at a fixed rate, each over the next connection, whatever comes back.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::client::pingpong::message;
use crate::client::{Job, open_loop};
use crate::report::Sample;

/// Pause before sending again what the kernel had no room for.
const NO_ROOM_PAUSE: Duration = Duration::from_micros(50);

/// Measures `connections` at each of the rates, in messages per second.
///
/// # Errors
/// If a connection fails or answers wrongly.
pub fn run(job: &Job, connections: usize, bytes: usize, rates: &[u32]) -> Result<Vec<Sample>> {
    ensure!(bytes > 0 && connections > 0, "nothing to send");
    open_loop::run(job, rates, || {
        let conns = (0..connections).map(|index| Conn::open(job, message(index, bytes)));
        let conns: Arc<[Conn]> = conns.collect::<Result<Vec<_>>>()?.into();
        let receiver = Receiver { received: vec![0; connections], conns: Arc::clone(&conns) };
        let mut turns = (0..connections).cycle();
        Ok((receiver, move |_, until| turns.next().map_or(Ok(()), |index| conns[index].send(until))))
    })
}

struct Conn {
    stream: TcpStream,
    /// What it sends over and over, and is answered.
    message: Vec<u8>,
}

impl Conn {
    fn open(job: &Job, message: Vec<u8>) -> Result<Self> {
        Ok(Self { stream: job.connect()?, message })
    }

    fn send(&self, until: Instant) -> Result<()> {
        let mut unsent = self.message.as_slice();
        while !unsent.is_empty() {
            match (&self.stream).write(unsent) {
                Ok(count) => unsent = &unsent[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    thread::sleep(NO_ROOM_PAUSE);
                }
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }

    /// Whether these bytes are what comes back after `received` others.
    fn is_answer(&self, received: usize, bytes: &[u8]) -> bool {
        let expected = self.message.iter().cycle().skip(received % self.message.len());
        bytes.iter().zip(expected).all(|(byte, wanted)| byte == wanted)
    }
}

/// Takes answers of all connections; those of one come in the order of their messages.
struct Receiver {
    conns: Arc<[Conn]>,
    /// Bytes of each connection.
    received: Vec<usize>,
}

impl open_loop::Receiver for Receiver {
    fn streams(&self) -> impl Iterator<Item = &TcpStream> {
        self.conns.iter().map(|conn| &conn.stream)
    }

    fn take(&mut self, index: usize, buffer: &mut [u8], score: &mut open_loop::Score) -> Result<()> {
        let conn = &self.conns[index];
        while let Some(count) = open_loop::read(&conn.stream, buffer)? {
            let now = Instant::now();
            ensure!(conn.is_answer(self.received[index], &buffer[..count]), "a wrong answer");
            let (bytes, before) = (conn.message.len(), self.received[index]);
            self.received[index] += count;
            for nth in before / bytes..self.received[index] / bytes {
                score.answer(self.number(index, nth), now);
            }
            if count < buffer.len() {
                // a short read has emptied the socket, and what comes later is a new event (epoll(7))
                break;
            }
        }
        Ok(())
    }

    fn unanswered(&self, count: u64) -> Vec<u64> {
        let of_conn = |index: usize| {
            let first = self.received[index] / self.conns[index].message.len();
            (first..).map(move |nth| self.number(index, nth)).take_while(move |number| *number < count)
        };
        (0..self.conns.len()).flat_map(of_conn).collect()
    }
}

impl Receiver {
    /// Place of a connection's nth message among all.
    fn number(&self, index: usize, nth: usize) -> u64 {
        (nth * self.conns.len() + index) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;
    use crate::client::open_loop::PATIENCE;

    #[test]
    fn a_pause_of_the_far_side_is_in_the_latency_of_all_messages_that_were_due_meanwhile() {
        let pause = Duration::from_millis(120);
        let sample = &run(&job(echo(pause)), 2, 64, &[1000]).unwrap()[0];
        assert_eq!((sample.ops, sample.failures), (200.0, 0), "{sample:?}");
        // 120 of 200 messages were due in the pause, evenly, and the other 80 later: half of all wait for 20 ms
        assert!(sample.latency.unwrap().p50_ns > 10_000_000, "{sample:?}");
    }

    #[test]
    fn what_never_comes_back_is_counted_and_slow() {
        let sample = &run(&job(echo(PATIENCE * 2)), 2, 64, &[500]).unwrap()[0];
        assert_eq!((sample.ops, sample.failures), (0.0, 100), "{sample:?}");
        assert!(Duration::from_nanos(sample.latency.unwrap().p50_ns) >= PATIENCE, "{sample:?}");
    }

    #[test]
    fn a_wrong_answer_is_found_wherever_it_begins() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let conn = Conn::open(&job(listener.local_addr().unwrap()), vec![1, 2, 3]).unwrap();
        assert!(conn.is_answer(4, &[2, 3, 1, 2]) && !conn.is_answer(4, &[2, 3, 1, 1]));
    }

    fn job(target: SocketAddr) -> Job {
        Job { target, watched: Vec::new(), warm_up: Duration::ZERO, length: Duration::from_millis(200) }
    }

    /// Gives everything back, but not before this time after the first byte.
    fn echo(pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    stream.peek(&mut [0]).unwrap();
                    thread::sleep(pause);
                    io::copy(&mut &stream, &mut &stream)
                });
            }
        });
        address
    }
}
