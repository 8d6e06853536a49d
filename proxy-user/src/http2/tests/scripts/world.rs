//! A connection and the owners of its streams, who know what should come.

use std::collections::HashMap;

use proxy_core::http2::Code;
use proxy_core::http2::frame::{
    ACK, HEAD_BYTES, Head, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, MOST_PAYLOAD_BYTES, SETTINGS,
};

use super::super::super::MOST_STREAMS;
use super::*;

/// What an owner polled for and did not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Response,
    Take,
    Sent,
    Reset,
}

/// Whoever has a stream.
struct Owner {
    number: usize,
    stream: Stream,
    is_answered: bool,
    woken: Arc<Woken>,
    waits: Vec<Wait>,
}

impl Owner {
    fn new(number: usize, stream: Stream) -> Self {
        Self { number, stream, is_answered: false, woken: Arc::default(), waits: Vec::new() }
    }

    fn poll(&mut self, wait: Wait) -> Option<Result<Option<Piece>, Error>> {
        let waker = Waker::from(Arc::clone(&self.woken));
        let cx = Context::from_waker(&waker);
        let ready = match wait {
            Wait::Response => self.stream.poll_response(&cx).map_ok(|_| None),
            Wait::Take => self.stream.poll_take(&cx).map_ok(Some),
            Wait::Sent => self.stream.poll_sent(&cx).map_ok(|()| None),
            Wait::Reset => self.stream.poll_reset(&cx).map(Err),
        };
        self.waits.retain(|other| *other != wait);
        match ready {
            Poll::Ready(result) => Some(result),
            Poll::Pending => {
                self.waits.push(wait);
                None
            }
        }
    }

    /// What it waits for has not come if it was not woken.
    fn check(&mut self) {
        if self.woken.0.swap(0, Ordering::Relaxed) > 0 {
            self.waits.clear();
        }
        for wait in self.waits.clone() {
            assert!(self.poll(wait).is_none(), "stream {} was not woken for {wait:?}", self.number);
        }
    }
}

/// One direction of a stream: bytes count up from a begin of their own.
#[derive(Default)]
struct Flow {
    given: usize,
    taken: usize,
    is_over: bool,
    has_arrived: bool,
}

fn byte(number: usize, at: usize) -> u8 {
    u8::try_from((number * 31 + at) % 251).unwrap()
}

impl Flow {
    fn next(&mut self, number: usize, bytes: usize) -> Vec<u8> {
        let all = (self.given..self.given + bytes).map(|at| byte(number, at)).collect();
        self.given += bytes;
        all
    }

    fn check(&mut self, number: usize, piece: Piece) {
        assert!(!self.has_arrived || matches!(piece, Piece::End), "stream {number}: {piece:?}");
        let (some, is_last) = match piece {
            Piece::Data(data, is_last) => (data, is_last),
            Piece::Trailers(_) | Piece::End => (bytes::Bytes::new(), true),
        };
        for byte_taken in some {
            assert_eq!(byte_taken, byte(number, self.taken), "stream {number} at {}", self.taken);
            self.taken += 1;
        }
        self.has_arrived = is_last;
        let is_whole = self.is_over && self.taken == self.given;
        assert!(self.taken <= self.given && (!is_last || is_whole), "stream {number} at {}", self.taken);
    }
}

pub(super) struct World {
    pair: Pair,
    /// Of client and server.
    owners: [Vec<Owner>; 2],
    /// What clients and servers give, by stream.
    flows: [HashMap<usize, Flow>; 2],
    count: usize,
}

impl World {
    /// Begins, with a narrow window or not.
    pub(super) fn new(window_bytes: Option<u32>) -> Self {
        let pair = window_bytes.map_or_else(Pair::new, Pair::narrow);
        Self { pair, owners: Default::default(), flows: Default::default(), count: 0 }
    }

    pub(super) fn run(&mut self, step: &Step) {
        self.act(step);
        self.owners.iter_mut().flatten().for_each(Owner::check);
        self.pair.assert_drivers_know();
        self.assert_windows();
    }

