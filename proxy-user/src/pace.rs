//! How fast an application's connections may go on: each asks before it moves bytes, and tells how many it moved.
//!
//! What has to wait is not read, or not sent on, so that whoever sends it is held back by TCP. Nothing is lost.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use proxy_io::clock::monotonic_ns;
use tokio::time::Sleep;

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
    application: Arc<Application>,
    /// Bytes that are paid for and not moved; less than zero if more were moved.
    credit: Cell<i64>,
    /// The bound that the credit was bought under.
    rate: Cell<Option<u64>>,
    /// When what was bought may be moved, on the monotonic clock; 0 is now.
    ready_ns: Cell<u64>,
    sleep: RefCell<Option<Pin<Box<Sleep>>>>,
}

impl Pacer {
    /// Begins with nothing.
    #[must_use]
    pub fn new(application: Arc<Application>) -> Self {
        Self {
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
        loop {
            let rate = self.application.account().bytes_per_second();
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

    /// Takes note of bytes that were moved.
    pub fn handle_moved(&self, bytes: usize) {
        if self.rate.get().is_some() {
            self.credit.set(self.credit.get().saturating_sub_unsigned(bytes as u64));
        }
    }

    /// Buys the next piece, and pays for what was moved beyond the last one.
    fn buy(&self, rate: u64) {
        let piece = (rate / PIECES_PER_SECOND).clamp(LEAST_PIECE_BYTES, MOST_PIECE_BYTES);
        let debt = 0i64.saturating_sub(self.credit.get()).unsigned_abs();
        let now_ns = monotonic_ns();
        let wait = self.application.account().buy_bytes(piece + debt, now_ns);
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
        if self.rate.get() == self.application.account().bytes_per_second()
            && let Ok(left @ 1..) = u64::try_from(self.credit.get())
        {
            self.application.account().return_bytes(left);
        }
    }
}
