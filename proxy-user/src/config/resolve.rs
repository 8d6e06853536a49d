//! From the file's types to [`Config`]: fills in defaults and nothing else. Cannot fail.

mod http;
mod inbound;
mod pods;
mod route;

use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_core::addr::Cidr;
use proxy_core::http::HttpLimits;
use proxy_core::load::adaptive::AdaptivePolicy;
use proxy_core::overload::{OverloadPolicy, Rung};
use proxy_core::proxy_protocol;
use proxy_core::rate::Quota;
use proxy_core::service::{
    EndpointLoss, Fail, HealthCheck, LaneChoice, Limits, Outlier, Policy, Probe, Protocol,
};
use proxy_core::snapshot::{Intercept, NodeListener, Scope, ScopedQuota, Source};

use super::de::At;
use super::text::{Name, Network, TimeOrOff, TimeOrZero};
use super::{
    AccessLogConfig, AdminConfig, Config, EndpointConfig, IoChoice, ListenerConfig, LogConfig, LogFormat,
    LogLevel, ServesConfig, ServiceConfig, Workers, default, file,
};

/// Makes the config that a file in a folder means.
pub(super) fn resolve(file: &file::File, folder: &Path) -> Config {
    Config {
        listeners: file.listeners.iter().map(|listener| self::listener(&listener.value, folder)).collect(),
        intercept: intercept(&file.intercept),
        inbound: file.intercept.inbound.iter().map(|at| inbound::inbound(&at.value)).collect(),
        kubelet: pods::kubelet(&file.intercept.kubelet, folder),
        routes: file.routes.iter().flat_map(|at| &at.value).map(|at| route::route(&at.value)).collect(),
        services: file.services.value.iter().map(|service| self::service(&service.value, folder)).collect(),
        workers: match file.workers {
            None | Some(file::Workers::Auto(file::Auto::Auto)) => Workers::Auto,
            Some(file::Workers::Count(count)) => Workers::Count(count),
        },
        io: match file.io {
            None | Some(file::Io::Auto) => IoChoice::Auto,
            Some(file::Io::Ring) => IoChoice::Ring,
            Some(file::Io::Epoll) => IoChoice::Epoll,
        },
        busy_poll: file.busy_poll.as_ref().map(|time| time.0),
        admin: AdminConfig {
            address: file.admin.address.as_ref().map_or(default::ADMIN, |address| address.value.0),
            socket: file
                .admin
                .socket
                .as_ref()
                .map_or(PathBuf::from(default::ADMIN_SOCKET), |path| path.0.clone()),
        },
        metrics: file.metrics.as_ref().map(|metrics| metrics.address.value.0),
        access_log: file.access_log.as_ref().map(|log| AccessLogConfig {
            path: log.path.0.clone(),
            format: log.format.map_or(LogFormat::Json, format),
        }),
        log: LogConfig {
            level: file.log.level.map_or(LogLevel::Info, level),
            format: file.log.format.map_or(LogFormat::Text, format),
        },
        drain_timeout: drain_timeout(file.drain_timeout.as_ref()),
        overload: overload(&file.overload),
        allow_faults: file.allow_faults.unwrap_or(false),
    }
}

fn listener(listener: &file::Listener, folder: &Path) -> ListenerConfig {
    ListenerConfig {
        address: listener.address.value.0,
        protocol: protocol(listener.protocol),
        serves: match &listener.service {
            Some(service) => ServesConfig::Service(service.value.0.clone()),
            None => ServesConfig::Routes(names(listener.routes.as_ref())),
        },
        expects_proxy_header: listener.proxy_protocol.is_some(),
        trusted_proxies: networks(listener.trusted_proxies.as_ref()),
        tls: listener.tls.as_ref().map(|tls| http::server_tls(&tls.value, folder)),
        http: listener.http.as_ref().map_or(HttpLimits::DEFAULT, |limits| http::limits(&limits.value)),
    }
}

fn networks(networks: Option<&At<Vec<At<Network>>>>) -> Vec<Cidr> {
    networks.into_iter().flat_map(|at| &at.value).map(|at| at.value.0).collect()
}

fn names(names: Option<&At<Vec<At<Name>>>>) -> Vec<String> {
    names.into_iter().flat_map(|at| &at.value).map(|at| at.value.0.clone()).collect()
}

