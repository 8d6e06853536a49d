//! Messages at a fixed rate, whatever comes back: an open loop.
//!
//! Every message has a time at which it is due, and its latency counts from that time. A proxy that stops for a moment
//! makes all messages late that were due meanwhile, as it would with real clients; a closed loop would just send fewer
//! (Tene, "How NOT to Measure Latency": coordinated omission).
//!
//! One thread sleeps until the next message is due and sends it, another waits for answers: a single one would either
//! spin, and so take the processor from the backend, or learn of answers late.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::client::Job;
use crate::client::pingpong::{interrupted, message};
use crate::cpu::{self, Window};
use crate::histogram::Histogram;
use crate::report::{Pace, Sample};

/// Nanoseconds of a second.
const NS_PER_S: u64 = 1_000_000_000;
/// Messages are due at multiples of this, several at once at high rates: waking up for each of 40,000 a second would take
/// a processor, and the load generator would measure itself.
const GRID_NS: u64 = 100_000;
/// Bytes of one read.
pub(super) const BUFFER_BYTES: usize = 16 << 10;
/// Pause before sending again what the kernel had no room for.
const NO_ROOM_PAUSE: Duration = Duration::from_micros(50);
/// Time after the last message was due in which answers still count; what has not come by then counts as failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Sleeps of the sender end as exactly as the kernel can; 50 µs late is usual otherwise (prctl(2), PR_SET_TIMERSLACK).
const TIMER_SLACK: (&str, &str) = ("/proc/self/timerslack_ns", "1");

/// When each message is due: one after the other, over the connections in turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timetable {
    began: Instant,
    rate: u32,
    /// Messages before those whose latency counts.
    pub(super) warm_up_count: u64,
    /// All messages.
    pub(super) count: u64,
}

impl Timetable {
    pub(super) fn new(job: &Job, rate: u32) -> Self {
        let within = |time: Duration| cpu::as_ns(time) * u64::from(rate) / NS_PER_S;
        let warm_up_count = within(job.warm_up);
        Self { began: Instant::now(), rate, warm_up_count, count: warm_up_count + within(job.length) }
    }

    pub(super) fn due(&self, number: u64) -> Instant {
        let evenly_ns = number * NS_PER_S / u64::from(self.rate);
        self.began + Duration::from_nanos(evenly_ns / GRID_NS * GRID_NS)
    }
}

/// Measures `connections` at each of the rates, in messages per second, one after the other.
///
/// # Errors
/// If a connection fails or answers wrongly.
pub fn run(job: &Job, connections: usize, bytes: usize, rates: &[u32]) -> Result<Vec<Sample>> {
    exact_sleep();
    ensure!(bytes > 0 && connections > 0, "nothing to send");
    rates.iter().map(|rate| at_rate(job, connections, bytes, *rate)).collect()
}

/// Asks the kernel for it, before the threads are made, which inherit it; without it the load generator says that it is late.
pub(super) fn exact_sleep() {
    let _ = std::fs::write(TIMER_SLACK.0, TIMER_SLACK.1);
}

/// With connections of its own: answers that another rate still waits for must not come into this one.
fn at_rate(job: &Job, connections: usize, bytes: usize, rate: u32) -> Result<Sample> {
    let conns = (0..connections).map(|index| Conn::open(job, message(index, bytes)));
    let conns: Arc<[Conn]> = conns.collect::<Result<Vec<_>>>()?.into();
    let mut receiver = Receiver::new(Arc::clone(&conns))?;
    // holds the warm-up too: opening one reads much of /proc, and would make messages late
    let window = Window::open(&job.watched)?;
    let timetable = Timetable::new(job, rate);
    let sender = thread::spawn(move || {
        let mut conns = conns.iter().cycle();
        let mut send = |until| conns.next().map_or(Ok(()), |conn| conn.send(until));
        send_all(timetable, |number| send(timetable.due(number) + PATIENCE))
    });
    let unanswered = receiver.take_all(timetable)?;
    let usage = window.close()?;
    let late = sender.join().map_err(|_| anyhow!("the sender panicked"))??;
    Ok(Sample {
        ops: (timetable.count - unanswered) as f64,
        failures: unanswered,
        usage,
        latency: receiver.latency.quantiles(),
        pace: Some(Pace { wanted: rate, late: late.quantiles().unwrap_or_default() }),
        ..Sample::default()
    })
}

