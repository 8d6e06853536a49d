//! What the ring driver knows about one socket, and how a completion finds it again.

use std::io;
use std::os::fd::OwnedFd;
use std::task::Waker;

use crate::buf::Chunk;
use crate::sys;

/// Which operation of a socket a completion belongs to; at most one of each is in the kernel at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// A receive, or the poll that stands in for it on a non-blocking socket.
    Recv,
    /// A send, or the poll that stands in for it on a non-blocking socket.
    Send,
    Readable,
    Writable,
    /// A cancellation. Nobody waits for its completion.
    Cancel,
}

/// Names an operation across the kernel (`user_data`): slot index, generation of the slot, operation.
///
/// An index is used again for later sockets, a generation is not (it wraps after 2^24 sockets), so a late
/// completion is recognized as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) index: u32,
    pub(crate) generation: u32,
    pub(crate) op: Op,
}

/// Bits of `user_data` that hold the generation.
pub(crate) const GENERATION_BITS: u32 = 24;

impl Token {
    pub(crate) fn encode(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation) << 8 | self.op as u64
    }

    /// `None` for values that no driver made.
    pub(crate) fn decode(user_data: u64) -> Option<Token> {
        let [op, g0, g1, g2, i0, i1, i2, i3] = user_data.to_le_bytes();
        let op = match op {
            0 => Op::Recv,
            1 => Op::Send,
            2 => Op::Readable,
            3 => Op::Writable,
            4 => Op::Cancel,
            _ => return None,
        };
        let index = u32::from_le_bytes([i0, i1, i2, i3]);
        Some(Token { index, generation: u32::from_le_bytes([g0, g1, g2, 0]), op })
    }
}

/// Receive side in the kernel.
///
/// ```text
///          arm                    more wanted than there are buffers
///   Idle --------> Armed ----------------------------------------> Starved
///    ^  ^         |  ^  |                                             |
///    |  | ended   |  |  | EAGAIN (non-blocking socket)   buffers are  |
///    |  +---------+  |  v                                    back     |
///    |    cancelled  | Polling                                        |
///    +- Cancelling <-+--+        Armed <------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recv {
    Idle,
    Armed,
    Polling,
    Cancelling,
    Starved,
}

/// How the receive side ended.
pub(crate) enum End {
    Open,
    Eof,
    Failed(io::Error),
}

/// Send side. The kernel reads the chunk's bytes, so it stays here until the completion.
pub(crate) enum Send {
    Idle,
    /// The first attempt, without waiting, from wherever the bytes are.
    Trying(Chunk),
    /// The same from several places at once.
    Gathering(Chunk, Box<Gather>),
    /// Waits in the kernel until everything is accepted; the bytes are on the heap.
    Waiting(Chunk),
    /// The same on a non-blocking socket: waits for room and then sends again.
    Polling(Chunk),
    /// Stopped before everything was accepted: what is left.
    Held(Chunk),
    Done(io::Result<()>),
}

/// Says where the parts of a chunk are, in the form of sendmsg(2). The kernel reads it only while it takes over the
/// operation, but it costs nothing to keep it until the completion, together with the chunk.
pub(crate) struct Gather {
    pub(crate) header: libc::msghdr,
    /// `header` points here.
    _parts: Box<[libc::iovec]>,
}

impl Gather {
    pub(crate) fn new(chunk: &Chunk) -> Box<Gather> {
        let places = chunk.parts().map(|part| sys::iovec(part.as_ptr().cast_mut(), part.len()));
        let mut parts: Box<[libc::iovec]> = places.collect();
        let header = sys::msghdr(&mut parts);
        Box::new(Gather { header, _parts: parts })
    }
}

/// A one-shot poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    Idle,
    Armed,
    Fired,
}

/// State of one socket. Lives until the socket is dropped *and* the kernel holds no operation on it.
pub(crate) struct Slot {
    pub(crate) fd: OwnedFd,
    pub(crate) generation: u32,
    pub(crate) is_dropped: bool,
    /// The descriptor has O_NONBLOCK, which splice(2) needs. io_uring does not wait on such descriptors.
    pub(crate) is_nonblocking: bool,
    /// Do not receive ahead: somebody else is going to read from the descriptor.
    pub(crate) is_paused: bool,
    /// Whoever has the socket wants it to stop: a send that the kernel has not accepted whole is not taken up again.
    pub(crate) is_settling: bool,
    /// FIN comes right behind what is sent.
    pub(crate) expects_end: bool,
    /// The slot is on the list of those that may hold leases.
    pub(crate) is_hoarding: bool,
    pub(crate) recv: Recv,
    pub(crate) readable: Watch,
    pub(crate) writable: Watch,
    pub(crate) end: End,
    pub(crate) queue: Queue,
    pub(crate) send: Send,
    pub(crate) recv_waker: Option<Waker>,
    pub(crate) send_waker: Option<Waker>,
}

