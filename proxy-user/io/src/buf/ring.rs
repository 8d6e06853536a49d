//! The ring driver's buffers: a provided-buffer ring, from which the kernel takes and to which leases return.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::Waker;

use io_uring::types::BufRingEntry;

use crate::sys::Mapping;

/// Wakes the driver task, once until it has run again.
#[derive(Default)]
pub(crate) struct Bell {
    is_rung: Cell<bool>,
    driver: RefCell<Option<Waker>>,
}

impl Bell {
    /// Makes the driver task run soon. It only schedules, so it may be called while things are borrowed.
    pub(crate) fn ring(&self) {
        if !self.is_rung.replace(true)
            && let Some(driver) = &*self.driver.borrow()
        {
            driver.wake_by_ref();
        }
    }

    /// Says whether the bell was rung and makes it quiet again.
    pub(crate) fn take(&self) -> bool {
        self.is_rung.replace(false)
    }

    pub(crate) fn set_driver(&self, waker: &Waker) {
        let old = self.driver.replace(Some(waker.clone()));
        drop(old);
    }
}

/// Receive buffers that the kernel chooses from.
///
/// A buffer belongs to the kernel from [`BufRing::provide`] until a completion names it, then to the lease that
/// [`BufRing::lease`] makes of it. The memory lives until the last lease is gone; the driver keeps it until
/// the kernel holds no operation that could still choose a buffer.
pub(crate) struct BufRing {
    /// `count` entries of struct io_uring_buf; the ring's tail overlays a field of the first.
    entries: Mapping,
    /// `count` buffers of `buffer_bytes` each.
    bytes: Mapping,
    /// A power of two.
    count: u16,
    buffer_bytes: u32,
    tail: Cell<u16>,
    /// Which buffer was provided at each place of the ring: a bundle names its first buffer only, the others
    /// are those provided after it.
    buffer_at: Box<[Cell<u16>]>,
    /// The place at which each buffer was last provided.
    place_of: Box<[Cell<u16>]>,
    leased: Cell<u16>,
    /// Somebody waits for a buffer: ring the bell when one comes back.
    is_wanted: Cell<bool>,
    bell: Rc<Bell>,
}

impl BufRing {
    /// Allocates `count` buffers (rounded up to a power of two, at most 32768) and provides them all.
    pub(crate) fn new(count: u16, buffer_bytes: u32, bell: Rc<Bell>) -> io::Result<Rc<BufRing>> {
        let count = count.clamp(1, 1 << 15).next_power_of_two();
        let ring = BufRing {
            entries: Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?,
            bytes: Mapping::new(usize::from(count) * buffer_bytes as usize)?,
            count,
            buffer_bytes,
            tail: Cell::new(0),
            buffer_at: (0..count).map(Cell::new).collect(),
            place_of: (0..count).map(Cell::new).collect(),
            leased: Cell::new(0),
            is_wanted: Cell::new(false),
            bell,
        };
        for buffer in 0..count {
            ring.provide(buffer);
        }
        Ok(Rc::new(ring))
    }