fn protocol(protocol: Option<file::Protocol>) -> Protocol {
    match protocol {
        None | Some(file::Protocol::Tcp) => Protocol::Tcp,
        Some(file::Protocol::Tls) => Protocol::Tls,
        Some(file::Protocol::Http) => Protocol::Http,
        Some(file::Protocol::Http2) => Protocol::Http2,
        Some(file::Protocol::Auto) => Protocol::Auto,
    }
}

fn intercept(intercept: &file::Intercept) -> Intercept {
    Intercept {
        scopes: scopes(&intercept.scopes),
        fail_closed: scopes(&intercept.fail_closed),
        exclude_cidrs: intercept.exclude.cidrs.iter().map(|cidr| cidr.value.0).collect(),
        exclude_ports: intercept.exclude.ports.iter().map(|port| port.value).collect(),
        quotas: intercept.limits.iter().map(|at| quota(&at.value)).collect(),
        source: match intercept.source {
            None => default::SOURCE,
            Some(file::Source::Pod) => Source::Pod,
            Some(file::Source::Node) => Source::Node,
        },
        node_listener: match intercept.node_listener.as_ref().map(|at| &at.value) {
            None => default::NODE_LISTENER,
            Some(file::NodeListener::Choice(file::NodeListenerChoice::Auto)) => NodeListener::Auto,
            Some(file::NodeListener::Choice(file::NodeListenerChoice::Off)) => NodeListener::Off,
            Some(file::NodeListener::On(ips)) => NodeListener::On(ips.iter().map(|ip| ip.0).collect()),
        },
    }
}

fn quota(limits: &file::ApplicationLimits) -> ScopedQuota {
    ScopedQuota {
        scopes: scopes(&limits.scopes),
        quota: Quota {
            max_connections: limits.max_connections,
            connections_per_second: limits.connections_per_second,
            bytes_per_second: limits.bytes_per_second.as_ref().map(|at| at.value.0),
        },
    }
}

pub(in crate::config) fn scopes<C: FromIterator<Scope>>(scopes: &[At<file::Scope>]) -> C {
    scopes.iter().map(|at| scope(&at.value)).collect()
}

pub(in crate::config) fn scope(scope: &file::Scope) -> Scope {
    match scope {
        file::Scope::Cgroup(path) => Scope::Cgroup(path.0.clone()),
        file::Scope::Netns(path) => Scope::Netns(path.to_string()),
        file::Scope::Pods(scope) => Scope::Pods(pods::selector(scope)),
    }
}

fn service(service: &file::Service, folder: &Path) -> ServiceConfig {
    ServiceConfig {
        name: service.name.value.0.clone(),
        addresses: service.addresses.iter().map(|address| address.value.0).collect(),
        protocol: protocol(service.protocol),
        tls: service.tls.as_ref().map(|tls| http::client_tls(&tls.value, folder)),
        proxy_protocol: service.proxy_protocol.map(proxy_protocol),
        routes: names(service.routes.as_ref()),
        http: service.http.as_ref().map_or(HttpLimits::DEFAULT, |limits| http::limits(&limits.value)),
        lane: match service.lane.as_ref().map(|lane| lane.value) {
            None | Some(file::Lane::Auto) => LaneChoice::Auto,
            Some(file::Lane::Direct) => LaneChoice::Direct,
            Some(file::Lane::Proxy) => LaneChoice::Proxy,
        },
        endpoints: service.endpoints.iter().flat_map(|at| &at.value).map(endpoint).collect(),
        policy: service.balance.as_ref().and_then(|balance| balance.policy).map_or(default::POLICY, policy),
        health: service
            .health
            .as_ref()
            .map(|health| self::health(&health.value, protocol(service.protocol), service.tls.is_some())),
        outlier: service.outlier.as_ref().map_or(default::OUTLIER, |outlier| self::outlier(&outlier.value)),
        limits: limits(&service.limits.clone().unwrap_or_default()),
        rates: route::rates(service.limits.as_ref().and_then(|limits| limits.rate.as_ref())),
        on_endpoint_loss: match service.on_endpoint_loss {
            None | Some(file::EndpointLoss::Keep) => EndpointLoss::Keep,
            Some(file::EndpointLoss::Drain) => {
                EndpointLoss::Drain(drain_timeout(service.drain_timeout.as_ref()))
            }
            Some(file::EndpointLoss::Reset) => EndpointLoss::Reset,
        },
        fail: match service.fail.as_ref().map(|fail| fail.value) {
            // The kernel cannot speak TLS, and what was to be encrypted must not go out as it is. Nor can it send a header, and
            // who expects one would take what comes instead for it.
            None if service.tls.is_some() || service.proxy_protocol.is_some() => Fail::Closed,
            None | Some(file::Fail::Open) => Fail::Open,
            Some(file::Fail::Closed) => Fail::Closed,
        },
    }
}

