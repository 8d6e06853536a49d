//! Where everything runs: a network without a way out, a cgroup for the intercepted client, and two processors.
//!
//! `cargo xtask bench` starts `compare` as the first process of its own network, mount and pid namespace. When it ends,
//! however it ends, the kernel ends every process in there and forgets the network, the mounts and what was pinned in
//! them. Only the cgroup and the folder for configs and logs outlive that; they are removed at the end, by
//! [`clean_up_on_signal`], or by xtask.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// Processor of the proxy under test.
pub const PROXY_CORE: u32 = 0;
/// Processor of load generator and backend.
pub const LOAD_CORE: u32 = 1;
/// Closed connections that are remembered. More would use up the source ports between two measurements of short
/// connections; it holds for every contestant.
const TIME_WAITS: &str = "4096";
/// Most open files of each process: two for each of 9,000 proxied connections, and [`OTHER_FILES`].
const MOST_FILES: u32 = 20_000;
/// Descriptors of a proxy that are no connections: listeners, pipes, logs, what a runtime needs.
const OTHER_FILES: u32 = 1000;
/// Time for killed processes to leave the cgroup.
const EMPTY_LIMIT: Duration = Duration::from_secs(5);

/// The network: loopback, and a cable that nobody answers at, so that asked addresses have a route and a source.
const NETWORK: &str = "link set lo up
link add lan0 type veth peer name end0
link set lan0 up
link set end0 up
addr add 10.77.0.1/24 dev lan0
route add 10.96.0.0/16 dev lan0 src 10.77.0.1
";

/// Loopback with cubic: a default of bbr paces loopback to a fifth of its speed, for everybody but who changes it.
///
/// `127.0.0.1` has a route of its own beside that of its network.
const CUBIC: &str =
    "route replace local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1 congctl cubic
route replace local 127.0.0.1 dev lo table local proto kernel scope host src 127.0.0.1 congctl cubic
route replace local 10.77.0.1 dev lan0 table local proto kernel scope host src 10.77.0.1 congctl cubic
";

/// The set-up place.
#[derive(Debug)]
pub struct Place {
    cgroup: PathBuf,
    name: String,
    files: u32,
}

impl Place {
    /// Sets up the network of the namespace that we run in, and a cgroup.
    ///
    /// # Errors
    /// If we do not run in namespaces of our own, or without root.
    pub fn set_up(cgroup: &str) -> Result<Self> {
        ensure!(
            std::process::id() == 1 && !Path::new("/proc/sys/net/ipv4/conf/lan0").exists(),
            "this program changes the network that it runs in: start it by `cargo xtask bench`"
        );
        ip(NETWORK).context("cannot set the network up")?;
        if let Err(error) = ip(CUBIC) {
            eprintln!("connections keep the host's congestion control: {error:#}");
        }
        fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", TIME_WAITS).context("cannot set up TCP")?;
        // Our own, so that what Weir pins goes when we go, even by SIGKILL.
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status()?;
        ensure!(mounted.success(), "cannot mount a BPF file system");
        let path = cgroup_mount().context("there is no cgroup v2 mount")?.join(cgroup);
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {cgroup}"))?;
        Ok(Self { cgroup: path, name: cgroup.to_owned(), files: MOST_FILES.min(hard_limit()?) })
    }

    /// Limit on open files of every process.
    #[must_use]
    pub fn files(&self) -> u32 {
        self.files
    }

    /// Connections that fit into a proxy which has two descriptors for each.
    #[must_use]
    pub fn most_connections(&self) -> u32 {
        connections(self.files)
    }

    /// The limit on open files, as prlimit(1) wants it.
    fn limit(&self) -> String {
        format!("--nofile={0}:{0}", self.files)
    }

    /// Path of the client's cgroup below the mount, as Weir's config wants it.
    #[must_use]
    pub fn scope(&self) -> String {
        format!("/{}", self.name)
    }