    /// Address of the ring of entries, for its registration.
    pub(crate) fn addr(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    pub(crate) fn leased(&self) -> u16 {
        self.leased.get()
    }

    pub(crate) fn free(&self) -> u16 {
        self.count - self.leased.get()
    }

    /// Asks that the driver be woken when a buffer comes back.
    pub(crate) fn set_wanted(&self, wanted: bool) {
        self.is_wanted.set(wanted);
    }

    /// Takes over the buffers that a completion of `len` bytes filled, beginning with `first`: calls `each` with
    /// (lease, bytes in it) in the order of the stream. A completion without bytes hands over its one buffer.
    pub(crate) fn lease(self: &Rc<BufRing>, first: u16, len: usize, mut each: impl FnMut(RingLease, usize)) {
        let size = self.buffer_bytes as usize;
        let mut place = self.place_of[usize::from(first)].get();
        let mut left = len;
        loop {
            // Read before `each` may give this lease back: returned buffers fill places from the oldest on,
            // so they never overtake this one.
            let buffer = self.buffer_at[usize::from(place)].get();
            let filled = left.min(size);
            self.leased.set(self.leased.get() + 1);
            each(RingLease { buffer, ring: Rc::clone(self) }, filled);
            left -= filled;
            if left == 0 {
                return;
            }
            place = (place + 1) & (self.count - 1);
        }
    }

    /// Gives a buffer to the kernel.
    fn provide(&self, buffer: u16) {
        let tail = self.tail.get();
        let place = tail & (self.count - 1);
        let first = self.entries.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `place` is below `count`, so the entry lies in the mapping, which is page-aligned.
        let entry = unsafe { first.add(usize::from(place)) };
        // SAFETY: the kernel reads entries between its head and the tail only, and this one lies beyond: there
        // are `count` places and `count` buffers, and this buffer is not in the ring. The mapping is zeroed.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.start_of(buffer) as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.buffer_at[usize::from(place)].set(buffer);
        self.place_of[usize::from(buffer)].set(place);
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: `first` is the start of a zeroed ring of entries, as `tail` demands.
        let shared = unsafe { BufRingEntry::tail(first) };
        // SAFETY: the field is aligned, lies in the mapping, and is only ever written here.
        let shared = unsafe { AtomicU16::from_ptr(shared.cast_mut()) };
        // Release: the kernel must see the entry before the tail that covers it.
        shared.store(self.tail.get(), Ordering::Release);
    }

    fn start_of(&self, buffer: u16) -> *mut u8 {
        let offset = usize::from(buffer) * self.buffer_bytes as usize;
        // SAFETY: `buffer` is below `count`, so the offset lies in the mapping.
        unsafe { self.bytes.as_ptr().add(offset) }
    }
}

/// A buffer that the kernel has filled; goes back to the ring on drop.
pub(crate) struct RingLease {
    buffer: u16,
    ring: Rc<BufRing>,
}

impl Deref for RingLease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.ring.start_of(self.buffer);
        // SAFETY: the buffer lies in the mapping, which the lease keeps alive and which was zeroed, and the
        // kernel does not write to it again before it is provided again, which is when the lease is gone.
        unsafe { std::slice::from_raw_parts(start, self.ring.buffer_bytes as usize) }
    }
}

impl DerefMut for RingLease {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.ring.start_of(self.buffer);
        // SAFETY: as in `deref`; a buffer has one lease, and that is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(start, self.ring.buffer_bytes as usize) }
    }
}

impl Drop for RingLease {
    fn drop(&mut self) {
        let ring = &self.ring;
        ring.provide(self.buffer);
        ring.leased.set(ring.leased.get() - 1);
        if ring.is_wanted.get() {
            ring.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(ring: &Rc<BufRing>, first: u16, len: usize) -> Vec<(RingLease, usize)> {
        let mut leases = Vec::new();
        ring.lease(first, len, |lease, filled| leases.push((lease, filled)));
        leases
    }

    #[test]
    fn a_bundle_follows_the_order_in_which_buffers_were_provided() {
        let ring = BufRing::new(4, 10, Rc::default()).unwrap();
        // The kernel takes buffers 0..4; they come back as 2, 0, 3, 1.
        let mut leases: Vec<_> = lease(&ring, 0, 40).into_iter().map(Some).collect();
        assert_eq!((ring.leased(), ring.free()), (4, 0));
        for buffer in [2, 0, 3, 1] {
            leases[buffer] = None;
        }
        assert_eq!(ring.leased(), 0);
        let bundle: Vec<_> = lease(&ring, 2, 25).iter().map(|(lease, len)| (lease.buffer, *len)).collect();
        assert_eq!(bundle, [(2, 10), (0, 10), (3, 5)]);
    }

    #[test]
    fn leases_given_back_at_once_do_not_disturb_the_bundle() {
        let ring = BufRing::new(4, 10, Rc::default()).unwrap();
        let mut seen = Vec::new();
        ring.lease(0, 40, |lease, _| seen.push(lease.buffer));
        ring.lease(0, 40, |lease, _| seen.push(lease.buffer));
        assert_eq!(seen, [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(ring.leased(), 0);
    }

    #[test]
    fn a_completion_without_bytes_hands_over_one_buffer() {
        let ring = BufRing::new(4, 10, Rc::default()).unwrap();
        assert_eq!(lease(&ring, 1, 0).iter().map(|(_, len)| *len).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn the_bell_rings_once_and_only_when_wanted() {
        let bell = Rc::new(Bell::default());
        let ring = BufRing::new(2, 10, Rc::clone(&bell)).unwrap();
        drop(lease(&ring, 0, 1));
        assert!(!bell.take());
        ring.set_wanted(true);
        drop(lease(&ring, 0, 1));
        assert!(bell.take());
        assert!(!bell.take());
    }
}
