//! Servers in the far network namespace that do what the client's first line asks for, and tell what they saw.
//!
//! | line | what the server does |
//! |---|---|
//! | `name TOKEN` | answers `NAME TOKEN`, then takes the next line |
//! | `GET PATH HTTP/1.x` | answers with [`Server::set_status`]'s status and its name, and closes |
//! | `note TOKEN` | takes it down and reads on |
//! | `echo` | sends everything back, then its FIN after the client's |
//! | `sink` | reads to the end, then answers `COUNT ok` or `COUNT broken` |
//! | `later` | the same, but reads nothing before [`Server::resume`] |
//! | `source N` | sends N bytes and its FIN, then reads to the end |
//! | `sink-then-source N` | reads to the end, then sends N bytes |
//! | `reset N` | sends N bytes, waits until they have left, and resets |

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use proxy_io::sock;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::net::{Net, Side};
use crate::stream::{self, Check};

/// As long as the kernel allows by default (net.core.somaxconn): refusals must be Weir's, not ours.
const BACKLOG: u32 = 4096;
/// Room for a command line; small, because thousands of connections have one.
const LINE_BYTES: usize = 1024;
/// Large enough to see bulk as bulk.
const READ_BYTES: usize = 256 << 10;
/// Pause between two looks at whether sent bytes have left.
const PAUSE: Duration = Duration::from_millis(2);

/// How a client's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order.
    Fin,
    /// By a reset.
    Reset,
    /// Some other way.
    Other(io::ErrorKind),
}

/// What a server saw of one command.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The line.
    pub command: String,
    /// Who sent it, as `accept()` says.
    pub peer: SocketAddr,
    /// Bytes read after it.
    pub bytes: u64,
    /// Whether they were the right ones.
    pub is_intact: bool,
    /// How the client's stream ended.
    pub end: End,
}

/// A server; it and its connections end when this is dropped.
pub struct Server {
    address: SocketAddr,
    task: Option<JoinHandle<()>>,
    seen: Mutex<Receiver<Seen>>,
    resume: watch::Sender<bool>,
    status: watch::Sender<u16>,
}

struct Shared {
    name: String,
    banner: Option<String>,
    seen: Sender<Seen>,
    resume: watch::Receiver<bool>,
    status: watch::Receiver<u16>,
}

impl Server {
    /// Starts a server that answers with its name.
    ///
    /// # Errors
    /// If the address is taken or the namespace cannot be entered.
    pub fn start(net: &Net, address: SocketAddr, name: &str) -> Result<Self> {
        Self::listen(net, Side::Far, address, name, None)
    }

    /// Starts a server that speaks first: it says `banner` to everybody who comes.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_first(net: &Net, address: SocketAddr, name: &str, banner: &str) -> Result<Self> {
        Self::listen(net, Side::Far, address, name, Some(banner.to_owned()))
    }

    /// Starts a server in a pod.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_in(net: &Net, pod: Side, address: SocketAddr, name: &str) -> Result<Self> {
        Self::listen(net, pod, address, name, None)
    }

    fn listen(
        net: &Net,
        side: Side,
        address: SocketAddr,
        name: &str,
        banner: Option<String>,
    ) -> Result<Self> {
        let fd = net.run(side, || sock::listen(address, BACKLOG, true, false))?;
        let fd = fd.with_context(|| format!("cannot listen on {address}"))?;
        Self::serve(fd.into(), address, name, banner)
    }

    /// Starts a server on this machine's own loopback, on a free port.
    ///
    /// # Errors
    /// If the address is not there.
    pub fn start_local(address: SocketAddr, name: &str) -> Result<Self> {
        let fd = sock::listen(address, BACKLOG, true, false)?;
        let address = sock::local_addr(&fd)?;
        Self::serve(fd.into(), address, name, None)
    }

    fn serve(
        listener: std::net::TcpListener,
        address: SocketAddr,
        name: &str,
        banner: Option<String>,
    ) -> Result<Self> {
        let (sender, seen) = channel();
        let (resume, resumed) = watch::channel(false);
        let (status, status_now) = watch::channel(200);
        let shared =
            Shared { name: name.to_owned(), banner, seen: sender, resume: resumed, status: status_now };
        let _inside = runtime().enter();
        let listener = TcpListener::from_std(listener)?;
        let task = tokio::spawn(accept(listener, std::sync::Arc::new(shared)));
        Ok(Self { address, task: Some(task), seen: Mutex::new(seen), resume, status })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the end of a stream and tells what was seen.
    ///
    /// # Panics
    /// If none ends in time.
    pub fn seen(&self, limit: Duration) -> Seen {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.recv_timeout(limit).unwrap_or_else(|_| panic!("{} saw no stream end in {limit:?}", self.address))
    }

    /// Lets those read on who were asked to do so `later`.
    pub fn resume(&self) {
        self.resume.send_replace(true);
    }

    /// Changes the status with which HTTP requests are answered; 200 at first.
    pub fn set_status(&self, status: u16) {
        self.status.send_replace(status);
    }

    /// Ends as a killed process does: the port is closed and so are all connections, without a word.
    pub fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // the answer is the cancellation just asked for
            let _ = runtime().block_on(task);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Answers every datagram with itself, until dropped.
pub struct UdpServer(JoinHandle<()>);

impl UdpServer {
    /// Starts one.
    ///
    /// # Errors
    /// If the address is taken or the namespace cannot be entered.
    pub fn start(net: &Net, address: SocketAddr) -> Result<Self> {
        let socket = net.run(Side::Far, || std::net::UdpSocket::bind(address))??;
        socket.set_nonblocking(true)?;
        let _inside = runtime().enter();
        let socket = UdpSocket::from_std(socket)?;
        Ok(Self(tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((count, peer)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(&buffer[..count], peer).await;
            }
        })))
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The runtime of all servers of a test program. Its threads' namespace does not matter: sockets keep their own.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        // A test program may hold thousands of connections.
        let _ = proxy_io::limit::raise_nofile();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("a test can start threads")
    })
}

