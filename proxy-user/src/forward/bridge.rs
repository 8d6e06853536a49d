//! One request and its answer between a client and an endpoint of which one, or both, speak HTTP/2.
//!
//! ```text
//!   client ──pieces──> [upload, kept for another try] ──> endpoint
//!   client <──pieces── [download]                     <── endpoint
//! ```
//!
//! What comes from one side is taken only when the piece before it is on its way to the other: flow control reaches from end
//! to end. Between two sides of HTTP/1.1 nothing has to be taken apart ([`super::exchange`]).

mod side;
mod upload;

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use proxy_core::grpc::web::Form;
use proxy_core::grpc::{Messages, Status};
use proxy_core::http2::FieldList;
use tokio::time::Sleep;

pub use self::side::{Failed, Http1Side, Http2Side, Side};
pub use self::upload::{Bound, Upload};
use super::exchange::{TURN_PIECES, Trouble};
use super::grpc_web;
use super::http1::{Body, Fault, Framing, ResponseHead, Scan, slots};
use super::http2::{self, Opening};
use super::l4::Watch;
use super::wire::HeadBound;
use crate::http2::{Error, Piece};

/// The field in which gRPC says how a call ended.
pub const GRPC_STATUS: &str = "grpc-status";

/// The answer's way to the client.
pub struct Download {
    is_over: bool,
    /// Bytes of the body so far.
    pub bytes: u64,
    bound: Bound,
    /// How a gRPC call ended, if that stood behind the body.
    pub grpc_status: Option<Status>,
    /// How the client wants it, if in gRPC-Web.
    web: Option<Form>,
}

impl Download {
    /// Begins a body within bounds; one that has `ended` already is none.
    #[must_use]
    pub fn new(has_ended: bool, bound: Bound) -> Self {
        Self { is_over: has_ended, bytes: 0, bound, grpc_status: None, web: None }
    }

    /// The same for a client that wants it in this form of gRPC-Web.
    #[must_use]
    pub fn in_web(self, web: Option<Form>) -> Self {
        Self { web, ..self }
    }

    /// The client's form of gRPC-Web, if no message is begun and not ended, so that trailers can follow.
    #[must_use]
    pub fn web_between_messages(&self) -> Option<Form> {
        self.web.filter(|_| self.bound.messages.as_ref().is_some_and(Messages::is_whole))
    }

