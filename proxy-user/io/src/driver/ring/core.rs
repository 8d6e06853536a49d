//! The ring, its slots, what sockets ask for and what goes to the kernel.

mod reap;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{EnterFlags, IoUring, opcode, squeue, types};
use slab::Slab;

use crate::buf::Chunk;
use crate::buf::ring::{Bell, BufRing};
use crate::driver::DriverCounters;
use crate::driver::probe::{self, RingFeatures};
use crate::slot::{End, GENERATION_BITS, Gather, Op, Recv, Send, Slot, Token, Watch};
use crate::sys::{self, Call};

/// Operations queued between two turns; when it is full, the queue is submitted early.
const SUBMISSION_ENTRIES: u32 = 256;
/// Multishot receives post without having been submitted this turn. Beyond it the kernel keeps completions in
/// a list of its own, which costs an allocation each but loses nothing.
const COMPLETION_ENTRIES: u32 = 4096;
/// The one buffer group of the ring.
const GROUP: u16 = 0;
/// Bytes after which a multishot receive ends by itself, where the kernel can do that: back-pressure that needs no
/// race against a fast sender, for one more submission per 64 KiB. Eight buffers keep a reader busy that takes
/// one chunk per turn.
const MULTISHOT_BYTES: u32 = 64 << 10;
/// Unread bytes of a socket at which its receive is cancelled where the kernel knows no such end. One turn may
/// bring all buffers that there are before the cancellation works.
const HIGH_WATER_BYTES: usize = 64 << 10;
/// Unread bytes at which a receive that ended or was cancelled begins again: half, so that the kernel receives while
/// the reader still has something to do.
const LOW_WATER_BYTES: usize = HIGH_WATER_BYTES / 2;
/// Buffers that the unread bytes of one socket may occupy; what comes beyond is copied. More than a capped receive
/// brings on top of the low-water mark (12), so that bulk whose reader keeps up is not copied.
const LEASES_PER_SOCKET: usize = 16;
/// Turns that a dying driver waits for its operations. Cancelled socket operations complete in the next turn or two.
const DRAIN_TURNS: u32 = 1000;

pub(super) struct Core {
    ring: IoUring,
    features: RingFeatures,
    buffers: Rc<BufRing>,
    bell: Rc<Bell>,
    slots: Slab<Slot>,
    /// Sockets whose receive found no buffer, oldest first. Entries of sockets that are gone are skipped.
    starved: VecDeque<Token>,
    /// Sockets whose queue may hold leases.
    hoarding: Vec<Token>,
    /// What did not fit into the submission queue while the kernel would not take any of it.
    backlog: VecDeque<squeue::Entry>,
    /// Completions of this turn; kept for its allocation.
    batch: Vec<(u64, i32, u32)>,
    /// Wakers that were replaced, to be dropped when nothing is borrowed.
    litter: Vec<Waker>,
    next_generation: u32,
    /// The driver has died of this errno.
    failure: Option<i32>,
    held_bytes: u64,
    starvations: u64,
    submissions: u64,
    completions: u64,
    enters: u64,
    late_completions: u64,
}

impl Core {
    pub(super) fn new(
        features: RingFeatures,
        buffers: Rc<BufRing>,
        bell: Rc<Bell>,
        eventfd: BorrowedFd<'_>,
    ) -> io::Result<Core> {
        let mut builder = IoUring::builder();
        probe::configure(&mut builder, features.recv_cap);
        let ring = builder.setup_cqsize(COMPLETION_ENTRIES).build(SUBMISSION_ENTRIES)?;
        ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        // SAFETY: the entries live in `buffers`, which the core keeps until no operation is left (see `drop`).
        unsafe { ring.submitter().register_buf_ring_with_flags(buffers.addr(), buffers.count(), GROUP, 0) }?;
        Ok(Core {
            ring,
            features,
            buffers,
            bell,
            slots: Slab::new(),
            starved: VecDeque::new(),
            hoarding: Vec::new(),
            backlog: VecDeque::new(),
            batch: Vec::new(),
            litter: Vec::new(),
            next_generation: 0,
            failure: None,
            held_bytes: 0,
            starvations: 0,
            submissions: 0,
            completions: 0,
            enters: 0,
            late_completions: 0,
        })
    }

    /// Operations that the kernel has answered.
    pub(super) fn completions(&self) -> u64 {
        self.completions
    }