struct Conn {
    stream: TcpStream,
    /// What it sends over and over, and is answered.
    message: Vec<u8>,
}

impl Conn {
    fn open(job: &Job, message: Vec<u8>) -> Result<Self> {
        let stream = TcpStream::connect(job.target).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, message })
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

/// Sends each message when it is due, and returns how late that was: the load generator's own fault, or that of somebody
/// who does not read.
pub(super) fn send_all(timetable: Timetable, mut send: impl FnMut(u64) -> Result<()>) -> Result<Histogram> {
    let mut late = Histogram::default();
    for number in 0..timetable.count {
        let due = timetable.due(number);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if number >= timetable.warm_up_count {
            late.record(cpu::as_ns(due.elapsed()));
        }
        send(number)?;
    }
    Ok(late)
}

/// Takes answers of all connections; those of one come in the order of their messages.
struct Receiver {
    conns: Arc<[Conn]>,
    /// Bytes of each connection.
    received: Vec<usize>,
    poll: Poll,
    latency: Histogram,
}

impl Receiver {
    fn new(conns: Arc<[Conn]>) -> Result<Self> {
        let poll = Poll::new()?;
        for (index, conn) in conns.iter().enumerate() {
            let fd = conn.stream.as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(index), Interest::READABLE)?;
        }
        Ok(Self { received: vec![0; conns.len()], conns, poll, latency: Histogram::default() })
    }

    /// Waits for the answers to all messages of the timetable; returns how many never came.
    fn take_all(&mut self, timetable: Timetable) -> Result<u64> {
        let until = timetable.due(timetable.count) + PATIENCE;
        let mut events = Events::with_capacity(1024);
        let mut left = timetable.count;
        while left > 0 {
            let patience = until.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                self.blame(timetable);
                break;
            }
            self.poll.poll(&mut events, Some(patience)).or_else(interrupted)?;
            for event in &events {
                left -= self.take(event.token().0, timetable)?;
            }
        }
        Ok(left)
    }

    /// Takes what has come on one connection; returns how many answers are complete.
    fn take(&mut self, index: usize, timetable: Timetable) -> Result<u64> {
        let mut buffer = [0; BUFFER_BYTES];
        let mut complete = 0;
        loop {
            let conn = &self.conns[index];
            let count = match (&conn.stream).read(&mut buffer) {
                Ok(0) => bail!("closed in the middle"),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(complete),
                Err(error) => return Err(error).context("cannot receive"),
            };
            let now = Instant::now();
            ensure!(conn.is_answer(self.received[index], &buffer[..count]), "a wrong answer");
            let (bytes, before) = (conn.message.len(), self.received[index]);
            self.received[index] += count;
            for nth in before / bytes..self.received[index] / bytes {
                self.record(index, nth, now, timetable);
                complete += 1;
            }
            if count < buffer.len() {
                // a short read has emptied the socket, and what comes later is a new event (epoll(7))
                return Ok(complete);
            }
        }
    }

    /// What never came has taken until now at least: left out, a stuck proxy would look fast.
    fn blame(&mut self, timetable: Timetable) {
        let now = Instant::now();
        for index in 0..self.conns.len() {
            let mut nth = self.received[index] / self.conns[index].message.len();
            while self.number(index, nth) < timetable.count {
                self.record(index, nth, now, timetable);
                nth += 1;
            }
        }
    }

    fn record(&mut self, index: usize, nth: usize, now: Instant, timetable: Timetable) {
        let number = self.number(index, nth);
        if number >= timetable.warm_up_count {
            self.latency.record(cpu::as_ns(now.saturating_duration_since(timetable.due(number))));
        }
    }

    /// Place of a connection's nth message among all.
    fn number(&self, index: usize, nth: usize) -> u64 {
        (nth * self.conns.len() + index) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;

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
