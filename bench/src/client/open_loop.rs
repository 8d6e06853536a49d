//! Work at a fixed rate, whatever comes back: an open loop.
//!
//! Every message has a time at which it is due, and its latency counts from that time. A proxy that stops for a moment
//! makes all messages late that were due meanwhile, as it would with real clients; a closed loop would just send fewer
//! (Tene, "How NOT to Measure Latency": coordinated omission).
//!
//! One thread sleeps until the next message is due and sends it, another waits for answers: a single one would either
//! spin, and so take the processor from the backend, or learn of answers late.

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::client::Job;
use crate::client::pingpong::interrupted;
use crate::cpu::{self, Window};
use crate::histogram::Histogram;
use crate::report::{Pace, Sample};

/// Nanoseconds of a second.
const NS_PER_S: u64 = 1_000_000_000;
/// Messages are due at multiples of this, several at once at high rates: waking up for each of 40,000 a second would take
/// a processor, and the load generator would measure itself.
const GRID_NS: u64 = 100_000;
/// Bytes of one read.
const BUFFER_BYTES: usize = 16 << 10;
/// Time after the last message was due in which answers still count; what has not come by then counts as failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Parts of a measurement whose p99s are compared: a stop of the whole machine falls into one or two.
const PARTS: usize = 11;
/// Sleeps of the sender end as exactly as the kernel can; 50 µs late is usual otherwise (prctl(2), PR_SET_TIMERSLACK).
const TIMER_SLACK: (&str, &str) = ("/proc/self/timerslack_ns", "1");

/// The receiving end of some connections.
pub(super) trait Receiver {
    /// The connections.
    fn streams(&self) -> impl Iterator<Item = &TcpStream>;

    /// Takes all that has come on the connection of this index, which is told only once.
    fn take(&mut self, index: usize, buffer: &mut [u8], score: &mut Score) -> Result<()>;

    /// Which of the first `count` messages have no answer.
    fn unanswered(&self, count: u64) -> Vec<u64>;
}

/// Measures each of the rates, in messages per second, one after the other.
///
/// `open` makes connections for each, since answers that another rate still waits for must not come into this one. What it
/// returns beside the receiver is how the message of a number is sent, or given up at a time.
pub(super) fn run<R, S>(job: &Job, rates: &[u32], open: impl Fn() -> Result<(R, S)>) -> Result<Vec<Sample>>
where
    R: Receiver,
    S: FnMut(u64, Instant) -> Result<()> + Send + 'static,
{
    // Before the threads are made, which inherit it; without it the load generator says that it is late.
    let _ = std::fs::write(TIMER_SLACK.0, TIMER_SLACK.1);
    let at_rate = |rate: &u32| {
        let (receiver, send) = open()?;
        at_rate(job, *rate, receiver, send)
    };
    rates.iter().map(at_rate).collect()
}

fn at_rate(
    job: &Job,
    rate: u32,
    mut receiver: impl Receiver,
    send: impl FnMut(u64, Instant) -> Result<()> + Send + 'static,
) -> Result<Sample> {
    let mut poll = Poll::new()?;
    for (index, stream) in receiver.streams().enumerate() {
        poll.registry().register(&mut SourceFd(&stream.as_raw_fd()), Token(index), Interest::READABLE)?;
    }
    // holds the warm-up too: opening one reads much of /proc, and would make messages late
    let window = Window::open(&job.watched)?;
    let timetable = Timetable::new(job, rate);
    let sender = thread::spawn(move || send_all(timetable, send));
    let mut score = Score::new(timetable);
    take_all(&mut poll, &mut receiver, &mut score)?;
    let usage = window.close()?;
    let late = sender.join().map_err(|_| anyhow!("the sender panicked"))??;
    Ok(Sample {
        ops: (timetable.count - score.left) as f64,
        failures: score.left,
        usage,
        latency: score.latency.quantiles(),
        pace: Some(Pace {
            wanted: rate,
            late: late.quantiles().unwrap_or_default(),
            usual_p99_ns: score.usual_p99_ns().unwrap_or_default(),
        }),
        ..Sample::default()
    })
}

/// When each message is due: one after the other, over the connections in turn.
#[derive(Clone, Copy, Debug)]
struct Timetable {
    began: Instant,
    rate: u32,
    /// Messages before those whose latency counts.
    warm_up_count: u64,
    /// All messages.
    count: u64,
}

impl Timetable {
    fn new(job: &Job, rate: u32) -> Self {
        let within = |time: Duration| cpu::as_ns(time) * u64::from(rate) / NS_PER_S;
        let warm_up_count = within(job.warm_up);
        Self { began: Instant::now(), rate, warm_up_count, count: warm_up_count + within(job.length) }
    }