    /// A command that runs on one processor.
    #[must_use]
    pub fn command(&self, core: u32, program: &Path) -> Command {
        let mut command = Command::new("prlimit");
        command.arg(self.limit()).args(["taskset", "-c", &core.to_string()]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// The same, in the cgroup that Weir intercepts.
    #[must_use]
    pub fn intercepted(&self, core: u32, program: &Path) -> Command {
        let mut command = Command::new("sh");
        let script = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
        command.args(["-c", script]).arg(&self.cgroup).arg("prlimit").arg(self.limit());
        command.args(["taskset", "-c", &core.to_string()]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Congestion control of a connection to `target`, as the kernel tells it; it is not what was asked for if a route
    /// was forgotten.
    ///
    /// # Errors
    /// If nobody listens there, or `ss` cannot be run.
    pub fn congestion(&self, target: SocketAddr) -> Result<String> {
        let _open = TcpStream::connect(target).context("cannot connect")?;
        let mut ss = Command::new("ss");
        let output =
            ss.args(["-tinH", "dst", &target.to_string()]).output().context("cannot run ss (iproute2)")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let word = text.split_whitespace().find(|word| ["cubic", "bbr", "reno"].contains(word));
        Ok(word.unwrap_or("unknown").to_owned())
    }

    /// What must go when a signal ends us.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = remove_cgroup(&self.cgroup) {
            eprintln!("a cgroup stays behind: {error:#}");
        }
    }
}

/// Ends this process by a signal, leaving neither the cgroup nor the folder behind: the first process of a pid namespace
/// would ignore signals otherwise. SIGTERM also comes when those who started us are gone.
///
/// # Errors
/// If the signals cannot be caught.
pub fn clean_up_on_signal(cgroup: PathBuf, scratch: PathBuf) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hang_up) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hang_up.recv() => {} }
        });
        // the terminal may be gone, which is no reason to leave anything behind
        let _ = std::io::stderr().write_all(b"\ninterrupted: ending everything\n");
        let _ = remove_cgroup(&cgroup);
        let _ = fs::remove_dir_all(&scratch);
        std::process::exit(130);
    });
    Ok(())
}

/// Kills what is left in the cgroup, which is ours alone, and removes it.
fn remove_cgroup(path: &Path) -> Result<()> {
    let until = Instant::now() + EMPTY_LIMIT;
    loop {
        let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        let pids: Vec<&str> = text.lines().filter(|pid| *pid != "0").collect();
        if !pids.is_empty() {
            Command::new("kill").arg("-KILL").args(&pids).stderr(Stdio::null()).status()?;
        }
        match fs::remove_dir(path) {
            Err(error) if Instant::now() > until => return Err(error).context("cannot remove the cgroup"),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                thread::sleep(Duration::from_millis(20));
            }
            _ => return Ok(()),
        }
    }
}

fn ip(script: &str) -> Result<()> {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip (package iproute2)")?;
    ip.stdin.take().context("the pipe was asked for above")?.write_all(script.as_bytes())?;
    let output = ip.wait_with_output()?;
    if !output.status.success() {
        bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Our own hard limit on open files: raising it takes a right that containers often lack.
fn hard_limit() -> Result<u32> {
    let text = fs::read_to_string("/proc/self/limits").context("cannot read our limits")?;
    hard_limit_in(&text).context("the kernel tells no limit on open files")
}

/// The second number of its line (proc_pid_limits(5)).
fn hard_limit_in(limits: &str) -> Option<u32> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let word = line.split_whitespace().nth(1)?;
    if word == "unlimited" {
        Some(u32::MAX)
    } else {
        word.parse::<u64>().ok().map(|n| n.try_into().unwrap_or(u32::MAX))
    }
}

fn connections(files: u32) -> u32 {
    files.saturating_sub(OTHER_FILES) / 2
}

/// Fields of a line: proc_pid_mountinfo(5). The file system's type is the first after a lone dash.
fn cgroup_mount() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        (kind.split(' ').next()? == "cgroup2").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_is_the_second_number() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             94313                94313                processes \n\
                      Max open files            1024                 20000                files     \n";
        assert_eq!(hard_limit_in(limits), Some(20_000));
        assert_eq!(hard_limit_in("Max open files  unlimited  unlimited  files"), Some(u32::MAX));
        assert_eq!(hard_limit_in(""), None);
    }

    #[test]
    fn connections_leave_room_for_other_files() {
        assert_eq!((connections(20_000), connections(4096), connections(100)), (9500, 1548, 0));
    }
}
