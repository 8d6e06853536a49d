//! Listening, accepting, and the bounds on what one client may take.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::route::{Access, Admin};
use super::source::Source;

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
/// Nobody but root.
const SOCKET_MODE: u32 = 0o600;

/// Time for answers under way when the server stops.
const STOP_TIME: Duration = Duration::from_secs(1);

/// Everything that is being served; dropping it stops it.
#[derive(Debug, Default)]
pub struct Server {
    accepting: JoinSet<()>,
    /// Tells the connections to end after what they are about to answer.
    closing: watch::Sender<bool>,
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

    /// Stops accepting, removes the socket file, and gives requests under way a moment: who asked for the end wants to hear
    /// that it comes.
    pub async fn stop(mut self) {
        self.accepting.abort_all();
        self.closing.send_replace(true);
        let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
        let ended = async {
            for permits in &self.permits {
                let _ = permits.acquire_many(all).await;
            }
        };
        let _ = tokio::time::timeout(STOP_TIME, ended).await;
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }

    pub(super) fn add<S: Source>(&mut self, listener: Listener, access: Access, admin: &Arc<Admin<S>>) {
        let admin = Arc::clone(admin);
        let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        self.permits.push(Arc::clone(&permits));
        let closing = self.closing.subscribe();
        match listener {
            Listener::Tcp(listener, address) => {
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
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub(super) async fn tcp(address: SocketAddr) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(named)?;
        let address = listener.local_addr()?;
        Ok(Self::Tcp(listener, address))
    }

    /// Opens the socket in a folder that nobody else can enter and moves it to its place when its mode is right: at no
    /// time can anybody else connect, and a file that a crashed process left is replaced.
    pub(super) fn unix(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
        };
        let parent = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).map_err(named)?;
        // Short, because a socket's path may have 107 bytes only.
        let hidden = parent.join(".s");
        let _ = std::fs::remove_dir_all(&hidden);
        DirBuilder::new().mode(0o700).create(&hidden).map_err(named)?;
        let inner = hidden.join("s");
        let opened = UnixListener::bind(&inner).and_then(|listener| {
            std::fs::set_permissions(&inner, Permissions::from_mode(SOCKET_MODE))?;
            std::fs::rename(&inner, path)?;
            Ok(listener)
        });
        let _ = std::fs::remove_dir_all(&hidden);
        Ok(Self::Unix(opened.map_err(named)?, path.to_owned()))
    }
}

async fn accept_all<S: Source, T: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    accept: impl AsyncFn() -> io::Result<T>,
    access: Access,
    admin: Arc<Admin<S>>,
    permits: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
) {
    loop {
        match accept().await {
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
    mut closing: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        let admin = Arc::clone(&admin);
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
            _ = closing.wait_for(|is_closing| *is_closing) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIME, served).await {
        tracing::debug!(%error, "admin connection failed");
    }
}
