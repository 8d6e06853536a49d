//! The state of a connection, and how it begins and ends.

use std::collections::VecDeque;
use std::task::{Context, Waker};
use std::time::Instant;

use proxy_core::http::HttpLimits;
use proxy_core::http2::frame::{self, GOAWAY, Head, PING, RST_STREAM, WINDOW_UPDATE};
use proxy_core::http2::hpack::{Decoder, Encoder};
use proxy_core::http2::{Code, FieldList, FloodMeter, HeadBounds};

use super::error::{End, Error};
use super::receive::Reader;
use super::settings::{Peer, TABLE_BYTES};
use super::streams::{DATA, RESET, ROOM, Streams, keep_waker};
use super::window::Window;
use super::{COLLECTED_BYTES, ENDPOINT_WINDOW_BYTES, WINDOW_BYTES};

/// Room for what is collected, from the first byte, so that nothing is copied as it becomes more: as much as there was last time,
/// and the frames of some requests at least.
const COLLECTED_ROOM: usize = 4 << 10;
/// Streams that there is room for while a connection rests: there are many of clients, and few to endpoints.
const CLIENT_ROOM: usize = 8;
const ENDPOINT_ROOM: usize = 64;
/// By this ping it is known that the peer has seen a GOAWAY (RFC 9113, 6.8); any other one tells that it is there.
pub(super) const LEAVING_PING: [u8; 8] = *b"leaving?";
const THERE_PING: [u8; 8] = *b"there?\0\0";

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// How far this side is in leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// The peer was asked to begin no more; what was on its way is still taken.
    Asked,
    /// It has seen that; streams behind this one are none.
    Behind(u32),
}

/// A connection without its bytes' way: what comes in and goes out are bytes in memory.
pub struct Conn {
    pub(super) role: Role,
    pub(super) bounds: HeadBounds,
    pub(super) reader: Reader,
    /// Of clients only: an endpoint is trusted with what it sends.
    pub(super) meter: Option<FloodMeter>,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    /// Of the block that was decoded last, in memory that the next one uses again.
    pub(super) fields: FieldList,
    pub(super) streams: Streams,
    /// Requests that nobody has taken up yet, each with its stream.
    pub(super) asked: VecDeque<(usize, FieldList)>,
    /// Streams that wait until the peer allows more.
    pub(super) unsent: VecDeque<usize>,
    /// Streams that have something to send and wait for room in the connection's window, or in what is collected.
    pub(super) queue: VecDeque<usize>,
    /// Whole frames that are to be sent.
    pub(super) out: Vec<u8>,
    last_out_bytes: usize,
    pub(super) send_window: i64,
    pub(super) receive_window: Window,
    pub(super) peer: Peer,
    pub(super) leaving: Leaving,
    /// The last stream that the peer takes, and why it goes.
    pub(super) goaway: Option<(u32, Code)>,
    pub(super) end: Option<End>,
    /// Nobody here begins streams any more.
    pub(super) is_left: bool,
    /// The peer said something since somebody looked.
    pub(super) is_heard: bool,
    /// Its session of TLS can carry little more.
    pub(super) is_wearing: bool,
    /// Those who wait for the peer's settings.
    pub(super) greeted: Vec<Waker>,
    /// Who sends and receives; not to be woken while it runs.
    driver: Option<Waker>,
    is_driving: bool,
}

impl Conn {
    /// Begins with a client, which is not trusted with more than it should send; its preface is to come.
    #[must_use]
    pub fn of_client(limits: &HttpLimits, now: Instant) -> Self {
        Self::new(Role::Server, HeadBounds::new(limits.head_bytes), Some(FloodMeter::new(now)))
    }

