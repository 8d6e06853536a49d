//! The newer process's side after the hand-over: connections come, and counters with them.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::give::WORD_TIME;
use super::protocol::{Carried, Moving, MovingRest, Taken, recv, send};
use crate::connection::moving::{Identity, Parcel};
use crate::forward::l4::{Flow, Rest};
use crate::stats::carried::Counts;

/// Most bytes between the sockets of one message's connections: what fills a batch, and what one connection can hold at most, which
/// is all receive buffers of a worker each way.
const MOST_BYTES: usize = 16 << 20;

/// What an older process still sends.
#[derive(Debug)]
pub struct Arrivals {
    stream: UnixStream,
}

/// Where it goes.
pub trait Arrive {
    /// A place for one connection.
    type Place;

    /// Counters to be added.
    fn handle_counts(&mut self, counts: &Counts);

    /// Finds a place for a connection, if there is one.
    fn find_place(&mut self, identity: &Identity) -> Option<Self::Place>;

    /// A connection that belongs to this process now.
    fn handle_arrival(&mut self, parcel: Parcel, place: Self::Place);
}

impl Arrivals {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// Takes everything that comes until the older process ends. Blocks for as long.
    ///
    /// # Errors
    /// If the other talks nonsense, or sends more descriptors than this process may have. It keeps what was not taken.
    pub fn run(self, to: &mut impl Arrive) -> io::Result<()> {
        self.stream.set_read_timeout(None)?;
        self.stream.set_write_timeout(Some(WORD_TIME))?;
        loop {
            let (said, fds) = match recv::<Carried>(&self.stream) {
                Ok(heard) => heard,
                Err(error) if is_end(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            match said {
                Carried::Counters(counts) => counts.iter().for_each(|counts| to.handle_counts(counts)),
                Carried::Sockets(_) | Carried::Counted => {}
                Carried::Connections(moving) => {
                    let parcels = unpack(&self.stream, moving, fds)?;
                    self.take(parcels, to)?;
                }
            }
        }
    }

    fn take<A: Arrive>(&self, parcels: Vec<Parcel>, to: &mut A) -> io::Result<()> {
        let places: Vec<Option<A::Place>> =
            parcels.iter().map(|parcel| to.find_place(&parcel.identity)).collect();
        let taken = Taken(places.iter().map(Option::is_some).collect());
        // They are the other's until this is written: if that fails, they are not looked at.
        send(&self.stream, &taken, &[])?;
        for (parcel, place) in parcels.into_iter().zip(places) {
            if let Some(place) = place {
                to.handle_arrival(parcel, place);
            }
        }
        Ok(())
    }
}

/// The other's end, in order or not.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

fn unpack(mut stream: &UnixStream, moving: Vec<Moving>, fds: Vec<OwnedFd>) -> io::Result<Vec<Parcel>> {
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| invalid("a connection without its descriptors"));
    let (mut parcels, mut left) = (Vec::with_capacity(moving.len()), MOST_BYTES);
    for Moving { identity, flows, stopping_since_ns } in moving {
        let sockets = [next()?, next()?];
        let mut take = |flow: super::protocol::MovingFlow| {
            let rest = match flow.rest {
                MovingRest::Bytes(count) => {
                    left = left.checked_sub(count).ok_or_else(|| invalid("too many bytes"))?;
                    Rest::Bytes(vec![0; count])
                }
                MovingRest::Pipe(held) => Rest::Pipe((next()?, next()?), held),
                MovingRest::Ended => Rest::Ended,
            };
            io::Result::Ok(Flow { rest, bytes: flow.bytes })
        };
        let [out, back] = flows;
        parcels.push(Parcel { identity, sockets, flows: [take(out)?, take(back)?], stopping_since_ns });
    }
    for flow in parcels.iter_mut().flat_map(|parcel| &mut parcel.flows) {
        if let Rest::Bytes(bytes) = &mut flow.rest {
            stream.read_exact(bytes)?;
        }
    }
    Ok(parcels)
}
