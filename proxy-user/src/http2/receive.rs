//! What comes from the peer: frames, each checked where it stands (RFC 9113, 4 to 8).

mod block;
mod data;

use std::time::Instant;

use proxy_core::http2::frame::{
    ACK, CONTINUATION, DATA, GOAWAY, HEAD_BYTES, HEADERS, Head, MOST, MOST_PAYLOAD_BYTES, PING, PREFACE,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use proxy_core::http2::{Breach, Code, Fault, Flood};

use super::conn::{Conn, LEAVING_PING, Role};
use super::error::{End, Error};
use super::streams::Found;

/// Heads of one stream that wait to be taken: the answer's, and what an endpoint says before (1xx).
const MOST_RESPONSES: usize = 16;
/// Of a priority in HEADERS (RFC 9113, 6.2).
const PRIORITY_BYTES: usize = 5;

/// Where in the stream of frames the next byte is.
pub(super) struct Reader {
    state: State,
    /// What has come of a head or payload that is needed whole.
    partial: Vec<u8>,
    /// The head of a message whose fields go on in the next frame.
    open: Option<Block>,
}

enum State {
    /// So many bytes of the preface are to come.
    Preface(usize),
    Head,
    /// A payload that is needed whole.
    Payload(Head),
    /// A body, for a stream or nobody; so much of the frame is to come, padding included.
    Data {
        head: Head,
        key: Option<usize>,
        left_bytes: usize,
        padding: Padding,
    },
    /// A payload that means nothing.
    Skip(usize),
}

/// Bytes behind a body that are none.
#[derive(Clone, Copy)]
enum Padding {
    /// The first byte says how many.
    Unknown,
    Bytes(usize),
}

/// A block of fields that has begun.
struct Block {
    stream: u32,
    has_ended: bool,
    bytes: Vec<u8>,
}

impl Reader {
    pub(super) fn new(role: Role) -> Self {
        let state = if role == Role::Server { State::Preface(PREFACE.len()) } else { State::Head };
        Self { state, partial: Vec::new(), open: None }
    }

    /// Moves bytes until there are so many of a head or payload; says whether there are.
    fn fill(&mut self, bytes: &mut &[u8], count: usize) -> bool {
        let missing = count.saturating_sub(self.partial.len()).min(bytes.len());
        let (more, rest) = bytes.split_at(missing);
        self.partial.extend_from_slice(more);
        *bytes = rest;
        self.partial.len() >= count
    }
}

impl Conn {
    /// Takes what the peer has sent. After an end nothing more is taken.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) {
        self.is_heard = true;
        if let Some(meter) = &mut self.meter {
            meter.refill(now);
        }
        if self.end.is_none()
            && let Err(fault) = self.receive_all(bytes)
        {
            let is_long = self.role == Role::Client && fault == Fault::Flood(Flood::Continuation);
            let end = if is_long { End::HeadTooLong } else { End::Fault(fault) };
            self.give_up(end, fault.code());
        }
    }

    fn receive_all(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() && self.end.is_none() {
            match self.reader.state {
                State::Preface(left) => {
                    let (some, rest) = bytes.split_at(left.min(bytes.len()));
                    let at = PREFACE.len() - left;
                    ensure(PREFACE.get(at..at + some.len()) == Some(some), Breach::Protocol)?;
                    bytes = rest;
                    let left = left - some.len();
                    self.reader.state = if left == 0 { State::Head } else { State::Preface(left) };
                }
                State::Head => {
                    let head = match bytes.split_first_chunk::<HEAD_BYTES>() {
                        Some((head, rest)) if self.reader.partial.is_empty() => {
                            bytes = rest;
                            *head
                        }
                        _ => {
                            if !self.reader.fill(&mut bytes, HEAD_BYTES) {
                                return Ok(());
                            }
                            let head = self.reader.partial.first_chunk().copied().unwrap_or_default();
                            self.reader.partial = Vec::new();
                            head
                        }
                    };
                    self.handle_head(Head::read(head))?;
                }
                State::Payload(head) => {
                    let length = length_of(head);
                    if self.reader.partial.is_empty()
                        && let Some((payload, rest)) = bytes.split_at_checked(length)
                    {
                        bytes = rest;
                        self.reader.state = State::Head;
                        self.handle_payload(head, payload)?;
                    } else {
                        if !self.reader.fill(&mut bytes, length) {
                            return Ok(());
                        }
                        let payload = std::mem::take(&mut self.reader.partial);
                        self.reader.state = State::Head;
                        self.handle_payload(head, &payload)?;
                    }
                }
                State::Data { head, key, left_bytes, padding } => {
                    bytes = self.handle_data(head, key, left_bytes, padding, bytes)?;
                }
                State::Skip(left) => {
                    let skipped = left.min(bytes.len());
                    bytes = bytes.get(skipped..).unwrap_or_default();
                    self.reader.state =
                        if skipped == left { State::Head } else { State::Skip(left - skipped) };
                }
            }
        }
        Ok(())
    }

    /// Looks at what stands before a payload.
    fn handle_head(&mut self, head: Head) -> Result<(), Fault> {
        let length = length_of(head);
        ensure(length <= MOST_PAYLOAD_BYTES, Breach::FrameSize)?;
        if !self.peer.is_greeted {
            // The first frame (RFC 9113, 3.4).
            ensure(head.kind == SETTINGS && !head.has(ACK), Breach::Protocol)?;
        }
        if let Some(open) = &self.reader.open {
            ensure(head.kind == CONTINUATION && head.stream == open.stream, Breach::Protocol)?;
        }
        match head.kind {
            DATA => return self.begin_data(head),
            HEADERS | PRIORITY | RST_STREAM | SETTINGS | PING | GOAWAY | WINDOW_UPDATE | CONTINUATION => {
                self.reader.state = State::Payload(head);
                if length == 0 {
                    self.reader.state = State::Head;
                    self.handle_payload(head, &[])?;
                }
            }
            PUSH_PROMISE => return Err(Breach::Protocol.into()),
            _ => {
                self.weigh(head, head.length_bytes)?;
                self.reader.state = if length == 0 { State::Head } else { State::Skip(length) };
            }
        }
        Ok(())
    }

    fn weigh(&mut self, head: Head, useful_bytes: u32) -> Result<(), Fault> {
        match &mut self.meter {
            Some(meter) => Ok(meter.take(head.kind, head.flags, useful_bytes)?),
            None => Ok(()),
        }
    }

    fn handle_payload(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        if head.kind != HEADERS {
            self.weigh(head, head.length_bytes)?;
        }
        match head.kind {
            HEADERS => self.handle_headers(head, payload),
            CONTINUATION => self.handle_continuation(head, payload),
            SETTINGS => {
                ensure(head.stream == 0, Breach::Protocol)?;
                if !head.has(ACK) {
                    return Ok(self.handle_settings(payload)?);
                }
                ensure(payload.is_empty(), Breach::FrameSize)?;
                Ok(self.handle_settings_ack()?)
            }
            PING => self.handle_ping(head, payload),
            WINDOW_UPDATE => self.handle_window(head, payload),
            RST_STREAM => self.handle_reset(head, payload),
            GOAWAY => self.handle_goaway(head, payload),
            _ => {
                // PRIORITY, which means nothing any more (RFC 9113, 5.3.2).
                ensure(head.stream != 0, Breach::Protocol)?;
                Ok(ensure(payload.len() == PRIORITY_BYTES, Breach::FrameSize)?)
            }
        }
    }

    fn handle_ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        ensure(head.stream == 0, Breach::Protocol)?;
        let payload = <[u8; 8]>::try_from(payload).map_err(|_| Breach::FrameSize)?;
        if !head.has(ACK) {
            self.write_ping(ACK, payload);
        } else if payload == LEAVING_PING {
            self.handle_leaving_seen();
        }
        Ok(())
    }

    fn handle_window(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let increment = <[u8; 4]>::try_from(payload).map_err(|_| Breach::FrameSize)?;
        let increment = i64::from(u32::from_be_bytes(increment) & MOST);
        ensure(increment > 0, Breach::Protocol)?;
        if head.stream == 0 {
            self.send_window += increment;
            ensure(self.send_window <= i64::from(MOST), Breach::FlowControl)?;
            self.push_queued();
            return Ok(());
        }
        match self.streams.find(head.stream) {
            Found::Open(key) => {
                let Some(inner) = self.streams.all.get_mut(key) else { return Ok(()) };
                inner.send_window += increment;
                if inner.send_window > i64::from(MOST) {
                    self.reset(key, Code::FLOW_CONTROL_ERROR);
                } else if !inner.pending.is_empty() {
                    self.push(key);
                }
                Ok(())
            }
            Found::Idle => Err(Breach::Protocol.into()),
            Found::Left | Found::Closed => Ok(()),
        }
    }

    fn handle_reset(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let found = self.streams.find(head.stream);
        ensure(found != Found::Idle, Breach::Protocol)?;
        let code = <[u8; 4]>::try_from(payload).map_err(|_| Breach::FrameSize)?;
        match found {
            Found::Open(key) => self.fail(key, Error::Reset(Code(u32::from_be_bytes(code)))),
            _ => self.streams.handle_end(head.stream),
        }
        Ok(())
    }

    fn handle_goaway(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        ensure(head.stream == 0, Breach::Protocol)?;
        let Some(([a, b, c, d, code @ ..], _)) = payload.split_first_chunk::<8>() else {
            return Err(Breach::FrameSize.into());
        };
        let last = u32::from_be_bytes([*a, *b, *c, *d]) & MOST;
        let code = Code(u32::from_be_bytes(*code));
        // It must not grow (RFC 9113, 6.8).
        ensure(self.goaway.is_none_or(|(before, _)| last <= before), Breach::Protocol)?;
        self.goaway = Some((last, code));
        if self.role == Role::Client {
            for key in self.streams.keys() {
                if self.streams.all.get(key).is_some_and(|inner| inner.id > last) {
                    self.fail(key, Error::GoAway(code));
                }
            }
            self.begin_unsent();
        }
        Ok(())
    }
}

fn ensure(holds: bool, breach: Breach) -> Result<(), Breach> {
    if holds { Ok(()) } else { Err(breach) }
}

fn length_of(head: Head) -> usize {
    usize::try_from(head.length_bytes).unwrap_or(usize::MAX)
}