    fn act(&mut self, step: &Step) {
        match *step {
            Step::Ask { has_body } => {
                let Ok(stream) = self.pair.try_ask(&format!("/{}", self.count), !has_body) else { return };
                self.owners[0].push(Owner::new(self.count, stream));
                self.flows[0].insert(self.count, Flow { is_over: !has_body, ..Flow::default() });
                self.flows[1].insert(self.count, Flow::default());
                self.count += 1;
            }
            Step::Give { side, index, bytes, end } => self.give(side, index, bytes, end),
            Step::Take { side, index } => self.take(side, index),
            Step::Drop { side, index } => {
                let owners = &mut self.owners[side as usize];
                if index < owners.len() {
                    owners.remove(index);
                }
            }
            Step::Reset { side, index } => {
                if let Some(owner) = self.owners[side as usize].get_mut(index) {
                    owner.stream.reset(Code::INTERNAL_ERROR);
                    owner.poll(Wait::Reset);
                }
            }
            Step::Window { side, bytes } => self.set(side, INITIAL_WINDOW_SIZE, bytes),
            Step::Allow { count } => self.set(Side::Client, MAX_CONCURRENT_STREAMS, count),
            Step::Ping { side } => self.conn(side).borrow_mut().ping(),
            Step::Leave => self.pair.server.borrow_mut().leave(),
            Step::Carry { to_server, to_client } => {
                self.pair.carry(to_server, to_client);
                while let Some((path, stream)) = self.pair.asked() {
                    self.owners[1].push(Owner::new(path[1..].parse().unwrap(), stream));
                }
            }
        }
    }

    fn conn(&self, side: Side) -> &Rc<RefCell<Conn>> {
        if side == Side::Client { &self.pair.client } else { &self.pair.server }
    }

    fn give(&mut self, side: Side, index: usize, bytes: usize, end: Option<Last>) {
        let Some(owner) = self.owners[side as usize].get_mut(index) else { return };
        if side == Side::Server && !std::mem::replace(&mut owner.is_answered, true) {
            let _ = owner.stream.respond(&ok(), false);
        }
        let flow = self.flows[side as usize].get_mut(&owner.number).unwrap();
        if flow.is_over || !matches!(owner.poll(Wait::Sent), Some(Ok(_))) {
            return;
        }
        flow.is_over = end.is_some();
        let data = flow.next(owner.number, bytes);
        let _ = owner.stream.give(Piece::Data(data.into(), end == Some(Last::Data)));
        if end == Some(Last::Trailers) {
            let _ = owner.stream.give(Piece::Trailers(FieldList::default()));
        }
        owner.poll(Wait::Sent);
    }

    fn take(&mut self, side: Side, index: usize) {
        let Some(owner) = self.owners[side as usize].get_mut(index) else { return };
        if side == Side::Client && !owner.is_answered {
            match owner.poll(Wait::Response) {
                Some(Ok(_)) => owner.is_answered = true,
                Some(Err(_)) => return,
                None => {}
            }
        }
        let flow = self.flows[1 - side as usize].get_mut(&owner.number).unwrap();
        while let Some(Ok(Some(piece))) = owner.poll(Wait::Take) {
            let is_over = flow.has_arrived;
            flow.check(owner.number, piece);
            if is_over {
                // What was last is used when the end is taken.
                return;
            }
        }
    }

