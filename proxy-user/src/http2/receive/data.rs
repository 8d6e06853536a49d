//! Parts of bodies, which are taken as they come (RFC 9113, 6.1).

use proxy_core::http2::frame::{END_STREAM, Head, PADDED};
use proxy_core::http2::{Breach, Code, Fault};

use super::{Padding, State, ensure, length_of};
use crate::http2::conn::{Conn, Role};
use crate::http2::streams::{DATA, Found};

impl Conn {
    /// A part of a body begins.
    pub(super) fn begin_data(&mut self, head: Head) -> Result<(), Fault> {
        ensure(head.stream != 0, Breach::Protocol)?;
        let length = length_of(head);
        let padding = if head.has(PADDED) { Padding::Unknown } else { Padding::Bytes(0) };
        ensure(length > 0 || !head.has(PADDED), Breach::FrameSize)?;
        if !head.has(PADDED) {
            self.weigh(head, head.length_bytes)?;
        }
        let found = self.streams.find(head.stream);
        let key = match found {
            Found::Open(key) => {
                let has_received_all = self.streams.all.get(key).is_some_and(|inner| inner.has_received_all);
                ensure(!has_received_all, Breach::StreamClosed)?;
                Some(key)
            }
            Found::Closed if self.role == Role::Client => None,
            Found::Left => None,
            found => return Err(found.breach().into()),
        };
        // Padding counts, too (RFC 9113, 6.9.1).
        ensure(self.receive_window.take(head.length_bytes), Breach::FlowControl)?;
        self.announce();
        let key = key.filter(|key| self.admit_data(*key, head));
        self.reader.state = State::Data { head, key, left_bytes: length, padding };
        if length == 0 {
            self.end_data(head, key);
        }
        Ok(())
    }

    /// Takes a frame's bytes out of its stream's window; says whether there is still a stream for them.
    fn admit_data(&mut self, key: usize, head: Head) -> bool {
        let Some(inner) = self.streams.all.get_mut(key) else { return false };
        let code = if !inner.receive_window.take(head.length_bytes) {
            Code::FLOW_CONTROL_ERROR
        } else if self.role == Role::Client && !inner.is_answered {
            Code::PROTOCOL_ERROR
        } else {
            return true;
        };
        self.reset(key, code);
        false
    }

    /// Takes the next bytes of a body; gives those behind it.
    pub(super) fn handle_data<'a>(
        &mut self,
        head: Head,
        key: Option<usize>,
        left_bytes: usize,
        padding: Padding,
        bytes: &'a [u8],
    ) -> Result<&'a [u8], Fault> {
        // It may be over since the frame began, and another in its place.
        let key = key.filter(|key| self.streams.all.get(*key).is_some_and(|inner| inner.id == head.stream));
        let padding_bytes = match padding {
            Padding::Bytes(padding_bytes) => padding_bytes,
            Padding::Unknown => {
                let Some((padding_bytes, rest)) = bytes.split_first() else { return Ok(bytes) };
                let (left_bytes, padding_bytes) = (left_bytes - 1, usize::from(*padding_bytes));
                ensure(padding_bytes <= left_bytes, Breach::Protocol)?;
                self.weigh(head, u32::try_from(left_bytes - padding_bytes).unwrap_or(u32::MAX))?;
                // What is no data is used at once.
                self.release_unused(key, padding_bytes + 1);
                let padding = Padding::Bytes(padding_bytes);
                self.reader.state = State::Data { head, key, left_bytes, padding };
                if left_bytes == 0 {
                    self.end_data(head, key);
                }
                return Ok(rest);
            }
        };
        let (some, rest) = bytes.split_at(left_bytes.min(bytes.len()));
        let data = some.get(..some.len().min(left_bytes - padding_bytes.min(left_bytes))).unwrap_or_default();
        let key = key.filter(|key| self.take_data(*key, data));
        if key.is_none() {
            self.release(data.len());
        }
        let left_bytes = left_bytes - some.len();
        // Behind the data only padding is left.
        let padding = Padding::Bytes(padding_bytes.min(left_bytes));
        self.reader.state = State::Data { head, key, left_bytes, padding };
        if left_bytes == 0 {
            self.end_data(head, key);
        }
        Ok(rest)
    }

    /// Keeps bytes for whoever has the stream; says whether somebody has.
    fn take_data(&mut self, key: usize, data: &[u8]) -> bool {
        let Some(inner) = self.streams.all.get_mut(key) else { return false };
        if inner.failure.is_some() {
            return false;
        }
        let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        match inner.body_left.map(|left| left.checked_sub(bytes)) {
            // More than was said (RFC 9113, 8.1.1).
            Some(None) => {
                self.reset(key, Code::PROTOCOL_ERROR);
                return false;
            }
            Some(left) => inner.body_left = left,
            None => {}
        }
        if inner.is_held {
            inner.received.extend_from_slice(data);
            inner.wake(DATA);
        } else {
            self.release(data.len());
        }
        true
    }

    /// Bytes of a frame that are no data count as used.
    fn release_unused(&mut self, key: Option<usize>, bytes: usize) {
        match key.and_then(|key| self.streams.all.get_mut(key)) {
            Some(inner) if inner.is_held => {
                inner.taken += u32::try_from(bytes).unwrap_or(0);
                // There may be nothing else in the frame, and its owner gives it back.
                inner.wake(DATA);
            }
            _ => self.release(bytes),
        }
    }

    /// A part of a body has come to its end.
    fn end_data(&mut self, head: Head, key: Option<usize>) {
        self.reader.state = State::Head;
        if !head.has(END_STREAM) {
            return;
        }
        let Some(key) = key else {
            // It may have been given up within the frame.
            self.streams.handle_end(head.stream);
            return;
        };
        let Some(inner) = self.streams.all.get_mut(key) else { return };
        if inner.body_left.is_some_and(|left| left > 0) {
            self.reset(key, Code::PROTOCOL_ERROR);
            self.streams.handle_end(head.stream);
            return;
        }
        inner.has_received_all = true;
        inner.wake(DATA);
        self.handle_received(key);
    }
}
