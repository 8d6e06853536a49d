//! A request's way over a bridge.

use std::task::{Context, Poll, ready};

use proxy_core::grpc::web::{Form, TextDecoder};
use proxy_core::grpc::{MessageError, Messages};

use super::of_client;
use super::side::Side;
use crate::forward::exchange::{TURN_PIECES, Trouble};
use crate::forward::grpc_web;
use crate::forward::http1::Fault;
use crate::forward::http2;
use crate::forward::l4::Watch;
use crate::http2::Piece;

/// Bytes of a request's body that are kept so that it can be sent again.
const KEPT_BYTES: usize = 64 << 10;

/// The request's way to endpoints: to one, and to the next if that one fails.
pub struct Upload {
    kept: Vec<Piece>,
    pub(super) kept_bytes: usize,
    /// All that was taken so far is kept.
    pub(super) is_whole: bool,
    /// The client has said all.
    is_taken: bool,
    /// Pieces of the kept ones that the endpoint of this try has got.
    given: usize,
    pub(super) is_over: bool,
    pub(super) is_refused: bool,
    /// Bytes of the body so far.
    pub bytes: u64,
    bound: Bound,
    /// What the client says is gRPC-Web's text.
    text: Option<TextDecoder>,
}

/// How much may come.
pub struct Bound {
    most_bytes: u64,
    /// Of trailers.
    pub(super) trailer_bytes: usize,
    pub(super) messages: Option<Messages>,
}

impl Bound {
    /// At most so many bytes of a body and of trailers.
    #[must_use]
    pub fn new(most_bytes: u64, trailer_bytes: usize, messages: Option<Messages>) -> Self {
        Self { most_bytes, trailer_bytes, messages }
    }

    /// Looks at the next bytes, behind which there are so many in all.
    pub(super) fn check(&mut self, data: &[u8], bytes: u64) -> Result<(), Fault> {
        let followed = self.messages.as_mut().map_or(Ok(()), |messages| messages.follow(data));
        match followed {
            Err(MessageError::TooLarge { .. }) => return Err(Fault::BodyTooLarge),
            // Whoever reads it says so.
            Err(MessageError::BadFlag(_)) => self.messages = None,
            Ok(()) => {}
        }
        if bytes > self.most_bytes { Err(Fault::BodyTooLarge) } else { Ok(()) }
    }
}

impl Upload {
    /// Begins a body within bounds; one that has `ended` already is none.
    #[must_use]
    pub fn new(has_ended: bool, bound: Bound) -> Self {
        Self {
            kept: Vec::new(),
            kept_bytes: 0,
            is_whole: true,
            is_taken: has_ended,
            given: 0,
            is_over: has_ended,
            is_refused: false,
            bytes: 0,
            bound,
            text: None,
        }
    }

    /// The same of a client that says it in this form of gRPC-Web.
    #[must_use]
    pub fn in_web(self, form: Form) -> Self {
        Self { text: (form == Form::Text).then(TextDecoder::default), ..self }
    }

    /// Begins anew for another endpoint.
    pub fn begin_try(&mut self) {
        self.given = 0;
        self.is_refused = false;
        self.is_over = self.is_taken && self.kept.is_empty();
    }

    /// The whole body, if it was taken and is kept.
    #[must_use]
    pub fn whole(&self) -> Option<Vec<u8>> {
        let data =
            self.kept.iter().map(|piece| if let Piece::Data(data, _) = piece { &data[..] } else { &[] });
        (self.is_taken && self.is_whole).then(|| data.collect::<Vec<_>>().concat())
    }

    /// Tells whether there is a body, or may be one.
    #[must_use]
    pub fn has_body(&self) -> bool {
        !(self.is_taken && self.kept.is_empty())
    }

    /// Tells whether another endpoint could get all of it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.is_whole
    }

    /// Tells whether the endpoint has got all of it.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.is_over && !self.is_refused
    }

    /// Takes nothing: what the client would send is of no use.
    pub fn refuse(&mut self) {
        (self.is_refused, self.is_over) = (true, true);
    }

    /// Keeps no more: the answer has begun, and no other endpoint is going to be asked.
    pub(super) fn settle(&mut self) {
        if self.given == self.kept.len() {
            self.is_whole = false;
            (self.kept, self.given, self.kept_bytes) = (Vec::new(), 0, 0);
        }
    }

    pub(super) fn poll<W: Watch>(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Side<'_>,
        up: &mut Side<'_>,
        watch: &W,
    ) -> Poll<Result<(), Trouble>> {
        for _ in 0..TURN_PIECES {
            if ready!(up.poll_flush(cx)).is_err() {
                return self.refused();
            }
            if self.is_over {
                return Poll::Ready(Ok(()));
            }
            let piece = match self.kept.get(self.given) {
                Some(piece) => piece.clone(),
                None => match self.read(ready!(down.poll_take(cx)).map_err(of_client)?)? {
                    Some(piece) => self.keep(piece)?,
                    None => continue,
                },
            };
            if self.is_whole {
                self.given += 1;
            }
            self.is_over = self.is_taken && self.given >= self.kept.len();
            if up.give(piece).is_err() {
                return self.refused();
            }
            watch.handle_progress();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The endpoint takes no more; what it answered before counts, and whoever reads that tells how it ended.
    fn refused(&mut self) -> Poll<Result<(), Trouble>> {
        self.refuse();
        Poll::Ready(Ok(()))
    }

    /// What the client's piece says; none if only the next one makes something of it.
    fn read(&mut self, piece: Piece) -> Result<Option<Piece>, Trouble> {
        match &mut self.text {
            Some(text) => grpc_web::decode(text, piece).map_err(Trouble::ClientFault),
            None => Ok(Some(piece)),
        }
    }

    fn keep(&mut self, piece: Piece) -> Result<Piece, Trouble> {
        match &piece {
            Piece::Data(data, is_last) => {
                self.is_taken = *is_last;
                self.bytes += data.len() as u64;
                self.kept_bytes += data.len();
                self.bound.check(data, self.bytes).map_err(Trouble::ClientFault)?;
            }
            Piece::Trailers(trailers) => {
                self.is_taken = true;
                let checked = http2::check_size(trailers, self.bound.trailer_bytes);
                checked.map_err(Trouble::ClientFault)?;
            }
            Piece::End => self.is_taken = true,
        }
        if self.kept_bytes > KEPT_BYTES {
            self.is_whole = false;
            (self.kept, self.given) = (Vec::new(), 0);
        }
        if self.is_whole {
            if self.kept.is_empty() {
                // Most have one, and no more until their answer begins.
                self.kept.reserve_exact(1);
            }
            self.kept.push(piece.clone());
        }
        Ok(piece)
    }
}
