//! The older process's side after the hand-over: connections go, some at a time, and counters follow.

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tokio::runtime::Handle as Runtime;
use tokio::sync::{mpsc, oneshot};

use super::give::WORD_TIME;
use super::protocol::{Carried, Moving, MovingFlow, MovingRest, Taken, recv, send};
use crate::connection::moving::{Leaver, Parcel};
use crate::forward::l4::{Flow, Rest};
use crate::stats::carried::{Counts, Ledger};

/// Connections that go together: each waits for the others, for as long as this many take, which is about a millisecond.
const BATCH: usize = 64;
/// Connections that stand still at once: one batch on its way, and the next one stopping.
pub const MOST_STOPPED: usize = 2 * BATCH;
/// Bytes between sockets after which a batch is full. One connection may have more.
const BATCH_BYTES: usize = 4 << 20;
/// Time between two words on what this process still counts: what is lost if it is killed.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// Counters in one message: far below its bound, with the longest names.
const COUNTS: usize = 4096;

/// Hands connections to a newer process until none is left.
pub struct Carrier {
    stream: UnixStream,
    ledger: Ledger,
    given: Given,
}

/// What became of the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The other has them.
    pub taken: usize,
    /// It did not want them: they go on here.
    pub left: usize,
}

impl Carrier {
    pub(super) fn new(stream: UnixStream, ledger: Ledger) -> Self {
        Self { stream, ledger, given: Given::default() }
    }

    /// What became of the connections so far.
    #[must_use]
    pub fn given(&self) -> Given {
        self.given
    }

    /// Hands over what comes through `leavers`, and every second what `counts` says; until `is_over`, when the last counters go.
    /// Blocks for as long.
    ///
    /// # Errors
    /// If the other is gone, hangs or talks nonsense. It has nothing then that it has not said to have taken.
    pub fn run(
        &mut self,
        runtime: &Runtime,
        mut leavers: mpsc::Receiver<Leaver>,
        counts: impl Fn() -> Vec<Counts>,
        mut is_over: oneshot::Receiver<()>,
    ) -> io::Result<()> {
        self.stream.set_read_timeout(Some(WORD_TIME))?;
        self.stream.set_write_timeout(Some(WORD_TIME))?;
        let (mut said, mut has_leavers, mut has_ended) = (Instant::now(), true, false);
        while !has_ended {
            let mut batch = Vec::new();
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    count = leavers.recv_many(&mut batch, BATCH), if has_leavers => has_leavers = count > 0,
                    _ = &mut is_over => has_ended = true,
                    () = tokio::time::sleep(COUNT_INTERVAL) => {}
                }
            });
            self.give(batch)?;
            if has_ended || said.elapsed() >= COUNT_INTERVAL {
                say_counters(&self.stream, self.ledger.difference(counts()))?;
                said = Instant::now();
            }
        }
        Ok(())
    }

    fn give(&mut self, mut batch: Vec<Leaver>) -> io::Result<()> {
        while !batch.is_empty() {
            let mut bytes = 0;
            let fits = batch.iter().position(|leaver| {
                let is_full = bytes >= BATCH_BYTES;
                bytes += leaver.parcel.flows.iter().map(held_bytes).sum::<usize>();
                is_full
            });
            let rest = batch.split_off(fits.unwrap_or(batch.len()));
            let some = std::mem::replace(&mut batch, rest);
            let parcels: Vec<&Parcel> = some.iter().map(|leaver| &leaver.parcel).collect();
            let Taken(taken) = self.offer(&parcels)?;
            for (leaver, is_taken) in some.into_iter().zip(taken) {
                self.given.taken += usize::from(is_taken);
                self.given.left += usize::from(!is_taken);
                let Leaver { parcel, is_taken: answer } = leaver;
                // Before the answer: what holds a pipe of the older relay must not outlive it.
                drop(parcel);
                let _ = answer.send(is_taken);
            }
        }
        Ok(())
    }

    /// Offers connections, and hears which were taken.
    fn offer(&self, parcels: &[&Parcel]) -> io::Result<Taken> {
        let answered = say(&self.stream, parcels).and_then(|()| recv::<Taken>(&self.stream));
        let (taken, _) = answered.or_else(|error| {
            // From here on the other cannot say yes any more. It may just have done so, and then that counts.
            let _ = self.stream.shutdown(Shutdown::Both);
            recv::<Taken>(&self.stream).map_err(|_| error)
        })?;
        if taken.0.len() == parcels.len() {
            Ok(taken)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "an answer about other connections"))
        }
    }
}

fn held_bytes(flow: &Flow) -> usize {
    if let Rest::Bytes(bytes) = &flow.rest { bytes.len() } else { 0 }
}

/// Says counters, in as many messages as they need.
pub(super) fn say_counters(stream: &UnixStream, counts: Vec<Counts>) -> io::Result<()> {
    counts.chunks(COUNTS).try_for_each(|some| send(stream, &Carried::Counters(some.to_vec()), &[]))
}

fn say(mut stream: &UnixStream, parcels: &[&Parcel]) -> io::Result<()> {
    let (mut all, mut fds, mut bytes) = (Vec::new(), Vec::<BorrowedFd<'_>>::new(), Vec::new());
    for parcel in parcels {
        fds.extend(parcel.sockets.iter().map(|fd| fd.as_fd()));
        let flows = parcel.flows.each_ref().map(|flow| {
            let rest = match &flow.rest {
                Rest::Bytes(held) => {
                    bytes.extend_from_slice(held);
                    MovingRest::Bytes(held.len())
                }
                Rest::Pipe((reader, writer), held) => {
                    fds.extend([reader.as_fd(), writer.as_fd()]);
                    MovingRest::Pipe(*held)
                }
                Rest::Ended => MovingRest::Ended,
            };
            MovingFlow { rest, bytes: flow.bytes }
        });
        let stopping_since_ns = parcel.stopping_since_ns;
        all.push(Moving { identity: parcel.identity.clone(), flows, stopping_since_ns });
    }
    send(stream, &Carried::Connections(all), &fds)?;
    stream.write_all(&bytes)
}

#[cfg(test)]
mod tests;
