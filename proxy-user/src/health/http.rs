//! Checks that ask by HTTP and look at what is answered.

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::{AGENT, CheckError, HEAD_BYTES, Transport, http2};

/// Part of a body that is searched; health pages are short.
const BODY_BYTES: usize = 64 << 10;

/// Body of an answer.
pub(super) enum Body {
    Http1(Incoming),
    Http2(h2::RecvStream),
    /// Nothing is left of it.
    Read,
}

impl Body {
    /// The next piece.
    pub(super) async fn data(&mut self) -> Option<Result<Bytes, CheckError>> {
        match self {
            Self::Http1(body) => loop {
                match body.frame().await?.map(hyper::body::Frame::into_data) {
                    Ok(Ok(data)) => return Some(Ok(data)),
                    // Trailers.
                    Ok(Err(_)) => {}
                    Err(error) => return Some(Err(CheckError::Http1(error))),
                }
            },
            Self::Http2(body) => Some(http2::data(body).await?.map_err(CheckError::Http2)),
            Self::Read => None,
        }
    }
}

/// Asks; the connection lives in `driving`, which must outlive the body.
pub(super) async fn get(
    stream: Box<dyn Transport>,
    path: &str,
    host: &str,
    driving: &mut JoinSet<()>,
) -> Result<Response<Body>, CheckError> {
    let request = request(path, host).map_err(CheckError::Request)?;
    let answer = ask(stream, request, driving).await.map_err(CheckError::Http1)?;
    Ok(answer.map(Body::Http1))
}

/// The same in HTTP/2; where to, and whether inside TLS, is a part of the request.
pub(super) async fn get_http2(
    stream: Box<dyn Transport>,
    (is_tls, host): (bool, &str),
    path: &str,
    driving: &mut JoinSet<()>,
) -> Result<Response<Body>, CheckError> {
    let uri = http2::uri(is_tls, host, path).map_err(CheckError::Request)?;
    let request = Request::get(uri).header(USER_AGENT, AGENT).body(()).map_err(CheckError::Request)?;
    let answer = http2::ask(stream, request, None, driving).await.map_err(CheckError::Http2)?;
    Ok(answer.map(Body::Http2))
}

async fn ask(
    stream: Box<dyn Transport>,
    request: Request<Empty<Bytes>>,
    driving: &mut JoinSet<()>,
) -> hyper::Result<Response<Incoming>> {
    let most = usize::try_from(HEAD_BYTES).unwrap_or(usize::MAX);
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(most).handshake(TokioIo::new(stream)).await?;
    driving.spawn(async move {
        // What goes wrong the request hears, too.
        let _ = connection.await;
    });
    sender.send_request(request).await
}

fn request(path: &str, host: &str) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::new())
}

/// Looks at the answer and gives back what is left of its body.
pub(super) async fn judge(
    answer: Response<Body>,
    expected: &[(u16, u16)],
    wanted: Option<&str>,
) -> Result<Body, CheckError> {
    let status = answer.status().as_u16();
    if !expected.iter().any(|(first, last)| (*first..=*last).contains(&status)) {
        return Err(CheckError::Status { status, expected: expected.to_vec() });
    }
    let mut body = answer.into_body();
    if let Some(wanted) = wanted {
        find(&mut body, wanted).await?;
    }
    Ok(body)
}

/// Reads until the text is found, at most [`BODY_BYTES`].
async fn find(body: &mut Body, wanted: &str) -> Result<(), CheckError> {
    let mut seen: Vec<u8> = Vec::new();
    while seen.len() < BODY_BYTES
        && let Some(data) = body.data().await
    {
        let data = data?;
        let overlap = seen.len().saturating_sub(wanted.len().saturating_sub(1));
        seen.extend_from_slice(&data[..data.len().min(BODY_BYTES - seen.len())]);
        if contains(&seen[overlap..], wanted.as_bytes()) {
            return Ok(());
        }
    }
    Err(CheckError::Body { wanted: wanted.to_owned(), searched: seen.len() })
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len().max(1)).any(|window| window == wanted)
}

pub(super) fn text(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        "connection closed before the answer was complete".to_owned()
    } else if error.is_parse_too_large() {
        format!("the head of the answer is larger than {} KiB", HEAD_BYTES >> 10)
    } else if error.is_parse() {
        "the answer is not HTTP/1".to_owned()
    } else {
        // hyper's own words are general; what the system said is in the cause.
        match std::error::Error::source(error) {
            Some(cause) => format!("connection failed: {cause}"),
            None => format!("connection failed: {error}"),
        }
    }
}

