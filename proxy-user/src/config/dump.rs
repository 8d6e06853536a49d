//! From a [`Config`] back to what one would write: for `/config_dump`, and to prove that nothing is lost on the way in.

mod http;
mod inbound;
mod pods;
mod route;

use std::collections::HashSet;
use std::time::Duration;

use proxy_core::addr::Cidr;
use proxy_core::load::adaptive::AdaptivePolicy;
use proxy_core::overload::{OverloadPolicy, Rung};
use proxy_core::proxy_protocol::Version;
use proxy_core::rate::{Quota, RateLimit};
use proxy_core::service::{
    EndpointLoss, Fail, HealthCheck, LaneChoice, Limits, Outlier, Policy, Probe, Protocol,
};
use proxy_core::snapshot::{Intercept, NodeListener, Scope, ScopedQuota, Source};

use super::de::At;
use super::text::{
    Address, BodyPart, CgroupPath, FilePath, HostPort, HttpPath, Name, Network, NodeIp, Percent,
    PercentOrOff, ShortTime, Size, SocketPath, StatusRange, Time, TimeOrOff, TimeOrZero, Word,
};
use super::{
    Config, IoChoice, ListenerConfig, LogFormat, LogLevel, ServesConfig, ServiceConfig, Workers, default,
    file,
};

impl Config {
    /// Prints the config in force, defaults included, in the form of the file: it reads back as the same config.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(file(self))
            .expect("the file's types are maps with text keys, lists, texts and numbers")
    }
}

fn file(config: &Config) -> file::File {
    file::File {
        listeners: config.listeners.iter().map(|l| At::nowhere(listener(l))).collect(),
        intercept: file::Intercept {
            inbound: config.inbound.iter().map(|one| At::nowhere(inbound::inbound(one))).collect(),
            kubelet: pods::kubelet(&config.kubelet),
            ..intercept(&config.intercept)
        },
        routes: (!config.routes.is_empty())
            .then(|| At::nowhere(config.routes.iter().map(|r| At::nowhere(route::route(r))).collect())),
        services: At::nowhere(config.services.iter().map(|s| At::nowhere(service(s))).collect()),
        workers: Some(match config.workers {
            Workers::Auto => file::Workers::Auto(file::Auto::Auto),
            Workers::Count(count) => file::Workers::Count(count),
        }),
        io: Some(match config.io {
            IoChoice::Auto => file::Io::Auto,
            IoChoice::Ring => file::Io::Ring,
            IoChoice::Epoll => file::Io::Epoll,
        }),
        busy_poll: config.busy_poll.map(ShortTime),
        admin: file::Admin {
            address: Some(At::nowhere(Address(config.admin.address))),
            socket: Some(SocketPath(config.admin.socket.clone())),
        },
        metrics: config.metrics.map(|address| file::Metrics { address: At::nowhere(Address(address)) }),
        access_log: config.access_log.as_ref().map(|log| file::AccessLog {
            path: FilePath(log.path.clone()),
            format: Some(format(log.format)),
        }),
        log: file::Log { level: Some(level(config.log.level)), format: Some(format(config.log.format)) },
        drain_timeout: Some(TimeOrZero(config.drain_timeout)),
        overload: overload(&config.overload),
        allow_faults: Some(config.allow_faults),
    }
}

fn overload(policy: &OverloadPolicy) -> file::Overload {
    let threshold = |rung| Some(At::nowhere(PercentOrOff(policy.threshold(rung))));
    file::Overload {
        max_memory: policy.max_memory.map(|bytes| At::nowhere(Size(bytes))),
        stop_keep_alive: threshold(Rung::StopKeepAlive),
        refuse_low: threshold(Rung::RefuseLow),
        refuse: threshold(Rung::Refuse),
        refuse_high: threshold(Rung::RefuseHigh),
        reset: threshold(Rung::Reset),
    }
}

fn listener(listener: &ListenerConfig) -> file::Listener {
    let (service, routes) = match &listener.serves {
        ServesConfig::Service(name) => (Some(At::nowhere(Name(name.clone()))), None),
        ServesConfig::Routes(routes) => (None, names(routes)),
    };
    file::Listener {
        address: At::nowhere(Address(listener.address)),
        protocol: Some(protocol(listener.protocol)),
        service,
        routes,
        proxy_protocol: listener.expects_proxy_header.then_some(file::ProxyHeader::Required),
        trusted_proxies: networks(&listener.trusted_proxies),
        tls: listener.tls.as_ref().map(http::server_tls),
        http: http::limits(&listener.http),
    }
}

/// A list that is left out if it is empty.
fn networks(networks: &[Cidr]) -> Option<At<Vec<At<Network>>>> {
    let network = |cidr: &Cidr| At::nowhere(Network(*cidr));
    (!networks.is_empty()).then(|| At::nowhere(networks.iter().map(network).collect()))
}

