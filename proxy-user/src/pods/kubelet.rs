//! One question to the kubelet of this node: which pods are yours, and what are their labels?

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use proxy_core::tls::{ClientTls, TlsVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::list::{self, ListedPod};
use crate::config::{KubeletAccess, KubeletConfig};
use crate::health;
use crate::tls::{Alpn, Client, TlsProblem};

/// Time for the whole question: a kubelet answers in milliseconds, on a node that is short of CPU in some hundreds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer. Pods take 5 to 30 KiB each, and the largest nodes have 500.
const MOST_BYTES: usize = 32 << 20;
const AGENT: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));
/// The host name of this machine, or of the pod's that shares its network (proc_sys_kernel(5)).
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Why the kubelet could not be asked, in words for an operator.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// There is no token to show.
    #[error("cannot read the token {}: {source}", .file.display())]
    Token {
        /// Where it should be.
        file: PathBuf,
        /// What reading it says.
        source: io::Error,
    },
    /// There are no authorities to believe.
    #[error("{0}")]
    Authorities(String),
    /// Nobody listens.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// It is not who it should be, or thinks so of Weir.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    /// It does not speak HTTP.
    #[error("{0}")]
    Http(#[source] hyper::Error),
    /// It does not want to tell.
    #[error("status {status}{}", hint(*status))]
    Status {
        /// What it answers instead.
        status: StatusCode,
    },
    /// It broke off.
    #[error("the answer broke off: {0}")]
    Body(String),
    /// It talks too much.
    #[error("the answer is longer than {} MiB", MOST_BYTES >> 20)]
    TooLong,
    /// It answers something else.
    #[error("the answer is no list of pods: {0}")]
    List(#[source] serde_json::Error),
    /// Not its fault.
    #[error("a bug of Weir: {0}")]
    Bug(#[source] tokio::task::JoinError),
    /// It takes too long.
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => ": it does not know the token",
        StatusCode::FORBIDDEN => {
            ": the token's account may not get nodes/proxy (or nodes/pods, from Kubernetes 1.33 on)"
        }
        _ => "",
    }
}

/// Asks. Reads the files of authorities and token each time: tokens are replaced every hour.
///
/// # Errors
/// Why there is no answer, or none that can be used.
pub async fn ask(config: &KubeletConfig) -> Result<Vec<ListedPod>, KubeletError> {
    tokio::time::timeout(TIMEOUT, ask_now(config)).await.unwrap_or(Err(KubeletError::Timeout))
}

async fn ask_now(config: &KubeletConfig) -> Result<Vec<ListedPod>, KubeletError> {
    let request = Request::get("/pods")
        .header(HOST, config.address.to_string())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close");
    let mut request = request.body(Empty::<Bytes>::new()).expect("an address is a header's value");
    let connect = health::connect(config.address);
    let text = match &config.access {
        KubeletAccess::ReadOnly => get(connect.await.map_err(KubeletError::Connect)?, request).await?,
        KubeletAccess::Authenticated { ca, sni, token } => {
            let tls = ClientTls {
                ca: Some(ca.clone()),
                sni: sni.clone().or_else(|| config.address.ip().is_loopback().then(host_name).flatten()),
                certificate: None,
                min_version: TlsVersion::V1_2,
            };
            let client = Client::alone(&tls).map_err(|problems| authorities(&problems))?;
            request.headers_mut().insert(AUTHORIZATION, bearer(token)?);
            let connector = TlsConnector::from(client.config(config.address, Alpn::Http1));
            let stream = connect.await.map_err(KubeletError::Connect)?;
            let stream = connector.connect(client.server_name(config.address), stream).await;
            get(stream.map_err(KubeletError::Tls)?, request).await?
        }
    };
    list::parse(&text).map_err(KubeletError::List)
}

async fn get<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Bytes, KubeletError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(KubeletError::Http)?;
    // Ends with this question; what goes wrong the request hears, too.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let answer: Response<_> = sender.send_request(request).await.map_err(KubeletError::Http)?;
    if answer.status() != StatusCode::OK {
        return Err(KubeletError::Status { status: answer.status() });
    }
    let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| match error.is::<LengthLimitError>() {
        true => KubeletError::TooLong,
        false => KubeletError::Body(error.to_string()),
    })
}

