//! Checks that ask gRPC's health service (grpc.health.v1), as Kubernetes' probes and Envoy do.

use std::time::Duration;

use h2::RecvStream;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, TE, USER_AGENT};
use hyper::{Request, Response};
use proxy_core::grpc::{self, CheckAnswerError, Serving, Status};
use tokio::task::JoinSet;

use super::http::Body;
use super::{AGENT, CheckError, Transport, http2};

const GRPC: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Part of a server's own words that is shown.
const MESSAGE_CHARS: usize = 120;

/// Why a server that was reached does not count as good.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unhealthy {
    #[error("the server says {}", .0.as_str())]
    Says(Serving),
    #[error("the server has no health service (grpc.health.v1.Health): unimplemented")]
    NoHealthService,
    #[error("the server knows no service {0:?}: not_found")]
    NoService(String),
    #[error("the server answered {}, message {message:?}", .status.as_str())]
    Status { status: Status, message: String },
    #[error("status {0} of HTTP, expected 200")]
    HttpStatus(u16),
    #[error("the answer is not gRPC")]
    NotGrpc,
    #[error("the answer has no status of gRPC")]
    NoStatus,
    #[error("the answer is longer than {} bytes", grpc::MOST_CHECK_BYTES)]
    TooLong,
    #[error(transparent)]
    Answer(#[from] CheckAnswerError),
}

/// Asks for a service, or with an empty name for the server as a whole, and gives what is left of the answer if that is good.
pub(super) async fn ask(
    stream: Box<dyn Transport>,
    (is_tls, host): (bool, String),
    service: &str,
    timeout: Duration,
    driving: &mut JoinSet<()>,
) -> Result<Body, CheckError> {
    let request = request(is_tls, &host, timeout).map_err(CheckError::Request)?;
    let body = Bytes::from(grpc::encode_check(service));
    let answer = http2::ask(stream, request, Some(body), driving).await.map_err(CheckError::Http2)?;
    judge(answer, service).await.map(Body::Http2)
}

fn request(is_tls: bool, host: &str, timeout: Duration) -> Result<Request<()>, hyper::http::Error> {
    Request::post(http2::uri(is_tls, host, grpc::CHECK_PATH)?)
        .header(CONTENT_TYPE, GRPC)
        .header(TE, "trailers")
        .header(GRPC_TIMEOUT, grpc::format_timeout(timeout).as_bytes())
        .header(USER_AGENT, AGENT)
        .body(())
}

async fn judge(answer: Response<RecvStream>, service: &str) -> Result<RecvStream, CheckError> {
    let (head, mut body) = answer.into_parts();
    if head.status != 200 {
        return Err(Unhealthy::HttpStatus(head.status.as_u16()).into());
    }
    if !head.headers.get(CONTENT_TYPE).is_some_and(|value| grpc::is_grpc(value.as_bytes())) {
        return Err(Unhealthy::NotGrpc.into());
    }
    let mut message = Vec::new();
    while let Some(data) = http2::data(&mut body).await {
        message.extend_from_slice(&data.map_err(CheckError::Http2)?);
        if message.len() > grpc::MOST_CHECK_BYTES {
            return Err(Unhealthy::TooLong.into());
        }
    }
    // A head that is all there is has the status itself.
    let trailers = body.trailers().await.map_err(CheckError::Http2)?;
    status(trailers.as_ref().unwrap_or(&head.headers), service)?;
    match grpc::decode_check(&message).map_err(Unhealthy::from)? {
        Serving::Yes => Ok(body),
        other => Err(Unhealthy::Says(other).into()),
    }
}

