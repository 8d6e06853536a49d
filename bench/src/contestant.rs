//! Who is measured, and how each is started.
//!
//! Equal features for all: one worker, no access log, no retries, TCP_NODELAY (the default of every one of them); for HTTP a
//! route by host and path, upstream connections that are kept, TLS 1.3 without resumption.
//! Rivals and baselines are up during the whole run. A Weir is up only while it is measured: one process serves a
//! machine, and its hooks would add to the connections of the others.

pub mod certificate;
mod rival;
pub mod weir;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use self::certificate::Certificate;
use crate::case::Front;
use crate::client::{grpc, http_idle};
use crate::cpu;
use crate::http::tls;
use crate::place::{LOAD_CORE, PROXY_CORE, Place};
use crate::results::{self, Group};

/// Time for a proxy to be ready, or to end.
const LIMIT: Duration = Duration::from_secs(10);
/// Time for what is sent to come back.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Sent to see whether a proxy serves.
const GREETING: [u8; 5] = *b"weir?";
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Lines of a log that are shown when its proxy fails.
const LOG_LINES: usize = 5;

/// A contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// The client connects to the backend.
    Direct,
    /// Weir's proxy lane on io_uring, by interception.
    WeirRing,
    /// Weir's proxy lane on epoll, by interception.
    WeirEpoll,
    /// Weir's proxy lane with workers that look for more for a while before they sleep; only where latency at a fixed rate is measured.
    WeirBusy,
    /// Weir's direct lane.
    WeirDirect,
    /// HAProxy as it comes.
    Haproxy,
    /// HAProxy, told to splice in both directions.
    HaproxySplice,
    /// nginx's stream module.
    Nginx,
    /// Envoy's tcp_proxy.
    Envoy,
    /// A program on Pingora.
    Pingora,
    /// A baseline: a forwarder on tokio.
    TokioRelay,
    /// The same on tokio-uring: what a ring costs that is not ours.
    UringRelay,
}

impl Name {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 12] = [
        Self::Direct,
        Self::WeirDirect,
        Self::WeirRing,
        Self::WeirEpoll,
        Self::WeirBusy,
        Self::Haproxy,
        Self::HaproxySplice,
        Self::Nginx,
        Self::Envoy,
        Self::Pingora,
        Self::TokioRelay,
        Self::UringRelay,
    ];

    /// Word in tables and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => results::DIRECT,
            Self::WeirRing => "weir-ring",
            Self::WeirEpoll => "weir-epoll",
            Self::WeirBusy => "weir-busy",
            Self::WeirDirect => "weir-direct",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy-splice",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Pingora => "pingora",
            Self::TokioRelay => "tokio-relay",
            Self::UringRelay => "tokio-uring-relay",
        }
    }

    /// Whether it is a Weir.
    #[must_use]
    pub fn is_weir(self) -> bool {
        matches!(self, Self::WeirRing | Self::WeirEpoll | Self::WeirBusy | Self::WeirDirect)
    }

    /// Whether it knows no requests: a lane, an option and the baselines, which forward bytes.
    #[must_use]
    pub fn is_for_bytes(self) -> bool {
        matches!(self, Self::WeirDirect | Self::HaproxySplice | Self::TokioRelay | Self::UringRelay)
    }

    /// Whether it can do what the cases of this group ask.
    #[must_use]
    pub fn plays(self, group: Group) -> bool {
        group == Group::Tcp || !self.is_for_bytes()
    }

    /// Whether it is a product that people choose instead of Weir's proxy lane.
    #[must_use]
    pub fn is_rival(self) -> bool {
        matches!(self, Self::Haproxy | Self::HaproxySplice | Self::Nginx | Self::Envoy | Self::Pingora)
    }
}

/// Programs that are not found by themselves.
#[derive(Clone, Debug)]
pub struct Tools {
    /// `weir`.
    pub weir: PathBuf,
    /// `load`.
    pub load: PathBuf,
    /// `relay`.
    pub relay: PathBuf,
    /// `envoy`, if there is one.
    pub envoy: Option<PathBuf>,
    /// `bench-pingora`, if it was built.
    pub pingora: Option<PathBuf>,
}

/// What everybody offers: the first two in the cases of TCP, the others in those of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Gives back what it is sent.
    pub echo: SocketAddr,
    /// Sends without end.
    pub source: SocketAddr,
    /// HTTP/1.1.
    pub http: SocketAddr,
    /// HTTP/1.1 over TLS.
    pub https: SocketAddr,
    /// HTTP/2 without TLS.
    pub grpc: SocketAddr,
}

impl Ports {
    /// The backend.
    pub const BACKEND: Self = Self::on([127, 0, 0, 1], 9000);

    /// Neighbouring ports from `port` on.
    #[must_use]
    pub const fn on(ip: [u8; 4], port: u16) -> Self {
        let [a, b, c, d] = ip;
        let ip = std::net::IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d));
        Self {
            echo: SocketAddr::new(ip, port),
            source: SocketAddr::new(ip, port + 1),
            http: SocketAddr::new(ip, port + 2),
            https: SocketAddr::new(ip, port + 3),
            grpc: SocketAddr::new(ip, port + 4),
        }
    }
}

/// A proxy that runs; ended when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    log: PathBuf,
    ports: Ports,
}

impl Proxy {
    /// Starts a command and waits until `ready` says so.
    ///
    /// # Errors
    /// If it ends or does not get ready, with the end of its log.
    pub fn start(command: Command, log: PathBuf, ports: Ports, ready: impl Fn() -> bool) -> Result<Self> {
        let ready = || ready().then_some(()).context("it does not say that it is");
        Self::start_within(LIMIT, command, log, ports, ready)
    }

