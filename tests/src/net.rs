//! Network namespaces with addresses, without a way out of the machine.
//!
//! Two of them and a cable in between: applications and Weir live in the near one, servers in the far one.
//! - 10.77.0.0/24 and fd77::/64 are the cable: `.1` is the application's own address, `.20` to `.29` are further ones
//!   that it may bind, `.10` to `.19` are those of servers;
//! - 10.96.0.0/16 and fd96::/64 are what applications ask for. They have a route, so that the kernel has an opinion on
//!   the source address, but nobody answers there: whatever Weir fails to catch dies on the cable.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use std::io::Write as _;

use proxy_io::netns::Netns;

use crate::process;

/// Last bytes of the servers' addresses.
const SERVERS: std::ops::RangeInclusive<u8> = 10..=19;
/// Last bytes of the addresses that an application may bind.
pub const SOURCES: std::ops::RangeInclusive<u8> = 20..=29;

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

    /// Address at which nobody answers, for as long as anybody waits: what is sent there is lost, and no neighbor is missed
    /// (which would be an error after three seconds).
    #[must_use]
    pub fn silent(self, port: u16) -> SocketAddr {
        self.vip(SILENT, port)
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

    /// Address of a pod.
    #[must_use]
    pub fn pod(self, number: u8) -> IpAddr {
        let v4 = Ipv4Addr::new(10, 78, number, 2);
        match self {
            Self::V4 => v4.into(),
            Self::V6 => Ipv6Addr::new(0xfd78, 0, 0, number.into(), 0, 0, 0, 2).into(),
            Self::Mapped => mapped(v4),
        }
    }

    /// Address of a server, one of ten: 10 to 19; or, with port 0, of an application ([`SOURCES`]).
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

/// Where somebody lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Applications and Weir.
    Near,
    /// Servers.
    Far,
    /// Applications in a namespace of their own, by number; see [`Net::add_pod`].
    Pod(u8),
}

/// Two network namespaces; deleted when dropped.
pub struct Net {
    near: Namespace,
    far: Namespace,
    pods: Mutex<BTreeMap<u8, Namespace>>,
}