fn proxy_protocol(version: file::ProxyProtocol) -> proxy_protocol::Version {
    match version {
        file::ProxyProtocol::V1 => proxy_protocol::Version::V1,
        file::ProxyProtocol::V2 => proxy_protocol::Version::V2,
    }
}

fn endpoint(endpoint: &file::Endpoint) -> EndpointConfig {
    EndpointConfig {
        address: endpoint.address.value.0,
        weight: endpoint.weight.unwrap_or(default::WEIGHT),
        zone: endpoint.zone.as_ref().map(|zone| zone.0.clone()),
    }
}

fn policy(policy: file::Policy) -> Policy {
    match policy {
        file::Policy::RoundRobin => Policy::RoundRobin,
        file::Policy::Random => Policy::Random,
        file::Policy::LeastRequest => Policy::LeastRequest,
        file::Policy::LeastLatency => Policy::LeastLatency,
        file::Policy::Maglev => Policy::Maglev,
        file::Policy::RingHash => Policy::RingHash,
    }
}

fn health(health: &file::Health, protocol: Protocol, is_tls_spoken: bool) -> HealthCheck {
    let interval = health.interval.as_ref().map_or(default::HEALTH_INTERVAL, |time| time.0);
    let quarter = (interval / default::UNHEALTHY_INTERVAL_DIVISOR).max(default::UNHEALTHY_INTERVAL_LEAST);
    let whole_millis =
        |time: Duration| time - Duration::from_nanos(u64::from(time.subsec_nanos() % 1_000_000));
    let probe = probe(health, protocol);
    HealthCheck {
        interval,
        unhealthy_interval: health
            .unhealthy_interval
            .as_ref()
            .map_or(whole_millis(quarter.min(interval)), |time| time.value.0),
        timeout: health.timeout.as_ref().map_or(default::HEALTH_TIMEOUT.min(interval), |time| time.value.0),
        healthy: health.healthy.unwrap_or(default::HEALTHY),
        unhealthy: health.unhealthy.unwrap_or(default::UNHEALTHY),
        is_tls: probe != Probe::Tcp && health.tls.as_ref().map_or(is_tls_spoken, |is_tls| is_tls.value),
        probe,
        port: health.port,
    }
}

fn probe(health: &file::Health, protocol: Protocol) -> Probe {
    match (&health.http, &health.grpc) {
        // What listens beside a server of HTTP/2 for such questions is hardly ever one itself.
        (Some(http), _) => http_probe(http, protocol == Protocol::Http2 && health.port.is_none()),
        (None, Some(grpc)) => Probe::Grpc {
            service: grpc.service.as_ref().map(|service| service.0.clone()).unwrap_or_default(),
            host: grpc.host.as_ref().map(|host| host.0.clone()),
        },
        (None, None) => Probe::Tcp,
    }
}

fn http_probe(http: &file::HttpProbe, is_http2: bool) -> Probe {
    let range = |status: &file::Status| match status {
        file::Status::One(status) => (*status, *status),
        file::Status::Range(range) => range.0,
    };
    // Mistakes may have been cut out of the list; it must not be empty even then.
    let status: Vec<_> = http.status.iter().flatten().map(range).collect();
    Probe::Http {
        is_http2,
        path: http.path.0.clone(),
        host: http.host.as_ref().map(|host| host.0.clone()),
        status: if status.is_empty() { vec![default::STATUS] } else { status },
        body: http.body.as_ref().map(|body| body.0.clone()),
    }
}