    pub(super) fn counters(&self) -> DriverCounters {
        DriverCounters {
            sockets: self.slots.len() as u64,
            starved: self.starved.len() as u64,
            starvations: self.starvations,
            held_bytes: self.held_bytes,
            submissions: self.submissions,
            completions: self.completions,
            enters: self.enters,
            late_completions: self.late_completions,
            ..DriverCounters::default()
        }
    }

    pub(super) fn take_litter(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.litter)
    }

    // What sockets ask for.

    pub(super) fn open(&mut self, fd: OwnedFd) -> io::Result<u32> {
        self.check_alive()?;
        let generation = self.next_generation;
        self.next_generation = (generation + 1) & ((1 << GENERATION_BITS) - 1);
        let index = self.slots.insert(Slot::new(fd, generation));
        Ok(u32::try_from(index).expect("descriptors are numbered with 31 bits"))
    }

    /// Gives out the next chunk, or with `is_bundling` everything that is there.
    pub(super) fn poll_recv(
        &mut self,
        index: u32,
        cx: &mut Context<'_>,
        is_bundling: bool,
    ) -> Poll<io::Result<Chunk>> {
        self.check_alive()?;
        let slot = &mut self.slots[index as usize];
        let held = slot.held_bytes();
        let next = if is_bundling { slot.queue.pop_all() } else { slot.queue.pop() };
        if let Some(chunk) = next {
            self.held_bytes -= held - slot.held_bytes();
            let may_go_on = !slot.is_paused && matches!(slot.end, End::Open);
            if may_go_on && slot.recv == Recv::Idle && slot.queue.len_bytes() <= LOW_WATER_BYTES {
                self.arm(index);
            }
            return Poll::Ready(Ok(chunk));
        }
        match std::mem::replace(&mut slot.end, End::Eof) {
            End::Open => slot.end = End::Open,
            End::Eof => return Poll::Ready(Ok(Chunk::default())),
            End::Failed(error) => return Poll::Ready(Err(error)),
        }
        slot.is_paused = false;
        wait(&mut slot.recv_waker, cx, &mut self.litter);
        // A receive that is being cancelled wakes this task when that is done.
        if slot.recv == Recv::Idle {
            self.arm(index);
        }
        Poll::Pending
    }

    pub(super) fn poll_send(
        &mut self,
        index: u32,
        cx: &mut Context<'_>,
        chunk: &mut Chunk,
    ) -> Poll<io::Result<()>> {
        self.check_alive()?;
        let slot = &mut self.slots[index as usize];
        if slot.is_sending() {
            wait(&mut slot.send_waker, cx, &mut self.litter);
            return Poll::Pending;
        }
        if !matches!(slot.send, Send::Idle) {
            let held = slot.held_bytes();
            let outcome = take_back(slot, chunk);
            self.held_bytes -= held - slot.held_bytes();
            outcome?;
        }
        if chunk.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if chunk.is_lent() {
            let why = "the bytes of this chunk are with another socket";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
        let chunk = chunk.lend();
        slot.send = if chunk.is_bundle() {
            let gather = Gather::new(&chunk);
            Send::Gathering(chunk, gather)
        } else {
            Send::Trying(chunk)
        };
        wait(&mut slot.send_waker, cx, &mut self.litter);
        self.submit_send(index);
        Poll::Pending
    }

    pub(super) fn expect_end(&mut self, index: u32) {
        self.slots[index as usize].expects_end = true;
    }

    pub(super) fn is_sending(&self, index: u32) -> bool {
        self.slots[index as usize].is_sending()
    }

    /// Polls for `Op::Readable` or `Op::Writable`.
    pub(super) fn poll_watch(&mut self, index: u32, cx: &mut Context<'_>, op: Op) -> Poll<io::Result<()>> {
        self.check_alive()?;
        let slot = &mut self.slots[index as usize];
        let (watch, waker, events) = match op {
            Op::Readable => (&mut slot.readable, &mut slot.recv_waker, libc::POLLIN | libc::POLLRDHUP),
            _ => (&mut slot.writable, &mut slot.send_waker, libc::POLLOUT),
        };
        match *watch {
            Watch::Fired => {
                *watch = Watch::Idle;
                return Poll::Ready(Ok(()));
            }
            Watch::Armed => wait(waker, cx, &mut self.litter),
            Watch::Idle => {
                *watch = Watch::Armed;
                wait(waker, cx, &mut self.litter);
                self.submit_poll(index, op, events);
            }
        }
        Poll::Pending
    }

    pub(super) fn pause_recv(&mut self, index: u32, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_alive()?;
        let slot = &mut self.slots[index as usize];
        slot.is_paused = true;
        match slot.recv {
            Recv::Idle => return Poll::Ready(Ok(())),
            Recv::Starved => {
                // Its entry on the list finds it idle and is skipped.
                slot.recv = Recv::Idle;
                return Poll::Ready(Ok(()));
            }
            Recv::Armed | Recv::Polling => self.cancel_recv(index),
            Recv::Cancelling => {}
        }
        wait(&mut self.slots[index as usize].recv_waker, cx, &mut self.litter);
        Poll::Pending
    }

    /// Stops receiving and sending; ready when the kernel does neither.
    pub(super) fn poll_settle(&mut self, index: u32, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let paused = self.pause_recv(index, cx)?;
        let slot = &mut self.slots[index as usize];
        if slot.is_sending() {
            wait(&mut slot.send_waker, cx, &mut self.litter);
            if !std::mem::replace(&mut slot.is_settling, true) {
                let generation = slot.generation;
                self.push_cancel(Token { index, generation, op: Op::Send });
            }
            return Poll::Pending;
        }
        slot.is_settling = false;
        paused.map(Ok)
    }

    /// Puts what a settled send has left over back into its chunk.
    pub(super) fn take_back(&mut self, index: u32, chunk: &mut Chunk) -> io::Result<()> {
        self.check_alive()?;
        let slot = &mut self.slots[index as usize];
        let held = slot.held_bytes();
        let outcome = take_back(slot, chunk);
        self.held_bytes -= held - slot.held_bytes();
        outcome
    }

    /// Takes everything that was received and not given out, without asking for more.
    pub(super) fn take_buffered(&mut self, index: u32) -> Chunk {
        let slot = &mut self.slots[index as usize];
        let held = slot.held_bytes();
        let chunk = slot.queue.pop_all().unwrap_or_default();
        self.held_bytes -= held - slot.held_bytes();
        chunk
    }

    pub(super) fn has_failed(&self, index: u32) -> bool {
        let slot = &self.slots[index as usize];
        matches!(slot.end, End::Failed(_)) || matches!(slot.send, Send::Done(Err(_)))
    }

    pub(super) fn has_buffered(&self, index: u32) -> bool {
        let slot = &self.slots[index as usize];
        !slot.queue.is_empty() || !matches!(slot.end, End::Open)
    }

    pub(super) fn make_nonblocking(&mut self, index: u32) -> io::Result<()> {
        let slot = &mut self.slots[index as usize];
        if !slot.is_nonblocking {
            sys::set_nonblocking(slot.fd.as_fd(), true)?;
            slot.is_nonblocking = true;
        }
        Ok(())
    }

    /// Gives up a slot. Returns what is to be dropped outside the borrow: the whole slot if the kernel holds
    /// nothing of it, else what the kernel does not need.
    pub(super) fn release(&mut self, index: u32) -> Remains {
        let slot = &mut self.slots[index as usize];
        slot.is_dropped = true;
        self.litter.extend(slot.recv_waker.take());
        self.litter.extend(slot.send_waker.take());
        if !slot.is_held() {
            return Remains::Slot(Box::new(self.remove(index)));
        }
        let held = slot.held_bytes();
        let queue = std::mem::take(&mut slot.queue);
        self.held_bytes -= held - slot.held_bytes();
        let generation = slot.generation;
        for op in slot.cancellable() {
            self.push_cancel(Token { index, generation, op });
        }
        let slot = &mut self.slots[index as usize];
        if matches!(slot.recv, Recv::Armed | Recv::Polling) {
            slot.recv = Recv::Cancelling;
        }
        Remains::Queue { _queue: queue }
    }

    fn remove(&mut self, index: u32) -> Slot {
        let slot = self.slots.remove(index as usize);
        self.held_bytes -= slot.held_bytes();
        slot
    }

    fn check_alive(&self) -> io::Result<()> {
        self.failure.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    // What goes to the kernel.

    fn arm(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.recv = Recv::Armed;
        let fd = types::Fd(slot.fd.as_raw_fd());
        let entry = probe::multishot_recv(fd, GROUP, self.features.recv_cap.then_some(MULTISHOT_BYTES));
        self.push(index, Op::Recv, entry);
    }

    fn cancel_recv(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.recv = Recv::Cancelling;
        let generation = slot.generation;
        self.push_cancel(Token { index, generation, op: Op::Recv });
    }

    fn submit_send(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        let fd = types::Fd(slot.fd.as_raw_fd());
        let always = libc::MSG_NOSIGNAL | if slot.expects_end { libc::MSG_MORE } else { 0 };
        let (chunk, how) = match &slot.send {
            Send::Trying(chunk) => (chunk, libc::MSG_DONTWAIT),
            // The kernel waits and goes on until everything is sent, without coming back for each piece.
            Send::Waiting(chunk) => (chunk, libc::MSG_WAITALL),
            Send::Gathering(_, gather) => {
                let flags = libc::MSG_DONTWAIT | always;
                let entry = opcode::SendMsg::new(fd, &raw const gather.header).flags(flags.unsigned_abs());
                return self.push(index, Op::Send, entry.build());
            }
            Send::Polling(_) => return self.submit_poll(index, Op::Send, libc::POLLOUT),
            Send::Idle | Send::Held(_) | Send::Done(_) => return,
        };
        let len = u32::try_from(chunk.len()).expect("a chunk is far below 4 GiB");
        let entry = opcode::Send::new(fd, chunk.as_ptr(), len).flags(how | always).build();
        self.push(index, Op::Send, entry);
    }

    fn submit_poll(&mut self, index: u32, op: Op, events: libc::c_short) {
        let fd = types::Fd(self.slots[index as usize].fd.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, u32::from(events.unsigned_abs())).build();
        self.push(index, op, entry);
    }

    fn push(&mut self, index: u32, op: Op, entry: squeue::Entry) {
        let generation = self.slots[index as usize].generation;
        self.push_entry(entry.user_data(Token { index, generation, op }.encode()));
    }

    /// Cancels by name, never by descriptor: a number may belong to another socket when the kernel reads this.
    fn push_cancel(&mut self, target: Token) {
        let token = Token { op: Op::Cancel, ..target };
        self.push_entry(opcode::AsyncCancel::new(target.encode()).build().user_data(token.encode()));
    }

    fn push_entry(&mut self, entry: squeue::Entry) {
        self.bell.ring();
        if self.backlog.is_empty() {
            if self.ring.submission().is_full() {
                // An error shows again in the next turn; until then the backlog takes the entry.
                let _ = self.enter(EnterFlags::empty());
            }
            // SAFETY: what an operation reads (bytes, and the header of a gathering send) sits on the heap or in a
            // leased buffer owned by its slot, which neither moves it nor goes away before the completion;
            // receives write to buffers that the core keeps.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    fn enter(&mut self, flags: EnterFlags) -> io::Result<()> {
        let queued = u32::try_from(self.ring.submission().len()).expect("the queue has 256 entries");
        self.enters += 1;
        let submitter = self.ring.submitter();
        let taken = sys::call(Call::Uring, || {
            // SAFETY: no argument is passed; what the entries point to was settled when they were pushed.
            let taken = unsafe { submitter.enter::<libc::sigset_t>(queued, 0, flags.bits(), None) };
            taken.map_or(-1, usize::cast_signed)
        })?;
        self.submissions += taken.unsigned_abs() as u64;
        Ok(())
    }
}

impl Drop for Core {
    /// Takes back everything that the kernel may still read or write before the memory goes.
    fn drop(&mut self) {
        let indexes: Vec<usize> = self.slots.iter().map(|(index, _)| index).collect();
        for index in indexes {
            if !self.slots[index].is_dropped {
                let index = u32::try_from(index).expect("made from a u32");
                drop(self.release(index));
            }
        }
        let mut woken = Vec::new();
        for _ in 0..DRAIN_TURNS {
            if self.slots.is_empty() || self.turn(&mut woken).is_err() {
                break;
            }
        }
        if !self.slots.is_empty() {
            // The kernel did not let go: better to lose the memory than to let it write to somebody else's.
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(Rc::clone(&self.buffers));
        }
    }
}

/// Ends a send that the kernel does not hold: its chunk gets back what was not accepted.
fn take_back(slot: &mut Slot, chunk: &mut Chunk) -> io::Result<()> {
    match std::mem::replace(&mut slot.send, Send::Idle) {
        Send::Held(left) => *chunk = left,
        Send::Done(outcome) => {
            if chunk.is_lent() {
                *chunk = Chunk::default();
            }
            return outcome;
        }
        other => slot.send = other,
    }
    Ok(())
}

/// What is left of a dropped socket.
pub(super) enum Remains {
    Slot(#[expect(dead_code, reason = "only dropped")] Box<Slot>),
    Queue { _queue: crate::slot::Queue },
}

fn wait(place: &mut Option<Waker>, cx: &Context<'_>, litter: &mut Vec<Waker>) {
    if !place.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
        litter.extend(place.replace(cx.waker().clone()));
    }
}