    /// Begins with an endpoint.
    #[must_use]
    pub fn of_endpoint(limits: &HttpLimits) -> Self {
        Self::new(Role::Client, HeadBounds::new(limits.head_bytes), None)
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Takes the frames that are to be sent.
    pub fn take_out(&mut self) -> Vec<u8> {
        self.last_out_bytes = self.out.len().min(COLLECTED_BYTES);
        std::mem::take(&mut self.out)
    }

    fn new(role: Role, bounds: HeadBounds, meter: Option<FloodMeter>) -> Self {
        let window_bytes = if role == Role::Server { WINDOW_BYTES } else { ENDPOINT_WINDOW_BYTES };
        let mut conn = Self {
            role,
            bounds,
            reader: Reader::new(role),
            meter,
            decoder: Decoder::new(TABLE_BYTES),
            encoder: Encoder::new(),
            fields: FieldList::default(),
            streams: Streams::new(if role == Role::Server { CLIENT_ROOM } else { ENDPOINT_ROOM }),
            asked: VecDeque::new(),
            unsent: VecDeque::new(),
            queue: VecDeque::new(),
            out: Vec::new(),
            last_out_bytes: 0,
            send_window: i64::from(Peer::FIRST_WINDOW_BYTES),
            receive_window: Window::new(window_bytes),
            peer: Peer::default(),
            leaving: Leaving::No,
            goaway: None,
            end: None,
            is_left: false,
            is_heard: false,
            is_wearing: false,
            greeted: Vec::new(),
            driver: None,
            is_driving: false,
        };
        conn.write_settings();
        // A connection's window begins with this, whatever settings say (RFC 9113, 6.9.2).
        conn.write_window(0, window_bytes - Peer::FIRST_WINDOW_BYTES);
        conn
    }

    /// The driver runs, and looks at everything before it rests.
    pub(super) fn begin_turn(&mut self) {
        self.is_driving = true;
    }

    /// The driver rests until it is woken.
    pub(super) fn end_turn(&mut self, cx: &Context<'_>) {
        self.is_driving = false;
        keep_waker(&mut self.driver, cx);
    }

    /// Has the driver look.
    pub(super) fn wake(&mut self) {
        if !self.is_driving
            && let Some(driver) = &self.driver
        {
            driver.wake_by_ref();
        }
    }

    /// So many bytes of bodies are used: the peer may send others.
    pub(super) fn release(&mut self, bytes: usize) {
        self.receive_window.release(u32::try_from(bytes).unwrap_or(0));
        self.announce();
    }

    /// Tells the peer of what was used, if it is time.
    pub(super) fn announce(&mut self) {
        if let Some(bytes) = self.receive_window.announce() {
            self.write_window(0, bytes);
            self.wake();
        }
    }

    /// The same of a stream.
    pub(super) fn release_of(&mut self, key: usize) {
        let Some(inner) = self.streams.all.get_mut(key) else { return };
        let taken = std::mem::take(&mut inner.taken);
        if taken == 0 {
            return;
        }
        inner.receive_window.release(taken);
        if !inner.has_received_all
            && !inner.is_over()
            && let Some(bytes) = inner.receive_window.announce()
        {
            let id = inner.id;
            self.write_window(id, bytes);
            self.wake();
        }
        self.release(usize::try_from(taken).unwrap_or(0));
    }

    /// Gives a stream up, and tells the peer why. What was received of it can still be taken.
    pub(super) fn reset(&mut self, key: usize, code: Code) {
        let Some(inner) = self.streams.all.get_mut(key) else { return };
        if inner.is_over() {
            return;
        }
        let (id, has_received_all) = (inner.id, inner.has_received_all);
        if id == 0 {
            self.unsent.retain(|waiting| *waiting != key);
            return self.fail(key, Error::GivenUp(code));
        }
        self.fail(key, Error::GivenUp(code));
        if !has_received_all {
            self.streams.leave(id);
        }
        self.write_reset(id, code);
    }

    /// Ends a stream for whoever has it.
    pub(super) fn fail(&mut self, key: usize, error: Error) {
        let Some(inner) = self.streams.all.get_mut(key) else { return };
        inner.failure = Some(error);
        (inner.pending, inner.pending_trailers, inner.unsent) = Default::default();
        inner.wake(DATA | ROOM | RESET);
        self.close(key);
    }

    /// Looks what a stream that is over leaves room for.
    pub(super) fn close(&mut self, key: usize) {
        if self.streams.all.get(key).is_some_and(|inner| inner.is_queued) {
            self.queue.retain(|queued| *queued != key);
        }
        self.streams.close(key);
        if self.role == Role::Client {
            self.begin_unsent();
        }
        if self.streams.open() == 0 {
            // It may have been the last.
            self.wake();
        }
    }

    /// Ends the connection: all streams hear of it.
    pub(super) fn finish(&mut self, end: End) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        let keys: Vec<usize> = self.streams.all.iter().map(|(key, _)| key).collect();
        for key in keys {
            if self.streams.all.get(key).is_some_and(|inner| !inner.is_over()) {
                self.fail(key, end.of_stream());
            }
        }
        self.greeted.drain(..).for_each(Waker::wake);
        self.wake();
    }

    /// The peer sends nothing more.
    pub(super) fn handle_eof(&mut self) {
        // A client that went away has said why.
        let goaway = self.goaway.filter(|_| self.role == Role::Server);
        self.finish(goaway.map_or(End::Eof, |(_, code)| End::GoAway(code)));
    }

    /// Ends the connection with a word to the peer.
    pub(super) fn give_up(&mut self, end: End, code: Code) {
        if self.end.is_none() {
            self.write_goaway(self.last_stream(), code);
            self.finish(end);
        }
    }

    /// Asks the peer to begin no more streams.
    pub(super) fn leave(&mut self) {
        if self.leaving == Leaving::No && self.end.is_none() {
            self.leaving = Leaving::Asked;
            self.write_goaway(frame::MOST, Code::NO_ERROR);
            self.write_ping(0, LEAVING_PING);
            self.wake();
        }
    }

    /// The peer has seen that it should: what it begins from now on is none.
    pub(super) fn handle_leaving_seen(&mut self) {
        if self.leaving == Leaving::Asked {
            let last = self.last_stream();
            self.leaving = Leaving::Behind(last);
            self.write_goaway(last, Code::NO_ERROR);
        }
    }

    /// The last stream of the peer that was taken up; a server begins none here.
    fn last_stream(&self) -> u32 {
        if self.role == Role::Server { self.streams.next.saturating_sub(2) } else { 0 }
    }

    /// Asks the peer whether it is there.
    pub(super) fn ping(&mut self) {
        self.write_ping(0, THERE_PING);
        self.wake();
    }

    /// Where frames are collected.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        if self.out.capacity() == 0 {
            self.out.reserve(self.last_out_bytes.max(COLLECTED_ROOM));
        }
        &mut self.out
    }

    /// Tells whether bodies have room in what is collected.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < COLLECTED_BYTES
    }

    pub(super) fn write_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let out = self.out();
        out.extend_from_slice(&Head { kind, flags, stream, length_bytes }.to_bytes());
        out.extend_from_slice(payload);
    }

    pub(super) fn write_window(&mut self, stream: u32, bytes: u32) {
        self.write_frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    }

    pub(super) fn write_reset(&mut self, stream: u32, code: Code) {
        self.write_frame(RST_STREAM, 0, stream, &code.0.to_be_bytes());
        self.wake();
    }

    pub(super) fn write_ping(&mut self, flags: u8, payload: [u8; 8]) {
        self.write_frame(PING, flags, 0, &payload);
    }

    fn write_goaway(&mut self, last: u32, code: Code) {
        let payload = (u64::from(last) << 32 | u64::from(code.0)).to_be_bytes();
        self.write_frame(GOAWAY, 0, 0, &payload);
    }
}
