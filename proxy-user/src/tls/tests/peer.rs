//! Both drivers, and a far side that is rustls over a blocking socket in a thread.

use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use proxy_core::tls::{ClientTls, ServerTls, TlsVersion};
use proxy_io::{Chunk, Driver, DriverKind, DriverOptions, Socket};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, ServerConfig, ServerConnection, StreamOwned,
    SupportedCipherSuite,
};
use tokio::task::{LocalSet, spawn_local};

use super::pki::provider;
use crate::tls::client::{Client, SystemRoots};
use crate::tls::{Alpn, Stream, TlsError, server};

/// Far above what any test takes: a test that hangs fails instead.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// Runs a test on epoll, and on io_uring where there is one.
pub(crate) fn on_each_driver(test: impl AsyncFn(Driver)) {
    for kind in [DriverKind::Epoll, DriverKind::Ring] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let driver = match Driver::new(kind, DriverOptions::new(kind)) {
                Ok(driver) => driver,
                Err(error) if kind == DriverKind::Ring => return eprintln!("no io_uring here: {error}"),
                Err(error) => panic!("{error}"),
            };
            let running = driver.clone();
            let running = spawn_local(async move { running.run().await.unwrap() });
            tokio::time::timeout(HANG, test(driver)).await.unwrap_or_else(|_| panic!("{kind:?}: hangs"));
            running.abort();
        });
    }
}

/// Runs blocking code beside the worker, which goes on driving its sockets.
pub(crate) async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

pub(crate) fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let near = listener.accept().unwrap().0;
    for stream in [&far, &near] {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
    }
    (far, near)
}

/// A connection, one end of it on the driver.
pub(crate) fn pair(driver: &Driver) -> (TcpStream, Socket) {
    let (far, near) = connected();
    (far, driver.socket(near.into()).unwrap())
}

pub(crate) fn server_config(tls: &ServerTls) -> Arc<ServerConfig> {
    Arc::new(server::build(tls, &provider()).unwrap().0)
}

pub(crate) fn client(tls: &ClientTls) -> Client {
    Client::build(tls, &provider(), &mut SystemRoots::find(), None).unwrap().0
}

/// A client of rustls's with everything that this one's config says.
pub(crate) fn client_config(tls: &ClientTls) -> ClientConfig {
    (*client(tls).config(endpoint(), Alpn::None)).clone()
}

/// Endpoint that a connection of [`pair`] stands for.
pub(crate) fn endpoint() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 443))
}

pub(crate) async fn accept(config: &Arc<ServerConfig>, socket: Socket) -> Result<Stream, TlsError> {
    server::accept(config, socket, Chunk::default(), HANG).await
}

/// The far side as a client.
pub(crate) type FarClient = StreamOwned<ClientConnection, TcpStream>;
/// The far side as a server.
pub(crate) type FarServer = StreamOwned<ServerConnection, TcpStream>;

pub(crate) fn far_client(config: ClientConfig, name: &str, stream: TcpStream) -> FarClient {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

pub(crate) fn far_server(config: &Arc<ServerConfig>, stream: TcpStream) -> FarServer {
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream)
}

/// Writes and reads back `total` bytes in pieces of many sizes, ends its side, and reads to the announced end.
pub(crate) fn ping_to_the_end<C, S>(stream: &mut StreamOwned<C, TcpStream>, total: usize) -> Vec<u8>
where
    C: std::ops::DerefMut<Target = rustls::ConnectionCommon<S>>,
    S: rustls::SideData,
{
    let mut sent = 0;
    while sent < total {
        let piece = patterned(sent, (1 + sent % 50_021).min(total - sent));
        stream.write_all(&piece).unwrap();
        let mut echoed = vec![0; piece.len()];
        stream.read_exact(&mut echoed).unwrap();
        assert!(echoed == piece, "differs after byte {sent}");
        sent += piece.len();
    }
    stream.conn.send_close_notify();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut stream.sock).unwrap();
    }
    stream.sock.shutdown(Shutdown::Write).unwrap();
    let mut last = Vec::new();
    stream.read_to_end(&mut last).unwrap();
    last
}

