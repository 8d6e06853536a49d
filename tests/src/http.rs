//! HTTP/1.1 by hand at both ends: a client and a server that say exactly what a test wants, right or wrong.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::net::{Net, Side};

/// Longer than anything that a test waits for.
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// A message, as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// First line and headers, with their line ends.
    pub head: String,
    /// What is inside the framing.
    pub body: Vec<u8>,
    /// Trailers, with their line ends.
    pub trailers: String,
}

impl Message {
    /// The first line.
    #[must_use]
    pub fn start_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// Status of an answer; 0 if it is none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.start_line().split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// Value of the only header of this name.
    ///
    /// # Panics
    /// If there are several.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.trim());
        assert!(values.next().is_none(), "several of {name}: {}", self.head);
        value
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One end of a connection.
pub struct Peer {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Peer {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Self { stream, held: Vec::new() })
    }

    /// Connects from the near side.
    ///
    /// # Panics
    /// If nobody answers.
    #[must_use]
    pub fn connect(net: &Net, address: SocketAddr) -> Self {
        let stream = net.run(Side::Near, || TcpStream::connect_timeout(&address, LIMIT));
        let stream = stream.expect("root may enter").expect("somebody listens");
        Self::new(stream).expect("options can be set")
    }

    /// Says something.
    ///
    /// # Panics
    /// If the other end is gone.
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the other end listens");
    }

    /// Says something, whether or not somebody listens.
    pub fn try_say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Ends what is said.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    fn more(&mut self) -> io::Result<bool> {
        let mut bytes = vec![0; READ_BYTES];
        let count = self.stream.read(&mut bytes)?;
        self.held.extend_from_slice(&bytes[..count]);
        Ok(count > 0)
    }

    /// Hears a request; `None` at the end of the stream.
    ///
    /// # Errors
    /// If the stream ends within it.
    pub fn request(&mut self) -> io::Result<Option<Message>> {
        match self.message(|_| false)? {
            Some((message, Framing::None)) => Ok(Some(message)),
            Some((mut message, framing)) => {
                self.body(&mut message, framing)?;
                Ok(Some(message))
            }
            None => Ok(None),
        }
    }

    /// Hears a request's head only; its body stays.
    ///
    /// # Errors
    /// If the stream ends within it.
    pub fn request_head(&mut self) -> io::Result<Option<Message>> {
        Ok(self.message(|_| true)?.map(|(message, _)| message))
    }

    /// Hears an answer to a request by this method.
    ///
    /// # Errors
    /// If the stream ends within it or before.
    pub fn answer_to(&mut self, method: &str) -> io::Result<Message> {
        let found = self.message(|message| {
            let status = message.status();
            method == "HEAD" || (100..200).contains(&status) || matches!(status, 204 | 304)
        })?;
        let (mut message, framing) = found.ok_or_else(cut)?;
        let framing = match framing {
            Framing::None if message.header("content-length").is_none() && method != "HEAD" => {
                let status = message.status();
                let has_none = (100..200).contains(&status) || matches!(status, 204 | 304);
                if has_none { Framing::None } else { Framing::Close }
            }
            framing => framing,
        };
        self.body(&mut message, framing)?;
        Ok(message)
    }

    /// Hears an answer to a GET.
    ///
    /// # Panics
    /// If there is none.
    pub fn answer(&mut self) -> Message {
        self.answer_to("GET").expect("an answer comes")
    }

    /// Tells how the stream ends from here: `Ok` with what else was said, or the error.
    ///
    /// # Errors
    /// A reset, or nothing at all in time.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? {}
        Ok(std::mem::take(&mut self.held))
    }

    /// Takes `count` bytes.
    ///
    /// # Errors
    /// If the stream ends before.
    pub fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.held.len() < count {
            if !self.more()? {
                return Err(cut());
            }
        }
        Ok(self.held.drain(..count).collect())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.held.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.held.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if !self.more()? {
                return Err(cut());
            }
        }
    }

    fn message(&mut self, is_bare: impl Fn(&Message) -> bool) -> io::Result<Option<(Message, Framing)>> {
        if self.held.is_empty() && !self.more()? {
            return Ok(None);
        }
        let mut message = Message::default();
        loop {
            let line = self.line()?;
            if line == "\r\n" {
                break;
            }
            message.head += &line;
        }
        if is_bare(&message) {
            return Ok(Some((message, Framing::None)));
        }
        let framing = if message.header("transfer-encoding") == Some("chunked") {
            Framing::Chunked
        } else {
            match message.header("content-length") {
                Some(count) => Framing::Length(count.parse().map_err(|_| cut())?),
                None => Framing::None,
            }
        };
        Ok(Some((message, framing)))
    }

    fn body(&mut self, message: &mut Message, framing: Framing) -> io::Result<()> {
        match framing {
            Framing::None => {}
            Framing::Length(count) => message.body = self.take(count)?,
            Framing::Close => message.body = self.rest()?,
            Framing::Chunked => loop {
                let line = self.line()?;
                let size = line.trim_end().split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size, 16).map_err(|_| cut())?;
                if size == 0 {
                    loop {
                        let trailer = self.line()?;
                        if trailer == "\r\n" {
                            return Ok(());
                        }
                        message.trailers += &trailer;
                    }
                }
                let data = self.take(size)?;
                message.body.extend_from_slice(&data);
                self.take(2)?;
            },
        }
        Ok(())
    }
}

