//! Any valid config, printed and read again.
//!
//! What must be unique or related in a valid file (names, addresses, lanes) is derived from the place of each value;
//! everything else is free.

mod routes;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option::of;
use proptest::sample::select;
use proxy_core::addr::Cidr;
use proxy_core::pod::PodSelector;
use proxy_core::rate::Quota;
use proxy_core::snapshot::{NodeListener, ScopedQuota, Source};

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_valid_config_reads_back_from_its_print(config in config().prop_flat_map(routes::with_layer7)) {
        let printed = config.to_json();
        let compact = parse("x", &printed.to_string());
        prop_assert_eq!(compact.as_ref(), Ok(&config), "{}", compact.as_ref().err().map(ToString::to_string).unwrap_or_default());
        prop_assert_eq!(parse("x", &format!("{printed:#}")), Ok(config.clone()));
        prop_assert_eq!(parse("x", &block(&printed, 0)), Ok(config), "{}", block(&printed, 0));
    }
}

/// Prints as people do: one key for each line, indented.
fn block(value: &serde_json::Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    match value {
        serde_json::Value::Object(map) if !map.is_empty() => {
            let is_plain = |key: &str| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            let key = |key: &String| if is_plain(key) { key.clone() } else { format!("{key:?}") };
            let entry = |(name, value)| format!("\n{indent}{}: {}", key(name), block(value, depth + 1));
            map.iter().map(entry).collect()
        }
        serde_json::Value::Array(items) if !items.is_empty() => {
            items.iter().map(|item| format!("\n{indent}- {}", block(item, depth + 1))).collect()
        }
        plain => plain.to_string(),
    }
}

fn time() -> impl Strategy<Value = Duration> {
    (1_u64..100_000_000).prop_map(Duration::from_millis)
}

fn is_v6() -> impl Strategy<Value = bool> {
    any::<bool>()
}

/// An address that no other place has.
fn unique(kind: u8, is_v6: bool, service: usize, index: usize) -> SocketAddr {
    let (service, index) = (u8::try_from(service).unwrap(), u8::try_from(index).unwrap());
    let ip: IpAddr = if is_v6 {
        Ipv6Addr::new(0xfd00, kind.into(), service.into(), 0, 0, 0, 0, u16::from(index) + 1).into()
    } else {
        Ipv4Addr::new(kind, service, 0, index + 1).into()
    };
    SocketAddr::new(ip, 8080)
}

fn probe() -> impl Strategy<Value = Probe> {
    let range = (100_u16..600, 100_u16..600).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let host = || of("[a-z]{1,20}(:[1-9][0-9]{0,3})?");
    let http = ("/[!-~]{0,20}", host(), vec(range, 1..4), of("[ -~é\n\t]{1,20}"))
        .prop_map(|(path, host, status, body)| Probe::Http { is_http2: false, path, host, status, body });
    let grpc = (of("[!-~]{1,20}"), host())
        .prop_map(|(service, host)| Probe::Grpc { service: service.unwrap_or_default(), host });
    prop_oneof![Just(Probe::Tcp), http, grpc]
}

fn health() -> impl Strategy<Value = HealthCheck> {
    (time(), time(), time(), 1_u32..=100, 1_u32..=100, probe(), of(1_u16..)).prop_map(
        |(interval, unhealthy_interval, timeout, healthy, unhealthy, probe, port)| HealthCheck {
            is_tls: false,
            interval,
            unhealthy_interval: unhealthy_interval.min(interval),
            timeout: timeout.min(interval),
            healthy,
            unhealthy,
            probe,
            port,
        },
    )
}

