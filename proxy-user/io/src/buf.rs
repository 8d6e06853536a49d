//! Received bytes and the buffers that hold them.

pub(crate) mod pool;
pub(crate) mod ring;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use self::pool::PoolLease;
use self::ring::RingLease;

/// Bytes of a body that are rather copied behind its head than sent as a part of their own.
const COPIED_BYTES: usize = 4 << 10;

/// Received bytes: leases of the driver's buffers, or a heap allocation.
///
/// Contiguous, so that it dereferences to all its bytes, unless it came from
/// [`Socket::poll_recv_bundle`](crate::Socket::poll_recv_bundle): then it dereferences to its first part, and
/// [`Chunk::parts`] gives all.
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
    /// On the heap, with several views of the same bytes.
    Shared(Rc<Vec<u8>>),
    /// Several chunks in a row, none of them empty or a bundle itself.
    Bundle(VecDeque<Chunk>),
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
        if let Storage::Bundle(parts) = &mut self.storage {
            let mut left = count;
            while let Some(first) = parts.front_mut()
                && left > 0
            {
                let taken = left.min(first.len());
                first.advance(taken);
                left -= taken;
                if first.is_empty() {
                    parts.pop_front();
                }
            }
        }
        if self.is_empty() {
            *self = Chunk::default();
        }
    }

    /// Keeps the first `count` bytes in this chunk and drops the rest. Does nothing if there are not more.
    pub fn truncate(&mut self, count: usize) {
        let surplus = self.len().saturating_sub(count);
        self.end -= offset(surplus);
        if let Storage::Bundle(parts) = &mut self.storage {
            let mut left = surplus;
            while let Some(last) = parts.back_mut()
                && left > 0
            {
                let dropped = left.min(last.len());
                last.truncate(last.len() - dropped);
                left -= dropped;
                if last.is_empty() {
                    parts.pop_back();
                }
            }
        }
        self.advance(0);
    }

    /// Copies a leased buffer's bytes to a heap allocation of just their size and gives the lease back.
    pub fn detach(&mut self) {
        if self.is_leased() {
            let mut bytes = Vec::with_capacity(self.len());
            self.parts().for_each(|part| bytes.extend_from_slice(part));
            *self = Chunk::from(bytes);
        }
    }

    /// Says whether bytes sit in buffers of the driver.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        match &self.storage {
            Storage::Pool(_) | Storage::Ring(_) => true,
            Storage::Bundle(parts) => parts.iter().any(Chunk::is_leased),
            Storage::Empty | Storage::Heap(_) | Storage::Shared(_) | Storage::Lent => false,
        }
    }

    /// All bytes in order, piece by piece; one piece unless this is a bundle, none if it is empty.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let (alone, several) = match &self.storage {
            Storage::Bundle(parts) => (None, Some(parts)),
            _ => (Some(self), None),
        };
        alone
            .into_iter()
            .chain(several.into_iter().flatten())
            .map(|chunk| &**chunk)
            .filter(|part| !part.is_empty())
    }

    /// Puts chunks in a row together without copying. A single one stays as it is.
    pub(crate) fn bundle(mut chunks: VecDeque<Chunk>) -> Chunk {
        if chunks.len() <= 1 {
            return chunks.pop_front().unwrap_or_default();
        }
        let end = offset(chunks.iter().map(Chunk::len).sum());
        Chunk { storage: Storage::Bundle(chunks), start: 0, end }
    }

    /// Puts another one behind it, without copying either.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        if self.is_empty() {
            *self = chunk;
            return;
        }
        match &mut self.storage {
            Storage::Bundle(parts) if !chunk.is_bundle() && !chunk.is_empty() => {
                self.end += offset(chunk.len());
                parts.push_back(chunk);
            }
            _ => *self = Chunk::row(std::mem::take(self), chunk),
        }
    }

    /// Takes out the first of several, or everything.
    pub(crate) fn pop(&mut self) -> Chunk {
        let Storage::Bundle(parts) = &mut self.storage else { return std::mem::take(self) };
        let first = parts.pop_front().unwrap_or_default();
        self.end -= offset(first.len());
        if parts.len() <= 1 {
            *self = parts.pop_front().unwrap_or_default();
        }
        first
    }

    pub(crate) fn is_bundle(&self) -> bool {
        matches!(self.storage, Storage::Bundle(_))
    }

    /// Hands the bytes to whoever sends them; this chunk keeps only its length, until the lender replaces it.
    #[must_use]
    pub fn lend(&mut self) -> Chunk {
        let lent = Chunk { storage: Storage::Lent, start: self.start, end: self.end };
        std::mem::replace(self, lent)
    }

    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.storage, Storage::Lent)
    }

    /// Puts a body behind a head; one send carries both. Of the two the head is copied, if it fits where the body's buffer was
    /// consumed already, or a small body; else neither.
    #[must_use]
    pub fn join(mut head: Chunk, mut body: Chunk) -> Chunk {
        let is_in_one_piece = head[..].len() == head.len();
        if is_in_one_piece && body.try_prepend(&head) {
            return body;
        }
        if is_in_one_piece && body.len() <= COPIED_BYTES && !body.is_lent() {
            body.parts().for_each(|part| head.append(part));
            return head;
        }
        Chunk::row(head, body)
    }

    /// Puts a chunk behind another without copying either.
    fn row(first: Chunk, second: Chunk) -> Chunk {
        let mut parts = VecDeque::with_capacity(2);
        for chunk in [first, second] {
            match chunk.storage {
                Storage::Bundle(inner) => parts.extend(inner),
                _ if chunk.is_empty() => {}
                _ => parts.push_back(chunk),
            }
        }
        Chunk::bundle(parts)
    }

    /// A second view of the same bytes, which move to the heap if they are not there. Of what a socket is sending there is none.
    #[must_use]
    pub fn share(&mut self) -> Chunk {
        self.detach();
        self.flatten();
        if let Storage::Heap(bytes) = &mut self.storage {
            self.storage = Storage::Shared(Rc::new(std::mem::take(bytes)));
        }
        match &self.storage {
            Storage::Shared(bytes) => {
                Chunk { storage: Storage::Shared(Rc::clone(bytes)), start: self.start, end: self.end }
            }
            _ => Chunk::default(),
        }
    }

    /// Adds a copy of `bytes`; what is here moves to the heap if it is not there.
    pub fn append(&mut self, bytes: &[u8]) {
        if !self.try_append(bytes) {
            let mut all = Vec::with_capacity(self.len() + bytes.len());
            self.parts().for_each(|part| all.extend_from_slice(part));
            all.extend_from_slice(bytes);
            *self = Chunk::from(all);
        }
    }

    /// Puts a copy of `bytes` in front if there is room for it, where as much was consumed before; says whether it did.
    fn try_prepend(&mut self, bytes: &[u8]) -> bool {
        if let Storage::Bundle(parts) = &mut self.storage {
            let did = parts.front_mut().is_some_and(|first| first.try_prepend(bytes));
            self.end += if did { offset(bytes.len()) } else { 0 };
            return did;
        }
        let Some(start) = self.start.checked_sub(offset(bytes.len())) else { return false };
        let all: &mut [u8] = match &mut self.storage {
            Storage::Heap(all) => all,
            Storage::Pool(lease) => lease,
            Storage::Ring(lease) => lease,
            Storage::Empty | Storage::Shared(_) | Storage::Bundle(_) | Storage::Lent => return false,
        };
        all[start as usize..self.start as usize].copy_from_slice(bytes);
        self.start = start;
        true
    }

    /// Makes one piece of several parts, by copying.
    pub fn flatten(&mut self) {
        if self.is_bundle() {
            let mut all = Vec::with_capacity(self.len());
            self.parts().for_each(|part| all.extend_from_slice(part));
            *self = Chunk::from(all);
        }
    }

    /// Adds a copy of `bytes` if this chunk sits on the heap already; says whether it did.
    pub(crate) fn try_append(&mut self, bytes: &[u8]) -> bool {
        let Storage::Heap(heap) = &mut self.storage else { return false };
        heap.truncate(self.end as usize);
        heap.extend_from_slice(bytes);
        self.end = offset(heap.len());
        true
    }

    /// As [`Chunk::try_append`], to the last of several.
    pub(crate) fn try_append_to_last(&mut self, bytes: &[u8]) -> bool {
        let Storage::Bundle(parts) = &mut self.storage else { return self.try_append(bytes) };
        let did = parts.back_mut().is_some_and(|last| last.try_append(bytes));
        self.end += if did { offset(bytes.len()) } else { 0 };
        did
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
            Storage::Bundle(parts) => return parts.front().map_or(&[], |first| first),
            Storage::Empty | Storage::Lent => return &[],
            Storage::Heap(bytes) => bytes,
            Storage::Shared(bytes) => bytes,
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
    fn a_bundle_is_consumed_across_its_parts() {
        let bundle =
            || Chunk::bundle([&b"abc"[..], b"de", b"f"].map(|part| Chunk::from(part.to_vec())).into());
        let text = |chunk: &Chunk| chunk.parts().collect::<Vec<_>>().concat();
        let mut chunk = bundle();
        assert_eq!((chunk.len(), &chunk[..]), (6, &b"abc"[..]));
        chunk.advance(4);
        assert_eq!((chunk.len(), text(&chunk)), (2, b"ef".to_vec()));
        chunk.truncate(1);
        assert_eq!((chunk.len(), text(&chunk)), (1, b"e".to_vec()));
        chunk.advance(1);
        assert!(chunk.is_empty() && chunk.parts().next().is_none());
        let mut chunk = bundle();
        chunk.truncate(0);
        assert!(chunk.is_empty() && chunk.parts().next().is_none());
    }

    #[test]
    fn chunks_are_pushed_and_popped_in_order() {
        let of = |bytes: &[u8]| Chunk::from(bytes.to_vec());
        let mut row = Chunk::default();
        for part in [&b"ab"[..], b"", b"c", b"de"] {
            row.push(of(part));
        }
        assert!(row.try_append_to_last(b"f"));
        assert_eq!((row.len(), &row.pop()[..], row.len()), (6, &b"ab"[..], 4));
        row.push(of(b"g"));
        assert_eq!([&row.pop()[..], &row.pop()[..]], [b"c", &b"def"[..]]);
        assert!(row.try_append_to_last(b"h") && !row.is_bundle());
        assert_eq!(&row.pop()[..], b"gh");
        assert!(row.is_empty() && row.pop().is_empty() && !row.try_append_to_last(b"i"));
    }

    #[test]
    fn chunks_are_joined_and_appended_to() {
        let text = |chunk: &Chunk| chunk.parts().collect::<Vec<_>>().concat();
        let of = |bytes: &[u8]| Chunk::from(bytes.to_vec());
        let mut joined = Chunk::join(Chunk::join(of(b"ab"), of(b"")), Chunk::join(of(b"c"), of(b"d")));
        joined.advance(1);
        assert_eq!((joined.len(), text(&joined)), (3, b"bcd".to_vec()));
        joined.append(b"e");
        assert_eq!(&joined[..], b"bcde", "in one piece");
        let mut bundle = Chunk::join(of(b"x"), of(b"y"));
        bundle.flatten();
        assert_eq!(&bundle[..], b"xy");
        assert!(Chunk::join(of(b""), of(b"")).is_empty());
    }

    #[test]
    fn a_head_takes_the_place_of_the_one_before() {
        let text = |chunk: &Chunk| chunk.parts().collect::<Vec<_>>().concat();
        // Small bodies are copied behind a head that does not fit, others are parts of their own.
        for (body, more, parts) in [("body", "", 1), ("body", "/more", 1), ("b", "", 2), ("b", "/more", 3)] {
            let body = if parts > 1 { body.repeat(COPIED_BYTES + 1) } else { body.to_owned() };
            for (head, fits) in [("", true), ("n", true), ("new/", true), ("newer", false)] {
                let mut old = Chunk::from(format!("old/{body}").into_bytes());
                old.push(Chunk::from(more.as_bytes().to_vec()));
                old.advance(4);
                let mut joined = Chunk::join(Chunk::from(head.as_bytes().to_vec()), old);
                let expected = format!("{head}{body}{more}").into_bytes();
                assert!(joined.len() == expected.len() && text(&joined) == expected, "{head:?} {more:?}");
                let parts = if fits { 1 + usize::from(!more.is_empty()) } else { parts };
                assert_eq!(joined.parts().count(), parts, "{head:?} {more:?}");
                joined.advance(head.len() + 1);
                assert!(text(&joined) == expected[head.len() + 1..], "{head:?} {more:?}");
            }
        }
        // Somebody else looks at it.
        let mut first = Chunk::from(b"old/body".to_vec());
        first.advance(4);
        let second = first.share();
        assert_eq!(text(&Chunk::join(Chunk::from(b"new/".to_vec()), first)), b"new/body");
        assert_eq!(&second[..], b"body");
    }

    #[test]
    fn a_shared_chunk_is_consumed_twice() {
        let mut first = Chunk::join(Chunk::from(b"ab".to_vec()), Chunk::from(b"c".to_vec()));
        first.advance(1);
        let mut second = first.share();
        let mut third = second.share();
        first.advance(2);
        assert_eq!((first.len(), &second[..]), (0, &b"bc"[..]));
        second.append(b"d");
        third.truncate(1);
        assert_eq!((&second[..], &third[..]), (&b"bcd"[..], &b"b"[..]));
        assert!(Chunk::default().share().is_empty());
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn advancing_too_far_panics() {
        Chunk::from(vec![1]).advance(2);
    }
}
