//! The ports of the proxy lane's listeners: who else has one, or may be given one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use proxy_bpf::abi::config::{LISTENER_COUNT_MAX, LISTENER_NET_V4, LISTENER_PORT};

use super::finding::Finding;
use super::machine::read;
use super::sockets;

const WHAT: &str = "ports of the proxy lane";

/// The ports that Weir may want: the first one of all in IPv4, all of them in IPv6.
fn range() -> (u16, u16) {
    let count = u16::try_from(LISTENER_COUNT_MAX).unwrap_or(u16::MAX);
    (LISTENER_PORT, LISTENER_PORT + count - 1)
}

/// Clients must not be given the ports of the listeners, and nobody else may have them: in this network namespace, and in
/// those of the processes in these cgroups, where the first one is enough.
pub(super) fn ports(cgroups: &[PathBuf]) -> Vec<Finding> {
    let (first, last) = range();
    let mut findings = Vec::new();
    let range = read("/proc/sys/net/ipv4/ip_local_port_range");
    if overlaps(&range, first, last) {
        let range = range.split_ascii_whitespace().collect::<Vec<_>>().join("-");
        findings.push(Finding::warning(
            WHAT,
            format!("{first}-{last} lie within net.ipv4.ip_local_port_range ({range})"),
            format!("an application may be given one first: sysctl net.ipv4.ip_local_reserved_ports={first}-{last}"),
        ));
    }
    let home = sockets::netns(Path::new("/proc/self"));
    let mut places = HashMap::from([(home.clone(), PathBuf::from("/proc/self"))]);
    for pid in cgroups.iter().flat_map(|cgroup| sockets::pids(cgroup)) {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        places.entry(sockets::netns(&proc)).or_insert(proc);
    }
    for (netns, proc) in places.iter().filter(|(netns, _)| netns.is_some()) {
        let taken =
            sockets::listening(proc).into_iter().filter(|(address, _)| is_wanted(*address, *netns == home));
        findings.extend(
            taken.filter_map(|(address, inode)| holder(address, inode, netns.as_deref(), *netns == home)),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(WHAT, format!("{first}-{last} are free for Weir")));
    }
    findings
}

/// Whether Weir may want to listen there, in its own network namespace or in that of a pod.
fn is_wanted(address: SocketAddr, is_home: bool) -> bool {
    let (first, last) = range();
    let is_any = address.ip().is_unspecified();
    let is_v4 = matches!(address, SocketAddr::V4(v4) if v4.ip().octets()[..3] == LISTENER_NET_V4);
    let is_v6 = address.is_ipv6() && address.ip().is_loopback();
    let last = if is_home && address.is_ipv6() { last } else { first };
    (is_any || is_v4 || is_v6) && (first..=last).contains(&address.port())
}

/// Names whoever holds a socket; `None` if it is a Weir, whose ports these are.
fn holder(address: SocketAddr, inode: u64, netns: Option<&Path>, is_home: bool) -> Option<Finding> {
    let holder = sockets::holder(inode);
    let who = match &holder {
        Some((_, name)) if name == "weir" => return None,
        Some((pid, name)) => format!("{name} (process {pid})"),
        None => "a process that cannot be seen".to_owned(),
    };
    if is_home {
        let advice = "move it to another port: `weir run` cannot start without this one";
        return Some(Finding::problem(WHAT, format!("{who} listens on {address}"), advice));
    }
    let netns = netns.unwrap_or(Path::new("?")).display();
    Some(Finding::warning(
        WHAT,
        format!("{who} listens on {address} in {netns}"),
        "move it to another port: until then that network namespace has the direct lane only, or what `fail` says",
    ))
}

/// Tells whether two ranges of ports meet; a reserved one does not count.
fn overlaps(range: &str, first: u16, last: u16) -> bool {
    let mut ends = range.split_ascii_whitespace().map(|end| end.parse::<u16>().ok());
    let (Some(Some(low)), Some(Some(high))) = (ends.next(), ends.next()) else { return false };
    let reserved = read("/proc/sys/net/ipv4/ip_local_reserved_ports");
    low <= last && first <= high && !(first..=last).all(|port| is_listed(&reserved, port))
}

/// Format: Documentation/networking/ip-sysctl.rst, `1,2-4,10`.
fn is_listed(list: &str, port: u16) -> bool {
    list.trim().split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let ends = (first.parse::<u16>(), last.parse::<u16>());
        matches!(ends, (Ok(first), Ok(last)) if (first..=last).contains(&port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_read_as_lists_and_ranges() {
        let list = "53,61000-61500,61502\n";
        assert!([53, 61000, 61500, 61502].iter().all(|port| is_listed(list, *port)));
        assert!(![52, 61501, 61503].iter().any(|port| is_listed(list, *port)));
        assert!(!is_listed("", 1) && !is_listed("\n", 0));
    }

    #[test]
    fn ranges_of_ports_meet_or_do_not() {
        assert!(!overlaps("32768\t60999", 61500, 61507));
        assert!(!overlaps("", 61500, 61507));
    }

    #[test]
    fn what_weir_wants_is_told_from_what_it_does_not() {
        let is = |text: &str, is_home| is_wanted(text.parse().unwrap(), is_home);
        assert!(is("127.87.0.3:61500", true) && is("0.0.0.0:61500", true) && is("[::]:61500", false));
        assert!(is("[::1]:61507", true) && !is("[::1]:61507", false) && !is("127.87.0.1:61501", true));
        assert!(!is("10.0.0.1:61500", true) && !is("127.0.0.1:61500", true));
    }
}
