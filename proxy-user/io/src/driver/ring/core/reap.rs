//! One turn of the driver: what each completion means for its socket, and who gets the buffers.

use std::io;
use std::sync::atomic::{Ordering, fence};
use std::task::Waker;

use io_uring::{EnterFlags, cqueue};
use slab::Slab;

use super::{Core, HIGH_WATER_BYTES, LEASES_PER_SOCKET};
use crate::buf::Chunk;
use crate::buf::ring::BufRing;
use crate::slot::{End, Op, Recv, Send, Slot, Token, Watch};

impl Core {
    /// Submits what is queued and works off completions; adds to `woken` who has to run now. Says whether
    /// there are more already.
    pub(in crate::driver::ring) fn turn(&mut self, woken: &mut Vec<Waker>) -> io::Result<bool> {
        self.relieve();
        self.feed_starved();
        // What this call itself completes needs no signal.
        self.ring.completion().disable_eventfd();
        let outcome = self.submit_and_fetch();
        if let Err(error) = outcome {
            self.die(&error, woken);
            return Err(error);
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.completions += batch.len() as u64;
        for (user_data, result, flags) in batch.drain(..) {
            self.complete(user_data, result, flags, woken);
        }
        self.batch = batch;
        self.feed_starved();
        self.ring.completion().enable_eventfd();
        // The flag must be clear before the queue is looked at: who completes in between either sees it or is seen.
        fence(Ordering::SeqCst);
        let submission = self.ring.submission();
        let is_behind = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        Ok(is_behind || !self.ring.completion().is_empty())
    }

    fn submit_and_fetch(&mut self) -> io::Result<()> {
        loop {
            while let Some(entry) = self.backlog.pop_front() {
                // SAFETY: as in `push_entry`, which put it here.
                if unsafe { self.ring.submission().push(&entry) }.is_err() {
                    self.backlog.push_front(entry);
                    break;
                }
            }
            match self.enter(EnterFlags::GETEVENTS) {
                Ok(()) => {}
                // The kernel wants completions to be taken first, or is short of memory: the entries stay queued.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => {
                    self.bell.ring();
                }
                Err(error) => return Err(error),
            }
            let completions = self.ring.completion();
            self.batch.extend(completions.map(|entry| (entry.user_data(), entry.result(), entry.flags())));
            if self.backlog.is_empty() || !self.ring.submission().is_empty() {
                return Ok(());
            }
        }
    }

    fn complete(&mut self, user_data: u64, result: i32, flags: u32, woken: &mut Vec<Waker>) {
        let Some(token) = Token::decode(user_data) else { return };
        if token.op == Op::Cancel {
            return self.complete_cancel(token, result);
        }
        let slot = self.slots.get_mut(token.index as usize);
        let Some(slot) = slot.filter(|slot| slot.generation == token.generation) else {
            // Slots outlive their operations, so this does not happen; should it, the buffers must still return.
            self.late_completions += 1;
            self.give_back(result, flags);
            return;
        };
        if slot.is_dropped {
            self.late_completions += 1;
        }
        match token.op {
            Op::Recv => self.complete_recv(token.index, result, flags, woken),
            Op::Send => self.complete_send(token.index, result, woken),
            Op::Readable => {
                slot.readable = Watch::Fired;
                woken.extend(slot.recv_waker.take());
            }
            Op::Writable => {
                slot.writable = Watch::Fired;
                woken.extend(slot.send_waker.take());
            }
            Op::Cancel => {}
        }
        let is_over =
            self.slots.get(token.index as usize).is_some_and(|slot| slot.is_dropped && !slot.is_held());
        if is_over {
            // Closes the descriptor. Nothing in it runs code of others: its wakers went when it was dropped.
            drop(self.remove(token.index));
        }
    }

