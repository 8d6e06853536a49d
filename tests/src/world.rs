//! Everything that a node test needs beside Weir: a network namespace, an application's cgroup, and the machine for
//! itself.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::cgroup::{self, Cgroup};
use crate::client::Place;
use crate::net::{Net, Side};
use crate::process::{self, Running};
use crate::skip;
use crate::upstream::Server;
use crate::wait;

/// Weir attaches to the root of all cgroups, so there is one on a machine, and so one node test.
const LOCK: &str = "/tmp/weir-node-tests.lock";
/// Locked by the Weir that runs.
const WEIR_LOCK: &str = "/run/weir/weir.pid";
/// Time for somebody who tries Weir by hand meanwhile.
const FOREIGN_LIMIT: Duration = Duration::from_secs(120);
/// Time for a server program to start.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Older kernels cannot run Weir at all.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// A place to test in.
pub struct World {
    /// Cgroup of the application that is intercepted.
    pub app: Cgroup,
    /// Network namespaces.
    pub net: Net,
    /// Last, so that it is given back when everything else is gone.
    _lock: File,
}

impl World {
    /// Makes a world; or reports that the test is skipped, and why.
    ///
    /// # Panics
    /// If this machine could have one, but something failed.
    #[must_use]
    pub fn new() -> Option<Self> {
        if let Some(reason) = obstacle() {
            skip::skip(&reason);
            return None;
        }
        let lock = File::options().create(true).append(true).open(LOCK).expect("/tmp is there");
        lock.lock().expect("a lock can be waited for");
        wait::until_true("the Weir that runs on this machine to end", FOREIGN_LIMIT, || !runs_already());
        let net = Net::new().expect("root can make a network namespace");
        let app = Cgroup::new("app").expect("root can make a cgroup");
        Some(Self { app, net, _lock: lock })
    }

    /// Where the intercepted application runs.
    #[must_use]
    pub fn app(&self) -> Place<'_> {
        Place { net: &self.net, side: Side::Near, cgroup: Some(&self.app) }
    }

    /// Where applications run that are not intercepted.
    #[must_use]
    pub fn outside(&self) -> Place<'_> {
        Place { net: &self.net, side: Side::Near, cgroup: None }
    }

    /// Where servers run.
    #[must_use]
    pub fn far(&self) -> Place<'_> {
        Place { net: &self.net, side: Side::Far, cgroup: None }
    }

    /// Where applications run in a network namespace of their own: makes it.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn pod(&self, number: u8) -> Place<'_> {
        let side = self.net.add_pod(number, number).expect("root can make a network namespace");
        Place { net: &self.net, side, cgroup: None }
    }

    /// Starts a server.
    ///
    /// # Panics
    /// If it cannot listen.
    #[must_use]
    pub fn server(&self, address: SocketAddr, name: &str) -> Server {
        Server::start(&self.net, address, name).expect("the address is free")
    }

    /// Starts a server program on the far side and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn serve(&self, program: &Path, arguments: &[&str], listens: SocketAddr) -> Running {
        let mut command = self.far().command(program);
        command.args(arguments).stderr(Stdio::inherit());
        let running = Running::start(&mut command).expect("it is a program");
        wait::until_true(&format!("{} to listen", program.display()), START_LIMIT, || {
            let connect = || TcpStream::connect_timeout(&listens, Duration::from_secs(1)).is_ok();
            self.net.run(Side::Far, connect).expect("root may enter")
        });
        running
    }

    /// Finds a program; or reports that the test is skipped.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let found = process::find(name);
        if found.is_none() {
            skip::skip(&format!("{name} is not installed"));
        }
        found
    }
}

/// Whether a Weir runs that no node test has started, since those wait for each other.
fn runs_already() -> bool {
    // a shared lock, so that looking keeps nobody from starting for longer than a moment
    File::open(WEIR_LOCK).is_ok_and(|file| file.try_lock_shared().is_err())
}

fn obstacle() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    if ids.and_then(|ids| ids.split_whitespace().nth(1)) != Some("0") {
        return Some("it makes network namespaces and loads kernel programs, which needs root".to_owned());
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version_of(&release).is_none_or(|version| version < OLDEST_KERNEL) {
        return Some(format!("kernel {} is too old", release.trim()));
    }
    if cgroup::mount().is_none() {
        return Some("cgroup v2 is not mounted".to_owned());
    }
    let missing = ["ip", "nsenter", "python3"].into_iter().find(|program| process::find(program).is_none());
    missing.map(|program| format!("{program} is not installed"))
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
