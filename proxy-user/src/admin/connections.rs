//! Open connections as the kernel sees them; a proxied one is shown once, with both of its sides.

use std::collections::HashMap;
use std::net::SocketAddr;

use proxy_bpf::abi::key::Addr;
use proxy_bpf::abi::record::{Record, Tcp};
use proxy_bpf::abi::value::{facts_flag, lane};
use proxy_core::id::{EndpointId, ServiceId};
use serde::{Deserialize, Serialize};

use crate::control::Names;
use crate::record::cgroup::Application;
use crate::record::kernel::lane_name;

/// Most connections in one answer unless asked for more: 5 MB of JSON.
const LIMIT: usize = 10_000;
const NANOS_PER_SECOND: f64 = 1e9;

/// `/connections`, the youngest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionsPage {
    /// Connections that were asked for, shown or not.
    pub total: usize,
    /// As many as the limit allows.
    pub connections: Vec<Connection>,
}

/// One open connection. What is not known is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// Name of the service.
    pub service: Option<String>,
    /// Word of the lane.
    pub lane: String,
    /// Cgroup of the application, below the cgroup v2 mount.
    pub cgroup: Option<String>,
    /// Its pod as NAMESPACE/NAME.
    pub pod: Option<String>,
    /// The application's end.
    pub source: SocketAddr,
    /// What it asked for.
    pub original_dst: SocketAddr,
    /// Where its bytes really go; null in the proxy lane while no endpoint is connected.
    pub destination: Option<SocketAddr>,
    /// Endpoint of the service.
    pub endpoint: Option<SocketAddr>,
    /// True if it takes the direct lane only because no worker was there.
    pub is_fail_open: bool,
    /// TCP state of the application's socket.
    pub state: String,
    /// Time since connect().
    pub age_seconds: f64,
    /// Bytes that the application sent and the other side has acknowledged.
    pub sent_bytes: u64,
    /// Bytes that the application's socket received.
    pub received_bytes: u64,
    /// Smoothed round-trip time.
    pub rtt_us: u32,
    /// Least round-trip time, if one was measured.
    pub min_rtt_us: Option<u32>,
    /// Segments sent again.
    pub retransmits: u32,
    /// TCP state of the worker's connection to the endpoint.
    pub upstream_state: Option<String>,
    /// Its smoothed round-trip time.
    pub upstream_rtt_us: Option<u32>,
    /// Its least round-trip time.
    pub upstream_min_rtt_us: Option<u32>,
    /// Its segments sent again.
    pub upstream_retransmits: Option<u32>,
}

/// Which connections are wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    service: Option<String>,
    limit: usize,
}

impl Filter {
    /// Reads `service=NAME&limit=COUNT`.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut filter = Self { service: None, limit: LIMIT };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| format!("'{value}' is not percent-encoded UTF-8"))?;
            match key {
                "service" => filter.service = Some(value),
                "limit" => {
                    filter.limit = value.parse().map_err(|_| format!("limit '{value}' is not a number"))?
                }
                _ => return Err(format!("unknown parameter '{key}'; known are service and limit")),
            }
        }
        Ok(filter)
    }
}

/// Joins the records of one pass.
pub(super) fn page(
    live: &[Record],
    names: &Names,
    filter: &Filter,
    mut application: impl FnMut(u64) -> Option<Application>,
) -> ConnectionsPage {
    // An upstream connection is asked for by a client; two pods may have the same address.
    let upstreams: HashMap<(u64, Addr), &Record> = live
        .iter()
        .filter(|record| record.facts.lane == lane::UPSTREAM)
        .map(|record| ((record.facts.netns_cookie, record.facts.asked), record))
        .collect();
    let service = |record: &Record| names.service(ServiceId(record.facts.service)).map(|name| &**name);
    let is_wanted = |record: &&Record| {
        record.facts.lane != lane::UPSTREAM
            && filter.service.as_deref().is_none_or(|wanted| service(record) == Some(wanted))
    };
    let mut wanted: Vec<&Record> = live.iter().filter(is_wanted).collect();
    wanted.sort_by_key(|record| std::cmp::Reverse(record.facts.opened_ns));
    let total = wanted.len();
    wanted.truncate(filter.limit);
    let connections = wanted.into_iter().map(|record| {
        let is_proxied = record.facts.lane == lane::PROXY;
        let upstream =
            upstreams.get(&(record.facts.netns_cookie, record.facts.source)).copied().filter(|_| is_proxied);
        connection(record, upstream, names, application(record.facts.cgroup_id))
    });
    ConnectionsPage { total, connections: connections.collect() }
}

