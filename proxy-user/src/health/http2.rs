//! One question and one answer in HTTP/2, inside TLS or with prior knowledge (RFC 9113, 3.3).

use h2::{RecvStream, client};
use hyper::body::Bytes;
use hyper::http::{self, uri::PathAndQuery};
use hyper::{Request, Response, Uri};
use tokio::task::JoinSet;

use super::{HEAD_BYTES, Transport};

/// Address of what is asked for.
pub(super) fn uri(is_tls: bool, host: &str, path: &str) -> Result<Uri, http::Error> {
    let scheme = if is_tls { "https" } else { "http" };
    Uri::builder().scheme(scheme).authority(host).path_and_query(PathAndQuery::try_from(path)?).build()
}

/// Asks; the connection lives in `driving`, which must outlive the answer. Without a `body` the request is a head only.
pub(super) async fn ask(
    stream: Box<dyn Transport>,
    request: Request<()>,
    body: Option<Bytes>,
    driving: &mut JoinSet<()>,
) -> Result<Response<RecvStream>, h2::Error> {
    let (sender, connection) =
        client::Builder::new().enable_push(false).max_header_list_size(HEAD_BYTES).handshake(stream).await?;
    driving.spawn(async move {
        // What goes wrong the request hears, too.
        let _ = connection.await;
    });
    let (response, mut send) = sender.ready().await?.send_request(request, body.is_none())?;
    if let Some(body) = body {
        send.send_data(body, true)?;
    }
    response.await
}

/// The next piece of a body.
pub(super) async fn data(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let data = body.data().await?;
    if let Ok(data) = &data {
        let _ = body.flow_control().release_capacity(data.len());
    }
    Some(data)
}

/// Says what went wrong.
pub(super) fn text(error: &h2::Error) -> String {
    match (error.get_io(), error.reason()) {
        (Some(io), _) if is_end(io) => "connection closed before the answer was complete".to_owned(),
        (Some(io), _) => format!("connection failed: {io}"),
        // What comes instead of frames is none of a length that may be.
        (None, Some(_)) if error.is_go_away() && error.is_library() => "the answer is not HTTP/2".to_owned(),
        (None, Some(reason)) if error.is_go_away() => format!("the server ended the connection: {reason}"),
        (None, Some(reason)) => format!("the server reset the request: {reason}"),
        (None, None) => format!("connection failed: {error}"),
    }
}

fn is_end(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
