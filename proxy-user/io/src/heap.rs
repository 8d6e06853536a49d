//! The process's memory, and what the allocator keeps of it that nobody uses.

/// Gives memory that was freed back to the kernel, from wherever it lies between what is in use (malloc_trim(3), since glibc 2.8).
///
/// The C library keeps what was freed for the next time, so that after a flood a process seems to need what it had then. Costs
/// milliseconds for a heap of gigabytes, and threads that allocate meanwhile wait: for when memory is short. Does nothing with
/// other C libraries.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    crate::sys::malloc_trim();
}

/// Bytes of a page of memory, which figures of the kernel are in.
#[must_use]
pub fn page_bytes() -> u64 {
    crate::sys::page_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_its_size() {
        assert!(page_bytes().is_power_of_two() && page_bytes() >= 4096);
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_was_freed_between_what_is_in_use_goes_back() {
        let resident = || -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
        };
        // Too small for mappings of their own; every other one stays.
        let mut pieces: Vec<Option<Vec<u8>>> = (0..4096).map(|_| Some(vec![1; 32 << 10])).collect();
        let full = resident();
        pieces.iter_mut().step_by(2).for_each(|piece| *piece = None);
        give_back();
        let freed = full.saturating_sub(resident());
        assert!(freed > 32 << 10, "{freed} KiB of 64 MiB");
        assert_eq!(pieces.iter().flatten().count(), 2048);
    }
}
