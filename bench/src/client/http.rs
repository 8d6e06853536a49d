//! HTTP/1.1 requests, one under way on each connection: on connections that stay open, or with a new one for each.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};

use crate::client::Job;
use crate::client::pingpong::interrupted;
use crate::cpu::{self, Window};
use crate::histogram::Histogram;
use crate::http::answer::Answer;
use crate::http::channel::Channel;
use crate::http::{Pattern, request, tls};
use crate::report::Sample;

/// Time without any answer after which the proxy counts as stuck.
const STUCK: Duration = Duration::from_secs(5);
/// Bytes of one read.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes of a MiB.
const MIB: f64 = 1_048_576.0;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Connections at once.
    pub connections: usize,
    /// Bytes of an answer's body.
    pub bytes: u64,
    /// What a connection is for.
    pub form: Form,
}

/// What a connection is for, and what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One request after the other.
    KeepAlive,
    /// One request, with `connection: close`.
    Close,
    /// One large answer after the other; counted are MiB.
    Bulk,
}

/// Measures requests, over TLS where there is a client for it.
///
/// # Errors
/// If nothing comes back any more; unless every request has a connection of its own, if one fails.
pub fn run(job: &Job, ask: Ask, tls: Option<tls::Client>) -> Result<Sample> {
    let mut work = Work {
        target: job.target,
        ask,
        tls,
        pattern: Pattern::default(),
        exchanges: Vec::new(),
        latency: Histogram::default(),
        counts: Counts::default(),
    };
    let mut poll = Poll::new()?;
    for index in 0..ask.connections {
        let exchange = work.open(poll.registry(), index)?;
        work.exchanges.push(exchange);
    }
    work.turn(&mut poll, job.warm_up)?;
    work.latency.clear();
    work.counts = Counts::default();
    let window = Window::open(&job.watched)?;
    work.turn(&mut poll, job.length)?;
    let usage = window.close()?;
    let Counts { answers, bytes, failures, first_failure } = work.counts;
    if let Some(error) = first_failure.filter(|_| answers == 0 && bytes == 0) {
        return Err(error);
    }
    let (ops, latency) = match ask.form {
        Form::Bulk => (bytes as f64 / MIB, None),
        Form::KeepAlive | Form::Close => (answers as f64, work.latency.quantiles()),
    };
    Ok(Sample { ops, failures, usage, latency, ..Sample::default() })
}

struct Work {
    target: SocketAddr,
    ask: Ask,
    tls: Option<tls::Client>,
    pattern: Pattern,
    exchanges: Vec<Exchange>,
    latency: Histogram,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    answers: u64,
    /// Of bodies.
    bytes: u64,
    failures: u64,
    first_failure: Option<anyhow::Error>,
}