enum Framing {
    None,
    Length(usize),
    Chunked,
    Close,
}

fn cut() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// A server on the far side that does with each connection what a test says.
pub struct Backend {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
    connections: Arc<AtomicU32>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    /// Starts one that answers each request with what `answer` makes of it, and closes after `None`.
    ///
    /// # Panics
    /// If the address is taken.
    #[must_use]
    pub fn answering(
        net: &Net,
        address: SocketAddr,
        answer: impl Fn(&Message) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self::start(net, address, move |peer, log| {
            while let Ok(Some(request)) = peer.request() {
                let said = answer(&request);
                log.push(request);
                let Some(said) = said else { return };
                if !peer.try_say(said) {
                    return;
                }
            }
        })
    }

    /// Starts one that serves each connection by `serve`, on a thread of its own.
    ///
    /// # Panics
    /// If the address is taken.
    #[must_use]
    pub fn start(
        net: &Net,
        address: SocketAddr,
        serve: impl Fn(&mut Peer, &Log) + Send + Sync + 'static,
    ) -> Self {
        let listener = net.run(Side::Far, || TcpListener::bind(address)).expect("root may enter");
        let listener = listener.expect("the address is free");
        let (seen, connections, is_over) =
            (Arc::default(), Arc::<AtomicU32>::default(), Arc::<AtomicBool>::default());
        let log = Log(Arc::clone(&seen));
        let (count, over, serve) = (Arc::clone(&connections), Arc::clone(&is_over), Arc::new(serve));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(mut peer) = stream.and_then(Peer::new) else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let (serve, log) = (Arc::clone(&serve), log.clone());
                std::thread::spawn(move || serve(&mut peer, &log));
            }
        });
        Self { address, seen, connections, is_over, thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Message> {
        lock(&self.seen).clone()
    }

    /// Takes the requests so far.
    #[must_use]
    pub fn take_seen(&self) -> Vec<Message> {
        std::mem::take(&mut *lock(&self.seen))
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Stops listening; open connections go on.
    pub fn stop(&mut self, net: &Net) {
        self.is_over.store(true, Ordering::Relaxed);
        // The thread waits for a connection, so it gets one.
        let _ = net.run(Side::Far, || TcpStream::connect_timeout(&self.address, LIMIT));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a backend has seen.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Vec<Message>>>);

impl Log {
    /// Takes a request down.
    pub fn push(&self, request: Message) {
        lock(&self.0).push(request);
    }
}

fn lock(seen: &Mutex<Vec<Message>>) -> MutexGuard<'_, Vec<Message>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer with a body of this text.
#[must_use]
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
