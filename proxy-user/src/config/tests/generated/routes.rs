//! Any routes, TLS and bounds on HTTP.

use proxy_core::grpc::Status;
use proxy_core::http2::Pings;
use proxy_core::load::RetryThrottle;
use proxy_core::load::adaptive::AdaptivePolicy;
use proxy_core::priority::Priority;
use proxy_core::proxy_protocol;
use proxy_core::rate::{Per, RateLimits};
use proxy_core::retry::{RetryOn, RetryPolicy};
use proxy_core::route::fault::{Abort, Delay, FaultAnswer, FaultPolicy, RateLimited};
use proxy_core::route::{
    HeaderChanges, HostPattern, Match, PathPattern, PathRewrite, Redirect, Rewrite, TextPattern, Timeouts,
};
use proxy_core::tls::{CertificateFiles, ClientAuth, ClientTls, ServerTls, TlsVersion};

use super::*;

fn http() -> impl Strategy<Value = HttpLimits> {
    let bytes = || of(1_u64..1 << 50);
    let message = of(1_u32..=2 << 30);
    let pings = (of(time()), of(time()), time()).prop_map(|(clients, endpoints, timeout)| Pings {
        clients,
        endpoints,
        timeout,
    });
    let ages = (of(time()), of(time()));
    (1_u32 << 10..=1 << 20, 1_u16..=256, time(), of(time()), time(), bytes(), bytes(), message, pings, ages)
        .prop_map(
            |(
                head_bytes,
                header_count,
                head_timeout,
                idle_timeout,
                body_timeout,
                request_bytes,
                response_bytes,
                message_bytes,
                pings,
                (max_age, max_age_grace),
            )| {
                HttpLimits {
                    head_bytes,
                    header_count,
                    head_timeout,
                    idle_timeout,
                    body_timeout,
                    request_bytes,
                    response_bytes,
                    message_bytes,
                    pings,
                    max_age,
                    max_age_grace,
                }
            },
        )
}

fn version() -> impl Strategy<Value = TlsVersion> {
    select(vec![TlsVersion::V1_2, TlsVersion::V1_3])
}

fn path() -> impl Strategy<Value = PathBuf> {
    "/?[ -.0-~é]{1,20}(/[a-z.]{1,8}){0,2}".prop_map(PathBuf::from)
}

fn certificate() -> impl Strategy<Value = CertificateFiles> {
    (path(), path()).prop_map(|(cert, key)| CertificateFiles { cert, key })
}

fn server_tls() -> impl Strategy<Value = ServerTls> {
    let auth = (path(), any::<bool>(), vec("[!-~]{1,30}", 0..3))
        .prop_map(|(ca, is_required, san)| ClientAuth { ca, is_required, san });
    (vec(certificate(), 1..3), version(), of(auth), any::<bool>()).prop_map(
        |(certificates, min_version, client_auth, is_resuming)| ServerTls {
            certificates,
            min_version,
            client_auth,
            is_resuming,
        },
    )
}

fn client_tls() -> impl Strategy<Value = ClientTls> {
    (of(path()), of("[a-z]{1,9}(\\.[a-z0-9]{1,5}){0,2}"), of(certificate()), version())
        .prop_map(|(ca, sni, certificate, min_version)| ClientTls { ca, sni, certificate, min_version })
}

fn texts(name: &'static str, exact: &'static str) -> impl Strategy<Value = Vec<(Box<str>, TextPattern)>> {
    let pattern = prop_oneof![
        exact.prop_map(|text| TextPattern::Exact(text.into())),
        "[a-z.]{0,5}([a-z]|\\[0-9\\]\\+){0,3}".prop_map(|text: String| TextPattern::Regex(text.into())),
    ];
    prop::collection::btree_map(name, pattern, 0..3)
        .prop_map(|texts| texts.into_iter().map(|(name, pattern)| (name.into(), pattern)).collect())
}