    /// A cancellation that finds nothing may have come while the operation was between two states, on its
    /// way to wait again. Then it would wait forever: ask again until it is over.
    fn complete_cancel(&mut self, token: Token, result: i32) {
        let Token { index, generation, .. } = token;
        let Some(slot) = self.slots.get(index as usize) else { return };
        if result >= 0 || slot.generation != generation {
            return;
        }
        let others = slot.is_dropped.then(|| slot.cancellable()).into_iter().flatten();
        let recv = (slot.recv == Recv::Cancelling).then_some(Op::Recv);
        let send = (!slot.is_dropped && slot.is_settling && slot.is_sending()).then_some(Op::Send);
        for op in others.chain(recv).chain(send) {
            self.push_cancel(Token { index, generation, op });
        }
    }

    fn give_back(&self, result: i32, flags: u32) {
        if let Some(first) = cqueue::buffer_select(flags) {
            self.buffers.lease(first, length(result), |lease, _| drop(lease));
        }
    }

    fn complete_recv(&mut self, index: u32, result: i32, flags: u32, woken: &mut Vec<Waker>) {
        let slot = &mut self.slots[index as usize];
        let was = slot.recv;
        if !cqueue::more(flags) {
            slot.recv = Recv::Idle;
        }
        if slot.is_dropped {
            return self.give_back(result, flags);
        }
        if was == Recv::Polling {
            // The poll that stood in for the receive has fired.
            self.arm(index);
            return;
        }
        if cqueue::buffer_select(flags).is_some() {
            self.deliver(index, result, flags);
        } else {
            match -result {
                // A poll's answer, while its cancellation was under way.
                i32::MIN..0 => {}
                0 => slot.end = End::Eof,
                // Not an end: back-pressure, a pause, or a signal.
                libc::ECANCELED | libc::EINTR => {}
                libc::ENOBUFS if was == Recv::Armed => {
                    slot.recv = Recv::Starved;
                    let generation = slot.generation;
                    self.starved.push_back(Token { index, generation, op: Op::Recv });
                    self.starvations += 1;
                    return;
                }
                libc::ENOBUFS => {}
                libc::EAGAIN if was == Recv::Armed => {
                    slot.recv = Recv::Polling;
                    return self.submit_poll(index, Op::Recv, libc::POLLIN | libc::POLLRDHUP);
                }
                libc::EAGAIN => {}
                errno => slot.end = End::Failed(io::Error::from_raw_os_error(errno)),
            }
        }
        woken.extend(self.slots[index as usize].recv_waker.take());
    }

    /// Queues received bytes: as leases while there are plenty of buffers or somebody waits, else as copies,
    /// so that slow readers hold no buffers.
    fn deliver(&mut self, index: u32, result: i32, flags: u32) {
        let Some(first) = cqueue::buffer_select(flags) else { return };
        let slot = &mut self.slots[index as usize];
        if result == 0 {
            slot.end = End::Eof;
        } else if result < 0 {
            slot.end = End::Failed(io::Error::from_raw_os_error(-result));
        }
        let held = slot.held_bytes();
        let is_awaited = slot.recv_waker.is_some() && slot.queue.is_empty();
        let is_lending = is_awaited || !is_scarce(&self.buffers);
        let queue = &mut slot.queue;
        self.buffers.lease(first, length(result), |lease, len| match len {
            0 => drop(lease),
            len if is_lending && queue.leases() < LEASES_PER_SOCKET => {
                queue.push(Chunk::from_ring(lease, len))
            }
            len => queue.push_copy(&lease[..len]),
        });
        self.held_bytes += slot.held_bytes() - held;
        if is_lending && !slot.is_hoarding {
            slot.is_hoarding = true;
            self.hoarding.push(Token { index, generation: slot.generation, op: Op::Recv });
        }
        let is_over = !self.features.recv_cap && slot.queue.len_bytes() > HIGH_WATER_BYTES;
        if is_over && slot.recv == Recv::Armed {
            self.cancel_recv(index);
        }
    }