    fn poll<W: Watch>(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Side<'_>,
        up: &mut Side<'_>,
        watch: &W,
    ) -> Poll<Result<(), Trouble>> {
        for _ in 0..TURN_PIECES {
            ready!(down.poll_flush(cx)).map_err(of_client)?;
            if self.is_over {
                return Poll::Ready(Ok(()));
            }
            let piece = ready!(up.poll_take(cx)).map_err(of_endpoint)?;
            match &piece {
                Piece::Data(data, is_last) => {
                    self.bytes += data.len() as u64;
                    self.is_over = *is_last;
                    self.bound.check(data, self.bytes).map_err(Trouble::UpstreamFault)?;
                }
                Piece::Trailers(trailers) => {
                    let checked = http2::check_size(trailers, self.bound.trailer_bytes);
                    checked.map_err(Trouble::UpstreamFault)?;
                    self.grpc_status = trailers.find(GRPC_STATUS).map(Status::from_header);
                    self.is_over = true;
                }
                Piece::End => self.is_over = true,
            }
            let piece = match self.web {
                Some(form) => grpc_web::encode(form, piece),
                None => piece,
            };
            down.give(piece).map_err(of_client)?;
            watch.handle_progress();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The head of an answer.
pub struct Answer {
    /// Status and fields, those for one hop taken out.
    pub head: FieldList,
    /// It is not the answer yet (1xx).
    pub is_interim: bool,
    /// No body follows.
    pub has_ended: bool,
    /// The endpoint's connection, of HTTP/1.1, can be used again after it.
    pub is_kept: bool,
    /// It opens the tunnel that was asked for.
    pub is_tunnel: bool,
}

/// A request under way to one endpoint.
pub struct Bridge<'a, 's, W> {
    /// The client's side.
    pub down: &'a mut Side<'s>,
    /// The endpoint's side.
    pub up: Side<'a>,
    /// The request.
    pub upload: &'a mut Upload,
    /// Its method as far as the length of an answer's body depends on it.
    pub method: &'static str,
    /// The tunnel that it is to open.
    pub opening: Option<Box<Opening>>,
    /// Bounds on the answer's head.
    pub bound: HeadBound,
    /// Whom to tell and to obey.
    pub watch: &'a W,
    /// When it has to be over.
    pub deadline: Option<Pin<Box<Sleep>>>,
}

impl<W: Watch> Bridge<'_, '_, W> {
    /// Sends the request and waits for the head of an answer.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn head(&mut self) -> Result<Answer, Trouble> {
        let mut scan = Scan::default();
        let mut is_told = false;
        poll_fn(|cx| {
            self.poll_end(cx)?;
            let is_opening = self.opening.is_some();
            // What goes through a tunnel waits until it is open.
            let is_sent = if is_opening { self.up.poll_flush(cx).is_ready() } else { self.poll_upload(cx)? };
            if is_sent && !std::mem::replace(&mut is_told, true) {
                self.watch.handle_sent();
            }
            match self.poll_answer(cx, &mut scan) {
                Poll::Pending if self.upload.is_over || is_opening => match self.down.poll_gone(cx) {
                    Poll::Ready(failed) => Poll::Ready(Err(of_client(failed))),
                    Poll::Pending => Poll::Pending,
                },
                answer => answer,
            }
        })
        .await
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, scan: &mut Scan) -> Poll<Result<Answer, Trouble>> {
        match &mut self.up {
            Side::Http2(side) => {
                let answer = ready!(side.stream.poll_response(cx));
                let mut head = answer.map_err(|error| of_endpoint(Failed::Stream(error)))?;
                http2::check_size(&head, self.bound.bytes).map_err(Trouble::UpstreamFault)?;
                let status = head.status();
                if status < 200 {
                    return Poll::Ready(Ok(Answer {
                        head,
                        is_interim: true,
                        has_ended: false,
                        is_kept: true,
                        is_tunnel: false,
                    }));
                }
                let has_ended = side.stream.has_ended();
                let is_tunnel = self.opening.is_some() && status < 300;
                if is_tunnel {
                    http2::set_opened(&mut head);
                }
                Poll::Ready(Ok(Answer { head, is_interim: false, has_ended, is_kept: true, is_tunnel }))
            }
            Side::Http1(side) => {
                let bytes = match ready!(side.wire.poll_head(cx, scan, self.bound, &())) {
                    Ok(bytes) => bytes,
                    Err(none) => return Poll::Ready(Err(none.into())),
                };
                *scan = Scan::default();
                let answer = read(side, bytes, self.method, self.bound, self.opening.as_deref());
                Poll::Ready(answer.map_err(Trouble::UpstreamFault))
            }
        }
    }

    /// Passes on what comes before the answer.
    ///
    /// # Errors
    /// If the client is gone.
    pub async fn interim(&mut self, mut head: FieldList) -> Result<(), Trouble> {
        http2::edit_answer(&mut head, None);
        // There is no body that it could be about.
        head.remove("content-length");
        match &mut *self.down {
            Side::Http1(side) => {
                side.begin(http2::write_answer(&head, Framing::Length(0), None), Framing::Length(0));
            }
            Side::Http2(side) => {
                let sent = side.stream.respond(&head, false);
                sent.map_err(|error| of_client(Failed::Stream(error)))?;
            }
        }
        poll_fn(|cx| self.down.poll_flush(cx)).await.map_err(of_client)
    }

    /// Bytes of the head that the endpoint got, in HTTP/1.1.
    #[must_use]
    pub fn head_bytes(&self) -> u64 {
        match &self.up {
            Side::Http1(side) => side.head_bytes,
            Side::Http2(_) => 0,
        }
    }

    /// Bytes that were sent to an endpoint of HTTP/1.1 from which nothing came that is not used up; none otherwise.
    #[must_use]
    pub fn clean_bytes(&self) -> Option<u64> {
        match &self.up {
            Side::Http1(side) if side.wire.chunk.is_empty() && !side.wire.is_ended => Some(side.sent_bytes),
            Side::Http1(_) | Side::Http2(_) => None,
        }
    }

    /// Sends an answer to its end, and what is left of the request meanwhile.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn answer(&mut self, download: &mut Download) -> Result<(), Trouble> {
        self.upload.settle();
        poll_fn(|cx| {
            self.poll_end(cx)?;
            self.poll_upload(cx)?;
            match download.poll(cx, self.down, &mut self.up, self.watch) {
                // Nobody takes anything that would tell: the endpoint is silent.
                Poll::Pending => match self.down.poll_gone(cx) {
                    Poll::Ready(failed) => Poll::Ready(Err(of_client(failed))),
                    Poll::Pending => Poll::Pending,
                },
                result => result,
            }
        })
        .await
    }

    /// Moves what goes through a tunnel, each way to the end of its stream.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub async fn tunnel(&mut self, download: &mut Download) -> Result<(), Trouble> {
        self.upload.settle();
        let mut is_half = false;
        poll_fn(|cx| {
            self.poll_end(cx)?;
            let is_sent = self.upload.poll(cx, self.down, &mut self.up, self.watch)?.is_ready();
            let is_received = download.poll(cx, self.down, &mut self.up, self.watch)?.is_ready();
            if is_sent && is_received {
                // Of the client something was not taken, which it must learn.
                let refused = || Trouble::UpstreamDied(io::ErrorKind::BrokenPipe.into());
                return Poll::Ready(if self.upload.is_refused { Err(refused()) } else { Ok(()) });
            }
            if (is_sent || is_received) && !std::mem::replace(&mut is_half, true) {
                self.watch.handle_half_close();
            }
            if let Poll::Ready(failed) = self.down.poll_gone(cx) {
                return Poll::Ready(Err(of_client(failed)));
            }
            // While the endpoint sends, what it sends tells.
            if is_received && let Poll::Ready(failed) = self.up.poll_gone(cx) {
                return Poll::Ready(Err(of_endpoint(failed)));
            }
            Poll::Pending
        })
        .await
    }

