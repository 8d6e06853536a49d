//! Blocks of fields: heads of requests and answers, and trailers (RFC 9113, 8).

use proxy_core::http2::frame::{END_HEADERS, END_STREAM, HAS_PRIORITY, Head, PADDED};
use proxy_core::http2::{Breach, Code, Fault, FieldList, Flood, Malformed};

use super::{Block, MOST_RESPONSES, PRIORITY_BYTES, ensure};
use crate::http2::conn::{Conn, Leaving, Role};
use crate::http2::streams::{DATA, Found, Inner};
use crate::http2::window::Window;
use crate::http2::{MOST_STREAMS, STREAM_WINDOW_BYTES};

/// Room for what is added to a request's head on its way: whose request it is, and its number and time.
const EDIT_BYTES: usize = 192;
const EDIT_FIELDS: usize = 4;

impl Conn {
    pub(super) fn handle_headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let priority_bytes = if head.has(HAS_PRIORITY) { PRIORITY_BYTES } else { 0 };
        let (padding_bytes, payload) = match payload.split_first() {
            Some((padding_bytes, rest)) if head.has(PADDED) => (usize::from(*padding_bytes), rest),
            None if head.has(PADDED) => return Err(Breach::FrameSize.into()),
            _ => (0, payload),
        };
        let block = payload.get(priority_bytes..).ok_or(Breach::FrameSize)?;
        let block_bytes = block.len().checked_sub(padding_bytes).ok_or(Breach::Protocol)?;
        let block = block.get(..block_bytes).unwrap_or_default();
        self.weigh(head, u32::try_from(payload.len() - padding_bytes).unwrap_or(u32::MAX))?;
        ensure(head.stream != 0, Breach::Protocol)?;
        self.ensure_block(block.len())?;
        if head.has(END_HEADERS) {
            return self.handle_block(head.stream, head.has(END_STREAM), block);
        }
        let (stream, has_ended, bytes) = (head.stream, head.has(END_STREAM), block.to_vec());
        self.reader.open = Some(Block { stream, has_ended, bytes });
        Ok(())
    }

    pub(super) fn handle_continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let mut open = self.reader.open.take().ok_or(Breach::Protocol)?;
        self.ensure_block(open.bytes.len() + payload.len())?;
        open.bytes.extend_from_slice(payload);
        if head.has(END_HEADERS) {
            return self.handle_block(open.stream, open.has_ended, &open.bytes);
        }
        self.reader.open = Some(open);
        Ok(())
    }

    fn ensure_block(&self, bytes: usize) -> Result<(), Fault> {
        let most = usize::try_from(self.bounds.block_bytes).unwrap_or(usize::MAX);
        if bytes > most { Err(Flood::Continuation.into()) } else { Ok(()) }
    }

    /// A whole block of fields has come: a head, or trailers.
    fn handle_block(&mut self, id: u32, has_ended: bool, block: &[u8]) -> Result<(), Fault> {
        // Whatever becomes of it: the table of fields is that of all streams.
        let decoded = self.fields.decode(&mut self.decoder, block, self.bounds.list_bytes);
        decoded.map_err(|_| Breach::Compression)?;
        let result = self.handle_fields(id, has_ended);
        self.fields.clear();
        result
    }

    fn handle_fields(&mut self, id: u32, has_ended: bool) -> Result<(), Fault> {
        match self.streams.find(id) {
            Found::Open(key) => {
                let Some(inner) = self.streams.all.get(key) else { return Ok(()) };
                ensure(!inner.has_received_all, Breach::StreamClosed)?;
                if self.role == Role::Client && !inner.is_answered {
                    self.handle_answer(key, has_ended);
                } else {
                    self.handle_trailers(key, has_ended);
                }
                Ok(())
            }
            Found::Idle if self.role == Role::Server && !id.is_multiple_of(2) => {
                self.handle_request(id, has_ended);
                Ok(())
            }
            Found::Left => {
                if has_ended {
                    self.streams.handle_end(id);
                }
                Ok(())
            }
            Found::Closed if self.streams.is_passed(id) => Err(Breach::Protocol.into()),
            // An endpoint may say what nobody waits for any more.
            Found::Closed if self.role == Role::Client => Ok(()),
            found => Err(found.breach().into()),
        }
    }

    /// A request has begun.
    fn handle_request(&mut self, id: u32, has_ended: bool) {
        if matches!(self.leaving, Leaving::Behind(last) if id > last) {
            // The client has been told that it is none.
            self.streams.pass_to(id);
            self.leave_unless(has_ended, id);
            return;
        }
        self.streams.pass_to(id);
        let refused = self.streams.open() >= usize::try_from(MOST_STREAMS).unwrap_or(usize::MAX);
        let request = if refused { Err(Code::REFUSED_STREAM) } else { self.request(has_ended) };
        let (request, body_left) = match request {
            Ok(request) => request,
            Err(code) => {
                self.leave_unless(has_ended, id);
                self.write_reset(id, code);
                return;
            }
        };
        let inner = Inner {
            id,
            send_window: i64::from(self.peer.window_bytes),
            receive_window: Window::new(STREAM_WINDOW_BYTES),
            body_left,
            has_received_all: has_ended,
            is_held: true,
            ..Inner::default()
        };
        let key = self.streams.all.insert(inner);
        self.streams.open_as(id, key);
        self.asked.push_back((key, request));
    }

    fn leave_unless(&mut self, has_ended: bool, id: u32) {
        if !has_ended {
            self.streams.leave(id);
        }
    }

    fn request(&self, has_ended: bool) -> Result<(FieldList, Option<u64>), Code> {
        let read = || {
            self.fields.check_request()?;
            // What a tunnel carries is no body.
            let is_tunnel = self.fields.method() == "CONNECT";
            let length = if is_tunnel { None } else { self.fields.content_length()? };
            if has_ended && length.is_some_and(|length| length > 0) {
                Err(Malformed)
            } else {
                Ok((self.fields.copy(EDIT_BYTES, EDIT_FIELDS), length))
            }
        };
        read().map_err(|Malformed| Code::PROTOCOL_ERROR)
    }

    /// An answer has begun, or what comes before it.
    fn handle_answer(&mut self, key: usize, has_ended: bool) {
        let fields = &self.fields;
        let Some(inner) = self.streams.all.get_mut(key) else { return };
        let read = || {
            fields.check_answer()?;
            let status = fields.status();
            // Nothing is switched to in HTTP/2 (RFC 9113, 8.6).
            let is_final = status >= 200;
            let is_tunnel = inner.is_connect && (200..300).contains(&status);
            let length = match status {
                _ if !is_final || is_tunnel => None,
                // Whatever they say of a length, no body follows (RFC 9110, 6.4.1).
                204 | 304 => Some(0),
                _ if inner.is_head => Some(0),
                _ => fields.content_length()?,
            };
            let is_wrong = !is_final || length.is_some_and(|length| length > 0);
            if status == 101 || (has_ended && is_wrong) { Err(Malformed) } else { Ok((is_final, length)) }
        };
        match read() {
            // Nobody says more before an answer than what is taken meanwhile.
            Ok(_) if inner.responses.len() >= MOST_RESPONSES => self.reset(key, Code::ENHANCE_YOUR_CALM),
            Ok((is_final, length)) => {
                inner.is_answered = is_final;
                inner.body_left = length;
                inner.has_received_all = has_ended;
                inner.responses.push_back(fields.copy(0, 0));
                inner.wake(DATA);
                self.handle_received(key);
            }
            Err(Malformed) => self.reset(key, Code::PROTOCOL_ERROR),
        }
    }

    fn handle_trailers(&mut self, key: usize, has_ended: bool) {
        let Some(inner) = self.streams.all.get_mut(key) else { return };
        let is_whole = has_ended && inner.body_left.is_none_or(|left| left == 0);
        if !is_whole || self.fields.check_trailers().is_err() {
            return self.reset(key, Code::PROTOCOL_ERROR);
        }
        inner.trailers = Some(Box::new(self.fields.copy(0, 0)));
        inner.has_received_all = true;
        inner.wake(DATA);
        self.handle_received(key);
    }

    /// Looks whether a stream is over with what has come.
    pub(super) fn handle_received(&mut self, key: usize) {
        if self.streams.all.get(key).is_some_and(Inner::is_over) {
            self.close(key);
        }
    }
}
