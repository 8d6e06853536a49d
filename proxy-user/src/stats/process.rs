//! What this process uses, as `/proc` tells.

use std::time::SystemTime;

/// One reading. What `/proc` does not tell is zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessReading {
    /// Memory in RAM.
    pub resident_bytes: u64,
    /// Time on CPUs, user and system.
    pub cpu_seconds: f64,
    /// Descriptors open now.
    pub open_fds: u64,
    /// Most descriptors (RLIMIT_NOFILE).
    pub max_fds: u64,
    /// Begin of the process in seconds since 1970.
    pub start_seconds: f64,
}

/// Ticks per second of every CPU time in `/proc` (USER_HZ; the same on all Linux ports that Weir builds for).
const TICKS: f64 = 100.0;

impl ProcessReading {
    /// Reads `/proc/self`.
    #[must_use]
    pub fn read(started: SystemTime) -> Self {
        let text = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        Self {
            resident_bytes: resident_bytes(&text("status")).unwrap_or_default(),
            cpu_seconds: cpu_seconds(&text("stat")).unwrap_or_default(),
            open_fds: proxy_io::limit::open_fd_count().unwrap_or_default(),
            max_fds: max_fds(&text("limits")).unwrap_or_default(),
            start_seconds: started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        }
    }
}

/// Format: proc_pid_status(5).
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Format: proc_pid_stat(5). The second field is the name in parentheses, which may contain anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

/// Format: proc_pid_limits(5). "unlimited" is as many as a number can say.
fn max_fds(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_ascii_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_proc() {
        assert_eq!(resident_bytes("Name:\tweir\nVmRSS:\t   5120 kB\n"), Some(5120 << 10));
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 10 0 0 0 150 50 0 0 20 0 5 0 100 1000 10 184467";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024   4096   files\n";
        assert_eq!(max_fds(limits), Some(1024));
        assert_eq!(max_fds("Max open files  unlimited unlimited files"), Some(u64::MAX));
        assert_eq!((resident_bytes(""), cpu_seconds(""), max_fds("")), (None, None, None));
    }

    #[test]
    fn this_process_uses_something() {
        let reading =
            ProcessReading::read(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000));
        assert!(reading.resident_bytes > 100_000 && reading.open_fds >= 3, "{reading:?}");
        assert!(reading.max_fds >= reading.open_fds && reading.start_seconds > 1.7e9, "{reading:?}");
    }
}