impl Slot {
    pub(crate) fn new(fd: OwnedFd, generation: u32) -> Slot {
        Slot {
            fd,
            generation,
            is_dropped: false,
            is_nonblocking: false,
            is_paused: false,
            is_settling: false,
            expects_end: false,
            is_hoarding: false,
            recv: Recv::Idle,
            readable: Watch::Idle,
            writable: Watch::Idle,
            end: End::Open,
            queue: Queue::default(),
            send: Send::Idle,
            recv_waker: None,
            send_waker: None,
        }
    }

    /// The operations that the kernel holds now and that nobody has asked it to cancel.
    pub(crate) fn cancellable(&self) -> impl Iterator<Item = Op> + use<> {
        let recv = matches!(self.recv, Recv::Armed | Recv::Polling).then_some(Op::Recv);
        let send = self.is_sending().then_some(Op::Send);
        let readable = (self.readable == Watch::Armed).then_some(Op::Readable);
        let writable = (self.writable == Watch::Armed).then_some(Op::Writable);
        [recv, send, readable, writable].into_iter().flatten()
    }

    /// Says whether a completion is still to come.
    pub(crate) fn is_held(&self) -> bool {
        self.recv == Recv::Cancelling || self.cancellable().next().is_some()
    }

    pub(crate) fn is_sending(&self) -> bool {
        !matches!(self.send, Send::Idle | Send::Held(_) | Send::Done(_))
    }

    /// Bytes of this socket that wait on the heap.
    pub(crate) fn held_bytes(&self) -> u64 {
        let sending = match &self.send {
            Send::Waiting(chunk) | Send::Polling(chunk) | Send::Held(chunk) => chunk.len(),
            _ => 0,
        };
        self.queue.heap_bytes + sending as u64
    }
}

/// Received bytes that nobody has taken yet. Empty, it holds no allocation.
#[derive(Default)]
pub(crate) struct Queue {
    /// A bundle if they came in several chunks.
    all: Chunk,
    /// Bytes that do not sit in leased buffers.
    heap_bytes: u64,
    /// Chunks that do.
    leases: u32,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn leases(&self) -> usize {
        self.leases as usize
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.heap_bytes += heap_bytes(&chunk);
        self.leases += u32::from(chunk.is_leased());
        self.all.push(chunk);
    }

    /// Adds a copy of `bytes`, to the last chunk if that is on the heap as well: many small pieces must not
    /// cost an allocation each.
    pub(crate) fn push_copy(&mut self, bytes: &[u8]) {
        if self.all.try_append_to_last(bytes) {
            self.heap_bytes += bytes.len() as u64;
        } else {
            self.push(Chunk::from(bytes.to_vec()));
        }
    }

    /// Takes everything at once, as a bundle if it is several chunks.
    pub(crate) fn pop_all(&mut self) -> Option<Chunk> {
        let all = std::mem::take(self).all;
        (!all.is_empty()).then_some(all)
    }

    pub(crate) fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.all.pop();
        if chunk.is_empty() {
            return None;
        }
        self.heap_bytes -= heap_bytes(&chunk);
        self.leases -= u32::from(chunk.is_leased());
        Some(chunk)
    }

    /// Copies everything into one heap allocation, so that no buffer is held.
    pub(crate) fn detach(&mut self) {
        if self.leases > 0 {
            let mut all = std::mem::take(self).all;
            all.detach();
            self.push(all);
        }
    }
}

fn heap_bytes(chunk: &Chunk) -> u64 {
    if chunk.is_leased() { 0 } else { chunk.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for op in [Op::Recv, Op::Send, Op::Readable, Op::Writable, Op::Cancel] {
            for (index, generation) in [(0, 0), (u32::MAX, (1 << GENERATION_BITS) - 1), (7, 9)] {
                let token = Token { index, generation, op };
                assert_eq!(Token::decode(token.encode()), Some(token));
            }
        }
        assert_eq!(Token::decode(5), None);
    }

    #[test]
    fn the_queue_keeps_order_and_counts() {
        let mut queue = Queue::default();
        queue.push(Chunk::from(b"ab".to_vec()));
        queue.push_copy(b"cd");
        queue.push(Chunk::from(b"e".to_vec()));
        assert_eq!((queue.len_bytes(), queue.heap_bytes), (5, 5));
        assert_eq!(&queue.pop().unwrap()[..], b"abcd");
        queue.detach();
        assert_eq!(&queue.pop().unwrap()[..], b"e");
        assert!(queue.pop().is_none() && queue.is_empty());
        assert_eq!((queue.len_bytes(), queue.heap_bytes), (0, 0));
    }

    #[test]
    fn a_slot_is_small() {
        assert!(size_of::<Slot>() <= 200, "{}", size_of::<Slot>());
    }
}
