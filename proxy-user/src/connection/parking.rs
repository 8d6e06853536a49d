//! Connections that rest, without a task of their own: most connections of an HTTP proxy do nothing, most of the time.
//!
//! ```text
//!   task ──two ticks without a byte──> parked ──a byte, an end, or somebody who wants it to end──> task
//! ```
//!
//! What wakes a parked connection is what wakes a task, a [`Waker`]. One task of the worker, the attendant, makes a task of it
//! again; what follows is found out there, as if it had never been parked.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use proxy_io::Chunk;
use slab::Slab;

use super::http::{Held, Resting};
use super::{Accepted, Local};
use crate::forward::l4::Watch as _;
use crate::forward::wire::Wire;
use crate::tls::Stream;

/// A connection that rests. Small: most of them are parked.
struct Parked {
    accepted: Accepted,
    stream: Stream,
    held: Held,
}

/// All that rest on one worker.
pub(crate) struct Parking {
    // Boxed: what is left of a table after many have gone would be as large as it was with them.
    places: RefCell<Slab<Box<Parked>>>,
    bell: Arc<Bell>,
    /// How many they are, on all workers.
    count: Arc<AtomicU64>,
}

/// Who is to go on; written by whoever wakes, which is the worker's own thread nearly always.
#[derive(Default)]
struct Bell(Mutex<Rung>);

#[derive(Default)]
struct Rung {
    places: Vec<usize>,
    attendant: Option<Waker>,
}

/// Wakes the connection at a place; if that has gone, whoever has the place now, which finds nothing and rests on.
struct Ticket {
    place: usize,
    bell: Arc<Bell>,
}

impl Wake for Ticket {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bell.ring(self.place);
    }
}

impl Bell {
    fn ring(&self, place: usize) {
        let mut rung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rung.places.push(place);
        let attendant = rung.attendant.take();
        drop(rung);
        if let Some(attendant) = attendant {
            attendant.wake();
        }
    }

    fn poll_places(&self, cx: &mut Context<'_>) -> Poll<Vec<usize>> {
        let mut rung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rung.places.is_empty() {
            rung.attendant = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut rung.places))
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        let left = self.places.get_mut().len() as u64;
        self.count.fetch_sub(left, Ordering::Relaxed);
    }
}

impl Parking {
    /// Begins with none.
    pub(crate) fn new(count: Arc<AtomicU64>) -> Self {
        Self { places: RefCell::default(), bell: Arc::default(), count }
    }

    /// Parks a connection until something happens to it.
    pub(super) fn park(local: &Rc<Local>, accepted: Accepted, resting: Resting) {
        let Self { places, bell, count } = &local.parking;
        let place = places.borrow().vacant_key();
        let waker = Waker::from(Arc::new(Ticket { place, bell: Arc::clone(bell) }));
        let cx = &mut Context::from_waker(&waker);
        let Resting { mut down, held } = resting;
        let conn = &held.guard.conn;
        if conn.poll_kill(cx).is_some() || down.poll_more(cx, &**conn).is_ready() {
            // Hardly ever: what comes is taken note of between the polls of tasks, and this is within one.
            tokio::task::spawn_local(super::go_on(Rc::clone(local), accepted, Resting { down, held }));
            return;
        }
        let parked = Box::new(Parked { accepted, stream: down.stream, held });
        let taken = places.borrow_mut().insert(parked);
        assert_eq!(taken, place, "nobody else parks meanwhile");
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes tasks of those that go on, for as long as the worker lives.
    pub(crate) async fn attend(local: Rc<Local>) -> Infallible {
        loop {
            for place in poll_fn(|cx| local.parking.bell.poll_places(cx)).await {
                let parked = local.parking.places.borrow_mut().try_remove(place);
                if let Some(parked) = parked {
                    local.parking.count.fetch_sub(1, Ordering::Relaxed);
                    let Parked { accepted, stream, held } = *parked;
                    let resting = Resting { down: Wire::new(stream, Chunk::default()), held };
                    tokio::task::spawn_local(super::go_on(Rc::clone(&local), accepted, resting));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::OpenConn;

    #[test]
    fn a_parked_connection_is_small() {
        // With two counters in front of the second and the third: sizes that the allocator has, without a rest.
        let sizes = [size_of::<Parked>(), 16 + size_of::<OpenConn>(), 16 + size_of::<Ticket>()];
        assert!(sizes[0] <= 256 && sizes[1] <= 128 && sizes[2] <= 32, "{sizes:?}");
    }
}