impl Work {
    fn open(&self, registry: &Registry, index: usize) -> Result<Exchange> {
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.target).context("cannot connect")?;
        stream.set_nodelay(true).ok();
        registry.register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let channel = match &self.tls {
            Some(client) => Channel::Tls(stream, client.connection()?),
            None => Channel::Plain(stream),
        };
        let request = request(self.ask.bytes, index, self.ask.form == Form::Close);
        let answer = Answer::to(self.ask.bytes, index);
        Ok(Exchange { channel, request, sent: 0, answer, began })
    }

    fn turn(&mut self, poll: &mut Poll, length: Duration) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; BUFFER_BYTES];
        let until = Instant::now() + length;
        loop {
            poll.poll(&mut events, Some(STUCK)).or_else(interrupted)?;
            ensure!(!events.is_empty(), "no answer for {} s", STUCK.as_secs());
            for event in &events {
                self.handle_event(poll.registry(), event.token().0, &mut buffer)?;
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }

    fn handle_event(&mut self, registry: &Registry, index: usize, buffer: &mut [u8]) -> Result<()> {
        let Some(exchange) = self.exchanges.get_mut(index) else { return Ok(()) };
        let before = exchange.answer.taken();
        let done = exchange.advance(buffer, &self.pattern);
        self.counts.bytes += exchange.answer.taken() - before;
        match done {
            Ok(false) => return Ok(()),
            Ok(true) => {
                self.latency.record(cpu::as_ns(exchange.began.elapsed()));
                self.counts.answers += 1;
            }
            Err(error) if self.ask.form == Form::Close => {
                self.counts.failures += 1;
                self.counts.first_failure.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
        if self.ask.form == Form::Close {
            // assigning drops, and so closes, the old connection
            self.exchanges[index] = self.open(registry, index)?;
            return Ok(());
        }
        exchange.begin()
    }
}

/// A connection with the request that is under way on it.
struct Exchange {
    channel: Channel<TcpStream>,
    request: Vec<u8>,
    sent: usize,
    answer: Answer,
    began: Instant,
}

impl Exchange {
    /// Sends the same request once more.
    fn begin(&mut self) -> Result<()> {
        (self.sent, self.began) = (0, Instant::now());
        self.answer.reset();
        self.send()
    }

    /// Sends what the kernel takes; the rest goes when it says that there is room.
    fn send(&mut self) -> Result<()> {
        self.channel.push().or_else(early)?;
        while self.sent < self.request.len() {
            match self.channel.write(&self.request[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) => return early(error).context("cannot send"),
            }
        }
        Ok(())
    }

    /// Does what can be done now; true when the answer is complete.
    fn advance(&mut self, buffer: &mut [u8], pattern: &Pattern) -> Result<bool> {
        self.send()?;
        loop {
            let count = match self.channel.read(buffer) {
                Ok(0) => bail!("closed before the end of the answer"),
                Ok(count) => count,
                Err(error) => return early(error).map(|()| false).context("cannot receive"),
            };
            if self.answer.take(&buffer[..count], pattern)? {
                return Ok(true);
            }
            if count < buffer.len() && self.channel.is_plain() {
                // a short read has emptied the socket, and what comes later is a new event (epoll(7))
                return Ok(false);
            }
        }
    }
}

/// Not connected yet, or nothing there yet: nothing is wrong.
fn early(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::backend;
    use crate::contestant::certificate::Certificate;

    #[test]
    fn the_backend_answers_in_every_form_with_and_without_tls() {
        let (plain, secure, client) = backend();
        for form in [Form::KeepAlive, Form::Close, Form::Bulk] {
            for (target, tls) in [(plain, None), (secure, Some(client.clone()))] {
                let bytes = if form == Form::Bulk { 10 << 20 } else { 100 };
                let sample = run(&job(target), Ask { connections: 3, bytes, form }, tls).unwrap();
                assert!(sample.ops > 1.0 && sample.failures == 0, "{form:?} at {target}: {sample:?}");
                assert_eq!(sample.latency.is_some(), form != Form::Bulk);
            }
        }
    }

    #[test]
    fn a_server_that_refuses_is_an_error_and_not_a_fast_server() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n");
            }
        });
        for form in [Form::KeepAlive, Form::Close] {
            let error = run(&job(target), Ask { connections: 2, bytes: 100, form }, None).unwrap_err();
            assert!(format!("{error:#}").contains("503 Busy"), "{form:?}: {error:#}");
        }
    }

    #[test]
    fn another_certificate_is_refused() {
        let (_, secure, _) = backend();
        let (_, _, other) = backend();
        let ask = Ask { connections: 1, bytes: 100, form: Form::KeepAlive };
        let error = run(&job(secure), ask, Some(other)).unwrap_err();
        assert!(format!("{error:#}").contains("another certificate"), "{error:#}");
    }

    /// Addresses of a backend, without and with TLS, and a client that knows its certificate.
    fn backend() -> (SocketAddr, SocketAddr, tls::Client) {
        let folder = tempfile();
        let certificate = Certificate::make(&folder).unwrap();
        let server = tls::Server::new(&certificate.cert, &certificate.key).unwrap();
        let client = tls::Client::new(&certificate.cert).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        let [plain, secure] = [(), ()].map(|()| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let addresses = (plain.local_addr().unwrap(), secure.local_addr().unwrap());
        thread::spawn(move || backend::http::run(plain, secure, server));
        (addresses.0, addresses.1, client)
    }

    fn tempfile() -> std::path::PathBuf {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("weir-bench-http-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    fn job(target: SocketAddr) -> Job {
        let (warm_up, length) = (Duration::from_millis(50), Duration::from_millis(100));
        Job { target, watched: Vec::new(), warm_up, length }
    }
}
