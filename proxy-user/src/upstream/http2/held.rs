//! Bytes that `h2` was given to send and that wait there: for room in a window, or for a peer that takes them.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Buf, Bytes};

/// What of one stream waits. Counted down as it is written, or thrown away with the stream.
#[derive(Default)]
pub struct Waiting {
    bytes: Cell<usize>,
    /// Where what is left is counted once nobody minds the stream any more.
    left: Option<Rc<Cell<usize>>>,
    is_left: Cell<bool>,
}

impl Waiting {
    /// Begins with a stream; what is left when nobody minds it any more counts there.
    #[must_use]
    pub fn with_rest(left: Rc<Cell<usize>>) -> Rc<Self> {
        Rc::new(Self { left: Some(left), ..Self::default() })
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Counts bytes that are given to be sent.
    #[must_use]
    pub fn hold(self: &Rc<Self>, data: Bytes) -> Held {
        self.bytes.set(self.bytes.get() + data.len());
        Held { data, of: Some(Rc::clone(self)) }
    }

    /// Nobody minds the stream any more; it may go on being written.
    pub fn leave(&self) {
        if let Some(left) = &self.left
            && !self.is_left.replace(true)
        {
            left.set(left.get() + self.bytes.get());
        }
    }

    fn handle_written(&self, count: usize) {
        self.bytes.set(self.bytes.get() - count);
        if let Some(left) = self.left.as_ref().filter(|_| self.is_left.get()) {
            left.set(left.get() - count);
        }
    }
}

/// Bytes for `h2`.
pub struct Held {
    data: Bytes,
    of: Option<Rc<Waiting>>,
}

impl From<Bytes> for Held {
    /// Bytes that nobody counts.
    fn from(data: Bytes) -> Self {
        Self { data, of: None }
    }
}

impl Buf for Held {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
        if let Some(of) = &self.of {
            of.handle_written(count);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(of) = &self.of {
            of.handle_written(self.data.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_counted_until_it_is_written_or_thrown_away() {
        let left = Rc::<Cell<usize>>::default();
        let [one, other] = [(); 2].map(|()| Waiting::with_rest(Rc::clone(&left)));
        let mut first = one.hold(Bytes::from_static(b"abcdef"));
        let second = one.hold(Bytes::from_static(b"gh"));
        let third = other.hold(Bytes::from_static(b"i"));
        first.advance(2);
        assert_eq!((one.bytes(), other.bytes(), left.get()), (6, 1, 0));
        one.leave();
        one.leave();
        assert_eq!(left.get(), 6);
        first.advance(1);
        assert_eq!((one.bytes(), left.get()), (5, 5));
        drop((first, third));
        assert_eq!((one.bytes(), other.bytes(), left.get()), (2, 0, 2));
        drop(second);
        assert_eq!((one.bytes(), left.get()), (0, 0));
    }
}
