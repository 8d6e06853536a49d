//! Clients that say more than curl does: which addresses an application sees, and what became of each of thousands of
//! requests. The demo starts its own program again inside the application's cgroup for this.

use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::stage::{Stage, Who};
use crate::process;

/// Time for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(3);
/// Pause between requests of a storm: hundreds per second show every gap and leave a small machine its breath.
const PACE: Duration = Duration::from_millis(2);

/// What a process of the demo is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// Cleans up after the demo.
    Guard,
    /// Asks each address once and prints the addresses that the socket shows.
    Ask,
    /// Asks one address again and again until its input ends.
    Storm,
    /// Keeps a connection to each address open until its input ends.
    Hold,
}

pub(super) fn run(role: Role, addresses: &[SocketAddr]) -> Result<()> {
    match role {
        Role::Guard => bail!("the guard is no client"),
        Role::Ask => ask(addresses),
        Role::Storm => storm(*addresses.first().context("a storm needs an address")?),
        Role::Hold => hold(addresses),
    }
}

/// What an application saw of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// getpeername()
    pub(super) peer: SocketAddr,
    /// getsockname()
    pub(super) own: SocketAddr,
    /// Who answered.
    pub(super) answer: String,
}

/// Asks an address.
pub(super) fn see(stage: &Stage, who: Who, address: SocketAddr) -> Result<Seen> {
    let mut command = stage.command(who, env::current_exe()?);
    let text = process::output(command.args(["demo", "--role", "ask", &address.to_string()]))?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let [peer, own, answer] = words[..] else { bail!("it says {text:?}") };
    Ok(Seen { peer: peer.parse()?, own: own.parse()?, answer: answer.to_owned() })
}

fn ask(addresses: &[SocketAddr]) -> Result<()> {
    for address in addresses {
        let mut stream = TcpStream::connect_timeout(address, REQUEST_LIMIT)?;
        let (peer, own) = (stream.peer_addr()?, stream.local_addr()?);
        println!("{peer} {own} {}", request(&mut stream)?);
    }
    Ok(())
}

/// Sends one request and reads to the end of the answer; returns its body.
fn request(stream: &mut TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(REQUEST_LIMIT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.trim().to_owned()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// When it began.
    pub(super) at: SystemTime,
    pub(super) result: Result<String, Failure>,
}

/// How a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection came about.
    Connect(String),
    /// The connection ended before its answer.
    Cut(String),
}

fn storm(address: SocketAddr) -> Result<()> {
    let is_over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_over);
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    while !is_over.load(Ordering::Relaxed) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        match TcpStream::connect_timeout(&address, REQUEST_LIMIT) {
            Err(error) => println!("{at} connect {error}"),
            Ok(mut stream) => match request(&mut stream) {
                Err(error) => println!("{at} cut {error}"),
                Ok(answer) => println!("{at} ok {answer}"),
            },
        }
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// Requests that go on in the background.
pub(super) struct Storm {
    child: Child,
    reader: JoinHandle<()>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
}

impl Storm {
    /// Begins to ask an address as the intercepted application.
    pub(super) fn start(stage: &Stage, address: &str) -> Result<Self> {
        let mut command = stage.command(Who::App, env::current_exe()?);
        command.args(["demo", "--role", "storm", address]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a client")?;
        let output = BufReader::new(child.stdout.take().context("the pipe was asked for above")?);
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&outcomes);
        let reader = std::thread::spawn(move || {
            for outcome in output.lines().map_while(|line| parse(&line.ok()?)) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
            }
        });
        Ok(Self { child, reader, outcomes })
    }

    /// What became of the requests so far.
    pub(super) fn outcomes(&self) -> Vec<Outcome> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it; gives what became of every request.
    pub(super) fn end(mut self) -> Result<Vec<Outcome>> {
        drop(self.child.stdin.take());
        self.child.wait()?;
        let _ = self.reader.join();
        Ok(std::mem::take(&mut self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Reads a line of [`storm`].
fn parse(line: &str) -> Option<Outcome> {
    let (at, rest) = line.split_once(' ')?;
    let (word, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let result = match word {
        "ok" => Ok(text.to_owned()),
        "connect" => Err(Failure::Connect(text.to_owned())),
        "cut" => Err(Failure::Cut(text.to_owned())),
        _ => return None,
    };
    Some(Outcome { at: UNIX_EPOCH + Duration::from_micros(at.parse().ok()?), result })
}

fn hold(addresses: &[SocketAddr]) -> Result<()> {
    let mut held = Vec::new();
    for address in addresses {
        let mut stream = TcpStream::connect_timeout(address, REQUEST_LIMIT)?;
        stream.set_read_timeout(Some(REQUEST_LIMIT))?;
        let question: &[u8] =
            if address.port() == 6379 { b"PING\r\n" } else { b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n" };
        stream.write_all(question)?;
        // the first part of the answer is enough: the server has it, and the connection stays
        let _ = stream.read(&mut [0; 512])?;
        held.push(stream);
    }
    println!("held");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Connections that are kept open.
pub(super) struct Held(Child);

impl Held {
    pub(super) fn start(stage: &Stage, addresses: &[&str]) -> Result<Self> {
        let mut command = stage.command(Who::App, env::current_exe()?);
        command.args(["demo", "--role", "hold"]).args(addresses);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("the pipe was asked for above")?).read_line(&mut line)?;
        if line.trim() != "held" {
            bail!("a client could not connect: {}", child.wait()?);
        }
        Ok(Self(child))
    }

    pub(super) fn end(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        self.0.wait()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_storm_are_read_back() {
        let at = UNIX_EPOCH + Duration::from_micros(1_500_000);
        let cut = Failure::Cut("Connection reset by peer (os error 104)".to_owned());
        assert_eq!(parse("1500000 ok backend-1"), Some(Outcome { at, result: Ok("backend-1".to_owned()) }));
        assert_eq!(
            parse("1500000 cut Connection reset by peer (os error 104)"),
            Some(Outcome { at, result: Err(cut) })
        );
        assert_eq!(parse("thread panicked"), None);
    }
}
