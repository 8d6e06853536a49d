//! Moving the bytes of one connection in both directions, whatever they mean.
//!
//! ```text
//!   each direction:  copy ──(bulk: several full buffers in a row)──> splice ──(idle)──> copy
//!                      └──(end of stream)──> FIN is passed on ──> done
//!                      └──(error)──────────> broken: the other direction goes on to its own end or error
//! ```
//!
//! A relay between plain sockets can be stopped at any byte: [`Relay::stopped`] tells exactly what another one needs to go on.
//!
//! Nothing is read that cannot be passed on: a chunk is sent before the next one is asked for, so a slow reader holds
//! its sender back and not our memory.

mod stop;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use proxy_core::outcome::Reason;
use proxy_io::Chunk;
use proxy_io::splice::{Pipe, PipePool};

pub use self::stop::{Flow, Rest};
use crate::tls::Count;
use crate::tls::Stream;

/// Full buffers in a row that make a stream bulk.
const BULK_STREAK: u8 = 8;
/// Bytes of a chunk that count as a full buffer: the ring driver's buffers are the smaller ones.
const BULK_CHUNK_BYTES: usize = 8 << 10;
/// Bytes asked of one splice: a whole pipe.
const SPLICE_BYTES: usize = 1 << 20;
/// Chunks moved per direction before others get their turn.
const TURN_CHUNKS: u32 = 32;
/// Bytes moved per direction before others get their turn: chunks of a splice are large. Some 300 µs.
const TURN_BYTES: u64 = 2 << 20;

/// What the relay tells its owner, and what the owner tells it. All of it belongs to one thread.
pub trait Watch: Count {
    /// Bytes went by.
    fn handle_progress(&self);
    /// One direction is over; the other one may have a shorter time from now on.
    fn handle_half_close(&self);
    /// All of a request is sent: from now on it is its endpoint that is waited for.
    fn handle_sent(&self) {}
    /// Whether the owner wants the connection to end, and why.
    fn poll_kill(&self, cx: &mut Context<'_>) -> Option<Reason>;
    /// Whether nothing moved for so long that a pipe is worth giving back. Once asked, it is forgotten.
    fn take_idle(&self) -> bool;
    /// Whether the owner wants the relay to stop, to let somebody else go on with it.
    fn wants_stop(&self) -> bool {
        false
    }
    /// Whether the owner wants to know how many bytes this holds, here and in its sockets' queues.
    fn wants_weight(&self) -> bool {
        false
    }
    /// So many.
    fn set_weight(&self, _bytes: u64) {}
    /// It cannot: an error has come that only this process knows of, and the connection ends here.
    fn refuse_stop(&self) {}
}

/// Why a relay gave the word back to its owner.
#[derive(Debug)]
pub enum Turned {
    /// It is over.
    Ended(Ending),
    /// It has stopped, as its owner wanted: neither the kernel nor a driver holds a byte of it. Polled again, it goes on.
    Stopped,
}

/// How a relay ended.
#[derive(Debug)]
pub struct Ending {
    /// Why.
    pub reason: Reason,
    /// Bytes from the client to the endpoint.
    pub sent_bytes: u64,
    /// Bytes from the endpoint to the client.
    pub received_bytes: u64,
    /// Nothing has ended: another process goes on with it, and tells of it.
    pub is_moved: bool,
}

impl Ending {
    /// An end before the first byte.
    #[must_use]
    pub fn of(reason: Reason) -> Self {
        Self { reason, sent_bytes: 0, received_bytes: 0, is_moved: false }
    }

    /// No end here: another process goes on.
    #[must_use]
    pub fn moved() -> Self {
        Self { is_moved: true, ..Self::of(Reason::Drained) }
    }
}

/// Both directions of a connection; a future that ends with the connection, or stops because its owner wants that.
///
/// The streams stay with the caller, who closes them in order or with a reset.
pub struct Relay<'a, W> {
    downstream: &'a mut Stream,
    upstream: &'a mut Stream,
    out: Direction,
    back: Direction,
    pipes: &'a PipePool,
    watch: &'a W,
}

/// What was read before the relay began.
#[derive(Default)]
pub struct Early {
    /// Of the client.
    pub downstream: Chunk,
    /// Of the endpoint.
    pub upstream: Chunk,
}

/// Which side an error came from: of a direction, the source or the target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

enum State {
    /// A chunk that waits to be sent, or nothing.
    Copy(Chunk),
    Splice(Pipe),
    /// The end of the stream is being passed on.
    Ending,
    Done,
    Broken(Side, io::ErrorKind),
}

/// What a direction must know of its surroundings in one poll.
#[derive(Clone, Copy)]
struct Turn {
    /// Nothing moved for so long that a pipe is worth giving back.
    is_idle: bool,
    /// The other direction ended in order.
    is_last: bool,
}