/// Echoes to the end, and then says something more: each direction ends on its own.
pub(crate) fn echo_blocking<C, S>(stream: &mut StreamOwned<C, TcpStream>)
where
    C: std::ops::DerefMut<Target = rustls::ConnectionCommon<S>>,
    S: rustls::SideData,
{
    let mut buffer = vec![0; 30_000];
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        stream.write_all(&buffer[..count]).unwrap();
    }
    stream.write_all(LAST_WORDS).unwrap();
    stream.conn.send_close_notify();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut stream.sock).unwrap();
    }
}

pub(crate) const LAST_WORDS: &[u8] = b"that was all";

/// The same on a stream of ours.
pub(crate) async fn echo(stream: &mut Stream) {
    let mut is_bundling = false;
    loop {
        is_bundling = !is_bundling;
        let mut chunk =
            poll_fn(|cx| if is_bundling { stream.poll_recv_bundle(cx) } else { stream.poll_recv(cx) })
                .await
                .unwrap();
        if chunk.is_empty() {
            break;
        }
        poll_fn(|cx| stream.poll_send(cx, &mut chunk)).await.unwrap();
        assert!(chunk.is_empty());
    }
    send(stream, LAST_WORDS.to_vec()).await.unwrap();
    poll_fn(|cx| stream.poll_shutdown_write(cx)).await.unwrap();
}

pub(crate) async fn send(stream: &mut Stream, bytes: Vec<u8>) -> io::Result<()> {
    let mut chunk = Chunk::from(bytes);
    poll_fn(|cx| stream.poll_send(cx, &mut chunk)).await?;
    assert!(chunk.is_empty());
    Ok(())
}

pub(crate) async fn recv(stream: &mut Stream) -> io::Result<Vec<u8>> {
    poll_fn(|cx| stream.poll_recv(cx)).await.map(|chunk| chunk.to_vec())
}

pub(crate) async fn recv_exactly(stream: &mut Stream, count: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < count {
        let bytes = recv(stream).await.unwrap();
        assert!(!bytes.is_empty(), "ended after {} of {count} bytes", received.len());
        received.extend(bytes);
    }
    received
}

/// Bytes whose period is a prime, so that a lost or doubled record shows.
pub(crate) fn patterned(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|offset| u8::try_from(offset % 251).unwrap()).collect()
}

/// Only with ECDSA keys, as [`Pki`] makes them, or without a say in it.
pub(crate) fn is_ecdsa(suite: &SupportedCipherSuite) -> bool {
    !format!("{:?}", suite.suite()).contains("RSA")
}

pub(crate) fn with_suite(tls: &ClientTls, suite: SupportedCipherSuite) -> ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![suite];
    let mut roots = rustls::RootCertStore::empty();
    let ca = crate::tls::cert::load_roots(tls.ca.as_ref().unwrap()).unwrap();
    roots.extend(ca.roots);
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A far client that speaks one version only.
pub(crate) fn only_config(tls: &ClientTls, version: TlsVersion) -> ClientConfig {
    let wanted = match version {
        TlsVersion::V1_2 => ProtocolVersion::TLSv1_2,
        TlsVersion::V1_3 => ProtocolVersion::TLSv1_3,
    };
    let is_wanted = |suite: &&SupportedCipherSuite| suite.version().version == wanted && is_ecdsa(suite);
    with_suite(tls, *aws_lc_rs::ALL_CIPHER_SUITES.iter().find(is_wanted).unwrap())
}

/// A client of ours that speaks one version only.
pub(crate) fn only(tls: &ClientTls, version: TlsVersion) -> crate::tls::Client {
    crate::tls::Client::with_template(tls, only_config(tls, version))
}

pub(crate) fn only_server(tls: &ServerTls, version: TlsVersion) -> Arc<ServerConfig> {
    let versions = match version {
        TlsVersion::V1_2 => &[&rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let resolver = Arc::clone(&server_config(tls).cert_resolver);
    let builder = ServerConfig::builder_with_provider(provider());
    Arc::new(
        builder.with_protocol_versions(versions).unwrap().with_no_client_auth().with_cert_resolver(resolver),
    )
}