fn bearer(token: &PathBuf) -> Result<HeaderValue, KubeletError> {
    let failed = |source| KubeletError::Token { file: token.clone(), source };
    let text = fs::read_to_string(token).map_err(failed)?;
    let value = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
    let mut value = value.map_err(|_| failed(io::Error::other("it is no token")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The kubelet's certificate bears the name of its node, in lower case.
fn host_name() -> Option<String> {
    let name = fs::read_to_string(HOST_NAME).ok()?.trim().to_ascii_lowercase();
    (!name.is_empty()).then_some(name)
}

fn authorities(problems: &[TlsProblem]) -> KubeletError {
    KubeletError::Authorities(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::tls::tests::peer;
    use crate::tls::tests::pki::Pki;

    const EMPTY: &str = r#"{"kind":"PodList","items":[]}"#;

    /// Gives every connection the same answer; tells what was asked first.
    async fn kubelet(answer: String, tls: Option<TlsAcceptor>) -> (SocketAddr, JoinSet<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let asked = match &tls {
                    None => answer_one(stream, &answer).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => answer_one(stream, &answer).await,
                        Err(_) => continue,
                    },
                };
                return asked;
            }
        });
        (address, serving)
    }

    async fn answer_one(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
        String::from_utf8(request).unwrap()
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    fn read_only(address: SocketAddr) -> KubeletConfig {
        KubeletConfig { address, access: KubeletAccess::ReadOnly, interval: TIMEOUT }
    }

    #[tokio::test]
    async fn the_read_only_port_gets_no_token() {
        let (address, mut serving) = kubelet(ok(EMPTY), None).await;
        assert_eq!(ask(&read_only(address)).await.unwrap(), []);
        let asked = serving.join_next().await.unwrap().unwrap();
        assert!(asked.starts_with("GET /pods HTTP/1.1\r\n"), "{asked}");
        assert!(!asked.to_ascii_lowercase().contains("authorization"), "{asked}");
    }

    #[tokio::test]
    async fn whatever_goes_wrong_is_said() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = ask(&read_only(closed)).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot connect: "), "{error}");
        let long = "x".repeat(MOST_BYTES + 1);
        for (answer, expected) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\n".to_owned(), "may not get nodes/proxy"),
            ("HTTP/1.1 401 Unauthorized\r\n\r\n".to_owned(), "does not know the token"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_owned(), "the answer broke off"),
            ("SSH-2.0-OpenSSH_9.6\r\n".to_owned(), "invalid HTTP"),
            (ok("[]"), "the answer is no list of pods"),
            (ok(&long), "longer than 32 MiB"),
        ] {
            let (address, _serving) = kubelet(answer, None).await;
            let error = ask(&read_only(address)).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}, not {expected}");
        }
    }

    #[tokio::test]
    async fn the_token_is_shown_only_to_who_has_the_right_certificate() {
        let pki = Pki::new();
        let token = std::env::temp_dir().join(format!("weir-kubelet-token-{}", std::process::id()));
        fs::write(&token, "secret.token\n").unwrap();
        let tls = pki.client();
        let with = |address, sni: Option<&str>, token: &Path| KubeletConfig {
            address,
            access: KubeletAccess::Authenticated {
                ca: tls.ca.clone().unwrap(),
                sni: sni.map(str::to_owned),
                token: token.to_owned(),
            },
            interval: TIMEOUT,
        };
        let acceptor = || Some(TlsAcceptor::from(peer::server_config(&pki.server())));
        let (address, mut serving) = kubelet(ok(EMPTY), acceptor()).await;
        let error = ask(&with(address, Some("elsewhere"), &token)).await.unwrap_err().to_string();
        assert!(error.starts_with("TLS failed: "), "{error}");
        assert_eq!(ask(&with(address, tls.sni.as_deref(), &token)).await.unwrap(), []);
        let asked = serving.join_next().await.unwrap().unwrap();
        assert!(asked.contains("Bearer secret.token\r\n"), "{asked}");
        // As a kubelet that signs its own certificate writes it down: with the authority of its making.
        let server = pki.server();
        let both = [&server.certificates[0].cert, &pki.ca()].map(|file| fs::read_to_string(file).unwrap());
        let own = pki.path("kubelet.crt");
        fs::write(&own, both.concat()).unwrap();
        let acceptor = Some(TlsAcceptor::from(peer::server_config(&server)));
        let (other, _serving) = kubelet(ok(EMPTY), acceptor).await;
        let access = KubeletAccess::Authenticated { ca: own, sni: tls.sni.clone(), token: token.clone() };
        assert_eq!(ask(&KubeletConfig { address: other, access, interval: TIMEOUT }).await.unwrap(), []);
        fs::remove_file(&token).unwrap();
        let error = ask(&with(address, None, &token)).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot read the token "), "{error}");
    }

    #[test]
    fn a_machine_has_a_name() {
        let name = host_name().unwrap();
        assert!(!name.contains(char::is_whitespace) && name == name.to_ascii_lowercase(), "{name}");
    }
}