struct Direction {
    state: State,
    streak: u8,
    bytes: u64,
}

impl<'a, W: Watch> Relay<'a, W> {
    /// Begins to relay.
    pub fn new(
        downstream: &'a mut Stream,
        upstream: &'a mut Stream,
        early: Early,
        pipes: &'a PipePool,
        watch: &'a W,
    ) -> Self {
        let direction = |chunk: Chunk| {
            let bytes = chunk.len() as u64;
            Direction { state: State::Copy(chunk), streak: 0, bytes }
        };
        Self {
            downstream,
            upstream,
            out: direction(early.downstream),
            back: direction(early.upstream),
            pipes,
            watch,
        }
    }

    fn ending(&self, reason: Reason) -> Ending {
        Ending { reason, sent_bytes: self.out.bytes, received_bytes: self.back.bytes, is_moved: false }
    }

    /// The reason, once both directions are over.
    ///
    /// A target that is gone shows in what is read from it, too; so the side that broke is named by the first error
    /// that was *received*, and by a failed send only if nothing else is known.
    fn reason(&self) -> Option<Reason> {
        use Side::{Source, Target};
        let (out, back) = (self.out.broken(), self.back.broken());
        if !(self.out.is_over() && self.back.is_over()) {
            // A direction whose source was reset has nothing more to wait for: neither side can be served.
            return match (out, back) {
                (Some((Source, kind)), _) => Some(lost(kind, Reason::DownstreamReset)),
                (_, Some((Source, kind))) => Some(lost(kind, Reason::UpstreamReset)),
                _ => None,
            };
        }
        Some(match (out, back) {
            (None, None) => Reason::Fin,
            (Some((Source, kind)), _) => lost(kind, Reason::DownstreamReset),
            (_, Some((Source, kind))) => lost(kind, Reason::UpstreamReset),
            (Some((Target, kind)), _) => lost(kind, Reason::UpstreamReset),
            (_, Some((Target, kind))) => lost(kind, Reason::DownstreamReset),
        })
    }
}

/// Why an open connection is lost: its time was over, or else as `reset` says.
///
/// When the time is over the kernel names the last thing that the network said, if it said something: that nobody is at
/// the address, for example (`sk_err_soft` in tcp_write_err, net/ipv4/tcp_timer.c). Before that it ends no connection for it.
pub(crate) fn lost(kind: io::ErrorKind, reset: Reason) -> Reason {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, QuotaExceeded, TimedOut};
    match kind {
        TimedOut | HostUnreachable | NetworkUnreachable => Reason::UserTimeout,
        // Only a session of TLS says so.
        QuotaExceeded => Reason::TlsWorn,
        _ => reset,
    }
}

impl<W: Watch> Future for Relay<'_, W> {
    type Output = Turned;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turned> {
        let this = self.get_mut();
        let (out, back) = (this.out.bytes, this.back.bytes);
        let turned = this.poll_turn(cx);
        let (out, back) = (this.out.bytes - out, this.back.bytes - back);
        if out + back > 0 {
            let count = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
            this.watch.count(count(out), count(back));
        }
        turned
    }
}

impl<W: Watch> Relay<'_, W> {
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turned> {
        if let Some(reason) = self.watch.poll_kill(cx) {
            return Poll::Ready(Turned::Ended(self.ending(reason)));
        }
        if self.watch.wants_weight() {
            self.watch.set_weight(self.weight());
        }
        if self.watch.wants_stop() {
            if self.is_movable() && ready!(self.poll_stop(cx)) {
                return Poll::Ready(Turned::Stopped);
            }
            // An end that is just being passed on is over in a moment; everything else ends here.
            if !self.is_ending() {
                self.watch.refuse_stop();
            }
        }
        let is_idle = self.watch.take_idle();
        let (over_before, moved_before) = (self.over_count(), self.out.bytes + self.back.bytes);
        let is_back_done = matches!(self.back.state, State::Done);
        self.out.poll(
            cx,
            self.downstream,
            self.upstream,
            self.pipes,
            Turn { is_idle, is_last: is_back_done },
        );
        let is_out_done = matches!(self.out.state, State::Done);
        self.back.poll(
            cx,
            self.upstream,
            self.downstream,
            self.pipes,
            Turn { is_idle, is_last: is_out_done },
        );
        if self.out.bytes + self.back.bytes != moved_before {
            self.watch.handle_progress();
        }
        if let Some(reason) = self.reason() {
            return Poll::Ready(Turned::Ended(self.ending(reason)));
        }
        if self.over_count() != over_before {
            self.watch.handle_half_close();
        }
        Poll::Pending
    }
}

