//! HTTP/1.1 requests at a fixed rate, whatever comes back.
//!
//! A connection carries one request at a time. A request that is due while all connections are busy waits for one, and
//! its latency counts from the time that it was due at.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::client::{Job, open_loop};
use crate::http::answer::Answer;
use crate::http::{Pattern, request};
use crate::report::Sample;

/// Measures `connections` at each of the rates, in requests per second.
///
/// # Errors
/// If a connection fails or answers wrongly.
pub fn run(job: &Job, connections: usize, bytes: u64, rates: &[u32]) -> Result<Vec<Sample>> {
    ensure!(connections > 0, "nothing to send");
    open_loop::run(job, rates, || {
        let board = Arc::new(Board::open(job, connections, bytes)?);
        let answers = (0..connections).map(|seed| Answer::to(bytes, seed)).collect();
        let receiver = Receiver { board: Arc::clone(&board), answers, pattern: Pattern::default() };
        Ok((receiver, move |number, _| board.start(number)))
    })
}

/// The connections, and which request is where.
struct Board {
    conns: Vec<Conn>,
    places: Mutex<Places>,
}

struct Conn {
    stream: TcpStream,
    request: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
struct Places {
    /// Connections without a request, the one that has rested longest first: so all are used in turn.
    free: VecDeque<usize>,
    /// Requests that are due and found no free connection.
    waiting: VecDeque<u64>,
    /// The request on each connection.
    under_way: Vec<Option<u64>>,
}

impl Places {
    fn new(connections: usize) -> Self {
        Self {
            free: (0..connections).collect(),
            waiting: VecDeque::new(),
            under_way: vec![None; connections],
        }
    }

    /// The connection that this request goes out on now; none if it has to wait.
    fn begin(&mut self, number: u64) -> Option<usize> {
        let Some(index) = self.free.pop_front() else {
            self.waiting.push_back(number);
            return None;
        };
        self.under_way[index] = Some(number);
        Some(index)
    }

    /// The request that a connection has answered, and whether another one goes out on it now.
    fn end(&mut self, index: usize) -> (Option<u64>, bool) {
        let next = self.waiting.pop_front();
        let answered = std::mem::replace(&mut self.under_way[index], next);
        if next.is_none() {
            self.free.push_back(index);
        }
        (answered, next.is_some())
    }

    /// All that have no answer yet.
    fn unanswered(&self) -> impl Iterator<Item = u64> {
        self.under_way.iter().flatten().chain(&self.waiting).copied()
    }
}

impl Board {
    fn open(job: &Job, connections: usize, bytes: u64) -> Result<Self> {
        let conn = |index| Ok(Conn { stream: job.connect()?, request: request(bytes, index, false) });
        let conns = (0..connections).map(conn).collect::<Result<Vec<_>>>()?;
        Ok(Self { places: Mutex::new(Places::new(conns.len())), conns })
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // each change of the places is one call that does not panic
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, number: u64) -> Result<()> {
        let index = self.places().begin(number);
        index.map_or(Ok(()), |index| self.send(index))
    }

    /// A socket with nothing in it has room for a request.
    fn send(&self, index: usize) -> Result<()> {
        let conn = &self.conns[index];
        (&conn.stream).write_all(&conn.request).context("cannot send")
    }
}

/// Takes the answers of all connections.
struct Receiver {
    board: Arc<Board>,
    answers: Vec<Answer>,
    pattern: Pattern,
}

impl open_loop::Receiver for Receiver {
    fn streams(&self) -> impl Iterator<Item = &TcpStream> {
        self.board.conns.iter().map(|conn| &conn.stream)
    }

    fn take(&mut self, index: usize, buffer: &mut [u8], score: &mut open_loop::Score) -> Result<()> {
        while let Some(count) = open_loop::read(&self.board.conns[index].stream, buffer)? {
            let now = Instant::now();
            if !self.answers[index].take(&buffer[..count], &self.pattern)? {
                continue;
            }
            self.answers[index].reset();
            let (answered, goes_on) = self.board.places().end(index);
            if goes_on {
                self.board.send(index)?;
            }
            score.answer(answered.context("an answer that nobody asked for")?, now);
            // the next one, if it was asked for, is a new event
            break;
        }
        Ok(())
    }

    fn unanswered(&self, _count: u64) -> Vec<u64> {
        self.board.places().unanswered().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{SocketAddr, TcpListener};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::client::open_loop::PATIENCE;

    #[test]
    fn a_request_without_a_free_connection_waits_for_the_first_that_is() {
        let mut places = Places::new(2);
        assert_eq!((places.begin(0), places.begin(1), places.begin(2)), (Some(0), Some(1), None));
        assert_eq!(places.end(1), (Some(1), true), "request 2 goes out on connection 1");
        assert_eq!(places.unanswered().collect::<Vec<_>>(), [0, 2]);
        assert_eq!((places.end(1), places.end(0)), ((Some(2), false), (Some(0), false)));
        assert_eq!(
            (places.begin(3), places.begin(4)),
            (Some(1), Some(0)),
            "in the order in which they became free"
        );
    }

    #[test]
    fn a_pause_of_the_far_side_is_in_the_latency_of_all_requests_that_were_due_meanwhile() {
        let sample = &run(&job(server(Duration::from_millis(120))), 2, 100, &[1000]).unwrap()[0];
        assert_eq!((sample.ops, sample.failures), (200.0, 0), "{sample:?}");
        // 120 of 200 requests were due in the pause, evenly, and the other 80 later: half of all wait for 20 ms
        assert!(sample.latency.unwrap().p50_ns > 10_000_000, "{sample:?}");
    }

    #[test]
    fn what_never_comes_back_is_counted_and_slow() {
        let sample = &run(&job(server(PATIENCE * 2)), 2, 100, &[500]).unwrap()[0];
        assert_eq!((sample.ops, sample.failures), (0.0, 100), "{sample:?}");
        assert!(Duration::from_nanos(sample.latency.unwrap().p50_ns) >= PATIENCE, "{sample:?}");
    }

    fn job(target: SocketAddr) -> Job {
        Job { target, watched: Vec::new(), warm_up: Duration::ZERO, length: Duration::from_millis(200) }
    }

    /// Answers every request, but the first of each connection only after this time.
    fn server(pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for (seed, mut stream) in listener.incoming().flatten().enumerate() {
                thread::spawn(move || {
                    stream.peek(&mut [0]).unwrap();
                    thread::sleep(pause);
                    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
                    let answer = [head.as_slice(), Pattern::default().piece(seed, 0, 100)].concat();
                    while stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {
                        stream.write_all(&answer).unwrap();
                    }
                });
            }
        });
        address
    }
}