fn names(names: &[String]) -> Option<At<Vec<At<Name>>>> {
    let name = |name: &String| At::nowhere(Name(name.clone()));
    (!names.is_empty()).then(|| At::nowhere(names.iter().map(name).collect()))
}

fn protocol(protocol: Protocol) -> file::Protocol {
    match protocol {
        Protocol::Tcp => file::Protocol::Tcp,
        Protocol::Tls => file::Protocol::Tls,
        Protocol::Http => file::Protocol::Http,
        Protocol::Http2 => file::Protocol::Http2,
        Protocol::Auto => file::Protocol::Auto,
    }
}

fn intercept(intercept: &Intercept) -> file::Intercept {
    let scopes = |scopes: &HashSet<Scope>| -> Vec<At<file::Scope>> {
        let mut scopes: Vec<&Scope> = scopes.iter().collect();
        scopes.sort();
        scopes.into_iter().map(|one| At::nowhere(scope(one))).collect()
    };
    let mut ports: Vec<u16> = intercept.exclude_ports.iter().copied().collect();
    ports.sort_unstable();
    file::Intercept {
        inbound: Vec::new(),
        kubelet: file::Kubelet::default(),
        limits: intercept.quotas.iter().map(|entry| At::nowhere(quota(entry))).collect(),
        scopes: scopes(&intercept.scopes),
        fail_closed: scopes(&intercept.fail_closed),
        exclude: file::Exclude {
            cidrs: intercept.exclude_cidrs.iter().map(|cidr| At::nowhere(Network(*cidr))).collect(),
            ports: ports.into_iter().map(At::nowhere).collect(),
        },
        source: Some(match intercept.source {
            Source::Pod => file::Source::Pod,
            Source::Node => file::Source::Node,
        }),
        node_listener: Some(At::nowhere(match &intercept.node_listener {
            NodeListener::Auto => file::NodeListener::Choice(file::NodeListenerChoice::Auto),
            NodeListener::Off => file::NodeListener::Choice(file::NodeListenerChoice::Off),
            NodeListener::On(ips) => file::NodeListener::On(ips.iter().copied().map(NodeIp).collect()),
        })),
    }
}

fn quota(entry: &ScopedQuota) -> file::ApplicationLimits {
    let Quota { max_connections, connections_per_second, bytes_per_second } = entry.quota;
    file::ApplicationLimits {
        scopes: entry.scopes.iter().map(|one| At::nowhere(scope(one))).collect(),
        max_connections,
        connections_per_second,
        bytes_per_second: bytes_per_second.map(|bytes| At::nowhere(Size(bytes))),
    }
}

fn scope(scope: &Scope) -> file::Scope {
    match scope {
        Scope::Cgroup(path) => file::Scope::Cgroup(CgroupPath(path.clone())),
        Scope::Netns(path) => file::Scope::Netns(FilePath(path.into())),
        Scope::Pods(selector) => file::Scope::Pods(pods::selector(selector)),
    }
}

fn proxy_protocol(version: Version) -> file::ProxyProtocol {
    match version {
        Version::V1 => file::ProxyProtocol::V1,
        Version::V2 => file::ProxyProtocol::V2,
    }
}

fn service(service: &ServiceConfig) -> file::Service {
    let endpoint = |endpoint: &super::EndpointConfig| file::Endpoint {
        address: At::nowhere(Address(endpoint.address)),
        weight: Some(endpoint.weight),
        zone: endpoint.zone.clone().map(Word),
    };
    let (on_endpoint_loss, drain_timeout) = match service.on_endpoint_loss {
        EndpointLoss::Keep => (file::EndpointLoss::Keep, None),
        EndpointLoss::Drain(time) => (file::EndpointLoss::Drain, Some(TimeOrZero(time))),
        EndpointLoss::Reset => (file::EndpointLoss::Reset, None),
    };
    file::Service {
        name: At::nowhere(Name(service.name.clone())),
        addresses: service.addresses.iter().map(|address| At::nowhere(Address(*address))).collect(),
        protocol: Some(protocol(service.protocol)),
        tls: service.tls.as_ref().map(http::client_tls),
        proxy_protocol: service.proxy_protocol.map(proxy_protocol),
        routes: names(&service.routes),
        http: http::limits(&service.http),
        lane: Some(At::nowhere(match service.lane {
            LaneChoice::Auto => file::Lane::Auto,
            LaneChoice::Direct => file::Lane::Direct,
            LaneChoice::Proxy => file::Lane::Proxy,
        })),
        endpoints: Some(At::nowhere(service.endpoints.iter().map(endpoint).collect())),
        balance: Some(file::Balance { policy: Some(policy(service.policy)) }),
        health: service.health.as_ref().map(|health| At::nowhere(self::health(health))),
        outlier: Some(At::nowhere(outlier(service.outlier))),
        limits: limits(&service.limits, &service.rates),
        on_endpoint_loss: Some(on_endpoint_loss),
        drain_timeout,
        fail: Some(At::nowhere(match service.fail {
            Fail::Open => file::Fail::Open,
            Fail::Closed => file::Fail::Closed,
        })),
    }
}

