//! Network namespaces with addresses, without a way out of the machine.
//!
//! Two networks hang on a cable whose other end nobody answers at: whatever Weir fails to catch dies there.
//! - 10.77.0.0/24 and fd77::/64: the application's own address (`.1`) and those of far sides (`.10` to `.19`);
//! - 10.96.0.0/16 and fd96::/64: what applications ask for. They have a route, so that the kernel has an opinion on the
//!   source address, but nobody answers there.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use std::io::Write as _;

use crate::process;

/// Lowest and highest last byte of the addresses for far sides.
const HOSTS: std::ops::RangeInclusive<u8> = 10..=19;

/// Address families of an application's socket, as a test sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// An IPv4 socket.
    V4,
    /// An IPv6 socket.
    V6,
    /// An IPv6 socket that asks for an IPv4 address in its mapped form.
    Mapped,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    /// Address number `number` that applications ask for.
    #[must_use]
    pub fn vip(self, number: u8, port: u16) -> SocketAddr {
        match self {
            Self::V4 => SocketAddr::new(Ipv4Addr::new(10, 96, 0, number).into(), port),
            Self::V6 => SocketAddr::new(v6(0xfd96, number), port),
            Self::Mapped => SocketAddr::new(mapped(Ipv4Addr::new(10, 96, 0, number)), port),
        }
    }

    /// Address that the route to a VIP gives the application.
    #[must_use]
    pub fn own(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 77, 0, 1).into(),
            Self::V6 => v6(0xfd77, 1),
            Self::Mapped => mapped(Ipv4Addr::new(10, 77, 0, 1)),
        }
    }

    /// Address of a far side; 10 to 19.
    #[must_use]
    pub fn host(self, number: u8, port: u16) -> SocketAddr {
        match self {
            Self::V4 | Self::Mapped => SocketAddr::new(Ipv4Addr::new(10, 77, 0, number).into(), port),
            Self::V6 => SocketAddr::new(v6(0xfd77, number), port),
        }
    }
}

fn v6(net: u16, number: u8) -> IpAddr {
    Ipv6Addr::new(net, 0, 0, 0, 0, 0, 0, number.into()).into()
}

fn mapped(address: Ipv4Addr) -> IpAddr {
    address.to_ipv6_mapped().into()
}

/// A network namespace; deleted when dropped.
pub struct Net {
    name: String,
}

impl Net {
    /// Makes one with a name of its own.
    ///
    /// # Errors
    /// Without root or without iproute2.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-test-{}-{count}", std::process::id());
        process::output(Command::new("ip").args(["netns", "add", &name]))?;
        let net = Self { name };
        net.set_up().context("cannot set the network namespace up")?;
        Ok(net)
    }

    fn set_up(&self) -> Result<()> {
        let mut script = String::from(
            "link set lo up\nlink add lan0 type veth peer name end0\nlink set lan0 up\nlink set end0 up\n",
        );
        script += "addr add 10.77.0.1/24 dev lan0\naddr add fd77::1/64 dev lan0 nodad\n";
        for host in HOSTS {
            // preferred_lft 0: never chosen as a source by itself
            script += &format!("addr add 10.77.0.{host}/32 dev lan0 preferred_lft 0\n");
            script += &format!("addr add fd77::{host:x}/128 dev lan0 nodad preferred_lft 0\n");
        }
        script += "route add 10.96.0.0/16 dev lan0 src 10.77.0.1\nroute add fd96::/64 dev lan0 src fd77::1\n";
        let mut ip = Command::new("ip")
            .args(["-netns", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ip")?;
        ip.stdin.take().context("the pipe was asked for above")?.write_all(script.as_bytes())?;
        let output = ip.wait_with_output()?;
        ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
        // Servers take data in a SYN: a setting per namespace (ip-sysctl, tcp_fastopen: 1 client, 2 server).
        self.run(|| fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3"))?.context("cannot set tcp_fastopen")
    }

    /// The file that names it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Puts a command inside: `nsenter` changes nothing but the network, while `ip netns exec` hides cgroups, too.
    ///
    /// `wrap` makes the command that runs `nsenter`, for example inside a cgroup.
    pub fn command(&self, wrap: impl FnOnce(&Path) -> Command, program: &Path) -> Command {
        let mut command = wrap(Path::new("nsenter"));
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a function on a thread inside; sockets that it makes stay there.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> Result<T> {
        proxy_io::netns::run_in(&self.path(), function).context("cannot enter the network namespace")
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Err(error) = process::output(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("a network namespace stays behind: {error:#}");
        }
    }
}
