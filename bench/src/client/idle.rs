//! Connections that were used once and then do nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::client::Job;
use crate::client::pingpong::message;
use crate::cpu::{self, Window};
use crate::report::Sample;

/// Bytes that go there and back once on every connection.
const BYTES: usize = 64;
/// Time between two looks at the memory; it counts as settled when this many looks, one after the other, have seen the same: who
/// gives back what busy connections needed does so within seconds.
const LOOK: Duration = Duration::from_millis(500);
const EQUAL_LOOKS: usize = 8;
/// Looks at most.
const LOOKS: usize = 40;

/// Opens `connections`, uses each once, and measures how much more memory the proxy has with them than with the [`first_part`].
///
/// # Errors
/// If a connection fails or answers wrongly.
pub fn run(job: &Job, connections: usize) -> Result<Sample> {
    let began = Instant::now();
    measured(job, connections, |index| {
        let mut stream = TcpStream::connect(job.target)
            .with_context(|| format!("cannot open connection {index} after {:?}", began.elapsed()))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let request = message(index, BYTES);
        stream.write_all(&request)?;
        let mut answer = [0; BYTES];
        stream.read_exact(&mut answer).with_context(|| format!("no answer on connection {index}"))?;
        ensure!(answer[..] == request[..], "a wrong answer");
        Ok(stream)
    })
}

/// Opens connections one by one and keeps them; measures how much more memory the proxy has with all than with the [`first_part`].
pub(super) fn measured<C>(
    job: &Job,
    connections: usize,
    open: impl FnMut(usize) -> Result<C>,
) -> Result<Sample> {
    let first = first_part(connections);
    let mut opening = (0..connections).map(open);
    let _first = opening.by_ref().take(first).collect::<Result<Vec<C>>>()?;
    let before = settled(&job.watched)?;
    let window = Window::open(&job.watched)?;
    let _others = opening.collect::<Result<Vec<C>>>()?;
    let usage = window.close()?;
    let with = settled(&job.watched)?;
    Ok(Sample { ops: (connections - first) as f64, usage, memory: Some((before, with)), ..Sample::default() })
}

/// Those of `all` that are open before memory is measured. The first may fit into what the proxy needed for its start and gave
/// back, and so say nothing of the others.
pub(super) fn first_part(all: usize) -> usize {
    all / 10
}

/// Memory of these processes when it does not change any more.
pub(super) fn settled(pids: &[u32]) -> Result<u64> {
    let (mut last, mut equal) = (cpu::memory_bytes(pids)?, 0);
    for _ in 0..LOOKS {
        thread::sleep(LOOK);
        let now = cpu::memory_bytes(pids)?;
        equal = if now == last { equal + 1 } else { 0 };
        last = now;
        if equal == EQUAL_LOOKS {
            break;
        }
    }
    Ok(last)
}
