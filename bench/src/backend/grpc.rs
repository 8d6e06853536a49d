//! What a gRPC server with one unary method looks like on the wire: HTTP/2 without TLS, and every message given back.

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// What small DATA frames that wait to be taken may cost, as `h2` counts. By itself it is half of a connection's window, which some
/// hundred calls use up that begin at once on one connection of a proxy, with a small message each.
const SMALL_FRAMES_BYTES: usize = 64 << 20;

/// Serves for ever.
///
/// # Errors
/// If the runtime cannot be made, or nothing can be accepted any more.
pub fn run(listener: std::net::TcpListener) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            // how a connection ends is the client's affair
            tokio::task::spawn_local(async { drop(serve(stream).await) });
        }
    })
}

async fn serve(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut connection =
        server::Builder::new().data_frame_budget(SMALL_FRAMES_BYTES).handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, response) = request?;
        tokio::task::spawn_local(async { drop(answer(request, response).await) });
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, mut response: SendResponse<Bytes>) -> Result<()> {
    let message = body(&mut request.into_body()).await?;
    let head = Response::builder().status(StatusCode::OK).header("content-type", "application/grpc");
    let mut stream = response.send_response(head.body(())?, false)?;
    stream.send_data(message, false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(stream.send_trailers(trailers)?)
}

/// All of a body; what is taken is given back to the flow control.
///
/// # Errors
/// If the stream ends before it is complete.
pub(crate) async fn body(stream: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut whole = BytesMut::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}