fn condition() -> impl Strategy<Value = Match> {
    let path = ("(/[a-zA-Z0-9%:]{1,5}){0,2}", 0_u8..3).prop_map(|(path, kind)| match kind {
        0 => PathPattern::Exact(format!("{path}/").into()),
        1 => PathPattern::Prefix(path.into()),
        _ => PathPattern::Regex(path.into()),
    });
    let methods = prop::collection::btree_set("[A-Z]{1,8}", 0..3);
    let headers = texts("x-[a-z0-9]{1,6}", "([!-~]([ -~]{0,5}[!-~])?)?");
    (path, headers, texts("[a-zA-Z0-9_.%]{1,6}", "[a-zA-Z0-9=%]{0,6}"), methods).prop_map(
        |(path, headers, query, methods)| Match {
            path: Some(path),
            headers,
            query,
            methods: methods.into_iter().map(Into::into).collect(),
        },
    )
}

fn headers() -> impl Strategy<Value = HeaderChanges> {
    let name = || "x-[a-z0-9]{1,6}";
    let pairs = || {
        prop::collection::btree_map(name(), "([!-~]([ -~]{0,5}[!-~])?)?", 0..3)
            .prop_map(|pairs| pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect())
    };
    (vec(name(), 0..3), pairs(), pairs()).prop_map(|(remove, set, add)| HeaderChanges {
        remove: remove.into_iter().map(Into::into).collect(),
        set,
        add,
    })
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    let range = (100_u16..600, 100_u16..600).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let grpc = vec(select(Status::ALL[1..].to_vec()), 0..3);
    let on = (any::<[bool; 3]>(), vec(range, 0..3), grpc).prop_map(
        |([connect_failure, reset, timeout], statuses, grpc)| {
            let grpc = grpc.into_iter().collect();
            RetryOn { connect_failure, reset, timeout, statuses, grpc }
        },
    );
    let throttle = (1_u16..=1000, 1_u16..=10_000)
        .prop_map(|(max_tokens, token_ratio)| RetryThrottle { max_tokens, token_ratio });
    (0_u32..=16, on, 0_u8..=100, any::<u32>(), of(throttle), time(), time()).prop_map(
        |(attempts, on, budget_percent, budget_least, throttle, base, most)| RetryPolicy {
            attempts,
            on,
            budget_percent,
            budget_least,
            throttle,
            base_back_off: base,
            max_back_off: most.max(base),
        },
    )
}

/// Bounds on rates in the order in which they are kept.
fn rates() -> impl Strategy<Value = Vec<RateLimit>> {
    let interval = select(vec![1, 60, 3600]).prop_map(Duration::from_secs);
    let limit = (1_u32..=1_000_000, interval, 1_u32..=1_000_000, any::<bool>()).prop_map(
        |(requests, interval, burst, is_per_client)| {
            let per = if is_per_client { Per::Client } else { Per::All };
            RateLimit { requests, interval, burst, per }
        },
    );
    vec(limit, 0..3).prop_map(|limits| RateLimits::new(&limits).limits().collect())
}

fn fault() -> impl Strategy<Value = FaultPolicy> {
    let share = || 1_u16..=10_000;
    let answer = prop_oneof![
        (200_u16..600).prop_map(FaultAnswer::Http),
        select(Status::ALL[1..].to_vec()).prop_map(FaultAnswer::Grpc),
    ];
    let delay = (share(), time()).prop_map(|(share, time)| Delay { share, time });
    let abort = (share(), answer).prop_map(|(share, answer)| Abort { share, answer });
    let limited = (share(), time()).prop_map(|(share, retry_after)| RateLimited { share, retry_after });
    let headers = texts("x-[a-z0-9]{1,6}", "([!-~]([ -~]{0,5}[!-~])?)?");
    (headers, delay, of(abort), of(limited)).prop_map(|(headers, delay, abort, rate_limit)| FaultPolicy {
        headers,
        delay: Some(delay),
        abort,
        rate_limit,
    })
}

