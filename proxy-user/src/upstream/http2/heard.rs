//! What a peer of HTTP/2 has said at all: whether it is there, and whether its settings are known.

use std::cell::Cell;

use tokio::sync::Notify;

/// Length, type, flags and stream of a frame (RFC 9113, 4.1), and the length at its beginning.
const FRAME_HEAD_BYTES: usize = 9;
const LENGTH_BYTES: usize = 3;

/// Whether a peer said anything since somebody looked, and whether it has said all of its first frame: its settings (RFC 9113, 3.4).
#[derive(Default)]
pub struct Heard {
    is_heard: Cell<bool>,
    /// It said a head that is too long.
    is_too_long: Cell<bool>,
    /// Bytes so far, until the first frame is whole, and the length that it says.
    seen: Cell<usize>,
    length: Cell<usize>,
    is_greeted: Cell<bool>,
    greeted: Notify,
}

impl Heard {
    /// Takes note that it said something.
    pub fn set(&self) {
        self.is_heard.set(true);
    }

    /// Takes note that it said a head that is too long to go on.
    pub fn set_too_long(&self) {
        self.is_too_long.set(true);
    }

    /// Whether it did.
    pub(super) fn is_too_long(&self) -> bool {
        self.is_too_long.get()
    }

    /// Whether it said anything since the last look.
    pub(super) fn take(&self) -> bool {
        self.is_heard.take()
    }

    /// Follows what it says until its first frame is whole. Whoever reads it acts by it before anybody else is woken.
    pub fn follow(&self, bytes: &[u8]) {
        if self.is_greeted.get() {
            return;
        }
        let seen = self.seen.get();
        for byte in bytes.iter().take(LENGTH_BYTES.saturating_sub(seen)) {
            self.length.set(self.length.get() << 8 | usize::from(*byte));
        }
        self.seen.set(seen + bytes.len());
        if self.seen.get() >= FRAME_HEAD_BYTES + self.length.get() {
            self.end();
        }
    }

    /// Nothing more is awaited of it.
    pub fn end(&self) {
        self.is_greeted.set(true);
        self.greeted.notify_waiters();
    }

    /// Waits until its settings are known, or nothing more comes.
    pub async fn greeted(&self) {
        let greeted = self.greeted.notified();
        if !self.is_greeted.get() {
            greeted.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_is_whole_however_it_is_split() {
        let frame = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1];
        for split in 0..frame.len() {
            let heard = Heard::default();
            heard.follow(&frame[..split]);
            assert!(!heard.is_greeted.get(), "{split}");
            heard.follow(&frame[split..]);
            assert!(heard.is_greeted.get(), "{split}");
        }
    }
}