fn policy(policy: Policy) -> file::Policy {
    match policy {
        Policy::RoundRobin => file::Policy::RoundRobin,
        Policy::Random => file::Policy::Random,
        Policy::LeastRequest => file::Policy::LeastRequest,
        Policy::LeastLatency => file::Policy::LeastLatency,
        Policy::Maglev => file::Policy::Maglev,
        Policy::RingHash => file::Policy::RingHash,
    }
}

fn health(health: &HealthCheck) -> file::Health {
    let (tcp, http, grpc) = match &health.probe {
        Probe::Tcp => (Some(file::TcpProbe {}), None, None),
        Probe::Grpc { service, host } => {
            let service = Some(service.clone()).filter(|service| !service.is_empty());
            let grpc = file::GrpcProbe { service: service.map(Word), host: host.clone().map(HostPort) };
            (None, None, Some(grpc))
        }
        Probe::Http { path, host, status, body, .. } => {
            let http = file::HttpProbe {
                path: HttpPath(path.clone()),
                host: host.clone().map(HostPort),
                status: Some(status.iter().map(|range| self::status(*range)).collect()),
                body: body.clone().map(BodyPart),
            };
            (None, Some(http), None)
        }
    };
    file::Health {
        interval: Some(Time(health.interval)),
        unhealthy_interval: Some(At::nowhere(Time(health.unhealthy_interval))),
        timeout: Some(At::nowhere(Time(health.timeout))),
        healthy: Some(health.healthy),
        unhealthy: Some(health.unhealthy),
        port: health.port,
        tls: tcp.is_none().then(|| At::nowhere(health.is_tls)),
        tcp,
        http,
        grpc,
    }
}

fn status((first, last): (u16, u16)) -> file::Status {
    if first == last { file::Status::One(first) } else { file::Status::Range(StatusRange((first, last))) }
}

fn outlier(outlier: Outlier) -> file::Outlier {
    file::Outlier {
        consecutive_failures: Some(outlier.consecutive_failures),
        consecutive_5xx: Some(At::nowhere(outlier.consecutive_5xx)),
        base_ejection: Some(At::nowhere(Time(outlier.base_ejection))),
        max_ejection: Some(At::nowhere(Time(outlier.max_ejection))),
        max_ejected_percent: Some(outlier.max_ejected_percent),
        panic_percent: Some(outlier.panic_percent),
    }
}

/// A limit that was not set must not be printed: read back, it would be.
fn limits(limits: &Limits, rates: &[RateLimit]) -> Option<file::Limits> {
    let off = |time: Option<Duration>, usual: Option<Duration>| (time != usual).then_some(TimeOrOff(time));
    if !limits.is_set {
        let idle_timeout = off(limits.idle_timeout, default::IDLE_TIMEOUT);
        let half_close_timeout = off(limits.half_close_timeout, default::HALF_CLOSE_TIMEOUT);
        return Some(file::Limits { idle_timeout, half_close_timeout, ..file::Limits::default() });
    }
    Some(file::Limits {
        connect_timeout: Some(Time(limits.connect_timeout)),
        connect_attempts: Some(limits.connect_attempts),
        idle_timeout: Some(TimeOrOff(limits.idle_timeout)),
        half_close_timeout: Some(TimeOrOff(limits.half_close_timeout)),
        user_timeout: Some(Time(limits.user_timeout)),
        max_connections: limits.max_connections,
        max_connections_per_endpoint: limits.max_connections_per_endpoint,
        max_requests: limits.max_requests.map(At::nowhere),
        max_pending: limits.max_pending.map(At::nowhere),
        max_retries: limits.max_retries.map(At::nowhere),
        adaptive: limits.adaptive.as_ref().map(|policy| At::nowhere(adaptive(policy))),
        rate: route::rates(rates),
    })
}

fn adaptive(policy: &AdaptivePolicy) -> file::Adaptive {
    file::Adaptive {
        min: Some(policy.least),
        max: Some(At::nowhere(policy.most)),
        tolerance: Some(Percent(policy.tolerance_percent)),
        window: Some(Time(policy.window)),
        measure_interval: Some(At::nowhere(Time(policy.measure_interval))),
    }
}

fn level(level: LogLevel) -> file::LogLevel {
    match level {
        LogLevel::Error => file::LogLevel::Error,
        LogLevel::Warn => file::LogLevel::Warn,
        LogLevel::Info => file::LogLevel::Info,
        LogLevel::Debug => file::LogLevel::Debug,
        LogLevel::Trace => file::LogLevel::Trace,
    }
}

fn format(format: LogFormat) -> file::LogFormat {
    match format {
        LogFormat::Text => file::LogFormat::Text,
        LogFormat::Json => file::LogFormat::Json,
    }
}
