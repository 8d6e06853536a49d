//! Stopping a relay at any byte, and going on with one that was stopped elsewhere.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::{Context, Poll};

use proxy_io::splice::PipePool;
use proxy_io::{Chunk, Socket};

use super::{Direction, Relay, State, Watch};
use crate::tls::Stream;

/// What another relay needs of one direction to go on with it.
#[derive(Debug)]
pub struct Flow {
    /// What comes before everything that is still in the sockets.
    pub rest: Rest,
    /// Bytes that were received, `rest` included.
    pub bytes: u64,
}

/// What was received of a direction and not passed on.
#[derive(Debug)]
pub enum Rest {
    /// Bytes, maybe none.
    Bytes(Vec<u8>),
    /// As many bytes in a pipe, as (read end, write end).
    Pipe((OwnedFd, OwnedFd), usize),
    /// Its end was passed on.
    Ended,
}

impl<'a, W: Watch> Relay<'a, W> {
    /// Goes on with what another relay had stopped at: from the client to the endpoint, and back.
    ///
    /// # Errors
    /// If what should be a pipe is none; the stream has lost bytes then.
    pub fn go_on(
        downstream: &'a mut Stream,
        upstream: &'a mut Stream,
        flows: [Flow; 2],
        pipes: &'a PipePool,
        watch: &'a W,
    ) -> io::Result<Self> {
        let [out, back] = flows.map(|flow| Direction::of(flow, pipes));
        Ok(Self { downstream, upstream, out: out?, back: back?, pipes, watch })
    }

    /// What another relay needs to go on with one that has stopped: the client's socket, the endpoint's, and what lies between them
    /// each way. These are copies; once the other goes on, this one must be dropped without another look.
    ///
    /// # Errors
    /// If this process may have no more descriptors.
    pub fn stopped(&mut self) -> io::Result<([OwnedFd; 2], [Flow; 2])> {
        let sockets = [&self.downstream, &self.upstream].map(|stream| stream.fd().try_clone_to_owned());
        let [down, up] = sockets;
        Ok(([down?, up?], [self.out.flow()?, self.back.flow()?]))
    }

    /// Whether both directions are in a state that another relay can begin with.
    pub(super) fn is_movable(&mut self) -> bool {
        let is_plain = self.downstream.as_plain().is_some() && self.upstream.as_plain().is_some();
        let is_known = |direction: &Direction| {
            matches!(direction.state, State::Copy(_) | State::Splice(_) | State::Done)
        };
        is_plain && is_known(&self.out) && is_known(&self.back)
    }

    pub(super) fn is_ending(&self) -> bool {
        [&self.out, &self.back].iter().any(|direction| matches!(direction.state, State::Ending))
    }

    /// Lets the driver settle both sockets, and takes what it had of them. Ready with false if they cannot be moved: an error has
    /// come, and only this process knows of it.
    pub(super) fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let (Some(down), Some(up)) = (self.downstream.as_plain(), self.upstream.as_plain()) else {
            return Poll::Ready(false);
        };
        let settled = [down.poll_settle(cx), up.poll_settle(cx)];
        if settled.iter().any(Poll::is_pending) {
            return Poll::Pending;
        }
        if down.has_failed()
            || up.has_failed()
            || settled.iter().any(|one| matches!(one, Poll::Ready(Err(_))))
        {
            return Poll::Ready(false);
        }
        Poll::Ready(self.out.take_settled(down, up) && self.back.take_settled(up, down))
    }
}

impl Direction {
    fn of(flow: Flow, pipes: &PipePool) -> io::Result<Self> {
        let state = match flow.rest {
            Rest::Bytes(bytes) => State::Copy(Chunk::from(bytes)),
            Rest::Pipe(ends, held) => State::Splice(pipes.adopt(ends, held)?),
            Rest::Ended => State::Done,
        };
        Ok(Self { state, streak: 0, bytes: flow.bytes })
    }

    /// What another one needs to go on with this one, which was settled.
    fn flow(&self) -> io::Result<Flow> {
        let rest = match &self.state {
            State::Splice(pipe) if pipe.is_empty() => Rest::Bytes(Vec::new()),
            State::Splice(pipe) => {
                let (reader, writer) = pipe.fds();
                Rest::Pipe(
                    (reader.as_fd().try_clone_to_owned()?, writer.as_fd().try_clone_to_owned()?),
                    pipe.len(),
                )
            }
            State::Copy(chunk) => {
                let mut bytes = Vec::with_capacity(chunk.len());
                chunk.parts().for_each(|part| bytes.extend_from_slice(part));
                Rest::Bytes(bytes)
            }
            State::Ending | State::Done | State::Broken(..) => Rest::Ended,
        };
        Ok(Flow { rest, bytes: self.bytes })
    }

    /// Takes what the driver has of both sockets, which are settled; false if there is something that cannot be taken.
    fn take_settled(&mut self, source: &mut Socket, target: &mut Socket) -> bool {
        match &mut self.state {
            State::Copy(chunk) => {
                if target.take_back(chunk).is_err() {
                    return false;
                }
                let more = source.take_buffered();
                self.bytes += more.len() as u64;
                *chunk = Chunk::join(std::mem::take(chunk), more);
                // It may wait for a while.
                chunk.detach();
                true
            }
            // Nothing is received by the driver while a pipe is in use, or after the end.
            State::Splice(_) | State::Done => true,
            State::Ending | State::Broken(..) => false,
        }
    }
}
