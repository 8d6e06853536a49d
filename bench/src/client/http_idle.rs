//! HTTP connections that carried one request and then stay open.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::client::Job;
use crate::client::idle::measured;
use crate::http::answer::Answer;
use crate::http::channel::Channel;
use crate::http::{Pattern, request, tls};
use crate::report::Sample;

/// Bytes of the one answer.
const BYTES: u64 = 100;
/// Time for it.
const LIMIT: Duration = Duration::from_secs(5);

/// Opens `connections`, uses each once, and measures how much more memory the proxy has with them than with the first part of them.
///
/// # Errors
/// If a connection fails or answers wrongly.
pub fn run(job: &Job, connections: usize, tls: Option<&tls::Client>) -> Result<Sample> {
    let pattern = Pattern::default();
    measured(job, connections, |index| {
        ask_once(job.target, index, tls, &pattern).with_context(|| format!("connection {index}"))
    })
}

/// Asks once and says why there was no right answer, if there was none.
///
/// # Errors
/// If a connection cannot be made, or the answer is wrong.
pub fn probe(target: SocketAddr, tls: Option<&tls::Client>) -> Result<()> {
    ask_once(target, 0, tls, &Pattern::default()).map(drop)
}

fn ask_once(
    target: SocketAddr,
    seed: usize,
    tls: Option<&tls::Client>,
    pattern: &Pattern,
) -> Result<Channel<TcpStream>> {
    let stream = TcpStream::connect(target).context("cannot connect")?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    let mut channel = match tls {
        Some(client) => Channel::Tls(stream, client.connection()?),
        None => Channel::Plain(stream),
    };
    channel.write_all(&request(BYTES, seed, false)).context("cannot send")?;
    let mut answer = Answer::to(BYTES, seed);
    let mut buffer = [0; 4096];
    loop {
        let count = channel.read(&mut buffer).context("no answer")?;
        ensure!(count > 0, "closed before the end of the answer");
        if answer.take(&buffer[..count], pattern)? {
            return Ok(channel);
        }
    }
}
