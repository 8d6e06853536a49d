//! The process's memory, and what the allocators keep of it that nobody uses.

/// What Rust's memory of a program comes from that makes this its `#[global_allocator]`. Libraries in C have the C library's.
pub use mimalloc::MiMalloc as Allocator;

/// Keeps the kernel from making huge pages of this process's memory, [`Allocator`]'s or other; to be called before there is much of it.
///
/// A huge page is 2 MiB for who needs a few KiB of it, and the kernel puts together again, while the process rests, what was given
/// back in parts: a process of Weir would have some 10 MiB more, and hardly a byte less from connections that come to rest. Programs
/// that this one starts inherit it.
///
/// # Errors
/// As prctl(2): `InvalidInput` before Linux 3.15, where nothing changes.
pub fn avoid_huge_pages() -> std::io::Result<()> {
    crate::sys::disable_huge_pages()
}

/// Gives memory that was freed back to the kernel, from wherever it lies between what is in use.
///
/// Allocators keep what was freed for the next time, so that after a flood, or after reading a large file, a process seems to need
/// what it had then. Of [`Allocator`] that is what this thread has taken: each has a heap of its own. Costs milliseconds for a heap
/// of gigabytes: for when memory is short, or much was freed.
pub fn give_back() {
    crate::sys::mi_collect(true);
    #[cfg(target_env = "gnu")]
    crate::sys::malloc_trim();
}

/// The same of what this thread has not used for some time; costs some microseconds. To be called every second or so: a thread at
/// rest gives nothing back by itself.
pub fn give_back_unused() {
    crate::sys::mi_collect(false);
}

/// Bytes of a page of memory, which figures of the kernel are in.
#[must_use]
pub fn page_bytes() -> u64 {
    crate::sys::page_bytes()
}

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout, System};

    use super::*;

    /// Pieces too small for mappings of their own.
    const PIECE: usize = 32 << 10;
    const PIECES: usize = 4096;

    #[test]
    fn huge_pages_are_avoided_from_then_on() {
        avoid_huge_pages().unwrap();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.lines().any(|line| line.split_whitespace().eq(["THP_enabled:", "0"])), "{status}");
    }

    #[test]
    fn a_page_has_its_size() {
        assert!(page_bytes().is_power_of_two() && page_bytes() >= 4096);
    }

    /// KiB that the process has less, after so many pieces in a row were freed of twice as many each.
    fn given_back(allocator: &impl GlobalAlloc, in_a_row: usize) -> u64 {
        let resident = || -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
        };
        let layout = Layout::from_size_align(PIECE, 16).unwrap();
        let allocate = |_| {
            // SAFETY: the size is not zero, and the bytes are written within it.
            unsafe {
                let piece = allocator.alloc(layout);
                assert!(!piece.is_null());
                piece.write_bytes(1, PIECE);
                piece
            }
        };
        // SAFETY: each piece came from this allocator with this layout, and is freed once.
        let free = |piece: *mut u8| unsafe { allocator.dealloc(piece, layout) };
        let pieces: Vec<*mut u8> = (0..PIECES).map(allocate).collect();
        let full = resident();
        for group in pieces.chunks(2 * in_a_row) {
            group.iter().take(in_a_row).for_each(|piece| free(*piece));
        }
        give_back();
        let gone = full.saturating_sub(resident());
        for group in pieces.chunks(2 * in_a_row) {
            group.iter().skip(in_a_row).for_each(|piece| free(*piece));
        }
        gone
    }

    #[test]
    fn what_was_freed_between_what_is_in_use_goes_back() {
        // One after the other: the figures are of the whole process. Ours gives back spans of pieces of a size.
        let of_ours = given_back(&Allocator, 64);
        assert!(of_ours > 32 << 10, "{of_ours} KiB of 64 MiB");
        if cfg!(target_env = "gnu") {
            let of_libraries = given_back(&System, 1);
            assert!(of_libraries > 32 << 10, "{of_libraries} KiB of 64 MiB");
        }
    }
}
