//! Listening, accepting, and the bounds on what one client may take.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy_io::unix;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::route::{Access, Admin};
use super::source::Source;
use crate::takeover::SocketName;

/// Connections at once on each address: some operators and scrapers, not a flood.
const MOST_CONNECTIONS: usize = 64;
/// Bytes of a request's head; browsers send a few hundred, and hyper wants 8 KiB at least.
const HEAD_BYTES: usize = 16 << 10;
/// Time for a request's head, and between two requests on one connection.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Time for one connection as a whole: the largest answer to a slow reader.
const CONNECTION_TIME: Duration = Duration::from_secs(120);
/// Pause when no connection can be accepted (descriptors ran out).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for the first request of a connection that came just before the server stops.
const FIRST_TIME: Duration = Duration::from_millis(100);
/// Time for answers under way when the server stops.
const STOP_TIME: Duration = Duration::from_secs(1);

/// Whether connections are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Closing {
    #[default]
    Open,
    /// They wait in the queues of their sockets, for whoever accepts next.
    Paused,
    Stopped,
}

/// Everything that is being served; dropping it stops it.
#[derive(Debug, Default)]
pub struct Server {
    accepting: JoinSet<()>,
    /// Tells the connections to end after what they are about to answer.
    closing: watch::Sender<Closing>,
    /// How many listeners have stopped accepting because of that.
    parked: watch::Sender<usize>,
    /// What connections hold, of each listener.
    permits: Vec<Arc<Semaphore>>,
    /// Addresses of the TCP listeners in the order in which they were added.
    addresses: Vec<SocketAddr>,
    socket: Option<PathBuf>,
}

impl Server {
    /// Where TCP is listened on: the admin address first. Tells what port 0 became.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Lets everybody who asks wait, until [`Server::resume`] or for another process that has the same sockets. What is being
    /// answered gets a moment.
    pub async fn pause(&self) {
        self.closing.send_replace(Closing::Paused);
        let (mut parked, all) = (self.parked.subscribe(), self.permits.len());
        let _ = tokio::time::timeout(STOP_TIME, parked.wait_for(|count| *count == all)).await;
        self.wait_answered().await;
    }

    /// Goes on.
    pub fn resume(&self) {
        self.closing.send_replace(Closing::Open);
    }

    async fn wait_answered(&self) {
        let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
        let ended = async {
            for permits in &self.permits {
                let _ = permits.acquire_many(all).await;
            }
        };
        let _ = tokio::time::timeout(STOP_TIME, ended).await;
    }

    /// Stops accepting, removes the socket file unless it is that of a `successor`, and gives requests under way a moment:
    /// who asked for the end wants to hear that it comes.
    pub async fn stop(mut self, successor: Option<&Path>) {
        self.accepting.abort_all();
        self.closing.send_replace(Closing::Stopped);
        self.wait_answered().await;
        if let Some(socket) = &self.socket
            && successor != Some(socket)
        {
            let _ = std::fs::remove_file(socket);
        }
    }

    pub(super) fn add<S: Source>(&mut self, listener: Listener, access: Access, admin: &Arc<Admin<S>>) {
        let admin = Arc::clone(admin);
        let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        self.permits.push(Arc::clone(&permits));
        let closing = (self.closing.subscribe(), self.parked.clone());
        match listener {
            Listener::Tcp { listener, address, .. } => {
                self.addresses.push(address);
                let accept = async move || listener.accept().await.map(|(stream, _)| stream);
                self.accepting.spawn(accept_all(accept, access, admin, permits, closing));
            }
            Listener::Unix(listener, path) => {
                self.socket = Some(path);
                let accept = async move || listener.accept().await.map(|(stream, _)| stream);
                self.accepting.spawn(accept_all(accept, access, admin, permits, closing));
            }
        }
    }
}

/// One address.
pub(super) enum Listener {
    /// With the address of the config, and what became of its port 0.
    Tcp {
        listener: TcpListener,
        wanted: SocketAddr,
        address: SocketAddr,
    },
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens, if another process did not before.
    pub(super) async fn tcp(wanted: SocketAddr, taken_over: Option<OwnedFd>) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {wanted}: {error}"));
        let listener = match taken_over {
            // Tokio made it, so it does not block.
            Some(socket) => TcpListener::from_std(socket.into()),
            None => TcpListener::bind(wanted).await,
        };
        let listener = listener.map_err(named)?;
        let address = listener.local_addr()?;
        Ok(Self::Tcp { listener, wanted, address })
    }

    /// The same on a path.
    pub(super) fn unix(path: &Path, taken_over: Option<OwnedFd>) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
        };
        let opened = match taken_over {
            Some(socket) => Ok(socket.into()),
            None => unix::listen_private(path),
        };
        let opened = opened.and_then(|listener| {
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        });
        Ok(Self::Unix(opened.map_err(named)?, path.to_owned()))
    }

    /// A copy of the socket, named for a newer process.
    pub(super) fn copy(&self, access: Access) -> io::Result<(SocketName, Arc<OwnedFd>)> {
        let (name, socket) = match self {
            Self::Tcp { listener, wanted, .. } if access == Access::MetricsOnly => {
                (SocketName::Metrics(*wanted), listener.as_fd())
            }
            Self::Tcp { listener, wanted, .. } => (SocketName::Admin(*wanted), listener.as_fd()),
            Self::Unix(listener, path) => (SocketName::AdminSocket(path.clone()), listener.as_fd()),
        };
        Ok((name, Arc::new(socket.try_clone_to_owned()?)))
    }
}

async fn accept_all<S: Source, T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    accept: impl AsyncFn() -> io::Result<T>,
    access: Access,
    admin: Arc<Admin<S>>,
    permits: Arc<Semaphore>,
    (mut closing, parked): (watch::Receiver<Closing>, watch::Sender<usize>),
) {
    loop {
        if *closing.borrow_and_update() != Closing::Open {
            parked.send_modify(|count| *count += 1);
            let opened = closing.wait_for(|closing| *closing == Closing::Open).await.is_ok();
            parked.send_modify(|count| *count -= 1);
            if !opened {
                return;
            }
        }
        let accepted = tokio::select! {
            biased;
            _ = closing.changed() => continue,
            accepted = accept() => accepted,
        };
        match accepted {
            Ok(stream) => match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => {
                    let admin = Arc::clone(&admin);
                    drop(tokio::spawn(serve_one(stream, access, admin, permit, closing.clone())));
                }
                // Closing at once is the polite way to say no before a request was read.
                Err(_) => drop(stream),
            },
            Err(error) => {
                tracing::warn!(%error, "the admin interface cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one<S: Source, T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: T,
    access: Access,
    admin: Arc<Admin<S>>,
    _permit: OwnedSemaphorePermit,
    mut closing: watch::Receiver<Closing>,
) {
    let (asked, mut is_asked) = watch::channel(false);
    let service = service_fn(move |request| {
        let admin = Arc::clone(&admin);
        asked.send_replace(true);
        async move { Ok::<_, std::convert::Infallible>(admin.answer(access, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let served = async {
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            result = &mut connection => return result,
            _ = closing.wait_for(|closing| *closing != Closing::Open) => {}
        }
        tokio::select! {
            result = &mut connection => return result,
            // Who came just before has asked, and was not heard yet.
            _ = tokio::time::timeout(FIRST_TIME, is_asked.wait_for(|is_asked| *is_asked)) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIME, served).await {
        tracing::debug!(%error, "admin connection failed");
    }
}