fn path_rewrite() -> impl Strategy<Value = Option<PathRewrite>> {
    let path = || "/[!-\"$-%'->@-~]{0,9}";
    of(prop_oneof![
        path().prop_map(|path| PathRewrite::Full(path.into())),
        path().prop_map(|path| PathRewrite::Prefix(path.into())),
    ])
}

fn action(services: usize) -> impl Strategy<Value = ActionConfig> {
    let weights = vec(0_u32..=1_000_000, services);
    let forward = (weights, of("[a-z]{1,9}(:80)?"), path_rewrite()).prop_map(|(weights, host, path)| {
        let backends = weights.into_iter().enumerate().map(|(i, weight)| BackendConfig {
            service: format!("shop/s{i}"),
            weight: if i == 0 { weight.max(1) } else { weight },
        });
        ActionConfig::Forward {
            backends: backends.collect(),
            rewrite: Rewrite { host: host.map(Into::into), path },
        }
    });
    let scheme = of(select(vec!["http", "https"]));
    let redirect = (scheme, "[a-z]{1,9}", of(1_u16..), path_rewrite(), select(vec![301, 302, 303, 307, 308]));
    let redirect = redirect.prop_map(|(scheme, host, port, path, status)| {
        let scheme = scheme.map(Into::into);
        ActionConfig::Redirect(Redirect { scheme, host: Some(host.into()), port, path, status })
    });
    let respond = (200_u16..=599, "[a-z]{1,5}/[a-z]{1,5}", "[ -~é\n]{0,20}");
    let respond = respond.prop_map(|(status, content_type, body)| ActionConfig::Respond {
        body: if matches!(status, 204 | 205 | 304) { String::new() } else { body },
        status,
        content_type,
    });
    prop_oneof![3 => forward, 1 => redirect, 1 => respond]
}

fn rule(services: usize) -> impl Strategy<Value = RuleConfig> {
    let timeout = (of(time()), of(time())).prop_map(|(request, per_try)| Timeouts {
        request: request.max(per_try.filter(|_| request.is_some())),
        per_try,
    });
    let mirrors = vec((0..services, 1_u16..=10_000), 0..3);
    (
        vec(condition(), 0..3),
        headers(),
        headers(),
        timeout,
        retry(),
        (rates(), of(fault()), select(Priority::ALL.to_vec())),
        mirrors,
        action(services),
    )
        .prop_map(
            |(
                matches,
                request_headers,
                response_headers,
                timeout,
                retry,
                (rates, fault, priority),
                mirrors,
                action,
            )| {
                RuleConfig {
                    matches,
                    request_headers,
                    response_headers,
                    timeout,
                    retry,
                    rates,
                    priority,
                    fault,
                    mirrors: mirrors
                        .into_iter()
                        .map(|(of, share)| MirrorConfig { service: format!("shop/s{of}"), share })
                        .collect(),
                    action,
                }
            },
        )
}

/// Makes a rule one that can be: with conditions that no other has, and without what its action cannot have.
fn placed(mut rule: RuleConfig, place: usize) -> RuleConfig {
    for (index, condition) in rule.matches.iter_mut().enumerate() {
        let unique = |path: &str| format!("/r{place}/m{index}{path}").into();
        condition.path = condition.path.as_ref().map(|path| match path {
            PathPattern::Exact(path) => PathPattern::Exact(unique(path)),
            PathPattern::Prefix(path) => PathPattern::Prefix(unique(path)),
            PathPattern::Regex(path) => PathPattern::Regex(unique(path)),
        });
    }
    if rule.timeout.per_try.is_none() {
        rule.retry.on.timeout = false;
    }
    let is_by_prefix = !rule.matches.is_empty()
        && rule.matches.iter().all(|condition| matches!(condition.path, Some(PathPattern::Prefix(_))));
    let path = match &mut rule.action {
        ActionConfig::Forward { rewrite, .. } => &mut rewrite.path,
        ActionConfig::Redirect(redirect) => &mut redirect.path,
        ActionConfig::Respond { .. } => &mut None,
    };
    if !is_by_prefix && matches!(path, Some(PathRewrite::Prefix(_))) {
        *path = None;
    }
    if !matches!(rule.action, ActionConfig::Forward { .. }) {
        rule.timeout = Timeouts::default();
        rule.retry = RetryPolicy::default();
        rule.priority = Priority::default();
        rule.request_headers = HeaderChanges::default();
        rule.mirrors = Vec::new();
    }
    rule
}

