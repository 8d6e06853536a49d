//! Routes, back to what one would write. What is as by default is left out where a route for TLS could not have it.

use proxy_core::priority::Priority;
use proxy_core::rate::{Per, RateLimit};
use proxy_core::retry::{RetryOn, RetryPolicy};
use proxy_core::route::fault::{Abort, FaultAnswer, FaultPolicy};
use proxy_core::route::{
    HeaderChanges, HostPattern, Match, PathPattern, PathRewrite, Redirect, Rewrite, TextPattern, Timeouts,
};

use super::super::de::{At, OneOrMany, Pairs};
use super::super::text::HostPattern as HostText;
use super::super::text::{
    Body, Cause, ChangedHeader, GrpcStatus, HeaderName, HeaderValue, Host, HostPort, Method, Name, Percent,
    QueryName, QueryValue, Rate, Regex, RetryCause, Share, Time, UrlPath,
};
use super::super::{ActionConfig, RouteConfig, RuleConfig, file};

pub(super) fn route(route: &RouteConfig) -> file::Route {
    let host = |host: &HostPattern| match host {
        HostPattern::Exact(host) => HostText(host.to_string()),
        HostPattern::Suffix(suffix) => HostText(format!("*{suffix}")),
    };
    file::Route {
        name: At::nowhere(Name(route.name.clone())),
        hosts: route.hosts.iter().map(|pattern| At::nowhere(host(pattern))).collect(),
        rules: route.rules.iter().map(|config| At::nowhere(rule(config))).collect(),
    }
}

fn rule(rule: &RuleConfig) -> file::Rule {
    let matches = OneOrMany::nowhere(rule.matches.iter().map(self::matches));
    let mirror = OneOrMany::nowhere(rule.mirrors.iter().map(|mirror| file::Mirror {
        service: At::nowhere(Name(mirror.service.clone())),
        share: Some(Share(mirror.share)),
    }));
    let mut file = file::Rule {
        matches: (!rule.matches.is_empty()).then(|| At::nowhere(matches)),
        timeout: (rule.timeout != Timeouts::default()).then(|| At::nowhere(timeout(rule.timeout))),
        retry: (rule.retry != RetryPolicy::default()).then(|| At::nowhere(retry(&rule.retry))),
        limits: (!rule.rates.is_empty()).then(|| At::nowhere(file::RuleLimits { rate: rates(&rule.rates) })),
        priority: match rule.priority {
            Priority::Default => None,
            Priority::High => Some(At::nowhere(file::Priority::High)),
            Priority::Low => Some(At::nowhere(file::Priority::Low)),
        },
        fault: rule.fault.as_ref().map(|policy| At::nowhere(fault(policy))),
        request_headers: headers(&rule.request_headers),
        response_headers: headers(&rule.response_headers),
        mirror: (!rule.mirrors.is_empty()).then(|| At::nowhere(mirror)),
        rewrite: None,
        redirect: None,
        respond: None,
        backends: None,
    };
    match &rule.action {
        ActionConfig::Forward { backends, rewrite } => {
            let backends = backends.iter().map(|backend| file::Backend {
                service: At::nowhere(Name(backend.service.clone())),
                weight: Some(backend.weight),
            });
            file.backends = Some(At::nowhere(backends.map(At::nowhere).collect()));
            file.rewrite = (*rewrite != Rewrite::default()).then(|| At::nowhere(self::rewrite(rewrite)));
        }
        ActionConfig::Redirect(redirect) => file.redirect = Some(At::nowhere(self::redirect(redirect))),
        ActionConfig::Respond { status, content_type, body } => {
            file.respond = Some(At::nowhere(file::Respond {
                status: *status,
                content_type: Some(HeaderValue(content_type.clone())),
                body: (!body.is_empty()).then(|| At::nowhere(Body(body.clone()))),
            }));
        }
    }
    file
}

fn matches(condition: &Match) -> file::Match {
    file::Match {
        path: condition.path.as_ref().map(|path| {
            At::nowhere(match path {
                PathPattern::Exact(path) => file::PathMatch::Exact(UrlPath(path.to_string())),
                PathPattern::Prefix(path) => file::PathMatch::Prefix(UrlPath(path.to_string())),
                PathPattern::Regex(regex) => file::PathMatch::Regex(Regex(regex.to_string())),
            })
        }),
        // It was a path from the begin, and reads back as one.
        grpc: None,
        headers: pairs(&condition.headers, HeaderName, |pattern| text(pattern, HeaderValue)),
        query: pairs(&condition.query, QueryName, |pattern| text(pattern, QueryValue)),
        method: (!condition.methods.is_empty())
            .then(|| OneOrMany::nowhere(condition.methods.iter().map(|method| Method(method.to_string())))),
    }
}

fn text<T>(pattern: &TextPattern, exact: impl Fn(String) -> T) -> file::TextMatch<T> {
    match pattern {
        TextPattern::Exact(text) => file::TextMatch::Exact(exact(text.to_string())),
        TextPattern::Regex(regex) => {
            file::TextMatch::Kind(file::TextMatchKind::Regex(Regex(regex.to_string())))
        }
    }
}