    /// The same, where `ready` has a reason why not.
    fn start_within(
        limit: Duration,
        mut command: Command,
        log: PathBuf,
        ports: Ports,
        ready: impl Fn() -> Result<()>,
    ) -> Result<Self> {
        let file = fs::File::create(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("cannot start it")?;
        let mut proxy = Self { child, log, ports };
        let until = Instant::now() + limit;
        while let Err(reason) = ready() {
            if let Some(status) = proxy.child.try_wait()? {
                bail!("it ended with {status}; its log ends: {}", proxy.last_words());
            }
            if Instant::now() > until {
                let seconds = limit.as_secs();
                bail!("not ready after {seconds} s: {reason:#}; its log ends: {}", proxy.last_words());
            }
            thread::sleep(LOOK);
        }
        Ok(proxy)
    }

    /// Where its clients connect to.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Its processes.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn pids(&self) -> Result<Vec<u32>> {
        cpu::family(self.child.id())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If `kill` cannot be run.
    pub fn signal(&self, name: &str) -> Result<()> {
        let kill =
            Command::new("kill").args([name, &self.child.id().to_string()]).stderr(Stdio::null()).status();
        kill.context("cannot run kill").map(drop)
    }

    /// What a client saw, with the end of its log.
    #[must_use]
    pub fn blame(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}; its log ends: {}", self.last_words())
    }

    /// The end of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.signal("-TERM");
        let until = Instant::now() + LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            thread::sleep(LOOK);
        }
    }
}

/// Starts the backend, which shows the certificate in `scratch`.
///
/// # Errors
/// If it does not get ready.
pub fn backend(place: &Place, tools: &Tools, scratch: &Path) -> Result<Proxy> {
    let ports = Ports::BACKEND;
    let certificate = Certificate::within(scratch);
    let mut command = place.command(LOAD_CORE, &tools.load);
    command.arg("backend").arg("--cert").arg(&certificate.cert).arg("--key").arg(&certificate.key);
    let served = [
        ("--echo", ports.echo),
        ("--source", ports.source),
        ("--http", ports.http),
        ("--https", ports.https),
        ("--grpc", ports.grpc),
    ];
    for (flag, address) in served {
        command.args([flag, &address.to_string()]);
    }
    let ready = || {
        serves(ports)?;
        Front::ALL.into_iter().try_for_each(|front| probe(front, ports, scratch))
    };
    Proxy::start_within(LIMIT, command, scratch.join("backend.log"), ports, ready)
}

/// Starts a rival or a baseline for the cases of this group.
///
/// # Errors
/// If it is not installed or does not get ready.
pub fn rival(name: Name, group: Group, place: &Place, tools: &Tools, scratch: &Path) -> Result<Proxy> {
    let setup = rival::setup(name, group, tools, scratch, place.most_connections())?;
    let mut command = place.command(PROXY_CORE, &setup.program);
    command.args(&setup.args);
    let ports = setup.ports;
    let log = scratch.join(format!("{}-{group:?}.log", name.as_str()));
    // what it lacks beyond HTTP/1.1 costs it those cases only
    let ready = || match group {
        Group::Tcp => serves(ports),
        Group::Http => probe(Front::Http, ports, scratch),
    };
    Proxy::start_within(LIMIT, command, log, ports, ready)
}

/// Says why not, unless a request through one of these ports is answered rightly.
///
/// # Errors
/// If a connection cannot be made, or the answer is wrong or does not come.
pub fn probe(front: Front, ports: Ports, scratch: &Path) -> Result<()> {
    let target = front.of(ports);
    match front {
        Front::Http => http_idle::probe(target, None),
        Front::Https => {
            let client = tls::Client::new(&Certificate::within(scratch).cert)?;
            http_idle::probe(target, Some(&client))
        }
        Front::Grpc => grpc::probe(target),
    }
}

/// What the program says of its version.
#[must_use]
pub fn version(name: Name, tools: &Tools) -> Option<String> {
    rival::version(name, tools)
}

/// Says why not, unless both ports take connections and what is sent comes back through one of them: a listener is open
/// before the process that will serve it has been made.
fn serves(ports: Ports) -> Result<()> {
    let mut stream = TcpStream::connect(ports.echo).context("nobody listens")?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(&GREETING).context("it takes nothing")?;
    let mut answer = [0; GREETING.len()];
    stream.read_exact(&mut answer).context("it does not answer")?;
    ensure!(answer == GREETING, "it answers wrongly");
    TcpStream::connect(ports.source).context("nobody listens at its second port")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_rival_that_ends_is_reported_with_the_end_of_its_log() {
        let script = "for n in 1 2 3 4 5 6 7; do echo line $n; done; echo no such option >&2; exit 3";
        let error = start("ends", script, Ports::on([127, 0, 0, 1], 9), || bail!("nobody listens"));
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("exit status: 3") && text.ends_with("line 7 | no such option"), "{text}");
        assert!(!text.contains("line 2"), "{text}");
    }

    #[test]
    fn a_rival_that_answers_wrongly_is_not_ready_and_that_is_said() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                stream.write_all(&[0; GREETING.len()]).unwrap();
            }
        });
        let ports = Ports { echo: address, source: address, ..Ports::BACKEND };
        let error = start("lies", "echo started; exec sleep 60", ports, || serves(ports));
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("it answers wrongly") && text.ends_with("started"), "{text}");
    }

    fn start(name: &str, script: &str, ports: Ports, ready: impl Fn() -> Result<()>) -> Result<Proxy> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let log = std::env::temp_dir().join(format!("weir-bench-test-{name}-{}.log", std::process::id()));
        let result = Proxy::start_within(Duration::from_millis(500), command, log.clone(), ports, ready);
        fs::remove_file(log).unwrap();
        result
    }
}
