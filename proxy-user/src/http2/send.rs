//! What goes to the peer: heads at once, bodies as far as there is room.

use bytes::{Buf as _, Bytes};
use proxy_core::http2::frame::{
    CONTINUATION, DATA as DATA_FRAME, END_HEADERS, END_STREAM, HEAD_BYTES, HEADERS, Head, MOST,
    MOST_PAYLOAD_BYTES,
};
use proxy_core::http2::{Code, Edit, FieldList};

use super::conn::{Conn, Role};
use super::error::Error;
use super::stream::Piece;
use super::streams::{Inner, ROOM};
use super::window::Window;
use super::{MOST_ENDPOINT_STREAMS, STREAM_WINDOW_BYTES};

impl Conn {
    /// Begins a request, edited, now or when the peer allows one more stream; gives the key of its stream.
    ///
    /// # Errors
    /// If the connection is over, or its peer goes away: nothing was sent.
    pub fn begin(
        &mut self,
        request: &FieldList,
        edits: &[Edit<'_>],
        has_ended: bool,
    ) -> Result<usize, Error> {
        if let Some(end) = self.end {
            return Err(end.of_stream());
        }
        if let Some((_, code)) = self.goaway {
            return Err(Error::GoAway(code));
        }
        let inner = Inner {
            receive_window: Window::new(STREAM_WINDOW_BYTES),
            is_held: true,
            is_head: request.method() == "HEAD",
            is_connect: request.method() == "CONNECT",
            has_given_all: has_ended,
            ..Inner::default()
        };
        let key = self.streams.all.insert(inner);
        if self.unsent.is_empty() && self.has_room_for_one() && self.streams.next <= MOST {
            self.begin_now(key, request, edits);
        } else {
            let mut request = request.clone();
            edits.iter().for_each(|edit| request.apply(*edit));
            if let Some(inner) = self.streams.all.get_mut(key) {
                inner.unsent = Some(Box::new(request));
            }
            self.unsent.push_back(key);
            self.begin_unsent();
        }
        Ok(key)
    }

    /// Streams at a time that both sides allow.
    pub(super) fn most_streams(&self) -> u32 {
        self.peer.most_streams.min(MOST_ENDPOINT_STREAMS)
    }

    fn has_room_for_one(&self) -> bool {
        self.streams.open() < usize::try_from(self.most_streams()).unwrap_or(usize::MAX)
    }

    /// Begins the streams that there is room for.
    pub(super) fn begin_unsent(&mut self) {
        while !self.unsent.is_empty() && self.end.is_none() {
            if let Some((_, code)) = self.goaway {
                // All at once: each that fails comes back here.
                for key in std::mem::take(&mut self.unsent) {
                    if self.streams.all.get(key).is_some_and(|inner| inner.unsent.is_some()) {
                        self.fail(key, Error::GoAway(code));
                    }
                }
                return;
            }
            if self.streams.next > MOST {
                // Numbers are used up: as if the peer had gone away.
                self.goaway = Some((MOST, Code::NO_ERROR));
                continue;
            }
            if !self.has_room_for_one() {
                return;
            }
            let Some(key) = self.unsent.pop_front() else { return };
            let Some(inner) = self.streams.all.get_mut(key) else { continue };
            if let Some(request) = inner.unsent.take() {
                self.begin_now(key, &request, &[]);
            }
        }
    }

    fn begin_now(&mut self, key: usize, request: &FieldList, edits: &[Edit<'_>]) {
        let id = self.streams.next;
        let Some(inner) = self.streams.all.get_mut(key) else { return };
        self.streams.next += 2;
        inner.id = id;
        inner.send_window = i64::from(self.peer.window_bytes);
        let has_ended = inner.has_given_all && inner.pending.is_empty() && inner.pending_trailers.is_none();
        inner.has_sent_all = has_ended;
        self.streams.open_as(id, key);
        self.write_fields(id, has_ended, request, edits);
        self.push(key);
        self.wake();
    }

    /// Sends the head of an answer.
    pub(super) fn respond(&mut self, key: usize, head: &FieldList, has_ended: bool) -> Result<(), Error> {
        let inner = self.streams.sending(key)?;
        let is_interim = (100..200).contains(&head.status());
        let has_ended = has_ended && !is_interim;
        (inner.has_given_all, inner.has_sent_all) = (has_ended, has_ended);
        let id = inner.id;
        self.write_fields(id, has_ended, head, &[]);
        if has_ended {
            self.handle_sent_all(key);
        }
        self.wake();
        Ok(())
    }

    /// Sends a piece of a body, or as much of it as there is room for; the rest waits.
    pub(super) fn give(&mut self, key: usize, piece: Piece) -> Result<(), Error> {
        let inner = self.streams.sending(key)?;
        if inner.has_given_all {
            return Ok(());
        }
        inner.has_given_all = !matches!(piece, Piece::Data(_, false));
        match piece {
            Piece::Data(data, _) if inner.pending.is_empty() => inner.pending = data,
            // Whoever gives waits until all before it is on its way, as a rule.
            Piece::Data(data, _) => inner.pending = [&inner.pending[..], &data[..]].concat().into(),
            Piece::Trailers(trailers) => inner.pending_trailers = Some(Box::new(trailers)),
            Piece::End => {}
        }
        self.push(key);
        self.wake();
        Ok(())
    }

    /// Sends of a stream what there is room for.
    pub(super) fn push(&mut self, key: usize) {
        let Some(inner) = self.streams.all.get(key) else { return };
        if inner.id == 0 || inner.has_sent_all || inner.failure.is_some() {
            return;
        }
        loop {
            let has_room = self.has_room();
            let Some(inner) = self.streams.all.get_mut(key) else { return };
            if inner.pending.is_empty() {
                break;
            }
            if inner.send_window <= 0 {
                // Its next update comes back here.
                return;
            }
            if self.send_window <= 0 || !has_room {
                if !std::mem::replace(&mut inner.is_queued, true) {
                    self.queue.push_back(key);
                }
                return;
            }
            self.write_data(key);
        }
        let Some(inner) = self.streams.all.get_mut(key) else { return };
        inner.wake(ROOM);
        if !inner.has_given_all {
            return;
        }
        let (id, trailers) = (inner.id, inner.pending_trailers.take());
        let is_told = std::mem::replace(&mut inner.has_sent_all, true);
        match trailers {
            Some(trailers) => self.write_fields(id, true, &trailers, &[]),
            None if !is_told => self.write_frame(DATA_FRAME, END_STREAM, id, &[]),
            None => {}
        }
        self.handle_sent_all(key);
    }

    /// Sends one frame of a body; there is room.
    fn write_data(&mut self, key: usize) {
        let Some(inner) = self.streams.all.get_mut(key) else { return };
        let room = usize::try_from(inner.send_window.min(self.send_window)).unwrap_or(0);
        let bytes = inner.pending.len().min(room).min(MOST_PAYLOAD_BYTES);
        let is_last = inner.has_given_all && inner.pending_trailers.is_none() && bytes == inner.pending.len();
        let window = i64::try_from(bytes).unwrap_or(0);
        inner.send_window -= window;
        self.send_window -= window;
        let id = inner.id;
        let data = inner.pending.split_to(bytes);
        if inner.pending.is_empty() {
            // An empty one still holds what it was part of.
            inner.pending = Bytes::new();
        }
        inner.has_sent_all = is_last;
        self.write_frame(DATA_FRAME, if is_last { END_STREAM } else { 0 }, id, data.chunk());
        if let Some(meter) = &mut self.meter {
            meter.handle_sent(bytes);
        }
    }

    /// Lets those send that waited for their turn.
    pub(super) fn push_queued(&mut self) {
        for _ in 0..self.queue.len() {
            if self.send_window <= 0 || !self.has_room() {
                return;
            }
            let Some(key) = self.queue.pop_front() else { return };
            if let Some(inner) = self.streams.all.get_mut(key)
                && std::mem::take(&mut inner.is_queued)
            {
                self.push(key);
            }
        }
        if self.queue.is_empty() && self.queue.capacity() > 0 {
            self.queue = std::collections::VecDeque::new();
        }
    }

    fn handle_sent_all(&mut self, key: usize) {
        let Some(inner) = self.streams.all.get(key) else { return };
        if inner.is_over() {
            self.close(key);
        } else if !inner.is_held {
            self.abandon(key);
        }
    }

    /// Nobody minds what else the peer sends on a stream that has sent all.
    fn abandon(&mut self, key: usize) {
        // After a whole answer that is no error (RFC 9113, 8.1).
        let code = if self.role == Role::Server { Code::NO_ERROR } else { Code::CANCEL };
        self.reset(key, code);
    }

    /// Nobody has the stream any more.
    pub(super) fn drop_stream(&mut self, key: usize) {
        let Some(inner) = self.streams.all.get_mut(key) else { return };
        inner.is_held = false;
        let unused = std::mem::take(&mut inner.received).len() + usize::try_from(inner.taken).unwrap_or(0);
        inner.taken = 0;
        let (is_over, has_given_all, has_sent_all) =
            (inner.is_over(), inner.has_given_all, inner.has_sent_all);
        if inner.unsent.is_some() {
            self.unsent.retain(|waiting| *waiting != key);
            self.streams.remove(key);
        } else if is_over {
            self.streams.remove(key);
        } else if has_sent_all {
            self.abandon(key);
        } else if !has_given_all {
            self.reset(key, Code::CANCEL);
        }
        self.release(unused);
        if self.streams.all.is_empty() && (self.is_left || self.goaway.is_some()) {
            // It was the last.
            self.wake();
        }
    }

    /// Bytes of streams that nobody has any more, which wait for room.
    pub(super) fn left_bytes(&self) -> usize {
        let left = self.streams.all.iter().filter(|(_, inner)| !inner.is_held);
        left.map(|(_, inner)| inner.pending.len()).sum()
    }

    /// Writes a block of fields: HEADERS, and CONTINUATION if that is not enough.
    fn write_fields(&mut self, id: u32, has_ended: bool, fields: &FieldList, edits: &[Edit<'_>]) {
        let begin = self.out().len();
        self.out.extend_from_slice(&[0; HEAD_BYTES]);
        fields.encode(&mut self.encoder, edits, &mut self.out);
        let block_bytes = self.out.len() - begin - HEAD_BYTES;
        if let Some(meter) = &mut self.meter {
            meter.handle_sent(block_bytes);
        }
        let end_stream = if has_ended { END_STREAM } else { 0 };
        let head = |kind, flags, bytes: usize| {
            let length_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            Head { kind, flags, stream: id, length_bytes }.to_bytes()
        };
        if block_bytes <= MOST_PAYLOAD_BYTES {
            let head = head(HEADERS, END_HEADERS | end_stream, block_bytes);
            self.out[begin..begin + HEAD_BYTES].copy_from_slice(&head);
            return;
        }
        let block = self.out.split_off(begin + HEAD_BYTES);
        self.out.truncate(begin);
        let mut parts = block.chunks(MOST_PAYLOAD_BYTES).enumerate().peekable();
        while let Some((index, part)) = parts.next() {
            let end_headers = if parts.peek().is_none() { END_HEADERS } else { 0 };
            let (kind, flags) = if index == 0 { (HEADERS, end_stream) } else { (CONTINUATION, 0) };
            self.out.extend_from_slice(&head(kind, flags | end_headers, part.len()));
            self.out.extend_from_slice(part);
        }
    }
}