impl Net {
    /// Makes them, with names of their own.
    ///
    /// # Errors
    /// Without root or without iproute2.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let make = |side| Namespace::new(format!("weir-test-{}-{count}-{side}", std::process::id()));
        let net = Self { near: make("near")?, far: make("far")?, pods: Mutex::default() };
        net.set_up().context("cannot set the network namespaces up")?;
        Ok(net)
    }

    fn set_up(&self) -> Result<()> {
        let far_name = &self.far.0;
        let near = format!("link add lan0 type veth peer name lan0 netns {far_name}\n");
        self.near.ip(&(near + &addresses(std::iter::once(1).chain(SOURCES)) + ROUTES + &silent()))?;
        self.far.ip(&addresses(SERVERS))?;
        for side in [Side::Near, Side::Far] {
            // Data in a SYN: a setting per namespace (ip-sysctl, tcp_fastopen: 1 client, 2 server).
            self.run(side, || fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3"))?
                .context("cannot set tcp_fastopen")?;
        }
        Ok(())
    }

    /// Lets ports of connections that have ended be used again after a second, for clients that connect faster than a port for
    /// each minute allows (ip-sysctl, tcp_tw_reuse).
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn reuse_ports(&self, side: Side) -> Result<()> {
        self.run(side, || fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1"))?
            .context("cannot set tcp_tw_reuse")
    }

    /// Lets the far side pass on what pods send to each other, and to the near side and back, as a node does.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn connect_pods(&self) -> Result<()> {
        self.near.ip(ROUTES_TO_PODS)?;
        let set = || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        };
        self.run(Side::Far, set)?.context("cannot let the far side forward")
    }

    /// Puts a cable between the far sides of two nodes, by which each sends what is for pods that it does not have: their numbers
    /// differ.
    ///
    /// # Errors
    /// What iproute2 says.
    pub fn join(&self, other: &Self) -> Result<()> {
        self.far.ip(&format!("link add node0 type veth peer name node0 netns {}\n", other.far.0))?;
        for (net, own, next) in [(self, 1, 2), (other, 2, 1)] {
            net.far.ip(&format!(
                "link set node0 up\naddr add 10.70.0.{own}/24 dev node0\naddr add fd70::{own}/64 dev node0 nodad\n\
                 route add 10.78.0.0/15 via 10.70.0.{next}\nroute add fd78::/16 via fd70::{next}\n"
            ))?;
        }
        Ok(())
    }

    /// Takes the far side off the network without a word, as a machine that loses power: its addresses are gone, and
    /// what is sent to them is dropped.
    ///
    /// # Errors
    /// What iproute2 says.
    pub fn lose_far(&self) -> Result<()> {
        self.far.ip("addr flush dev lan0\n")
    }

    /// Takes the cable between both sides out, so that the near side soon finds nobody at the far side's addresses.
    ///
    /// # Errors
    /// What iproute2 says.
    pub fn cut_cable(&self) -> Result<()> {
        self.far.ip("link set lan0 down\n")
    }

    /// Makes a namespace for applications, with a cable to the far side and all its routes that way. Its addresses are
    /// those of [`Family::pod`] for `host`: its own number, or that of another pod to have the same addresses.
    ///
    /// The far side forwards nothing: what Weir fails to catch dies there.
    ///
    /// # Errors
    /// What iproute2 says.
    pub fn add_pod(&self, number: u8, host: u8) -> Result<Side> {
        let pod = Namespace::new(self.pod_name(number))?;
        let cable = format!("pod{number}");
        self.far.ip(&format!(
            "link add {cable} type veth peer name lan0 netns {name}\nlink set {cable} up\n\
             addr add 10.78.{host}.1/24 dev {cable}\naddr add fd78:0:0:{host:x}::1/64 dev {cable} nodad\n",
            name = pod.0
        ))?;
        pod.ip(&format!(
            "link set lo up\nlink set lan0 up\n\
             addr add 10.78.{host}.2/24 dev lan0\naddr add fd78:0:0:{host:x}::2/64 dev lan0 nodad\n\
             route add default via 10.78.{host}.1\nroute add default via fd78:0:0:{host:x}::1\n"
        ))?;
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(number, pod);
        Ok(Side::Pod(number))
    }

    /// Drops what a pod sends to the near side, as a network policy does, without a word.
    ///
    /// # Errors
    /// What iproute2 says.
    pub fn cut_pod_from_near(&self, number: u8) -> Result<()> {
        for (option, family) in [("-4", Family::V4), ("-6", Family::V6)] {
            let script = format!("rule add iif pod{number} to {} blackhole\n", family.own());
            self.far.ip_with(&[option], &script)?;
        }
        Ok(())
    }

    /// Takes a pod's loopback interface down or up again.
    ///
    /// # Errors
    /// What iproute2 says.
    pub fn set_loopback(&self, number: u8, state: &str) -> Result<()> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.get(&number).context("there is no such pod")?.ip(&format!("link set lo {state}\n"))
    }

    /// Removes the name of a pod's namespace; it ends when nobody is inside or holds it any more.
    pub fn remove_pod(&self, number: u8) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// Whether the namespace of a pod is still alive somewhere: its cable goes with it.
    ///
    /// # Panics
    /// If the far side cannot be entered.
    #[must_use]
    pub fn has_pod(&self, number: u8) -> bool {
        let is_there = || has_link(&format!("pod{number}"));
        self.run(Side::Far, is_there).expect("root may enter")
    }

    /// Cables from the far side to namespaces other than the near side that are still alive.
    ///
    /// # Panics
    /// If the far side cannot be entered.
    #[must_use]
    pub fn cables(&self) -> usize {
        let count = || {
            let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            let names = text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
            names.filter(|name| name.starts_with('p')).count()
        };
        self.run(Side::Far, count).expect("root may enter")
    }

    fn pod_name(&self, number: u8) -> String {
        self.far.0.replace("-far", &format!("-pod{number}"))
    }

    /// The file that names a namespace; that of a pod may not be there (yet).
    #[must_use]
    pub fn path(&self, side: Side) -> PathBuf {
        match side {
            Side::Near => self.near.path(),
            Side::Far => self.far.path(),
            Side::Pod(number) => Namespace::path_of(&self.pod_name(number)),
        }
    }

    /// Puts a command inside: `nsenter` changes nothing but the network, while `ip netns exec` hides cgroups, too.
    ///
    /// `wrap` makes the command that runs `nsenter`, for example inside a cgroup.
    pub fn command(&self, side: Side, wrap: impl FnOnce(&Path) -> Command, program: &Path) -> Command {
        let mut command = wrap(Path::new("nsenter"));
        command.arg(format!("--net={}", self.path(side).display())).arg("--").arg(program);
        command
    }

    /// Runs a function inside; sockets that it makes stay there.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn run<T>(&self, side: Side, function: impl FnOnce() -> T) -> Result<T> {
        let within = Netns::open(&self.path(side)).and_then(|netns| netns.within(function));
        within.context("cannot enter the network namespace")
    }
}