    /// In which of the parts a message is due; none before its latency counts.
    fn part(&self, number: u64) -> Option<usize> {
        let counted = number.checked_sub(self.warm_up_count)?;
        usize::try_from(counted * PARTS as u64 / (self.count - self.warm_up_count)).ok()
    }

    fn due(&self, number: u64) -> Instant {
        let evenly_ns = number * NS_PER_S / u64::from(self.rate);
        self.began + Duration::from_nanos(evenly_ns / GRID_NS * GRID_NS)
    }
}

/// Sends each message when it is due, and returns how late that was: the load generator's own fault, or that of somebody
/// who does not read.
fn send_all(timetable: Timetable, mut send: impl FnMut(u64, Instant) -> Result<()>) -> Result<Histogram> {
    let mut late = Histogram::default();
    for number in 0..timetable.count {
        let due = timetable.due(number);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if number >= timetable.warm_up_count {
            late.record(cpu::as_ns(due.elapsed()));
        }
        send(number, due + PATIENCE)?;
    }
    Ok(late)
}

/// Waits for the answers to all messages, or until patience ends.
fn take_all(poll: &mut Poll, receiver: &mut impl Receiver, score: &mut Score) -> Result<()> {
    let count = score.timetable.count;
    let until = score.timetable.due(count) + PATIENCE;
    let mut events = Events::with_capacity(1024);
    let mut buffer = [0; BUFFER_BYTES];
    while score.left > 0 {
        let patience = until.saturating_duration_since(Instant::now());
        if patience.is_zero() {
            // What never came has taken until now at least: left out, a stuck proxy would look fast.
            let now = Instant::now();
            receiver.unanswered(count).into_iter().for_each(|number| score.record(number, now));
            return Ok(());
        }
        poll.poll(&mut events, Some(patience)).or_else(interrupted)?;
        for event in &events {
            receiver.take(event.token().0, &mut buffer, score)?;
        }
    }
    Ok(())
}

/// What has been answered, and how long after it was due.
#[derive(Debug)]
pub(super) struct Score {
    timetable: Timetable,
    /// Messages without an answer.
    left: u64,
    latency: Histogram,
    /// The same of equal parts of the time.
    parts: [Histogram; PARTS],
}

impl Score {
    fn new(timetable: Timetable) -> Self {
        Self {
            timetable,
            left: timetable.count,
            latency: Histogram::default(),
            parts: std::array::from_fn(|_| Histogram::default()),
        }
    }

    /// Counts the answer to a message.
    pub(super) fn answer(&mut self, number: u64, now: Instant) {
        self.left -= 1;
        self.record(number, now);
    }

    fn record(&mut self, number: u64, now: Instant) {
        if let Some(part) = self.timetable.part(number) {
            let latency_ns = cpu::as_ns(now.saturating_duration_since(self.timetable.due(number)));
            self.latency.record(latency_ns);
            self.parts[part].record(latency_ns);
        }
    }

    /// What one in a hundred exceeds in the middle one of the parts.
    fn usual_p99_ns(&self) -> Option<u64> {
        let mut of_parts: Vec<u64> =
            self.parts.iter().filter_map(|part| Some(part.quantiles()?.p99_ns)).collect();
        of_parts.sort_unstable();
        of_parts.get(of_parts.len() / 2).copied()
    }
}

/// Reads once; none if nothing has come.
pub(super) fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> Result<Option<usize>> {
    match stream.read(buffer) {
        Ok(0) => bail!("closed in the middle"),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("cannot receive"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_of_the_machine_is_in_the_tail_but_not_in_what_is_usual() {
        let timetable = Timetable { began: Instant::now(), rate: 10_000, warm_up_count: 1000, count: 12_000 };
        let mut score = Score::new(timetable);
        for number in 0..timetable.count {
            // 50 ms stand still from the 300th of a second on; one in twenty takes longer as a rule.
            let due = timetable.due(number);
            let stop = timetable.due(4000)..timetable.due(4500);
            let took = Duration::from_micros(if number % 20 == 0 { 300 } else { 100 });
            score.answer(number, if stop.contains(&due) { stop.end + took } else { due + took });
        }
        let all = score.latency.quantiles().unwrap();
        assert!(all.p50_ns < 110_000 && all.p99_ns > 30_000_000, "{all:?}");
        let usual = score.usual_p99_ns().unwrap();
        assert!((300_000..310_000).contains(&usual), "{usual}");
        assert_eq!(
            [999, 1000, 1999, 2000, 11_999].map(|n| timetable.part(n)),
            [None, Some(0), Some(0), Some(1), Some(10)]
        );
    }
}
