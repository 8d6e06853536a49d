//! How fast an application's connections may go on: each asks before it moves bytes, and tells how many it moved.
//!
//! What has to wait is not read, or not sent on, so that whoever sends it is held back by TCP. Nothing is lost.

mod turns;

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use proxy_io::clock::monotonic_ns;
use tokio::time::Sleep;

pub use self::turns::{CONNECTION_BYTES, Seat, Turns};
use crate::stats::application::Application;

/// Least bytes that a connection buys at once: a few packets; fewer would cost a timer each.
const LEAST_PIECE_BYTES: u64 = 16 << 10;
/// Most: what one splice moves.
const MOST_PIECE_BYTES: u64 = 1 << 20;
/// Pieces in a second, if they are of neither of these sizes: a timer is no finer than that.
const PIECES_PER_SECOND: u64 = 1000;
/// The longest sleep between two looks whether the bound is still the same.
const MOST_SLEEP: Duration = Duration::from_secs(1);

/// The pace of one connection. It belongs to one thread, and one task polls it.
pub struct Pacer {
    seat: Seat,
    /// Whose bounds count for it.
    application: Option<Arc<Application>>,
    /// Bytes that are paid for and not moved; less than zero if more were moved.
    credit: Cell<i64>,
    /// The bound that the credit was bought under.
    rate: Cell<Option<u64>>,
    /// When what was bought may be moved, on the monotonic clock; 0 is now.
    ready_ns: Cell<u64>,
    sleep: RefCell<Option<Pin<Box<Sleep>>>>,
}

impl Pacer {
    /// Begins with nothing. It takes turns by its seat, and is bounded by what its application may have if there is one.
    #[must_use]
    pub fn new(seat: Seat, application: Option<Arc<Application>>) -> Self {
        Self {
            seat,
            application,
            credit: Cell::new(0),
            rate: Cell::new(None),
            ready_ns: Cell::new(0),
            sleep: RefCell::default(),
        }
    }

    /// Whether the connection waits for its turn: that nothing moves is neither side's fault then.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.ready_ns.get() > 0
    }

    /// Ready when bytes may be moved, with how many. More can be, if that cannot be chosen: they are paid for later.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let paid = ready!(self.poll_paid(cx));
        self.poll_turn(cx).map(|room| room.min(paid))
    }

    /// Ready when it is this connection's turn to do something that moves no bytes of its own.
    pub fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<usize> {
        self.seat.poll_turn(cx)
    }

    /// Takes note of work that moved none, as if it had moved so many.
    pub fn handle_work(&self, bytes: usize) {
        self.seat.handle_work(bytes);
    }

    /// Takes note of bytes that were moved.
    pub fn handle_moved(&self, bytes: usize) {
        self.seat.handle_moved(bytes);
        if self.rate.get().is_some() {
            self.credit.set(self.credit.get().saturating_sub_unsigned(bytes as u64));
        }
    }

    fn bound(&self) -> Option<u64> {
        self.application.as_ref()?.account().bytes_per_second()
    }

    fn poll_paid(&self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            let rate = self.bound();
            if rate != self.rate.get() {
                // Nothing that was bought under another bound counts.
                self.rate.set(rate);
                self.credit.set(0);
                self.ready_ns.set(0);
            }
            let Some(rate) = rate else { return Poll::Ready(usize::MAX) };
            if self.ready_ns.get() > 0 {
                ready!(self.poll_sleep(cx));
                continue;
            }
            if let credit @ 1.. = self.credit.get() {
                return Poll::Ready(usize::try_from(credit).unwrap_or(usize::MAX));
            }
            self.buy(rate);
        }
    }

    /// Buys the next piece, and pays for what was moved beyond the last one.
    fn buy(&self, rate: u64) {
        let piece = (rate / PIECES_PER_SECOND).clamp(LEAST_PIECE_BYTES, MOST_PIECE_BYTES);
        let debt = 0i64.saturating_sub(self.credit.get()).unsigned_abs();
        let now_ns = monotonic_ns();
        let account = self.application.as_ref().map(|application| application.account());
        let wait = account.map_or(Duration::ZERO, |account| account.buy_bytes(piece + debt, now_ns));
        self.credit.set(self.credit.get().saturating_add_unsigned(piece + debt));
        if !wait.is_zero() {
            self.ready_ns.set(now_ns.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)));
        }
    }

    /// Sleeps until what was bought may be moved, or for a while.
    fn poll_sleep(&self, cx: &mut Context<'_>) -> Poll<()> {
        let left = Duration::from_nanos(self.ready_ns.get().saturating_sub(monotonic_ns()));
        let mut sleep = self.sleep.borrow_mut();
        if left.is_zero() {
            self.ready_ns.set(0);
            *sleep = None;
            return Poll::Ready(());
        }
        let sleeping = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(left.min(MOST_SLEEP))));
        ready!(sleeping.as_mut().poll(cx));
        *sleep = None;
        Poll::Ready(())
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        if self.rate.get() == self.bound()
            && let Ok(left @ 1..) = u64::try_from(self.credit.get())
            && let Some(application) = &self.application
        {
            application.account().return_bytes(left);
        }
    }
}