/// Routes for HTTP among so many services, at least one.
fn routes(services: usize) -> impl Strategy<Value = Vec<RouteConfig>> {
    let host = ("[a-z]{1,5}(\\.[a-z]{1,5}){0,2}", any::<bool>()).prop_map(|(host, is_suffix)| {
        if is_suffix {
            HostPattern::Suffix(format!(".{host}").into())
        } else {
            HostPattern::Exact(host.into())
        }
    });
    let hosts = prop::collection::hash_set(host, 0..3);
    vec((hosts, vec(rule(services), 1..4)), 0..3).prop_map(|routes| {
        let routes = routes.into_iter().enumerate().map(|(index, (hosts, mut rules))| {
            // One rule at most is for everything.
            let mut has_rest = false;
            rules.retain(|rule| !rule.matches.is_empty() || !std::mem::replace(&mut has_rest, true));
            RouteConfig {
                name: format!("route-{index}"),
                hosts: hosts.into_iter().collect(),
                rules: rules.into_iter().enumerate().map(|(place, rule)| placed(rule, place)).collect(),
            }
        });
        routes.collect()
    })
}

/// Name of a route for TLS that is passed on.
const PASSED_ON: &str = "passed-on";

fn passing(service: &str) -> RouteConfig {
    let backends = vec![BackendConfig { service: service.to_owned(), weight: 1 }];
    let rule = RuleConfig {
        matches: Vec::new(),
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        timeout: Timeouts::default(),
        retry: RetryPolicy::default(),
        rates: Vec::new(),
        priority: Priority::default(),
        fault: None,
        mirrors: Vec::new(),
        action: ActionConfig::Forward { backends, rewrite: Rewrite::default() },
    };
    RouteConfig { name: PASSED_ON.to_owned(), hosts: Vec::new(), rules: vec![rule] }
}

/// What one service or listener speaks.
#[derive(Clone, Debug)]
struct Speaker {
    protocol: Protocol,
    http: HttpLimits,
    has_routes: bool,
    limits: [Option<u32>; 3],
    adaptive: Option<AdaptivePolicy>,
    rates: Vec<RateLimit>,
    consecutive_5xx: u32,
    is_health_tls: bool,
    proxy_protocol: Option<proxy_protocol::Version>,
}

impl Speaker {
    fn speaks_http(&self) -> bool {
        matches!(self.protocol, Protocol::Http | Protocol::Auto)
    }

    fn apply(self, tls: Option<ClientTls>, routes: &[String], service: &mut ServiceConfig) {
        service.protocol = self.protocol;
        service.tls = tls.filter(|_| self.protocol != Protocol::Tls);
        if self.speaks_http() {
            service.http = self.http;
            service.routes = if self.has_routes { routes.to_vec() } else { Vec::new() };
            [service.limits.max_requests, service.limits.max_pending, service.limits.max_retries] =
                self.limits;
            service.rates = self.rates;
            service.limits.adaptive = self.adaptive;
            service.limits.is_set |= self.limits.iter().any(Option::is_some)
                || !service.rates.is_empty()
                || self.adaptive.is_some();
            service.outlier.consecutive_5xx = self.consecutive_5xx;
        }
        service.proxy_protocol = self.proxy_protocol;
        if service.tls.is_some() || service.proxy_protocol.is_some() {
            service.fail = Fail::Closed;
        }
        if let Some(health) = &mut service.health {
            health.is_tls = self.is_health_tls && service.tls.is_some() && health.probe != Probe::Tcp;
        }
        let needs_worker = service.protocol != Protocol::Tcp
            || service.tls.is_some()
            || service.proxy_protocol.is_some()
            || service.limits.is_set;
        if needs_worker && service.lane == LaneChoice::Direct {
            service.lane = LaneChoice::Auto;
        }
    }

