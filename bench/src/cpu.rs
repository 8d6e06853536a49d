//! Processor time, from what the kernel's scheduler says.
//!
//! Everything that belongs to the bench lives in one pid namespace, so `/proc` lists it and nothing else; what the
//! processors did beyond that was done by strangers.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::report::Usage;

/// Jiffies per second in /proc/stat: USER_HZ, which is part of the kernel's interface (100 on every architecture
/// that Linux has but alpha and ia64).
const NS_PER_TICK: u64 = 10_000_000;

/// A stretch of time whose processor use is of interest.
#[derive(Debug)]
pub struct Window {
    watched: Vec<u32>,
    began: Instant,
    watched_ns: u64,
    own_ns: u64,
    bench_ns: u64,
    busy_ns: Vec<u64>,
}

impl Window {
    /// Begins now, and watches these processes with all their threads.
    ///
    /// # Errors
    /// If one of them has ended, or `/proc` cannot be read.
    pub fn open(watched: &[u32]) -> Result<Self> {
        let (bench_ns, busy_ns) = (bench_ns()?, busy_ns()?);
        let (own_ns, watched_ns) = (process_ns("self")?, processes_ns(watched)?);
        Ok(Self { watched: watched.to_vec(), began: Instant::now(), watched_ns, own_ns, bench_ns, busy_ns })
    }

    /// Ends now.
    ///
    /// # Errors
    /// As [`Window::open`].
    pub fn close(self) -> Result<Usage> {
        let elapsed = self.began.elapsed();
        let watched_ns = processes_ns(&self.watched)?;
        let (own_ns, bench_ns, busy_ns) = (process_ns("self")?, bench_ns()?, busy_ns()?);
        let bench_ns = bench_ns.saturating_sub(self.bench_ns);
        let busy: Vec<u64> =
            busy_ns.iter().zip(&self.busy_ns).map(|(now, then)| now.saturating_sub(*then)).collect();
        let share = |ns: u64| ns as f64 / as_ns(elapsed).max(1) as f64;
        Ok(Usage {
            elapsed_ns: as_ns(elapsed),
            watched_ns: watched_ns.saturating_sub(self.watched_ns),
            own_ns: own_ns.saturating_sub(self.own_ns),
            bench_ns,
            strangers_share: share(busy.iter().sum::<u64>().saturating_sub(bench_ns)),
            core_busy_share: busy.iter().map(|ns| share(*ns)).collect(),
        })
    }
}

/// A duration in nanoseconds; 584 years at most.
#[must_use]
pub fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Memory in bytes that these processes are charged with (Pss).
///
/// # Errors
/// If one of them has ended.
pub fn memory_bytes(pids: &[u32]) -> Result<u64> {
    pids.iter().try_fold(0, |sum, pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .with_context(|| format!("process {pid} has ended"))?;
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = pss.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Ok(sum + (kib.context("the kernel does not count Pss")? << 10))
    })
}

/// This process id and those of all its descendants.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn family(pid: u32) -> Result<Vec<u32>> {
    let parents: Vec<(u32, u32)> = pids()?.into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
        next += 1;
    }
    Ok(found)
}

/// Field 4 of /proc/PID/stat; the name before it may hold anything, so fields are counted from its end.
fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn pids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// Time of everything in this pid namespace; what ends in between is left out.
fn bench_ns() -> Result<u64> {
    Ok(pids()?.into_iter().filter_map(|pid| process_ns(&pid.to_string()).ok()).sum())
}

fn processes_ns(pids: &[u32]) -> Result<u64> {
    pids.iter().try_fold(0, |sum, pid| Ok(sum + process_ns(&pid.to_string())?))
}

/// Time that all threads of a process have run for: the first field of their schedstat.
fn process_ns(pid: &str) -> Result<u64> {
    let tasks = Path::new("/proc").join(pid).join("task");
    let entries = fs::read_dir(&tasks).with_context(|| format!("process {pid} has ended"))?;
    let time = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    Ok(entries.filter_map(|entry| time(entry.ok()?)).sum())
}

/// Time that each processor was not idle: user, nice, system, irq and softirq of proc_stat(5).
///
/// Many kernels take it from samples at the timer's tick, and miss what begins after one and ends before the next: take it
/// as a hint, and what the scheduler says of processes as exact.
fn busy_ns() -> Result<Vec<u64>> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    Ok(busy_ticks(&text).into_iter().map(|ticks| ticks * NS_PER_TICK).collect())
}

fn busy_ticks(stat: &str) -> Vec<u64> {
    let processors = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    let busy = |line: &str| {
        let fields: Vec<u64> =
            line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        [0, 1, 2, 5, 6].iter().filter_map(|index| fields.get(*index)).sum()
    };
    processors.map(busy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_time_is_not_busy() {
        let stat =
            "cpu  9 9 9 9 9 9 9 0 0 0\ncpu0 1 2 3 100 200 4 5 6 0 0\ncpu1 10 0 0 7 0 0 0 0 0 0\nintr 5\n";
        assert_eq!(busy_ticks(stat), [15, 10]);
    }

    #[test]
    fn work_shows_in_the_time_of_the_own_process() {
        let window = Window::open(&[std::process::id()]).unwrap();
        // by what the scheduler gave us, not by the clock: the machine may be busy with something else
        let until = process_ns("self").unwrap() + 30_000_000;
        while process_ns("self").unwrap() < until {
            std::hint::black_box((0..10_000_u64).sum::<u64>());
        }
        let usage = window.close().unwrap();
        assert!(usage.own_ns > 10_000_000, "{usage:?}");
        assert!(usage.watched_ns > 10_000_000, "{usage:?}");
    }

    #[test]
    fn a_child_belongs_to_the_family() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let found = family(std::process::id()).unwrap();
        assert!(found.contains(&child.id()), "{found:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