    fn complete_send(&mut self, index: u32, result: i32, woken: &mut Vec<Waker>) {
        let slot = &mut self.slots[index as usize];
        let held = slot.held_bytes();
        let was = std::mem::replace(&mut slot.send, Send::Idle);
        // A send that is cancelled after a part of it was accepted says how much that was.
        let result = if slot.is_settling && result == -libc::ECANCELED { 0 } else { result };
        slot.send = match was {
            Send::Trying(chunk) | Send::Gathering(chunk, _) => sent(chunk, result, libc::EAGAIN),
            // A non-blocking socket does not wait in the kernel: poll.
            Send::Waiting(chunk) if result == -libc::EAGAIN => Send::Polling(chunk),
            Send::Waiting(chunk) => sent(chunk, result, libc::EINTR),
            // Whatever the poll says: the send knows best.
            Send::Polling(chunk) => Send::Waiting(chunk),
            Send::Idle | Send::Held(_) | Send::Done(_) => was,
        };
        if slot.is_settling {
            slot.send = match std::mem::replace(&mut slot.send, Send::Idle) {
                Send::Waiting(chunk) | Send::Polling(chunk) => Send::Held(chunk),
                other => other,
            };
        }
        if slot.is_dropped {
            slot.send = Send::Idle;
        }
        self.held_bytes = self.held_bytes + slot.held_bytes() - held;
        if slot.is_sending() {
            self.submit_send(index);
        } else {
            woken.extend(slot.send_waker.take());
        }
    }

    /// Copies queued bytes out of the buffers when few are left: their readers are slower than others' senders.
    fn relieve(&mut self) {
        if !is_scarce(&self.buffers) {
            // The list is bounded by the sockets, but it would keep those that have long been idle.
            if self.hoarding.len() > usize::from(self.buffers.count()) {
                self.prune_hoarding();
            }
            return;
        }
        for token in std::mem::take(&mut self.hoarding) {
            if let Some(slot) = live(&mut self.slots, token) {
                let held = slot.held_bytes();
                slot.queue.detach();
                slot.is_hoarding = false;
                self.held_bytes += slot.held_bytes() - held;
            }
        }
    }

    fn prune_hoarding(&mut self) {
        let slots = &mut self.slots;
        self.hoarding.retain(|&token| {
            live(slots, token).is_some_and(|slot| {
                slot.is_hoarding = !slot.queue.is_empty();
                slot.is_hoarding
            })
        });
    }

    /// Receives again for sockets that found no buffer, as many as there are buffers now.
    fn feed_starved(&mut self) {
        let mut free = self.buffers.free();
        while free > 0
            && let Some(token) = self.starved.pop_front()
        {
            if live(&mut self.slots, token).is_some_and(|slot| slot.recv == Recv::Starved) {
                self.arm(token.index);
                free -= 1;
            }
        }
        self.buffers.set_wanted(!self.starved.is_empty());
    }

    /// Everybody who waits learns that this driver does not go on.
    fn die(&mut self, error: &io::Error, woken: &mut Vec<Waker>) {
        self.failure = Some(error.raw_os_error().unwrap_or(libc::EIO));
        for (_, slot) in &mut self.slots {
            woken.extend(slot.recv_waker.take());
            woken.extend(slot.send_waker.take());
        }
    }
}

/// A quarter of the buffers is kept for sockets whose readers wait.
fn is_scarce(buffers: &BufRing) -> bool {
    buffers.free() <= buffers.count() / 4
}

fn live(slots: &mut Slab<Slot>, token: Token) -> Option<&mut Slot> {
    slots.get_mut(token.index as usize).filter(|slot| slot.generation == token.generation && !slot.is_dropped)
}

/// What becomes of a send that the kernel answered with `result`; `retry` is the errno that is no failure.
fn sent(mut chunk: Chunk, result: i32, retry: i32) -> Send {
    if result < 0 && -result != retry {
        return Send::Done(Err(io::Error::from_raw_os_error(-result)));
    }
    chunk.advance(length(result));
    if chunk.is_empty() {
        return Send::Done(Ok(()));
    }
    // It may take long now: a slow reader must not hold a buffer.
    chunk.detach();
    Send::Waiting(chunk)
}

/// Bytes that a result counts: none if it is an error.
fn length(result: i32) -> usize {
    usize::try_from(result).unwrap_or(0)
}
