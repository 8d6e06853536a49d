//! Calls in gRPC-Web on their way to endpoints that speak gRPC, and back.
//!
//! ```text
//!   client ──base64, if text──────────────> messages                 ──> endpoint
//!   client <──messages, a frame of trailers── messages, trailers <── endpoint
//! ```
//!
//! Each piece is translated by itself as it comes, so that a stream's messages are not held back.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use proxy_core::grpc::is_grpc;
use proxy_core::grpc::web::{Form, TextDecoder, Web, trailers_frame};
use proxy_core::http2::FieldList;

use super::bridge::{Failed, Side};
use super::http1::Fault;
use crate::http2::Piece;

const CONTENT_TYPE: &str = "content-type";
const GRPC: &str = "application/grpc";
/// Time for a client to take the frame that says how a broken call ended; it is small, and whoever reads takes it at once.
const LAST_FRAME_TIME: Duration = Duration::from_secs(1);

/// Makes a call in gRPC-Web one in gRPC.
pub fn ask_in_grpc(request: &mut FieldList, web: Web) {
    rename(request, web.asks.content_type(), GRPC);
    request.set("te", b"trailers");
    if web.asks == Form::Text {
        request.remove("content-length");
    }
}

/// Makes the head of an answer in gRPC one in gRPC-Web; says whether it was one.
pub fn answer_in_web(answer: &mut FieldList, form: Form) -> bool {
    if !answer.find(CONTENT_TYPE).is_some_and(is_grpc) {
        return false;
    }
    rename(answer, GRPC, form.content_type());
    answer.remove("content-length");
    true
}

/// Puts one content type in the place of another; the format of messages behind it stays.
fn rename(head: &mut FieldList, from: &str, to: &str) {
    let format = head.find(CONTENT_TYPE).and_then(|value| value.get(from.len()..));
    let renamed = [to.as_bytes(), format.unwrap_or_default()].concat();
    head.set(CONTENT_TYPE, &renamed);
}

/// Reads a piece of a request's text; none if only the next one makes something of it.
///
/// # Errors
/// If it is no base64.
pub fn decode(text: &mut TextDecoder, piece: Piece) -> Result<Option<Piece>, Fault> {
    let Piece::Data(data, is_last) = piece else {
        return text.end().map(|()| Some(piece)).map_err(|_| Fault::Base64);
    };
    let data = Bytes::from(text.decode(&data).map_err(|_| Fault::Base64)?);
    if is_last {
        text.end().map_err(|_| Fault::Base64)?;
    }
    Ok((is_last || !data.is_empty()).then_some(Piece::Data(data, is_last)))
}

/// Writes a piece of an answer. Trailers, which are no longer than a head may be, become the last one of the body.
pub fn encode(form: Form, piece: Piece) -> Piece {
    let (data, is_last) = match piece {
        Piece::Data(data, is_last) => (data, is_last),
        Piece::Trailers(trailers) => (trailers_frame(trailers.plain()).unwrap_or_default().into(), true),
        Piece::End => return Piece::End,
    };
    Piece::Data(form.encode(&data).map_or(data, Bytes::from), is_last)
}

/// Ends an answer that broke off between two messages with what tells the client how.
///
/// # Errors
/// If the client does not take it.
pub async fn end(side: &mut Side<'_>, form: Form, trailers: FieldList) -> Result<(), Failed> {
    let ending = async {
        poll_fn(|cx| side.poll_flush(cx)).await?;
        side.give(encode(form, Piece::Trailers(trailers)))?;
        poll_fn(|cx| side.poll_flush(cx)).await
    };
    tokio::time::timeout(LAST_FRAME_TIME, ending).await.unwrap_or(Err(Failed::Cut))
}
