//! Streams that bring as much as they can; one thread each, since what counts is the proxy's time per MiB.

use std::io::Read as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::client::Job;
use crate::cpu::Window;
use crate::report::Sample;

/// Bytes asked of one read.
const READ_BYTES: usize = 256 << 10;

/// Time without any byte after which the proxy counts as stuck.
const STUCK: Duration = Duration::from_secs(5);

/// Measures `streams` that download at once; operations are MiB.
///
/// # Errors
/// If a stream ends before the time is over, or nothing comes.
pub fn run(job: &Job, streams: usize) -> Result<Sample> {
    let received = Arc::new(AtomicU64::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for _ in 0..streams {
        let stream = TcpStream::connect(job.target).context("cannot connect")?;
        stream.set_read_timeout(Some(STUCK))?;
        let (received, is_over) = (Arc::clone(&received), Arc::clone(&is_over));
        threads.push(thread::spawn(move || read_all(stream, &received, &is_over)));
    }
    thread::sleep(job.warm_up);
    let before = received.load(Ordering::Relaxed);
    let window = Window::open(&job.watched)?;
    thread::sleep(job.length);
    let after = received.load(Ordering::Relaxed);
    let usage = window.close()?;
    is_over.store(true, Ordering::Relaxed);
    ensure!(after > before, "nothing arrives");
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a reader panicked"))??;
    }
    let mib = (after - before) as f64 / f64::from(1 << 20);
    Ok(Sample { ops: mib, usage, ..Sample::default() })
}

fn read_all(mut stream: TcpStream, received: &AtomicU64, is_over: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    while !is_over.load(Ordering::Relaxed) {
        let count = stream.read(&mut buffer).context("cannot receive")?;
        ensure!(count > 0, "the stream ended early");
        received.fetch_add(count as u64, Ordering::Relaxed);
    }
    Ok(())
}