pub(super) fn ranges(expected: &[(u16, u16)]) -> String {
    let range = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    expected.iter().map(range).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proxy_core::service::Probe;
    use tokio::net::TcpListener;

    use super::super::run_check;
    use super::super::tests::{check, http, server};
    use super::*;

    #[tokio::test]
    async fn http_sends_path_host_and_agent() {
        let (address, asked) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        let probe = Probe::Http {
            is_http2: false,
            path: "/healthz?full=1".to_owned(),
            host: Some("web.shop".to_owned()),
            status: vec![(200, 204)],
            body: None,
        };
        assert_eq!(run_check(&check(address, probe), None).await, Ok(()));
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"), "{asked}");
        assert!(
            asked.contains("host: web.shop\r\n") && asked.contains("user-agent: weir-health/"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn without_a_host_the_address_is_the_host() {
        let (address, asked) = server("HTTP/1.0 200 OK\r\n\r\nok").await;
        assert_eq!(
            run_check(&check(address, http(None)), None).await,
            Ok(()),
            "an answer that ends with the connection"
        );
        assert!(asked.await.unwrap().contains(&format!("host: {address}\r\n")));
    }

    #[tokio::test]
    async fn a_status_outside_the_ranges_is_named_with_them() {
        let (address, _) = server("HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy").await;
        assert_eq!(
            run_check(&check(address, http(None)), None).await,
            Err("status 503, expected 200 or 301-302".to_owned())
        );
    }

    #[tokio::test]
    async fn a_body_must_contain_its_part_wherever_the_chunks_break() {
        let answer =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nstat\r\n5\r\nus:ok\r\n0\r\n\r\n";
        let (address, _) = server(answer).await;
        assert_eq!(run_check(&check(address, http(Some("status:ok"))), None).await, Ok(()));
        let (address, _) = server(answer).await;
        assert_eq!(
            run_check(&check(address, http(Some("ready"))), None).await,
            Err("the first 9 bytes of the body do not contain \"ready\"".to_owned())
        );
    }

    #[tokio::test]
    async fn only_the_first_64_kib_of_a_body_count() {
        let head = "HTTP/1.1 200 OK\r\n\r\n";
        let late: &'static str = format!("{head}{}ready", "x".repeat(BODY_BYTES)).leak();
        let (address, _) = server(late).await;
        let error = run_check(&check(address, http(Some("ready"))), None).await.unwrap_err();
        assert!(error.starts_with("the first 65536 bytes"), "{error}");
        let last: &'static str =
            format!("{head}{}ready{}", "x".repeat(BODY_BYTES - 5), "y".repeat(99)).leak();
        let (address, _) = server(last).await;
        assert_eq!(run_check(&check(address, http(Some("ready"))), None).await, Ok(()));
    }

    #[tokio::test]
    async fn in_http2_the_same_is_asked_and_looked_at() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut asked = Vec::new();
            for _ in 0..4 {
                let (stream, _) = listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let (request, mut respond) = connection.accept().await.unwrap().unwrap();
                asked.push(format!("{} {}", request.method(), request.uri()));
                assert!(request.headers()["user-agent"].to_str().unwrap().starts_with("weir-health/"));
                let status = if request.uri().path() == "/sick" { 503 } else { 200 };
                let answer = Response::builder().status(status).body(()).unwrap();
                let mut send = respond.send_response(answer, false).unwrap();
                // The text spans two frames; what follows fits into no window.
                send.send_data("stat".into(), false).unwrap();
                send.send_data(["us:ok", &"x".repeat(BODY_BYTES)].concat().into(), false).unwrap();
                send.send_trailers(hyper::HeaderMap::new()).unwrap();
                while connection.accept().await.is_some() {}
            }
            asked
        });
        let probe = |path: &str, body: &str| Probe::Http {
            is_http2: true,
            path: path.to_owned(),
            host: Some("web.shop".to_owned()),
            status: vec![(200, 200)],
            body: Some(body.to_owned()),
        };
        for (path, body, wanted) in [
            ("/?a=b", "status:ok", Ok(())),
            ("/", &*"x".repeat(BODY_BYTES - 9), Ok(())),
            ("/", "ready", Err("the first 65536 bytes of the body do not contain \"ready\"".to_owned())),
            ("/sick", "", Err("status 503, expected 200".to_owned())),
        ] {
            assert_eq!(run_check(&check(address, probe(path, body)), None).await, wanted);
        }
        let asked = ["/?a=b", "/", "/", "/sick"].map(|path| format!("GET http://web.shop{path}"));
        assert_eq!(serving.await.unwrap(), asked);
    }

    #[tokio::test]
    async fn silence_and_nonsense_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = listener.local_addr().unwrap();
        let mut silent = check(silent, http(None));
        silent.check.timeout = Duration::from_millis(30);
        assert_eq!(run_check(&silent, None).await, Err("timed out after 30ms".to_owned()));
        let (address, _) = server("SSH-2.0-OpenSSH_9.6\r\n").await;
        assert_eq!(
            run_check(&check(address, http(None)), None).await,
            Err("the answer is not HTTP/1".to_owned())
        );
        let (address, _) = server("").await;
        let error = run_check(&check(address, http(None)), None).await.unwrap_err();
        assert_eq!(error, "connection closed before the answer was complete");
    }
}
