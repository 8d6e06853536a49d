//! Open TCP connections of the applications in a cgroup, from `/proc`: the ones that Weir came too late for.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// TCP_ESTABLISHED and TCP_LISTEN as `/proc/net/tcp` prints them.
const ESTABLISHED: &str = "01";
const LISTENING: &str = "0A";

/// Lists the other ends of all established TCP connections that processes in a cgroup, or below it, hold open.
///
/// `cgroup` is a folder of the mounted hierarchy. Processes that end meanwhile, or may not be looked at, are left out.
pub(super) fn established(cgroup: &Path) -> Vec<SocketAddr> {
    let mut tables: HashMap<PathBuf, HashMap<u64, SocketAddr>> = HashMap::new();
    let mut seen: HashSet<u64> = HashSet::new();
    let mut remotes = Vec::new();
    for pid in pids(cgroup) {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let Ok(netns) = std::fs::read_link(proc.join("ns/net")) else { continue };
        let table = tables.entry(netns).or_insert_with(|| table(&proc));
        let inodes = sockets(&proc);
        // Forked processes share sockets: each counts once.
        let remote = |inode: u64| table.get(&inode).copied().filter(|_| seen.insert(inode));
        remotes.extend(inodes.into_iter().filter_map(remote));
    }
    remotes
}

/// The network namespace of a process.
pub(super) fn netns(proc: &Path) -> Option<PathBuf> {
    std::fs::read_link(proc.join("ns/net")).ok()
}

/// Addresses that somebody listens on in a process's network namespace, with the inodes of the sockets.
pub(super) fn listening(proc: &Path) -> Vec<(SocketAddr, u64)> {
    let lines = |name| std::fs::read_to_string(proc.join("net").join(name)).unwrap_or_default();
    [lines("tcp"), lines("tcp6")].iter().flat_map(|text| text.lines().filter_map(listener)).collect()
}

/// Finds a process that holds a socket: its id and name. Looks at every descriptor of the machine until it is found.
pub(super) fn holder(inode: u64) -> Option<(u32, String)> {
    let pids = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| sockets(Path::new(&format!("/proc/{pid}"))).contains(&inode))?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some((pid, name.trim_end().to_owned()))
}

/// Processes in a cgroup or below it.
pub(super) fn pids(cgroup: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    let mut todo = vec![cgroup.to_owned()];
    while let Some(dir) = todo.pop() {
        let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(entry.path());
            }
        }
    }
    found
}

/// Inodes of a process's sockets.
fn sockets(proc: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let link = std::fs::read_link(entry.path()).ok()?;
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// Established connections in a process's network namespace, by inode.
fn table(proc: &Path) -> HashMap<u64, SocketAddr> {
    let read = |name| std::fs::read_to_string(proc.join("net").join(name)).unwrap_or_default();
    [read("tcp"), read("tcp6")].iter().flat_map(|text| text.lines().filter_map(entry)).collect()
}

/// One line of `/proc/net/tcp` or `tcp6`: inode and other end, if it is established.
fn entry(line: &str) -> Option<(u64, SocketAddr)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (remote, state, inode) = (fields.get(2)?, fields.get(3)?, fields.get(9)?);
    if *state != ESTABLISHED {
        return None;
    }
    Some((inode.parse().ok()?, address(remote)?))
}

/// The same of one that listens: its own end, and inode.
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    (*state == LISTENING).then_some(())?;
    Some((address(local)?, inode.parse().ok()?))
}

/// Address and port in hexadecimal: the port as a number, the address as words in the machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word =
        |index: usize| u32::from_str_radix(ip.get(index * 8..index * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    if ip.len() == 8 {
        return Some((Ipv4Addr::from(word(0)?), port).into());
    }
    let mut octets = [0; 16];
    for (index, bytes) in octets.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *bytes = word(index)?;
    }
    Some(SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_net_tcp_are_understood() {
        let v4 = "   1: 0100007F:1F90 0200007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 20";
        let v6 = "   0: 0000000000000000FFFF00000100007F:9C40 0000000000000000FFFF00000200007F:0050 01 0:0 00:0 0 0 0 7 1";
        if cfg!(target_endian = "little") {
            let remote: SocketAddr = "127.0.0.2:80".parse().unwrap();
            assert_eq!(entry(v4), Some((4242, remote)));
            assert_eq!(entry(v6), Some((7, remote)), "v4-mapped is IPv4");
        }
        assert_eq!(entry(&v4.replace(" 01 ", " 0A ")), None, "listening");
        assert_eq!(entry("  sl  local_address rem_address   st tx_queue"), None);
        assert_eq!(entry(""), None);
    }

    #[test]
    fn a_connection_of_this_process_is_found_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(server).unwrap();
        let dir = std::env::temp_dir().join(format!("weir-sockets-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("below")).unwrap();
        // A folder that looks like a cgroup with this process in it, twice.
        let pid = std::process::id().to_string();
        std::fs::write(dir.join("cgroup.procs"), "").unwrap();
        std::fs::write(dir.join("below/cgroup.procs"), format!("{pid}\n{pid}\n")).unwrap();
        let found = established(&dir);
        assert_eq!(found.iter().filter(|remote| **remote == server).count(), 1, "{found:?}");
        let listeners = super::listening(Path::new("/proc/self"));
        let (_, inode) = listeners.into_iter().find(|(address, _)| *address == server).unwrap();
        assert_eq!(holder(inode).unwrap().0, std::process::id());
        drop(client);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