    /// Moves what is left of the request; says whether that was its end.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<bool, Trouble> {
        match self.upload.poll(cx, self.down, &mut self.up, self.watch) {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Result<(), Trouble> {
        if let Some(reason) = self.watch.poll_kill(cx) {
            return Err(Trouble::Killed(reason));
        }
        if self.watch.wants_weight() {
            let kept_bytes = if self.upload.is_whole { self.upload.kept_bytes as u64 } else { 0 };
            self.watch.set_weight(self.down.weight() + self.up.weight() + kept_bytes);
        }
        let is_late = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if is_late { Err(Trouble::Timeout) } else { Ok(()) }
    }
}

/// Reads a head of HTTP/1.1 and takes it out of the wire.
fn read(
    side: &mut Http1Side<'_>,
    bytes: usize,
    method: &str,
    bound: HeadBound,
    opening: Option<&Opening>,
) -> Result<Answer, Fault> {
    let mut slots = slots();
    let head = ResponseHead::parse(&side.wire.chunk[..bytes], &mut slots)?;
    let is_tunnel = match opening {
        Some(opening) => opening.is_opened(&head)?,
        // Nobody else who is asked across a bridge is offered another protocol.
        None if head.status == 101 => return Err(Fault::StartLine),
        None => false,
    };
    let is_interim = head.is_interim();
    let framing = head.body(method);
    let has_ended = framing == Framing::Length(0);
    let is_kept = head.is_keep_alive && framing != Framing::UntilClose;
    let mut head = http2::answer_of_http1(&head);
    side.wire.chunk.advance(bytes);
    if is_tunnel {
        http2::set_opened(&mut head);
        side.begin_tunnel();
        return Ok(Answer { head, is_interim: false, has_ended: false, is_kept: false, is_tunnel });
    }
    if !is_interim {
        side.incoming = match Body::new(framing, bound.fields, bound.bytes) {
            Body::Chunked(chunked) => Body::Chunked(Box::new(chunked.keeping_trailers())),
            body => body,
        };
    }
    Ok(Answer { head, is_interim, has_ended, is_kept, is_tunnel })
}

fn of_client(failed: Failed) -> Trouble {
    match failed {
        Failed::Died(error) => Trouble::ClientDied(error),
        Failed::Cut => Trouble::ClientCut,
        Failed::Fault(fault) => Trouble::ClientFault(fault),
        Failed::Stream(error) => Trouble::ClientDied(io::Error::other(error)),
    }
}

/// What a failed stream to an endpoint is called.
pub fn of_endpoint(failed: Failed) -> Trouble {
    match failed {
        Failed::Died(error) => Trouble::UpstreamDied(error),
        Failed::Cut => Trouble::UpstreamEnded { has_begun: true },
        Failed::Fault(fault) => Trouble::UpstreamFault(fault),
        Failed::Stream(error) if error.is_refusal() => {
            Trouble::UpstreamRefused { is_leaving: matches!(error, Error::GoAway(_)) }
        }
        Failed::Stream(error) => Trouble::UpstreamDied(io::Error::other(error)),
    }
}