fn outlier(outlier: &file::Outlier) -> Outlier {
    let usual = default::OUTLIER;
    let base_ejection = outlier.base_ejection.as_ref().map_or(usual.base_ejection, |time| time.value.0);
    Outlier {
        consecutive_failures: outlier.consecutive_failures.unwrap_or(usual.consecutive_failures),
        consecutive_5xx: outlier.consecutive_5xx.as_ref().map_or(usual.consecutive_5xx, |count| count.value),
        base_ejection,
        max_ejection: outlier
            .max_ejection
            .as_ref()
            .map_or(usual.max_ejection.max(base_ejection), |time| time.value.0),
        max_ejected_percent: outlier.max_ejected_percent.unwrap_or(usual.max_ejected_percent),
        panic_percent: outlier.panic_percent.unwrap_or(usual.panic_percent),
    }
}

/// A limit that is written must be kept, even if its value is the default; `off` can be kept by everybody.
fn limits(limits: &file::Limits) -> Limits {
    let is_time = |time: &Option<TimeOrOff>| time.as_ref().is_some_and(|time| time.0.is_some());
    let is_set = limits.connect_timeout.is_some()
        || limits.connect_attempts.is_some()
        || is_time(&limits.idle_timeout)
        || is_time(&limits.half_close_timeout)
        || limits.user_timeout.is_some()
        || limits.max_connections.is_some()
        || limits.max_connections_per_endpoint.is_some()
        || limits.max_requests.is_some()
        || limits.max_pending.is_some()
        || limits.max_retries.is_some()
        || limits.adaptive.is_some()
        || limits.rate.is_some();
    Limits {
        connect_timeout: limits.connect_timeout.as_ref().map_or(default::CONNECT_TIMEOUT, |time| time.0),
        connect_attempts: limits.connect_attempts.unwrap_or(default::CONNECT_ATTEMPTS),
        idle_timeout: limits.idle_timeout.as_ref().map_or(default::IDLE_TIMEOUT, |time| time.0),
        half_close_timeout: limits
            .half_close_timeout
            .as_ref()
            .map_or(default::HALF_CLOSE_TIMEOUT, |time| time.0),
        user_timeout: limits.user_timeout.as_ref().map_or(default::USER_TIMEOUT, |time| time.0),
        max_connections: limits.max_connections,
        max_connections_per_endpoint: limits.max_connections_per_endpoint,
        max_requests: limits.max_requests.as_ref().map(|count| count.value),
        max_pending: limits.max_pending.as_ref().map(|count| count.value),
        max_retries: limits.max_retries.as_ref().map(|count| count.value),
        adaptive: limits.adaptive.as_ref().map(|at| adaptive(&at.value)),
        is_set,
    }
}

fn adaptive(adaptive: &file::Adaptive) -> AdaptivePolicy {
    let usual = default::ADAPTIVE;
    AdaptivePolicy {
        least: adaptive.min.unwrap_or(usual.least),
        most: adaptive.max.as_ref().map_or(usual.most, |at| at.value),
        tolerance_percent: adaptive.tolerance.as_ref().map_or(usual.tolerance_percent, |percent| percent.0),
        window: adaptive.window.as_ref().map_or(usual.window, |time| time.0),
        measure_interval: adaptive.measure_interval.as_ref().map_or(usual.measure_interval, |at| at.value.0),
    }
}

fn drain_timeout(time: Option<&TimeOrZero>) -> Duration {
    time.map_or(default::DRAIN_TIMEOUT, |time| time.0)
}

fn overload(overload: &file::Overload) -> OverloadPolicy {
    let threshold = |rung: Rung| match overload.threshold(rung) {
        Some(at) => at.value.0,
        None => default::OVERLOAD.threshold(rung),
    };
    OverloadPolicy {
        max_memory: overload.max_memory.as_ref().map(|at| at.value.0),
        thresholds: Rung::ALL.map(threshold),
    }
}

fn level(level: file::LogLevel) -> LogLevel {
    match level {
        file::LogLevel::Error => LogLevel::Error,
        file::LogLevel::Warn => LogLevel::Warn,
        file::LogLevel::Info => LogLevel::Info,
        file::LogLevel::Debug => LogLevel::Debug,
        file::LogLevel::Trace => LogLevel::Trace,
    }
}

fn format(format: file::LogFormat) -> LogFormat {
    match format {
        file::LogFormat::Text => LogFormat::Text,
        file::LogFormat::Json => LogFormat::Json,
    }
}
