//! Taking turns on a worker: each application may do so much in a round, whatever it has to do and however many connections it has.
//!
//! ```text
//!   a connection that wants to move bytes:
//!     its application has something left ──────────────────────────────> moves, and that is taken off
//!     nothing is left, or others wait ──> waits in its application's line ──(next round)──> called ──> moves
//! ```
//!
//! A round is over when everybody who could go on has. It costs nothing while no application uses up what it has, and keeps nobody
//! waiting for somebody who does nothing.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustc_hash::FxHashMap;

use crate::stats::application::Application;

/// What an application may do in a round, in bytes, while others do something, too: some 20 µs of work, so that somebody with one
/// question at a time waits for so long and not for all connections of a flood.
const QUANTUM_BYTES: i64 = 128 << 10;
/// The same while it is alone: about a millisecond of bulk, so that newcomers, timers and listeners get their turn, too. Nothing else
/// costs it anything: who does much with few bytes leaves the worker to others in between anyway, and each round takes time.
const ALONE_BYTES: i64 = 4 << 20;
/// What it costs to receive or send at all while others do something, in bytes that could be spliced in that time.
const OPERATION_BYTES: usize = 8 << 10;
/// The same of a connection: it is accepted and closed, and another one is made for it.
pub const CONNECTION_BYTES: usize = 128 << 10;

/// The turns of one worker.
#[derive(Default)]
pub struct Turns {
    sharers: RefCell<FxHashMap<usize, Weak<Sharer>>>,
    /// Applications that have done something in this second, and in the one before.
    busy: Cell<(usize, usize)>,
    is_anybody_waiting: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One application on one worker.
struct Sharer {
    turns: Rc<Turns>,
    application: Arc<Application>,
    /// Bytes; less than zero if it has done more than it might.
    left: Cell<i64>,
    is_busy: Cell<bool>,
    line: RefCell<VecDeque<Rc<Ticket>>>,
}

#[derive(Default)]
struct Ticket {
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    /// In its application's line.
    Waiting,
    /// Taken out of it, and woken.
    Called,
}

/// A place among those who take turns; one task polls it.
pub struct Seat {
    sharer: Rc<Sharer>,
    ticket: Rc<Ticket>,
}

impl Turns {
    /// Takes a place for somebody of an application.
    #[must_use]
    pub fn seat(self: &Rc<Self>, application: &Arc<Application>) -> Seat {
        // As long as somebody has a place the application is there, so its address is nobody else's.
        let key = Arc::as_ptr(application).addr();
        let known = self.sharers.borrow().get(&key).and_then(Weak::upgrade);
        let sharer = known.unwrap_or_else(|| {
            let sharer = Rc::new(Sharer {
                turns: Rc::clone(self),
                application: Arc::clone(application),
                left: Cell::new(self.quantum()),
                is_busy: Cell::new(false),
                line: RefCell::default(),
            });
            self.sharers.borrow_mut().insert(key, Rc::downgrade(&sharer));
            sharer
        });
        Seat { sharer, ticket: Rc::default() }
    }

    /// Begins round after round, as long as anybody waits for one.
    pub async fn run(&self) {
        loop {
            poll_fn(|cx| self.poll_waiting(cx)).await;
            // Behind everybody who can go on now, and after a look for what has come.
            tokio::task::yield_now().await;
            self.begin_round();
        }
    }

    fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_anybody_waiting.get() {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Once a second: forgets who has done nothing.
    pub fn handle_tick(&self) {
        self.busy.set((0, self.busy.get().0));
        self.each(|sharer| sharer.is_busy.set(false));
    }

    fn begin_round(&self) {
        let quantum = self.quantum();
        let are_some_left = Cell::new(false);
        self.each(|sharer| {
            sharer.left.set((sharer.left.get() + quantum).min(quantum));
            sharer.call_next();
            are_some_left.set(are_some_left.get() || !sharer.line.borrow().is_empty());
        });
        // Whoever is called may have something else to do, or end, and never call the next one.
        self.is_anybody_waiting.set(are_some_left.get());
    }

    fn quantum(&self) -> i64 {
        if self.is_contended() { QUANTUM_BYTES } else { ALONE_BYTES }
    }

    fn is_contended(&self) -> bool {
        let (now, before) = self.busy.get();
        now.max(before) > 1
    }

    fn each(&self, act: impl Fn(&Sharer)) {
        self.sharers.borrow().values().filter_map(Weak::upgrade).for_each(|sharer| act(&sharer));
    }

    fn set_waiting(&self) {
        if !self.is_anybody_waiting.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

impl Sharer {
    /// Lets the first in line go on, if something is left.
    fn call_next(&self) {
        while self.left.get() > 0 {
            let Some(ticket) = self.line.borrow_mut().pop_front() else { return };
            // Those that have only this left are gone.
            if Rc::strong_count(&ticket) > 1 {
                ticket.state.set(State::Called);
                let waker = ticket.waker.borrow_mut().take();
                waker.into_iter().for_each(Waker::wake);
                return;
            }
        }
        if !self.line.borrow().is_empty() {
            self.turns.set_waiting();
        }
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        // Elsewhere borrowed, an entry without anybody stays until the next one of the same application.
        if let Ok(mut sharers) = self.turns.sharers.try_borrow_mut() {
            sharers.remove(&Arc::as_ptr(&self.application).addr());
        }
    }
}

impl Seat {
    /// Ready when it may do something, with how many bytes are left.
    pub fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let Self { sharer, ticket } = self;
        let left = sharer.left.get();
        let is_next = match ticket.state.get() {
            State::Called => true,
            State::Idle => sharer.line.borrow().is_empty(),
            State::Waiting => false,
        };
        if is_next && left > 0 {
            let was_called = ticket.state.replace(State::Idle) == State::Called;
            if was_called {
                // It is polled after this one has done what it does, and sees what is left then.
                sharer.call_next();
            }
            return Poll::Ready(usize::try_from(left).unwrap_or(usize::MAX));
        }
        *ticket.waker.borrow_mut() = Some(cx.waker().clone());
        match ticket.state.replace(State::Waiting) {
            State::Waiting => {}
            // Called, but another one was faster.
            State::Called => sharer.line.borrow_mut().push_front(Rc::clone(ticket)),
            State::Idle => sharer.line.borrow_mut().push_back(Rc::clone(ticket)),
        }
        sharer.turns.set_waiting();
        Poll::Pending
    }

    /// Takes note of bytes that were moved in one go.
    pub fn handle_moved(&self, bytes: usize) {
        self.take(bytes, OPERATION_BYTES);
    }

    /// Takes note of work that moved none, but took as long as moving so many.
    pub fn handle_work(&self, bytes: usize) {
        self.take(0, bytes.saturating_add(OPERATION_BYTES));
    }

    fn take(&self, moved: usize, effort: usize) {
        let Sharer { turns, left, is_busy, .. } = &*self.sharer;
        if !is_busy.replace(true) {
            let (now, before) = turns.busy.get();
            turns.busy.set((now + 1, before));
        }
        let cost = if turns.is_contended() { moved.saturating_add(effort) } else { moved };
        // One who was alone, or has done what cannot be divided, is not held up for long after it.
        left.set(left.get().saturating_sub_unsigned(cost as u64).max(-ALONE_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections of some applications that always have something to do, in pieces of so many bytes; what each application
    /// has moved after so many passes over all of them, as a runtime polls those that are woken.
    fn moved(connections: &[(usize, usize)], passes: usize) -> Vec<usize> {
        let turns = Rc::<Turns>::default();
        let seats: Vec<Vec<Seat>> = connections
            .iter()
            .map(|(count, _)| {
                let application = Arc::<Application>::default();
                (0..*count).map(|_| turns.seat(&application)).collect()
            })
            .collect();
        let mut moved = vec![0; connections.len()];
        let mut each = seats.iter().map(|seats| vec![0usize; seats.len()]).collect::<Vec<_>>();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..passes {
            for (application, (seats, (_, piece))) in seats.iter().zip(connections).enumerate() {
                // Polled more often than they are woken: that must make no difference.
                for _ in 0..3 {
                    for (index, seat) in seats.iter().enumerate() {
                        while seat.poll_turn(&mut cx).is_ready() {
                            seat.handle_moved(*piece);
                            moved[application] += piece;
                            each[application][index] += piece;
                        }
                    }
                }
            }
            if turns.is_anybody_waiting.get() {
                turns.begin_round();
            }
        }
        for (each, (_, piece)) in each.iter().zip(connections) {
            let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
            let quantum = usize::try_from(ALONE_BYTES).unwrap();
            assert!(most - least <= 2 * quantum + 2 * piece, "nobody waits for ever: {each:?}");
        }
        moved
    }

    #[test]
    fn applications_that_all_have_much_to_do_get_the_same_however_many_connections_they_have() {
        let moved = moved(&[(100, 64 << 10), (1, 64 << 10), (7, 64 << 10)], 2000);
        let (least, most) = (moved.iter().min().unwrap(), moved.iter().max().unwrap());
        assert!(most - least < most / 20, "{moved:?}");
    }

    #[test]
    fn small_pieces_cost_what_it_costs_to_move_them() {
        let moved = moved(&[(10, 100), (10, 1 << 20)], 2000);
        // Until the other one begins it is alone.
        let small = moved[0] - usize::try_from(ALONE_BYTES).unwrap();
        assert!(moved[1] > 50 * small, "{moved:?}");
        let operations = small / 100;
        assert!(operations > 2000 * 12, "more than a dozen in each round: {operations}");
    }

    #[test]
    fn one_that_is_alone_gets_much_in_each_round() {
        let moved = moved(&[(50, 64 << 10)], 100);
        assert!(moved[0] > 100 * (3 << 20), "{moved:?}");
    }

    #[test]
    fn who_is_called_and_does_not_come_holds_up_nobody() {
        let turns = Rc::<Turns>::default();
        let application = Arc::<Application>::default();
        let [worker, busy_elsewhere, waiting] = [(); 3].map(|()| turns.seat(&application));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(worker.poll_turn(&mut cx).is_ready());
        worker.handle_moved(4 << 20);
        assert!(busy_elsewhere.poll_turn(&mut cx).is_pending() && waiting.poll_turn(&mut cx).is_pending());
        turns.begin_round();
        assert!(turns.is_anybody_waiting.get(), "there is another round for the second one");
        turns.begin_round();
        assert!(!turns.is_anybody_waiting.get() && waiting.poll_turn(&mut cx).is_ready());
    }

    #[test]
    fn who_has_gone_holds_up_nobody_and_leaves_nothing() {
        let turns = Rc::<Turns>::default();
        let application = Arc::<Application>::default();
        let [worker, gone, waiting] = [(); 3].map(|()| turns.seat(&application));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(worker.poll_turn(&mut cx).is_ready());
        worker.handle_moved(4 << 20);
        assert!(gone.poll_turn(&mut cx).is_pending() && waiting.poll_turn(&mut cx).is_pending());
        drop(gone);
        turns.begin_round();
        assert!(worker.poll_turn(&mut cx).is_ready() || waiting.poll_turn(&mut cx).is_ready());
        drop((worker, waiting));
        assert!(turns.sharers.borrow().is_empty());
    }
}