const ROUTES: &str =
    "route add 10.96.0.0/16 dev lan0 src 10.77.0.1\nroute add fd96::/64 dev lan0 src fd77::1\n";

/// Those of [`Net::add_pod`], and of `python/swarm.py` from 10.79.0.0 on.
const ROUTES_TO_PODS: &str = "route add 10.78.0.0/15 via 10.77.0.10\nroute add 10.80.0.0/12 via 10.77.0.10\n\
                              route add fd78::/16 via fd77::a\n";

/// Number of the VIP of [`Family::silent`].
const SILENT: u8 = 200;

/// Commands of iproute2 that send the silent addresses to a machine which is not there.
fn silent() -> String {
    let neighbor = |family: Family| {
        let address = family.silent(0).ip();
        format!("neigh add {address} lladdr 02:00:00:00:00:c8 dev lan0 nud permanent\n")
    };
    [Family::V4, Family::V6].map(neighbor).concat()
}

/// Whether this thread's namespace has an interface: `/proc/thread-self/net` shows it, unlike `/sys`.
fn has_link(name: &str) -> bool {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    text.lines().any(|line| line.trim_start().starts_with(&format!("{name}:")))
}

/// Commands of iproute2 that bring the interfaces up and give them addresses.
fn addresses(numbers: impl Iterator<Item = u8>) -> String {
    let mut script = String::from("link set lo up\nlink set lan0 up\n");
    for number in numbers {
        // what is not the first is never chosen as a source by itself
        let rank = if SOURCES.contains(&number) { " preferred_lft 0" } else { "" };
        script += &format!("addr add 10.77.0.{number}/24 dev lan0{rank}\n");
        script += &format!("addr add fd77::{number:x}/64 dev lan0 nodad{rank}\n");
    }
    script
}

struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Result<Self> {
        process::output(Command::new("ip").args(["netns", "add", &name]))?;
        Ok(Self(name))
    }

    fn path(&self) -> PathBuf {
        Self::path_of(&self.0)
    }

    fn path_of(name: &str) -> PathBuf {
        Path::new("/run/netns").join(name)
    }

    /// Runs many commands of iproute2 inside.
    fn ip(&self, script: &str) -> Result<()> {
        self.ip_with(&[], script)
    }

    fn ip_with(&self, options: &[&str], script: &str) -> Result<()> {
        let mut ip = Command::new("ip")
            .args(options)
            .args(["-netns", &self.0, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ip")?;
        ip.stdin.take().context("the pipe was asked for above")?.write_all(script.as_bytes())?;
        let output = ip.wait_with_output()?;
        ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = process::output(Command::new("ip").args(["netns", "del", &self.0])) {
            eprintln!("a network namespace stays behind: {error:#}");
        }
    }
}
