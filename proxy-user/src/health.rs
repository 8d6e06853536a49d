//! Active checks carried out: one connection, one question, one answer, within one time.

mod grpc;
mod http;
mod http2;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use proxy_bpf::abi::config::WEIR_MARK;
use proxy_core::health::Check;
use proxy_core::proxy_protocol::{self, Header};
use proxy_core::service::Probe;
use proxy_io::sock;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::tls::{Alpn, Client};

/// Room for the head of an answer; as much as common servers send at most.
const HEAD_BYTES: u32 = 64 << 10;
/// Time that a good server gets after the verdict to say the rest and close, so that it sees no reset. On a local network
/// that takes a millisecond or two; ten thousand checks a second are still possible when nobody closes.
const LINGER: Duration = Duration::from_millis(20);
/// Name in the logs of the servers that are checked.
const AGENT: &str = concat!("weir-health/", env!("CARGO_PKG_VERSION"));

/// How to speak TLS to the endpoints of a service that wants it: as its connections do, certificates and all.
pub type Tls = (Arc<Client>, Alpn);

/// Carries out one check: connects to the endpoint, through TLS if its service says so, and asks what the service says, all
/// within the check's timeout.
///
/// A good answer may come up to [`LINGER`] later than that, while the connection is closed in an orderly way.
///
/// The caller bounds how many run at once. Cancelling the future closes the connection.
///
/// # Errors
/// Why the endpoint does not count as good, in words for an operator.
pub async fn run_check(check: &Check, tls: Option<&Tls>) -> Result<(), String> {
    let timeout = check.check.timeout;
    match tokio::time::timeout(timeout, ask(check, tls)).await {
        Ok(Ok(mut rest)) => {
            let _ = tokio::time::timeout(LINGER, rest.finish()).await;
            Ok(())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(CheckError::Timeout(timeout).to_string()),
    }
}

/// Why an endpoint does not count as good.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("timed out after {0:?}")]
    Timeout(Duration),
    #[error("{}", connect_text(.0))]
    Connect(#[source] io::Error),
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    #[error("{}", http::text(.0))]
    Http1(#[source] hyper::Error),
    #[error("{}", http2::text(.0))]
    Http2(#[source] h2::Error),
    #[error("cannot ask: {0}")]
    Request(#[source] hyper::http::Error),
    #[error("status {status}, expected {}", http::ranges(.expected))]
    Status { status: u16, expected: Vec<(u16, u16)> },
    #[error("the first {searched} bytes of the body do not contain {wanted:?}")]
    Body { wanted: String, searched: usize },
    #[error(transparent)]
    Grpc(#[from] grpc::Unhealthy),
}

/// A connection, inside TLS or not.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// What is open after a good answer.
enum Rest {
    Tcp(Box<dyn Transport>),
    /// The body, and the task that owns its connection.
    Http(http::Body, JoinSet<()>),
}

impl Rest {
    /// Reads to the end: closing with something unread would be a reset.
    async fn finish(&mut self) {
        match self {
            Self::Tcp(stream) => {
                let _ = stream.shutdown().await;
                let mut greeting = [0; 1024];
                while stream.read(&mut greeting).await.is_ok_and(|bytes| bytes > 0) {}
            }
            Self::Http(body, driving) => {
                while let Some(Ok(_)) = body.data().await {}
                // A connection of HTTP/2 ends when nobody has a use for it.
                *body = http::Body::Read;
                driving.join_next().await;
            }
        }
    }
}

async fn ask(check: &Check, tls: Option<&Tls>) -> Result<Rest, CheckError> {
    let mut stream = connect(check.address).await.map_err(CheckError::Connect)?;
    if let Some(version) = check.proxy_protocol {
        let header = proxy_protocol::encode(version, &Header::Local);
        stream.write_all(&header).await.map_err(CheckError::Connect)?;
    }
    let stream: Box<dyn Transport> = match tls {
        None => Box::new(stream),
        Some((client, alpn)) => {
            let connector = TlsConnector::from(client.config(check.address, *alpn));
            let connected = connector.connect(client.server_name(check.address), stream).await;
            Box::new(connected.map_err(CheckError::Tls)?)
        }
    };
    let host = |host: &Option<String>| host.clone().unwrap_or_else(|| check.address.to_string());
    let mut driving = JoinSet::new();
    let rest = match &check.check.probe {
        Probe::Tcp => return Ok(Rest::Tcp(stream)),
        Probe::Http { is_http2, path, host: named, status, body } => {
            let host = host(named);
            let answer = if *is_http2 {
                http::get_http2(stream, (tls.is_some(), &host), path, &mut driving).await?
            } else {
                http::get(stream, path, &host, &mut driving).await?
            };
            http::judge(answer, status, body.as_deref()).await?
        }
        Probe::Grpc { service, host: named } => {
            let server = (tls.is_some(), host(named));
            grpc::ask(stream, server, service, check.check.timeout, &mut driving).await?
        }
    };
    Ok(Rest::Http(rest, driving))
}

/// Opens a connection that the kernel programs leave alone, whatever service the address belongs to.
///
/// # Errors
/// As connect(2).
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    match sock::set_mark(&socket.as_fd(), WEIR_MARK) {
        // Without CAP_NET_ADMIN no program of ours can be attached either.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        result => result?,
    }
    socket.connect(address).await
}

fn connect_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset while connecting".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable: no route".to_owned(),
        _ => format!("cannot connect: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::id::{EndpointId, ServiceId};
    use proxy_core::service::HealthCheck;
    use proxy_core::tls::ClientTls;
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::tls::tests::peer;
    use crate::tls::tests::pki::Pki;

    #[tokio::test]
    async fn tcp_asks_for_nothing_but_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(run_check(&check(address, Probe::Tcp), None).await, Ok(()));
        drop(listener);
        assert_eq!(run_check(&check(address, Probe::Tcp), None).await, Err("connection refused".to_owned()));
    }

    #[tokio::test]
    async fn a_server_that_speaks_first_is_not_reset() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, ended) = oneshot::channel();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"220 mail.shop ESMTP\r\n").await.unwrap();
            let result = stream.read(&mut [0; 8]).await;
            let _ = told.send(result.map_err(|error| error.kind()));
        });
        assert_eq!(run_check(&check(address, Probe::Tcp), None).await, Ok(()));
        assert_eq!(ended.await.unwrap(), Ok(0), "an orderly end");
    }

    #[tokio::test]
    async fn checks_go_through_tls_and_verify_as_connections_do() {
        let pki = Pki::new();
        let acceptor = TlsAcceptor::from(peer::server_config(&pki.server()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = stream.shutdown().await;
            }
        });
        let good = (Arc::new(peer::client(&pki.client())), Alpn::Http1);
        let wrong = ClientTls { sni: Some("db.shop".to_owned()), ..pki.client() };
        let wrong = (Arc::new(peer::client(&wrong)), Alpn::None);
        for probe in [Probe::Tcp, http(Some("ok"))] {
            let check = check(address, probe);
            assert_eq!(run_check(&check, Some(&good)).await, Ok(()));
            let error = run_check(&check, Some(&wrong)).await.unwrap_err();
            assert!(error.starts_with("TLS failed: ") && error.contains("not valid for name"), "{error}");
        }
        let (plain, _) = server("HTTP/1.1 200 OK\r\n\r\n").await;
        let mut silent = check(plain, Probe::Tcp);
        silent.check.timeout = Duration::from_millis(30);
        assert!(run_check(&silent, Some(&good)).await.is_err(), "a port is not enough");
    }

    /// Answers one connection, after its request is complete, and hands the request out.
    pub(super) async fn server(answer: &'static str) -> (SocketAddr, oneshot::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, asked) = oneshot::channel();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let count = stream.read_buf(&mut request).await.unwrap();
                assert!(count > 0, "{request:?}");
            }
            let _ = told.send(String::from_utf8(request).unwrap());
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        (address, asked)
    }

    pub(super) fn http(body: Option<&str>) -> Probe {
        Probe::Http {
            is_http2: false,
            path: "/".to_owned(),
            host: None,
            status: vec![(200, 200), (301, 302)],
            body: body.map(str::to_owned),
        }
    }

    pub(super) fn check(address: SocketAddr, probe: Probe) -> Check {
        Check {
            service: ServiceId(1),
            endpoint: EndpointId(1),
            address,
            check: HealthCheck {
                interval: Duration::from_secs(10),
                unhealthy_interval: Duration::from_secs(1),
                timeout: Duration::from_secs(10),
                healthy: 2,
                unhealthy: 2,
                probe,
                is_tls: false,
                port: None,
            },
            proxy_protocol: None,
        }
    }
}
