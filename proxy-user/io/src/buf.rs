//! Received bytes and the buffers that hold them.

pub(crate) mod pool;
pub(crate) mod ring;

use std::fmt;
use std::ops::Deref;

use self::pool::PoolLease;
use self::ring::RingLease;

/// Received bytes: a lease of one of the driver's buffers, or a heap allocation. Contiguous.
///
/// A leased buffer goes back to its driver when the chunk is dropped or advanced to its end, so a chunk that
/// has to wait for long should be moved out first ([`Chunk::detach`]); the driver's own send does that.
///
/// While a socket sends a chunk it may hold the bytes itself. The chunk keeps its length then, so that it is empty
/// only once everything was accepted, but there is nothing to read in it.
#[derive(Default)]
pub struct Chunk {
    storage: Storage,
    /// The unread part is `start..end`, both below 4 GiB.
    start: u32,
    end: u32,
}

#[derive(Default)]
enum Storage {
    #[default]
    Empty,
    Heap(Vec<u8>),
    /// The bytes are with a socket that is sending them.
    Lent,
    Pool(PoolLease),
    Ring(RingLease),
}

impl Chunk {
    /// Bytes not yet consumed.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Consumes the first `count` bytes; the buffer goes back as soon as none are left.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "advanced by {count}, past the end of {} bytes", self.len());
        self.start += offset(count);
        if self.is_empty() {
            *self = Chunk::default();
        }
    }

    /// Keeps the first `count` bytes in this chunk and drops the rest. Does nothing if there are not more.
    pub fn truncate(&mut self, count: usize) {
        if count < self.len() {
            self.end = self.start + offset(count);
            self.advance(0);
        }
    }

    /// Copies a leased buffer's bytes to a heap allocation of just their size and gives the lease back.
    pub fn detach(&mut self) {
        if self.is_leased() {
            *self = Chunk::from(self.to_vec());
        }
    }

    /// Says whether the bytes sit in a buffer of the driver.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        matches!(self.storage, Storage::Pool(_) | Storage::Ring(_))
    }

    /// Hands the bytes to a socket that sends them; this chunk keeps only its length.
    pub(crate) fn lend(&mut self) -> Chunk {
        let lent = Chunk { storage: Storage::Lent, start: self.start, end: self.end };
        std::mem::replace(self, lent)
    }

    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.storage, Storage::Lent)
    }

    /// Adds a copy of `bytes` if this chunk sits on the heap already; says whether it did.
    pub(crate) fn try_append(&mut self, bytes: &[u8]) -> bool {
        let Storage::Heap(heap) = &mut self.storage else { return false };
        heap.truncate(self.end as usize);
        heap.extend_from_slice(bytes);
        self.end = offset(heap.len());
        true
    }

    /// Wraps the first `len` bytes of a ring buffer.
    pub(crate) fn from_ring(lease: RingLease, len: usize) -> Chunk {
        Chunk { storage: Storage::Ring(lease), start: 0, end: offset(len) }
    }

    /// Wraps the first `len` bytes of a pool buffer.
    pub(crate) fn from_pool(lease: PoolLease, len: usize) -> Chunk {
        Chunk { storage: Storage::Pool(lease), start: 0, end: offset(len) }
    }
}

impl From<Vec<u8>> for Chunk {
    /// # Panics
    /// At 4 GiB and above.
    fn from(bytes: Vec<u8>) -> Chunk {
        let end = offset(bytes.len());
        if end == 0 { Chunk::default() } else { Chunk { storage: Storage::Heap(bytes), start: 0, end } }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let whole: &[u8] = match &self.storage {
            Storage::Empty | Storage::Lent => return &[],
            Storage::Heap(bytes) => bytes,
            Storage::Pool(lease) => lease,
            Storage::Ring(lease) => lease,
        };
        &whole[self.start as usize..self.end as usize]
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let storage = if self.is_leased() { "leased" } else { "heap" };
        write!(f, "Chunk({} bytes, {storage})", self.len())
    }
}

fn offset(count: usize) -> u32 {
    u32::try_from(count).expect("a chunk is far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advancing_and_truncating_narrow_the_view() {
        let mut chunk = Chunk::from(b"abcdef".to_vec());
        chunk.advance(2);
        assert_eq!(&chunk[..], b"cdef");
        chunk.truncate(9);
        assert_eq!(chunk.len(), 4);
        chunk.truncate(2);
        assert_eq!(&chunk[..], b"cd");
        chunk.advance(2);
        assert!(chunk.is_empty());
        assert_eq!(&chunk[..], b"");
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn advancing_too_far_panics() {
        Chunk::from(vec![1]).advance(2);
    }
}
