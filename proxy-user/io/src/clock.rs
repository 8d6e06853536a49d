//! The clock that the kernel's records use.

use std::sync::LazyLock;

const SECOND_NS: i64 = 1_000_000_000;

/// What a time namespace adds to CLOCK_MONOTONIC for this process, in nanoseconds. The kernel programs know nothing of it, and
/// neither does a process that this one hands over to, or takes over from.
static OFFSET_NS: LazyLock<i64> = LazyLock::new(|| {
    // The file speaks of what children begin with; before Linux 6.3 exec(2) alone does not enter that.
    let namespace = |name| std::fs::read_link(format!("/proc/self/ns/{name}")).ok();
    if namespace("time") != namespace("time_for_children") {
        return 0;
    }
    // Missing in kernels without time namespaces.
    let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    offset_ns(&offsets).unwrap_or(0)
});

/// Time on the machine's CLOCK_MONOTONIC in nanoseconds: what bpf_ktime_get_ns gives, also within a time namespace.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a whole timespec, and this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let here = time.tv_sec * SECOND_NS + time.tv_nsec;
    here.saturating_sub(*OFFSET_NS).unsigned_abs()
}

/// Finds the clock's line (time_namespaces(7)): seconds, which may be negative, and nanoseconds, which count upwards.
fn offset_ns(offsets: &str) -> Option<i64> {
    let words = offsets.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    let mut words = words.split_whitespace().map(str::parse::<i64>);
    let (seconds, nanoseconds) = (words.next()?.ok()?, words.next()?.ok()?);
    seconds.checked_mul(SECOND_NS)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_the_kernel_writes_them() {
        let text = |seconds, nanoseconds| {
            format!("monotonic  {seconds:>10} {nanoseconds:>9}\nboottime            7         7\n")
        };
        assert_eq!(offset_ns(&text(86_400, 5)), Some(86_400_000_000_005));
        assert_eq!(offset_ns(&text(-2, 500_000_000)), Some(-1_500_000_000));
        for other in ["", "boottime 1 1\n", "monotonic 1\n", "monotonic x 1\n"] {
            assert_eq!(offset_ns(other), None, "{other}");
        }
    }
}