    fn listen(self, tls: Option<ServerTls>, routes: &[String], listener: &mut ListenerConfig) {
        listener.protocol = self.protocol;
        listener.expects_proxy_header = self.proxy_protocol.is_some();
        if self.has_routes && listener.expects_proxy_header {
            listener.trusted_proxies = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).to_vec();
        }
        listener.tls = tls.filter(|_| self.protocol != Protocol::Tls);
        if self.speaks_http() {
            listener.http = self.http;
            listener.http.pings.endpoints = Pings::DEFAULT.endpoints;
            if self.has_routes && !routes.is_empty() {
                listener.serves = ServesConfig::Routes(routes.to_vec());
            }
        } else if self.protocol == Protocol::Tls && self.has_routes {
            listener.serves = ServesConfig::Routes(vec![PASSED_ON.to_owned()]);
        }
    }
}

fn speaker() -> impl Strategy<Value = Speaker> {
    let protocol = select(vec![Protocol::Tcp, Protocol::Tls, Protocol::Http, Protocol::Auto]);
    let limit = || of(1_u32..);
    let limits = (limit(), limit(), limit()).prop_map(|(a, b, c)| [a, b, c]);
    let adaptive = of((1_u32..500, 0_u32..500, 0_u8..=100, 1_u64..100_000, 20_u32..100).prop_map(
        |(least, more, tolerance_percent, window_ms, windows)| AdaptivePolicy {
            least,
            most: least + more,
            tolerance_percent,
            window: Duration::from_millis(window_ms),
            measure_interval: Duration::from_millis(window_ms) * windows,
        },
    ));
    let version = select(vec![None, Some(proxy_protocol::Version::V1), Some(proxy_protocol::Version::V2)]);
    (protocol, http(), any::<bool>(), (limits, adaptive), rates(), 0_u32..=1_000_000, any::<bool>(), version)
        .prop_map(
            |(
                protocol,
                http,
                has_routes,
                (limits, adaptive),
                rates,
                consecutive_5xx,
                is_health_tls,
                proxy_protocol,
            )| {
                Speaker {
                    protocol,
                    http,
                    has_routes,
                    limits,
                    adaptive,
                    rates,
                    consecutive_5xx,
                    is_health_tls,
                    proxy_protocol,
                }
            },
        )
}

/// Gives a config without them routes, protocols, TLS and bounds on HTTP.
pub(super) fn with_layer7(config: Config) -> BoxedStrategy<Config> {
    let count = config.services.len();
    if count == 0 {
        return Just(config).boxed();
    }
    let services = vec((speaker(), of(client_tls())), count);
    let listeners = vec((speaker(), of(server_tls())), config.listeners.len());
    let parts = (routes(count), services, listeners);
    let place = move |(routes, services, listeners): (Vec<RouteConfig>, Vec<_>, Vec<_>)| {
        let mut config = config.clone();
        let names: Vec<String> = routes.iter().map(|route| route.name.clone()).collect();
        for (service, (speaker, tls)) in config.services.iter_mut().zip(services) {
            Speaker::apply(speaker, tls, &names, service);
        }
        for (listener, (speaker, tls)) in config.listeners.iter_mut().zip(listeners) {
            Speaker::listen(speaker, tls, &names, listener);
        }
        config.routes = routes;
        config.routes.push(passing(&config.services[0].name));
        config
    };
    parts.prop_map(place).boxed()
}