async fn accept(listener: TcpListener, shared: std::sync::Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // what died in the queue; a server without descriptors would show in the test
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        connections.spawn(converse(stream, peer, std::sync::Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, shared: std::sync::Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::with_capacity(LINE_BYTES, stream);
    if let Some(banner) = &shared.banner {
        let _ = stream.write_all(format!("{banner}\n").as_bytes()).await;
    }
    loop {
        let mut line = String::new();
        if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
            return;
        }
        let line = line.trim_end();
        let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
        let told = |check: Check, end| Seen {
            command: line.to_owned(),
            peer,
            bytes: check.bytes,
            is_intact: !check.is_broken,
            end,
        };
        match command {
            "name" => {
                let answer = format!("{} {argument}\n", shared.name);
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            "GET" => return answer_http(stream, &shared).await,
            "note" => {
                let _ = shared.seen.send(told(Check::default(), End::Fin));
            }
            _ => {
                let (check, end) = obey(stream, command, argument, &shared).await;
                let _ = shared.seen.send(told(check, end));
                return;
            }
        }
    }
}

/// Answers one HTTP request, whose head is thrown away.
async fn answer_http(mut stream: BufReader<TcpStream>, shared: &Shared) {
    let mut line = String::new();
    while matches!(stream.read_line(&mut line).await, Ok(3..)) {
        line.clear();
    }
    let (status, name) = (*shared.status.borrow(), &shared.name);
    let head =
        format!("HTTP/1.1 {status} Told\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", name.len());
    let _ = stream.write_all(format!("{head}{name}").as_bytes()).await;
}

/// Carries out a command that ends the conversation.
async fn obey(
    mut stream: BufReader<TcpStream>,
    command: &str,
    argument: &str,
    shared: &Shared,
) -> (Check, End) {
    let count = argument.parse().unwrap_or(0);
    match command {
        "sink" | "later" => {
            if command == "later" {
                let _ = shared.resume.clone().wait_for(|resumed| *resumed).await;
            }
            let (check, end) = read_all(&mut stream).await;
            let word = if check.is_broken { "broken" } else { "ok" };
            let _ = stream.write_all(format!("{} {word}\n", check.bytes).as_bytes()).await;
            (check, end)
        }
        "source" => {
            let sent = send_pattern(stream.get_mut(), count).await;
            if let Err(error) = sent {
                return (Check::default(), end_of(&error));
            }
            let _ = stream.shutdown().await;
            read_all(&mut stream).await
        }
        "sink-then-source" => {
            let (check, end) = read_all(&mut stream).await;
            let _ = send_pattern(stream.get_mut(), count).await;
            (check, end)
        }
        "echo" => {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let mut reader = BufReader::with_capacity(READ_BYTES, &mut reader);
            let copied = tokio::io::copy_buf(&mut reader, &mut writer).await;
            let end = copied.map_or_else(|error| end_of(&error), |_| End::Fin);
            let _ = writer.shutdown().await;
            (Check::default(), end)
        }
        "reset" => {
            let _ = send_pattern(stream.get_mut(), count).await;
            while sock::unsent_bytes(stream.get_ref()).is_ok_and(|bytes| bytes > 0) {
                tokio::time::sleep(PAUSE).await;
            }
            let _ = stream.get_ref().set_zero_linger();
            (Check::default(), End::Reset)
        }
        _ => (Check { bytes: 0, is_broken: true }, End::Other(io::ErrorKind::InvalidInput)),
    }
}

/// Reads to the end; what is left in the small buffer of the conversation comes first.
async fn read_all(stream: &mut BufReader<TcpStream>) -> (Check, End) {
    let mut check = Check::default();
    let early = stream.buffer().to_vec();
    check.feed(&early);
    stream.consume(early.len());
    let mut stream = BufReader::with_capacity(READ_BYTES, stream.get_mut());
    loop {
        match stream.fill_buf().await {
            Ok([]) => return (check, End::Fin),
            Ok(piece) => {
                let count = piece.len();
                check.feed(piece);
                stream.consume(count);
            }
            Err(error) => return (check, end_of(&error)),
        }
    }
}

async fn send_pattern(stream: &mut TcpStream, count: u64) -> io::Result<()> {
    let mut sent = 0;
    while sent < count {
        let piece = stream::from(sent);
        let left = usize::try_from(count - sent).unwrap_or(usize::MAX);
        let piece = &piece[..piece.len().min(left)];
        stream.write_all(piece).await?;
        sent += piece.len() as u64;
    }
    Ok(())
}

fn end_of(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => End::Reset,
        kind => End::Other(kind),
    }
}