fn pairs<K, V, T>(
    pairs: &[(Box<str>, V)],
    key: impl Fn(String) -> K,
    value: impl Fn(&V) -> T,
) -> Option<Pairs<K, At<T>>> {
    let pair = |(name, of): &(Box<str>, V)| (key(name.to_string()), At::nowhere(value(of)));
    (!pairs.is_empty()).then(|| Pairs(pairs.iter().map(pair).collect()))
}

fn timeout(timeout: Timeouts) -> file::Timeout {
    file::Timeout {
        request: timeout.request.map(Time),
        per_try: timeout.per_try.map(|time| At::nowhere(Time(time))),
    }
}

fn fault(policy: &FaultPolicy) -> file::Fault {
    let abort = |abort: &Abort| {
        let (status, grpc) = match abort.answer {
            FaultAnswer::Http(status) => (Some(status), None),
            FaultAnswer::Grpc(status) => (None, Some(GrpcStatus(status))),
        };
        At::nowhere(file::Abort { share: Share(abort.share), status, grpc })
    };
    file::Fault {
        headers: pairs(&policy.headers, HeaderName, |pattern| text(pattern, HeaderValue)),
        delay: policy.delay.map(|delay| file::Delay { share: Share(delay.share), time: Time(delay.time) }),
        abort: policy.abort.as_ref().map(abort),
        rate_limit: policy.rate_limit.map(|limit| file::FaultRateLimit {
            share: Share(limit.share),
            retry_after: Some(Time(limit.retry_after)),
        }),
    }
}

pub(super) fn rates(limits: &[RateLimit]) -> Option<At<OneOrMany<file::RateLimit>>> {
    let limit = |limit: &RateLimit| file::RateLimit {
        requests: Rate((limit.requests, limit.interval)),
        burst: Some(limit.burst),
        per: Some(match limit.per {
            Per::All => file::LimitPer::All,
            Per::Client => file::LimitPer::Client,
        }),
    };
    (!limits.is_empty()).then(|| At::nowhere(OneOrMany::nowhere(limits.iter().map(limit))))
}

fn retry(retry: &RetryPolicy) -> file::Retry {
    file::Retry {
        attempts: Some(retry.attempts),
        on: Some(retry_on(&retry.on)),
        budget: Some(Percent(retry.budget_percent)),
        budget_least: Some(retry.budget_least),
        throttle: retry.throttle.map(|throttle| file::Throttle {
            max_tokens: throttle.max_tokens,
            token_ratio: Share(throttle.token_ratio),
        }),
        back_off: Some(At::nowhere(file::BackOff {
            base: Some(Time(retry.base_back_off)),
            max: Some(At::nowhere(Time(retry.max_back_off))),
        })),
    }
}

fn retry_on(on: &RetryOn) -> Vec<At<file::RetryOn>> {
    let failures =
        [(on.connect_failure, Cause::ConnectFailure), (on.reset, Cause::Reset), (on.timeout, Cause::Timeout)];
    let failures = failures.into_iter().filter(|(is_on, _)| *is_on).map(|(_, cause)| cause);
    let causes = failures.chain(on.statuses.iter().map(|(first, last)| Cause::Status(*first, *last)));
    let causes = causes.chain(on.grpc.iter().map(Cause::Grpc));
    causes.map(|cause| At::nowhere(file::RetryOn::Cause(RetryCause(cause)))).collect()
}

fn headers(changes: &HeaderChanges) -> Option<At<file::HeaderChanges>> {
    (!changes.is_empty()).then(|| {
        At::nowhere(file::HeaderChanges {
            set: pairs(&changes.set, ChangedHeader, |value| HeaderValue(value.to_string())),
            add: pairs(&changes.add, ChangedHeader, |value| HeaderValue(value.to_string())),
            remove: (!changes.remove.is_empty())
                .then(|| changes.remove.iter().map(|name| ChangedHeader(name.to_string())).collect()),
        })
    })
}

fn rewrite(rewrite: &Rewrite) -> file::Rewrite {
    file::Rewrite {
        host: rewrite.host.as_ref().map(|host| HostPort(host.to_string())),
        path: rewrite.path.as_ref().map(path_rewrite),
    }
}

fn redirect(redirect: &Redirect) -> file::Redirect {
    file::Redirect {
        scheme: redirect.scheme.as_deref().map(|scheme| match scheme {
            "https" => file::Scheme::Https,
            _ => file::Scheme::Http,
        }),
        host: redirect.host.as_ref().map(|host| Host(host.to_string())),
        port: redirect.port,
        path: redirect.path.as_ref().map(path_rewrite),
        status: Some(At::nowhere(redirect.status)),
    }
}

fn path_rewrite(path: &PathRewrite) -> At<file::PathRewrite> {
    At::nowhere(match path {
        PathRewrite::Full(path) => file::PathRewrite::Full(UrlPath(path.to_string())),
        PathRewrite::Prefix(path) => file::PathRewrite::Prefix(UrlPath(path.to_string())),
    })
}