impl<W> Relay<'_, W> {
    /// Bytes on their way, here and in the kernel.
    fn weight(&self) -> u64 {
        let held = |direction: &Direction| match &direction.state {
            State::Copy(chunk) => chunk.len() as u64,
            State::Splice(pipe) => pipe.len() as u64,
            State::Ending | State::Done | State::Broken(..) => 0,
        };
        held(&self.out) + held(&self.back) + self.downstream.queued_memory() + self.upstream.queued_memory()
    }

    fn over_count(&self) -> usize {
        usize::from(self.out.is_over()) + usize::from(self.back.is_over())
    }
}

impl Direction {
    fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Broken(..))
    }

    fn broken(&self) -> Option<(Side, io::ErrorKind)> {
        if let State::Broken(side, kind) = self.state { Some((side, kind)) } else { None }
    }

    /// Moves what can be moved now.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        target: &mut Stream,
        pipes: &PipePool,
        turn: Turn,
    ) {
        let begin = self.bytes;
        for _ in 0..TURN_CHUNKS {
            if self.bytes - begin >= TURN_BYTES {
                break;
            }
            let step = match &mut self.state {
                State::Copy(_) => self.poll_copy(cx, source, target, pipes),
                State::Splice(pipe) if turn.is_idle && pipe.is_empty() => {
                    self.state = State::Copy(Chunk::default());
                    self.streak = 0;
                    continue;
                }
                State::Splice(_) => self.poll_splice(cx, source, target),
                State::Ending => self.poll_ending(cx, target, turn),
                State::Done | State::Broken(..) => return,
            };
            match step {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err((side, error))) => self.state = State::Broken(side, error.kind()),
                Poll::Pending => return,
            }
        }
        // The turn is over but there was more to do: come back after the others.
        cx.waker().wake_by_ref();
    }

    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        target: &mut Stream,
        pipes: &PipePool,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        let State::Copy(chunk) = &mut self.state else { return Poll::Ready(Ok(())) };
        if chunk.is_empty() {
            if self.streak >= BULK_STREAK
                && target.as_plain().is_some()
                && let Some(socket) = source.as_plain()
            {
                // Bulk: let the driver settle what it has in flight and pass that on, then let it read nothing more.
                ready!(socket.pause_recv(cx)).map_err(|error| (Side::Source, error))?;
                if !socket.has_buffered() {
                    self.begin_splice(pipes);
                    return Poll::Ready(Ok(()));
                }
            }
            *chunk = ready!(source.poll_recv_bundle(cx)).map_err(|error| (Side::Source, error))?;
            if chunk.is_empty() {
                self.state = State::Ending;
                return Poll::Ready(Ok(()));
            }
            if self.streak < BULK_STREAK {
                self.streak = if chunk.len() >= BULK_CHUNK_BYTES { self.streak + 1 } else { 0 };
            }
            self.bytes += chunk.len() as u64;
        }
        target.poll_send(cx, chunk).map_err(|error| (Side::Target, error))
    }

    /// Passes the end of the stream on.
    fn poll_ending(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut Stream,
        turn: Turn,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        // Where both are about to be closed, and everything that the target sent was read, close says FIN, too.
        if !(turn.is_last && target.as_plain().is_some()) {
            match ready!(target.poll_shutdown_write(cx)) {
                // The target is gone already; what it says about that comes from reading it.
                Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                    return Poll::Ready(Err((Side::Target, error)));
                }
                _ => {}
            }
        }
        self.state = State::Done;
        Poll::Ready(Ok(()))
    }

    /// Switches to splice; the driver has let go of the source and everything that it had read is passed on.
    fn begin_splice(&mut self, pipes: &PipePool) {
        self.streak = 0;
        // Without a free pipe or descriptor the stream goes on being copied.
        if let Ok(Some(pipe)) = pipes.take() {
            self.state = State::Splice(pipe);
        }
    }

    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        target: &mut Stream,
    ) -> Poll<Result<(), (Side, io::Error)>> {
        let State::Splice(pipe) = &mut self.state else { return Poll::Ready(Ok(())) };
        let Some(to) = target.as_plain() else { return Poll::Pending };
        if !pipe.is_empty() {
            return to.poll_splice_out(cx, pipe).map_err(|error| (Side::Target, error));
        }
        // One of them is the client's, and keeps a pace if it is bounded.
        let room = ready!(source.poll_room(cx)).min(ready!(target.poll_room(cx)));
        let Some(from) = source.as_plain() else { return Poll::Pending };
        match ready!(from.poll_splice_in(cx, pipe, room.min(SPLICE_BYTES))) {
            Ok(0) => {
                self.state = State::Ending;
                Poll::Ready(Ok(()))
            }
            Ok(count) => {
                self.bytes += count as u64;
                source.handle_moved(count);
                target.handle_moved(count);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err((Side::Source, error))),
        }
    }
}