    /// A setting comes to a side that the other one has not said.
    fn set(&mut self, side: Side, name: u16, value: u32) {
        self.pair.collect();
        let payload = [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let mut conn = self.conn(side).borrow_mut();
        conn.handle_settings(&payload).unwrap();
        // The other side would not know what is acknowledged.
        let (said, mut kept) = (std::mem::take(&mut conn.out), Vec::new());
        let mut rest = &said[..];
        while let Some(head) = rest.first_chunk::<HEAD_BYTES>().copied().map(Head::read) {
            let (frame, behind) = rest.split_at(HEAD_BYTES + head.length_bytes as usize);
            if head.kind != SETTINGS || !head.has(ACK) {
                kept.extend_from_slice(frame);
            }
            rest = behind;
        }
        conn.out = kept;
        drop(conn);
        // A driver receives settings, and sends when it has.
        self.pair.collect();
    }

    /// What may come, what came and what was used are the windows; of the frame that comes some is yet to come.
    fn assert_windows(&self) {
        for (conn, window) in [&self.pair.client, &self.pair.server].into_iter().zip(self.pair.windows) {
            let conn = conn.borrow();
            assert_eq!(conn.end, None, "{:?}", conn.role);
            let is_whole = |known: usize, whole: u32| {
                (known..=known + MOST_PAYLOAD_BYTES).contains(&usize::try_from(whole).unwrap())
            };
            let mut known = conn.receive_window.whole_bytes();
            for (_, inner) in &conn.streams.all {
                let held = inner.taken + u32::try_from(inner.received.len()).unwrap();
                known += held;
                let of_stream = inner.receive_window.whole_bytes() + held;
                let is_gone = inner.failure.is_some() || !inner.is_held;
                let is_whole = is_whole(of_stream as usize, STREAM_WINDOW_BYTES);
                assert!(is_gone || is_whole, "{:?} {}: {of_stream}", conn.role, inner.id);
            }
            assert!(is_whole(known as usize, window), "{:?}: {known}", conn.role);
            let waiting = conn.streams.all.iter().filter(|(_, inner)| inner.unsent.is_some());
            assert_eq!(waiting.count(), conn.unsent.len());
            let queued: std::collections::HashSet<_> = conn.queue.iter().collect();
            assert_eq!(queued.len(), conn.queue.len());
        }
    }

    /// Everybody says and takes all; whoever is not given up arrives at its end with every byte.
    pub(super) fn finish(mut self) {
        self.pair.settle();
        for side in [Side::Client, Side::Server] {
            self.set(side, INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES);
        }
        self.set(Side::Client, MAX_CONCURRENT_STREAMS, MOST_STREAMS);
        for round in 0.. {
            self.pair.settle();
            self.run(&Step::Carry { to_server: 0, to_client: 0 });
            let taken = |world: &Self| -> usize {
                world.flows.iter().flat_map(HashMap::values).map(|flow| flow.taken).sum()
            };
            let before = taken(&self);
            for side in [Side::Client, Side::Server] {
                for index in 0..self.owners[side as usize].len() {
                    self.run(&Step::Give { side, index, bytes: 1, end: Some(Last::Data) });
                    self.run(&Step::Take { side, index });
                }
            }
            if taken(&self) == before && round > 2 {
                break;
            }
        }
        let [here, there] = &mut self.owners;
        for owner in here {
            if owner.poll(Wait::Reset).is_none() {
                let [up, down] = [0, 1].map(|side| &self.flows[side][&owner.number]);
                assert!(down.has_arrived, "answer {}", owner.number);
                let other = there.iter_mut().find(|other| other.number == owner.number);
                // After a whole answer the server may give up what else comes.
                let is_taken = other.is_some_and(|other| other.poll(Wait::Reset).is_none());
                assert!(!is_taken || up.taken == up.given, "request {}", owner.number);
            }
        }
        self.owners = Default::default();
        self.pair.settle();
        self.pair.assert_nothing_is_left();
        let (client, server) = (self.pair.client.borrow(), self.pair.server.borrow());
        for (sender, receiver) in [(&client, &server), (&server, &client)] {
            assert_eq!(
                sender.send_window,
                i64::from(receiver.receive_window.open_bytes),
                "{:?}",
                sender.role
            );
        }
    }

    /// The connection ends on both sides: nobody waits any more for what cannot come.
    pub(super) fn end(mut self, end: End) {
        for side in [Side::Client, Side::Server] {
            self.conn(side).borrow_mut().finish(end);
        }
        for owner in self.owners.iter_mut().flatten() {
            owner.check();
            let is_over = owner.poll(Wait::Reset).is_none();
            assert!(owner.poll(Wait::Sent).is_some() && owner.poll(Wait::Take).is_some());
            assert!(is_over || owner.poll(Wait::Response).is_some());
        }
        self.owners = Default::default();
        for side in [Side::Client, Side::Server] {
            let conn = self.conn(side).borrow();
            let unasked = conn.asked.len();
            assert_eq!((conn.streams.open(), conn.streams.all.len()), (0, unasked), "{:?}", conn.role);
        }
        assert!(self.pair.try_ask("/", true).is_err());
    }
}
