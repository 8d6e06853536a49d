//! What connect() itself costs: blocking, one at a time, nothing sent.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

use crate::client::Job;
use crate::cpu::{self, Window};
use crate::histogram::Histogram;
use crate::report::Sample;

/// Pause between two tries of [`until_accepted`]: the grain of what it measures.
const TRY_PAUSE: Duration = Duration::from_micros(200);

/// Measures connect and close.
///
/// # Errors
/// If a connection is refused.
pub fn run(job: &Job) -> Result<Sample> {
    let mut latency = Histogram::default();
    repeat(job.target, job.warm_up, &mut latency)?;
    latency.clear();
    let window = Window::open(&job.watched)?;
    let ops = repeat(job.target, job.length, &mut latency)?;
    let usage = window.close()?;
    Ok(Sample { ops: ops as f64, usage, latency: latency.quantiles(), ..Sample::default() })
}

fn repeat(target: SocketAddr, length: Duration, latency: &mut Histogram) -> Result<u64> {
    let until = Instant::now() + length;
    let mut ops = 0;
    loop {
        let began = Instant::now();
        if began >= until {
            return Ok(ops);
        }
        drop(TcpStream::connect(target).context("cannot connect")?);
        latency.record(cpu::as_ns(began.elapsed()));
        ops += 1;
    }
}

/// Tries to connect until somebody accepts, and returns when that was.
///
/// # Errors
/// If nobody has after `limit`.
pub fn until_accepted(target: SocketAddr, limit: Duration) -> Result<SystemTime> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if TcpStream::connect(target).is_ok() {
            return Ok(SystemTime::now());
        }
        thread::sleep(TRY_PAUSE);
    }
    bail!("nobody accepts at {target} after {} s", limit.as_secs())
}