fn connection(
    record: &Record,
    upstream: Option<&Record>,
    names: &Names,
    application: Option<Application>,
) -> Connection {
    let Record { facts, tcp } = record;
    // In the proxy lane the application's socket goes to the worker: the way on is known by the worker's socket.
    let onward = if facts.lane == lane::PROXY { upstream } else { Some(record) };
    let endpoint = onward.and_then(|onward| names.endpoint(EndpointId(onward.facts.endpoint)));
    Connection {
        service: names.service(ServiceId(facts.service)).map(|name| name.to_string()),
        lane: lane_name(facts.lane).to_owned(),
        cgroup: application.as_ref().map(|one| one.cgroup.to_string()),
        pod: application.and_then(|one| one.pod).map(|pod| pod.to_string()),
        source: facts.source.into(),
        original_dst: facts.asked.into(),
        destination: onward.map(|onward| onward.facts.real.into()),
        endpoint: endpoint.map(|(_, address)| address),
        is_fail_open: facts.flags & facts_flag::FAIL_OPEN != 0,
        state: state_name(tcp.state).to_owned(),
        age_seconds: tcp.now_ns.saturating_sub(facts.opened_ns) as f64 / NANOS_PER_SECOND,
        sent_bytes: tcp.sent_bytes,
        received_bytes: tcp.received_bytes,
        rtt_us: tcp.rtt_us,
        min_rtt_us: min_rtt(tcp),
        retransmits: tcp.retransmits,
        upstream_state: upstream.map(|upstream| state_name(upstream.tcp.state).to_owned()),
        upstream_rtt_us: upstream.map(|upstream| upstream.tcp.rtt_us),
        upstream_min_rtt_us: upstream.and_then(|upstream| min_rtt(&upstream.tcp)),
        upstream_retransmits: upstream.map(|upstream| upstream.tcp.retransmits),
    }
}

fn min_rtt(tcp: &Tcp) -> Option<u32> {
    Some(tcp.min_rtt_us).filter(|us| *us != u32::MAX)
}

/// Word for a TCP state (include/net/tcp_states.h), as ss(8) says it.
fn state_name(state: u32) -> &'static str {
    match state {
        1 => "established",
        2 => "syn-sent",
        3 | 12 => "syn-recv",
        4 => "fin-wait-1",
        5 => "fin-wait-2",
        6 => "time-wait",
        7 => "closed",
        8 => "close-wait",
        9 => "last-ack",
        10 => "listen",
        11 => "closing",
        _ => "unknown",
    }
}

/// Undoes percent-encoding (RFC 3986, 2.1).
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |digit: Option<u8>| char::from(digit?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encodes a value of a query.
pub(super) fn encode(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if is_plain(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_proxied_connection_is_shown_once_with_both_sides() {
        let page = all("");
        assert_eq!(page.total, 3);
        let proxied = page.connections.iter().find(|one| one.lane == "proxy").unwrap();
        assert_eq!(proxied.service.as_deref(), Some("shop/db"));
        assert_eq!(proxied.original_dst, "10.96.0.11:5432".parse().unwrap());
        assert_eq!(proxied.destination, Some("10.1.0.9:5432".parse().unwrap()));
        assert_eq!(proxied.endpoint, Some("10.1.0.9:5432".parse().unwrap()));
        assert_eq!((proxied.rtt_us, proxied.upstream_rtt_us), (20, Some(900)));
        assert_eq!(proxied.cgroup.as_deref(), Some("/app.slice"));
        assert_eq!(proxied.pod.as_deref(), Some("shop/web-7d9f"));
        assert_eq!((proxied.state.as_str(), proxied.age_seconds), ("established", 2.0));
    }

    #[test]
    fn clients_with_equal_addresses_in_two_namespaces_keep_their_own_other_side() {
        let mut live = fixture::live();
        let other = |record: &Record| {
            let mut other = *record;
            other.facts.netns_cookie = 5;
            other.tcp.rtt_us += 1;
            other
        };
        live.extend(live.clone().iter().map(other));
        let page = page(&live, &fixture::names(), &Filter::parse("").unwrap(), fixture::application);
        let mut sides: Vec<_> = page
            .connections
            .iter()
            .filter(|one| one.lane == "proxy")
            .map(|one| (one.rtt_us, one.upstream_rtt_us.unwrap()))
            .collect();
        sides.sort_unstable();
        assert_eq!(sides, [(20, 900), (21, 901)]);
    }

    #[test]
    fn a_direct_connection_goes_where_the_kernel_sent_it() {
        let page = all("service=shop%2Fweb");
        assert_eq!(page.total, 1);
        let direct = &page.connections[0];
        assert_eq!(direct.lane, "direct");
        assert_eq!(direct.destination, direct.endpoint);
        assert_eq!((direct.min_rtt_us, direct.upstream_rtt_us), (None, None));
    }

    #[test]
    fn without_an_endpoint_yet_the_destination_is_not_known() {
        let mut live = fixture::live();
        live.retain(|record| record.facts.lane == lane::PROXY);
        let page = page(&live, &fixture::names(), &Filter::parse("").unwrap(), |_| None);
        assert_eq!((page.connections[0].destination, page.connections[0].endpoint), (None, None));
    }

    #[test]
    fn the_limit_keeps_the_youngest() {
        let page = all("limit=1");
        assert_eq!((page.total, page.connections.len()), (3, 1));
        assert_eq!(page.connections[0].lane, "none");
    }

    #[test]
    fn queries_are_read_strictly() {
        let service = |query: &str| Filter::parse(query).map(|filter| filter.service);
        assert_eq!(service(""), Ok(None));
        assert_eq!(service("service=shop/web&limit=5"), Ok(Some("shop/web".to_owned())));
        assert!(service("servic=shop").unwrap_err().contains("servic"));
        assert!(
            service("limit=many").is_err()
                && service("service=%zz").is_err()
                && service("service=%2").is_err()
        );
    }

    #[test]
    fn what_is_encoded_decodes() {
        for text in ["shop/web", "ä b&c=d%", ""] {
            assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        }
    }

    fn all(query: &str) -> ConnectionsPage {
        let filter = Filter::parse(query).unwrap();
        page(&fixture::live(), &fixture::names(), &filter, fixture::application)
    }
}