fn outlier() -> impl Strategy<Value = Outlier> {
    (0_u32..=1_000_000, time(), time(), 0_u8..=100, 0_u8..=100).prop_map(
        |(consecutive_failures, base_ejection, max_ejection, max_ejected_percent, panic_percent)| Outlier {
            consecutive_failures,
            consecutive_5xx: 0,
            base_ejection,
            max_ejection: max_ejection.max(base_ejection),
            max_ejected_percent,
            panic_percent,
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    let set = (time(), 1_u32..=16, of(time()), of(time()), time(), of(1_u32..), of(1_u32..)).prop_map(
        |(connect_timeout, connect_attempts, idle_timeout, half_close_timeout, user_timeout, all, each)| {
            Limits {
                connect_timeout,
                connect_attempts,
                idle_timeout,
                half_close_timeout,
                user_timeout,
                max_connections: all,
                max_connections_per_endpoint: each,
                max_requests: None,
                max_pending: None,
                max_retries: None,
                adaptive: None,
                is_set: true,
            }
        },
    );
    let unset = any::<(bool, bool)>().prop_map(|(is_idle_off, is_half_off)| Limits {
        connect_timeout: default::CONNECT_TIMEOUT,
        connect_attempts: default::CONNECT_ATTEMPTS,
        idle_timeout: if is_idle_off { None } else { default::IDLE_TIMEOUT },
        half_close_timeout: if is_half_off { None } else { default::HALF_CLOSE_TIMEOUT },
        user_timeout: default::USER_TIMEOUT,
        max_connections: None,
        max_connections_per_endpoint: None,
        max_requests: None,
        max_pending: None,
        max_retries: None,
        adaptive: None,
        is_set: false,
    });
    prop_oneof![set, unset]
}

pub(super) const POLICIES: [Policy; 6] = [
    Policy::RoundRobin,
    Policy::Random,
    Policy::LeastRequest,
    Policy::LeastLatency,
    Policy::Maglev,
    Policy::RingHash,
];

fn service() -> impl Strategy<Value = ServiceConfig> {
    let endpoint = (is_v6(), 0_u32..=65_535, of("[!-~]{1,20}"));
    let loss = prop_oneof![
        Just(EndpointLoss::Keep),
        Just(EndpointLoss::Reset),
        Just(EndpointLoss::Drain(Duration::ZERO)),
        time().prop_map(EndpointLoss::Drain)
    ];
    (
        vec(is_v6(), 1..4),
        select(vec![LaneChoice::Auto, LaneChoice::Direct, LaneChoice::Proxy]),
        vec(endpoint, 0..5),
        select(POLICIES.to_vec()),
        of(health()),
        outlier(),
        limits(),
        loss,
        select(vec![Fail::Open, Fail::Closed]),
    )
        .prop_map(
            |(addresses, lane, endpoints, policy, health, outlier, limits, on_endpoint_loss, fail)| {
                let endpoints =
                    endpoints.into_iter().enumerate().map(|(i, (is_v6, weight, zone))| EndpointConfig {
                        address: unique(11, is_v6, 0, i),
                        weight: if i == 0 { weight.max(1) } else { weight },
                        zone,
                    });
                ServiceConfig {
                    name: String::new(),
                    addresses: addresses
                        .into_iter()
                        .enumerate()
                        .map(|(i, is_v6)| unique(10, is_v6, 0, i))
                        .collect(),
                    protocol: Protocol::Tcp,
                    tls: None,
                    proxy_protocol: None,
                    routes: Vec::new(),
                    http: HttpLimits::DEFAULT,
                    lane,
                    endpoints: endpoints.collect(),
                    policy,
                    health,
                    outlier,
                    limits,
                    rates: Vec::new(),
                    on_endpoint_loss,
                    fail,
                }
            },
        )
}

/// Gives a service its place: a name and addresses that no other has, and the lane that it can have.
fn placed(mut service: ServiceConfig, place: usize) -> ServiceConfig {
    service.name = format!("shop/s{place}");
    for (i, address) in service.addresses.iter_mut().enumerate() {
        *address = unique(10, address.is_ipv6(), place, i);
    }
    for (i, endpoint) in service.endpoints.iter_mut().enumerate() {
        endpoint.address = unique(11, endpoint.address.is_ipv6(), place, i);
    }
    let is_served = |is_v6: bool| {
        let is_asked = service.addresses.iter().any(|a| a.is_ipv6() == is_v6);
        let can_serve = service.endpoints.iter().any(|e| e.weight > 0 && e.address.is_ipv6() == is_v6);
        !is_asked || can_serve || service.endpoints.is_empty()
    };
    let is_kernel_policy = proxy_core::lane::is_kernel_policy(service.policy);
    let can_be_direct = is_kernel_policy && !service.limits.is_set && is_served(false) && is_served(true);
    if service.lane == LaneChoice::Direct && !can_be_direct {
        service.lane = LaneChoice::Auto;
    }
    service
}

fn intercept() -> impl Strategy<Value = Intercept> {
    let scope = prop_oneof![
        "/[a-z0-9]{1,8}(/[a-z0-9._@-]{0,4}[a-z]){0,3}".prop_map(Scope::Cgroup),
        "/run/netns/[a-z0-9 _-]{0,8}[a-z]".prop_map(Scope::Netns),
        (
            btree_set("[a-z]([a-z0-9-]{0,8}[0-9])?", 0..3),
            btree_map("([a-z]{1,3}[.]io/)?[a-z]", "([A-Z][a-z0-9._-]{0,4}[a-z])?", 0..3)
        )
            .prop_map(|(namespaces, labels)| Scope::Pods(PodSelector { namespaces, labels })),
    ];
    let cidr = (any::<u32>(), 0_u8..=32).prop_filter_map("outside of the services", |(bits, length)| {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let cidr: Cidr = format!("{}/{length}", Ipv4Addr::from(bits & mask)).parse().ok()?;
        let is_free = !cidr.contains(Ipv4Addr::new(10, 0, 0, 1).into())
            && cidr.address() != IpAddr::from([10, 0, 0, 0]);
        (is_free && length > 8 && bits >> 24 != 10).then_some(cidr)
    });
    let source = select(vec![Source::Pod, Source::Node]);
    let node_listener = select(vec![
        NodeListener::Off,
        NodeListener::Auto,
        NodeListener::On(vec![IpAddr::from([10, 0, 0, 1])]),
        NodeListener::On(vec![
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
            IpAddr::from([10, 0, 0, 1]),
        ]),
    ]);
    let bytes = Quota::LEAST_BYTES_PER_SECOND..=Quota::MOST_BYTES_PER_SECOND;
    let quota = (of(1_u32..), of(1_u32..), of(bytes)).prop_map(|(max_connections, connections, bytes)| {
        Quota { max_connections, connections_per_second: connections, bytes_per_second: bytes }
    });
    (vec(scope, 0..4), vec(cidr, 0..4), vec(1_u16..8080, 0..4), (source, node_listener), vec(quota, 2))
        .prop_map(|(scopes, exclude_cidrs, ports, (source, node_listener), quotas)| Intercept {
            // Some scope, then everybody.
            quotas: [scopes.first().cloned().into_iter().collect(), Vec::new()]
                .into_iter()
                .zip(quotas)
                .skip(usize::from(scopes.is_empty()))
                .map(|(scopes, quota)| ScopedQuota { scopes, quota })
                .collect(),
            fail_closed: scopes.iter().take(1).cloned().collect(),
            scopes: scopes.into_iter().collect(),
            exclude_cidrs,
            exclude_ports: ports.into_iter().collect(),
            source,
            node_listener,
        })
}

fn kubelet() -> impl Strategy<Value = KubeletConfig> {
    let authenticated = ("/[a-z]{1,9}", of("[a-z]{1,9}"), "/[a-z]{1,9}").prop_map(|(ca, sni, token)| {
        KubeletAccess::Authenticated { ca: ca.into(), sni, token: token.into() }
    });
    let access = prop_oneof![Just(KubeletAccess::ReadOnly), authenticated];
    (is_v6(), access, 1_000_u64..100_000_000).prop_map(|(is_v6, access, interval_ms)| KubeletConfig {
        address: unique(13, is_v6, 0, 0),
        access,
        interval: Duration::from_millis(interval_ms),
    })
}

fn overload() -> impl Strategy<Value = OverloadPolicy> {
    (of(32_u64 << 20..1 << 40), [(); 5].map(|()| of(1_u8..=100))).prop_map(|(max_memory, mut thresholds)| {
        thresholds.sort_by_key(|threshold| threshold.unwrap_or(100));
        OverloadPolicy { max_memory, thresholds }
    })
}

fn config() -> impl Strategy<Value = Config> {
    let workers = prop_oneof![Just(Workers::Auto), (1_u16..=1024).prop_map(Workers::Count)];
    let log_format = || select(vec![LogFormat::Text, LogFormat::Json]);
    let level =
        select(vec![LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace]);
    (
        vec(service(), 0..6),
        vec((is_v6(), any::<prop::sample::Index>()), 0..4),
        (intercept(), kubelet()),
        (
            workers,
            select(vec![IoChoice::Auto, IoChoice::Ring, IoChoice::Epoll]),
            of((1_u64..=1000).prop_map(Duration::from_micros)),
        ),
        ("/[ -~]{0,40}x", any::<bool>(), of(("/var/log/[ -.0-~]{0,40}x", log_format()))),
        (level, log_format()),
        (time(), overload()),
    )
        .prop_map(
            |(
                services,
                listeners,
                (intercept, kubelet),
                (workers, io, busy_poll),
                (socket, has_metrics, access),
                log,
                (drain, overload),
            )| {
                let services: Vec<_> = services.into_iter().enumerate().map(|(i, s)| placed(s, i)).collect();
                let listener = |(i, (is_v6, of)): (usize, (bool, prop::sample::Index))| ListenerConfig {
                    address: unique(12, is_v6, 0, i),
                    protocol: Protocol::Tcp,
                    serves: ServesConfig::Service(services[of.index(services.len())].name.clone()),
                    expects_proxy_header: false,
                    trusted_proxies: Vec::new(),
                    tls: None,
                    http: HttpLimits::DEFAULT,
                };
                let listeners = if services.is_empty() { vec![] } else { listeners };
                let socket = if socket.split('/').any(|part| part == "." || part == "..") {
                    "/s".into()
                } else {
                    socket
                };
                Config {
                    listeners: listeners.into_iter().enumerate().map(listener).collect(),
                    routes: Vec::new(),
                    inbound: Vec::new(),
                    intercept,
                    kubelet,
                    workers,
                    io,
                    busy_poll,
                    admin: AdminConfig { address: "127.0.0.1:15000".parse().unwrap(), socket: socket.into() },
                    metrics: has_metrics.then(|| "0.0.0.0:15020".parse().unwrap()),
                    access_log: access.map(|(path, format)| AccessLogConfig { path: path.into(), format }),
                    log: LogConfig { level: log.0, format: log.1 },
                    drain_timeout: drain,
                    overload,
                    allow_faults: true,
                    services,
                }
            },
        )
}
