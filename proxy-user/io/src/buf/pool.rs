//! The epoll driver's buffers: taken when a socket is readable, given back when the bytes are consumed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::task::Waker;

/// Buffers of one worker. At most `most` exist; they are allocated when first needed and then kept.
pub(crate) struct Pool {
    idle: RefCell<Vec<Box<[u8]>>>,
    /// Who waits for a buffer, by the number of its socket.
    starved: RefCell<HashMap<u64, Waker>>,
    leased: Cell<usize>,
    most: usize,
    buffer_bytes: usize,
}

impl Pool {
    pub(crate) fn new(most: usize, buffer_bytes: usize) -> Rc<Pool> {
        Rc::new(Pool {
            idle: RefCell::default(),
            starved: RefCell::default(),
            leased: Cell::new(0),
            most,
            buffer_bytes,
        })
    }

    /// Takes a buffer; `None` if all are leased.
    pub(crate) fn try_lease(self: &Rc<Pool>) -> Option<PoolLease> {
        if self.leased.get() == self.most {
            return None;
        }
        self.leased.set(self.leased.get() + 1);
        let bytes = self.idle.borrow_mut().pop();
        let bytes = bytes.unwrap_or_else(|| vec![0; self.buffer_bytes].into_boxed_slice());
        Some(PoolLease { bytes, pool: Rc::clone(self) })
    }

    /// Takes a buffer beyond the first of a receive; `None` if most are leased, so that those who have none get theirs.
    pub(crate) fn try_lease_spare(self: &Rc<Pool>) -> Option<PoolLease> {
        if self.leased.get() >= self.most / 2 { None } else { self.try_lease() }
    }

    /// Wakes `waker` when a buffer is back, in place of what this socket asked for before.
    ///
    /// Everybody on the list is woken then, not one: a socket that was woken may be dropped or busy instead of
    /// taking the buffer, and the others would wait forever.
    pub(crate) fn wake_on_return(&self, socket: u64, waker: &Waker) {
        let old = self.starved.borrow_mut().insert(socket, waker.clone());
        // Dropped after the borrow: it may be the last handle to a task.
        drop(old);
    }

    /// Forgets what [`Pool::wake_on_return`] was asked.
    pub(crate) fn forget(&self, socket: u64) {
        let old = self.starved.borrow_mut().remove(&socket);
        drop(old);
    }

    pub(crate) fn most(&self) -> usize {
        self.most
    }

    pub(crate) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    pub(crate) fn leased(&self) -> usize {
        self.leased.get()
    }

    pub(crate) fn starved(&self) -> usize {
        self.starved.borrow().len()
    }
}

/// A buffer on loan; goes back to its pool on drop.
pub(crate) struct PoolLease {
    bytes: Box<[u8]>,
    pool: Rc<Pool>,
}

impl Deref for PoolLease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PoolLease {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for PoolLease {
    fn drop(&mut self) {
        let pool = &self.pool;
        pool.idle.borrow_mut().push(std::mem::take(&mut self.bytes));
        pool.leased.set(pool.leased.get() - 1);
        // Taken out first: a waker may run code that leases again.
        let starved = std::mem::take(&mut *pool.starved.borrow_mut());
        for waker in starved.into_values() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_bounded_and_buffers_come_back() {
        let pool = Pool::new(2, 16);
        let first = pool.try_lease().unwrap();
        let _second = pool.try_lease().unwrap();
        assert!(pool.try_lease().is_none());
        drop(first);
        assert_eq!(pool.leased(), 1);
        assert!(pool.try_lease_spare().is_none(), "the last one is for somebody else");
        assert_eq!(pool.try_lease().unwrap().len(), 16);
    }
}
