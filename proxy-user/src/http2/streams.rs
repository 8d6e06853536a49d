//! Which streams there are, and what became of those that are no more.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::Bytes;
use proxy_core::http2::{Breach, Code, FieldList};
use rustc_hash::FxHashMap;
use slab::Slab;

use super::error::Error;
use super::window::Window;

/// Streams that were ended here and not by the peer which are remembered: twice what a client may have at a time.
const LEFT_STREAMS: usize = 512;
/// Gaps in the numbers of a client's streams that are remembered: nobody leaves more than one, at the begin.
const GAPS: usize = 4;

/// What the owner of a stream waits for.
pub(super) const DATA: u8 = 1;
pub(super) const ROOM: u8 = 2;
pub(super) const RESET: u8 = 4;

/// One stream.
#[derive(Default)]
pub(super) struct Inner {
    /// 0 until it is begun.
    pub(super) id: u32,
    /// Bytes that may be sent; less than none if settings took some back (RFC 9113, 6.9.2).
    pub(super) send_window: i64,
    pub(super) receive_window: Window,
    /// Bytes that the owner has: used when it takes the next.
    pub(super) taken: u32,
    pub(super) received: Vec<u8>,
    /// What of a body is to come, if that was said.
    pub(super) body_left: Option<u64>,
    pub(super) responses: VecDeque<FieldList>,
    pub(super) trailers: Option<Box<FieldList>>,
    /// A head that waits until the peer allows one more stream.
    pub(super) unsent: Option<Box<FieldList>>,
    /// What waits for room, and the trailers behind it.
    pub(super) pending: Bytes,
    pub(super) pending_trailers: Option<Box<FieldList>>,
    pub(super) failure: Option<Error>,
    pub(super) is_held: bool,
    /// The answer to a HEAD, whose length is that of no body.
    pub(super) is_head: bool,
    /// The answer to a CONNECT, which may be a tunnel and no body.
    pub(super) is_connect: bool,
    /// The head of the answer has come.
    pub(super) is_answered: bool,
    pub(super) has_received_all: bool,
    /// Nothing more is given to be sent.
    pub(super) has_given_all: bool,
    /// All that was given was sent.
    pub(super) has_sent_all: bool,
    /// It waits for its turn to send.
    pub(super) is_queued: bool,
    pub(super) waits: u8,
    pub(super) waker: Option<Waker>,
}

impl Inner {
    /// Notes what its owner waits for.
    pub(super) fn wait(&mut self, what: u8, cx: &Context<'_>) {
        self.waits |= what;
        keep_waker(&mut self.waker, cx);
    }

    /// Wakes the owner if it waits for that.
    pub(super) fn wake(&mut self, what: u8) {
        if self.waits & what != 0 {
            self.waits = 0;
            if let Some(waker) = &self.waker {
                waker.wake_by_ref();
            }
        }
    }

    /// Both sides have said all, or it was given up.
    pub(super) fn is_over(&self) -> bool {
        self.failure.is_some() || (self.has_received_all && self.has_sent_all)
    }
}

/// Keeps whom to wake.
pub(super) fn keep_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// The streams of a connection.
#[derive(Default)]
pub(super) struct Streams {
    pub(super) all: Slab<Inner>,
    /// Those that are not over, by number.
    ids: FxHashMap<u32, usize>,
    /// The lowest that was never begun, by a client.
    pub(super) next: u32,
    /// First and last of streams that a client passed over, the latest first.
    gaps: [(u32, u32); GAPS],
    /// Ended here, and by the peer not: what it still sends was on its way. Ascending but for rare cases.
    left: VecDeque<u32>,
    /// Of streams up to this one that is not known any more.
    forgotten: u32,
    /// Room that may stay while there is none.
    resting_streams: usize,
}

/// What a frame of the peer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A stream that is not over.
    Open(usize),
    /// One that was given up here: it was on its way.
    Left,
    /// One that the peer itself has ended.
    Closed,
    /// One that was never begun.
    Idle,
}

impl Streams {
    /// Begins with none; room for so many is kept.
    pub(super) fn new(resting_streams: usize) -> Self {
        Self { next: 1, resting_streams, ..Self::default() }
    }

    /// How many are not over.
    pub(super) fn open(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn find(&self, id: u32) -> Found {
        if let Some(key) = self.ids.get(&id) {
            return Found::Open(*key);
        }
        if id.is_multiple_of(2) || id >= self.next {
            return Found::Idle;
        }
        if id <= self.forgotten || self.left.contains(&id) { Found::Left } else { Found::Closed }
    }

    /// Passes over the streams before this one, which can never be begun.
    pub(super) fn pass_to(&mut self, id: u32) {
        if id > self.next {
            self.gaps.rotate_right(1);
            self.gaps[0] = (self.next, id - 1);
        }
        self.next = id.saturating_add(2);
    }

    /// Tells whether a stream was passed over.
    pub(super) fn is_passed(&self, id: u32) -> bool {
        self.gaps.iter().any(|(first, last)| (*first..=*last).contains(&id))
    }

    /// Takes up a stream that is begun.
    pub(super) fn open_as(&mut self, id: u32, key: usize) {
        self.ids.insert(id, key);
    }

    /// Notes a stream that the peer has not ended, and that is none any more here.
    pub(super) fn leave(&mut self, id: u32) {
        if self.left.len() >= LEFT_STREAMS
            && let Some(forgotten) = self.left.pop_front()
        {
            self.forgotten = self.forgotten.max(forgotten);
        }
        self.left.push_back(id);
    }

    /// The peer has ended a stream that is none any more here.
    pub(super) fn handle_end(&mut self, id: u32) {
        if let Some(at) = self.left.iter().position(|left| *left == id) {
            self.left.remove(at);
            if self.left.is_empty() {
                self.left = VecDeque::new();
            }
        }
    }

    /// A stream on which something is to be sent.
    pub(super) fn sending(&mut self, key: usize) -> Result<&mut Inner, Error> {
        let inner = self.all.get_mut(key).ok_or(Error::Ended(Code::NO_ERROR))?;
        inner.failure.map_or(Ok(inner), Err)
    }

    /// Forgets a stream's number, once it is over.
    pub(super) fn close(&mut self, key: usize) {
        let Some(inner) = self.all.get_mut(key) else { return };
        if self.ids.remove(&inner.id).is_some()
            && self.ids.is_empty()
            && self.ids.capacity() > 2 * self.resting_streams
        {
            self.ids = FxHashMap::default();
        }
        if !inner.is_held {
            self.remove(key);
        }
    }

    /// Forgets a stream that nobody minds any more.
    pub(super) fn remove(&mut self, key: usize) {
        self.all.try_remove(key);
        if self.all.is_empty() && self.all.capacity() > self.resting_streams {
            self.all = Slab::new();
        }
    }

    /// Numbers of those that are not over.
    pub(super) fn keys(&self) -> Vec<usize> {
        self.ids.values().copied().collect()
    }
}

impl Found {
    /// The breach that a frame is which must not come there.
    pub(super) fn breach(self) -> Breach {
        if self == Self::Idle { Breach::Protocol } else { Breach::StreamClosed }
    }
}