/// Looks at how the call ended.
fn status(fields: &HeaderMap, service: &str) -> Result<(), Unhealthy> {
    let status = fields.get(GRPC_STATUS).ok_or(Unhealthy::NoStatus)?;
    match Status::from_header(status.as_bytes()) {
        Status::Ok => Ok(()),
        Status::Unimplemented => Err(Unhealthy::NoHealthService),
        Status::NotFound => Err(Unhealthy::NoService(service.to_owned())),
        status => {
            let message = fields.get(GRPC_MESSAGE).map(|value| grpc::decode_message(value.as_bytes()));
            let message = message.unwrap_or_default().chars().take(MESSAGE_CHARS).collect();
            Err(Unhealthy::Status { status, message })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use h2::server;
    use proxy_core::service::Probe;
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;
    use tokio_rustls::TlsAcceptor;

    use super::super::run_check;
    use super::super::tests::check;
    use super::*;
    use crate::tls::Alpn;
    use crate::tls::tests::peer;
    use crate::tls::tests::pki::Pki;

    const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";
    const NOT_SERVING: &[u8] = b"\0\0\0\0\x02\x08\x02";
    const OK: &[(&str, &str)] = &[("grpc-status", "0")];

    /// What a server says to everybody.
    #[derive(Clone, Copy)]
    struct Says {
        status: u16,
        content_type: &'static str,
        body: &'static [u8],
        /// Without them, in the head.
        trailers: &'static [(&'static str, &'static str)],
        has_head_only: bool,
    }

    impl Says {
        const fn new(body: &'static [u8], trailers: &'static [(&'static str, &'static str)]) -> Self {
            Self { status: 200, content_type: GRPC, body, trailers, has_head_only: false }
        }

        const fn head_only(trailers: &'static [(&'static str, &'static str)]) -> Self {
            Self { has_head_only: true, ..Self::new(b"", trailers) }
        }
    }

    #[tokio::test]
    async fn a_server_that_serves_is_good_and_hears_a_call() {
        let (address, asked) = server(Says::new(SERVING, OK)).await;
        assert_eq!(run_check(&check(address, grpc("shop.v1.Cart")), None).await, Ok(()));
        let (request, body) = asked.await.unwrap();
        assert_eq!(request.uri().to_string(), format!("http://{address}/grpc.health.v1.Health/Check"));
        let field = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(
            (request.method().as_str(), field("te"), field("content-type")),
            ("POST", "trailers".to_owned(), GRPC.to_owned())
        );
        assert_eq!(field("grpc-timeout"), "10000000u");
        assert!(field("user-agent").starts_with("weir-health/"));
        assert_eq!(body, b"\0\0\0\0\x0e\x0a\x0cshop.v1.Cart");
    }

    #[tokio::test]
    async fn the_host_may_be_given_and_no_service_is_the_server() {
        let (address, asked) = server(Says::new(SERVING, OK)).await;
        let probe = Probe::Grpc { service: String::new(), host: Some("cart.shop:50051".to_owned()) };
        assert_eq!(run_check(&check(address, probe), None).await, Ok(()));
        let (request, body) = asked.await.unwrap();
        assert_eq!((request.uri().authority().unwrap().as_str(), body), ("cart.shop:50051", vec![0; 5]));
    }

    #[tokio::test]
    async fn whatever_else_a_server_says_is_a_failure_with_its_own_text() {
        const UNIMPLEMENTED: Says = Says::head_only(&[("grpc-status", "12")]);
        for (says, text) in [
            (Says::new(NOT_SERVING, OK), "the server says NOT_SERVING"),
            (Says::new(b"\0\0\0\0\0", OK), "the server says UNKNOWN"),
            (Says::new(b"\0\0\0\0\x02\x08\x03", OK), "the server says SERVICE_UNKNOWN"),
            (UNIMPLEMENTED, "the server has no health service (grpc.health.v1.Health): unimplemented"),
            (Says::head_only(&[("grpc-status", "5")]), "the server knows no service \"shop\": not_found"),
            (
                Says::head_only(&[("grpc-status", "14"), ("grpc-message", "not%0Ayet")]),
                "the server answered unavailable, message \"not\\nyet\"",
            ),
            (Says::new(SERVING, &[("grpc-status", "13")]), "the server answered internal, message \"\""),
            (Says::new(SERVING, &[("x-status", "0")]), "the answer has no status of gRPC"),
            (Says::new(b"", OK), "the answer is not one message"),
            (Says::new(b"\x01\0\0\0\x02\x08\x01", OK), "the answer is compressed"),
            (Says::new(b"\0\0\0\0\x01\x08", OK), "the answer is no protobuf"),
            (Says::new(&[0; 2000], OK), "the answer is longer than 1024 bytes"),
            (Says { status: 503, ..UNIMPLEMENTED }, "status 503 of HTTP, expected 200"),
            (Says { content_type: "text/html", ..Says::new(SERVING, OK) }, "the answer is not gRPC"),
        ] {
            let (address, _) = server(says).await;
            assert_eq!(run_check(&check(address, grpc("shop")), None).await, Err(text.to_owned()));
        }
    }

    #[tokio::test]
    async fn what_is_no_http2_is_told() {
        for (says, text) in [
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "the answer is not HTTP/2"),
            (b"", "connection closed before the answer was complete"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut [0; 24]).await.unwrap();
                stream.write_all(says).await.unwrap();
                stream.shutdown().await.unwrap();
                while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
            });
            assert_eq!(run_check(&check(address, grpc("")), None).await, Err(text.to_owned()));
        }
    }

    #[tokio::test]
    async fn inside_tls_http2_is_asked_for_and_certificates_are_verified() {
        let pki = Pki::new();
        let with_alpn = |alpn: &[u8]| {
            let mut config = peer::server_config(&pki.server()).as_ref().clone();
            config.alpn_protocols = vec![alpn.to_vec()];
            TlsAcceptor::from(std::sync::Arc::new(config))
        };
        let client = (std::sync::Arc::new(peer::client(&pki.client())), Alpn::Http2);
        for (alpn, wanted) in [(&b"h2"[..], Ok(())), (b"http/1.1", Err("TLS failed: ".to_owned()))] {
            let (listener, acceptor) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), with_alpn(alpn));
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { return };
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                let (told, _asked) = oneshot::channel();
                answer(stream, Says::new(SERVING, OK), told).await;
            });
            let result = run_check(&check(address, grpc("")), Some(&client)).await;
            assert_eq!(result.map_err(|error| error[..12].to_owned()), wanted);
        }
    }

    fn grpc(service: &str) -> Probe {
        Probe::Grpc { service: service.to_owned(), host: None }
    }

    type Asked = (Request<()>, Vec<u8>);

    /// Answers one connection and hands out what was asked.
    async fn server(says: Says) -> (SocketAddr, oneshot::Receiver<Asked>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, asked) = oneshot::channel();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            answer(stream, says, told).await;
        });
        (address, asked)
    }

    async fn answer(stream: impl Transport + 'static, says: Says, told: oneshot::Sender<Asked>) {
        let mut connection = server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let driving = tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let (parts, mut body) = request.into_parts();
        let mut bytes = Vec::new();
        while let Some(data) = http2::data(&mut body).await {
            bytes.extend_from_slice(&data.unwrap());
        }
        let _ = told.send((Request::from_parts(parts, ()), bytes));
        let mut head = Response::builder().status(says.status).header(CONTENT_TYPE, says.content_type);
        if says.has_head_only {
            for (name, value) in says.trailers {
                head = head.header(*name, *value);
            }
            respond.send_response(head.body(()).unwrap(), true).unwrap();
        } else {
            let mut send = respond.send_response(head.body(()).unwrap(), false).unwrap();
            let _ = send.send_data(Bytes::from_static(says.body), false);
            let trailers = says
                .trailers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            let _ = send.send_trailers(trailers.collect());
        }
        driving.await.unwrap();
    }
}
