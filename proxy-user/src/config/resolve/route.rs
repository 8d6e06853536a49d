//! Routes: from the file's types to [`RouteConfig`].

use proxy_core::load::RetryThrottle;
use proxy_core::priority::Priority;
use proxy_core::rate::{Per, RateLimit, RateLimits};
use proxy_core::retry::{RetryOn, RetryPolicy};
use proxy_core::route::fault::{Abort, Delay, FaultAnswer, FaultPolicy, RateLimited};
use proxy_core::route::{
    HeaderChanges, HostPattern, Match, PathPattern, PathRewrite, Redirect, Rewrite, TextPattern, Timeouts,
};

use super::super::de::{At, OneOrMany, Pairs};
use super::super::text::{Cause, ChangedHeader, HeaderValue};
use super::super::{ActionConfig, BackendConfig, MirrorConfig, RouteConfig, RuleConfig, default, file};

pub(super) fn route(route: &file::Route) -> RouteConfig {
    let host = |host: &str| match host.strip_prefix('*') {
        Some(suffix) => HostPattern::Suffix(suffix.into()),
        None => HostPattern::Exact(host.into()),
    };
    RouteConfig {
        name: route.name.value.0.clone(),
        hosts: route.hosts.iter().map(|at| host(&at.value.0)).collect(),
        rules: route.rules.iter().map(|at| rule(&at.value)).collect(),
    }
}

fn rule(rule: &file::Rule) -> RuleConfig {
    let retry = rule.retry.as_ref().map_or_else(RetryPolicy::default, |at| retry(&at.value));
    let timeout = rule.timeout.as_ref().map_or_else(Timeouts::default, |at| Timeouts {
        request: at.value.request.as_ref().map(|time| time.0),
        per_try: at.value.per_try.as_ref().map(|time| time.value.0),
    });
    let mirrors = rule.mirror.iter().flat_map(|at| at.value.values()).map(|mirror| MirrorConfig {
        service: mirror.service.value.0.clone(),
        share: mirror.share.as_ref().map_or(default::MIRROR_SHARE, |share| share.0),
    });
    RuleConfig {
        matches: rule.matches.iter().flat_map(|at| at.value.values()).map(self::matches).collect(),
        request_headers: headers(rule.request_headers.as_ref()),
        response_headers: headers(rule.response_headers.as_ref()),
        timeout,
        retry,
        rates: rates(rule.limits.as_ref().and_then(|at| at.value.rate.as_ref())),
        priority: match rule.priority.as_ref().map(|at| at.value) {
            None | Some(file::Priority::Default) => Priority::Default,
            Some(file::Priority::High) => Priority::High,
            Some(file::Priority::Low) => Priority::Low,
        },
        fault: rule.fault.as_ref().map(|at| fault(&at.value)),
        mirrors: mirrors.collect(),
        action: action(rule),
    }
}

/// Where mistakes were cut out or several actions are given, whichever is there: it never comes into force.
fn action(rule: &file::Rule) -> ActionConfig {
    if let Some(At { value: redirect, .. }) = &rule.redirect {
        return ActionConfig::Redirect(self::redirect(redirect));
    }
    if let Some(At { value: respond, .. }) = &rule.respond {
        let content_type = respond.content_type.as_ref().map_or(default::CONTENT_TYPE, |value| &value.0);
        return ActionConfig::Respond {
            status: respond.status,
            content_type: content_type.to_owned(),
            body: respond.body.as_ref().map(|at| at.value.0.clone()).unwrap_or_default(),
        };
    }
    let backend = |at: &At<file::Backend>| BackendConfig {
        service: at.value.service.value.0.clone(),
        weight: at.value.weight.unwrap_or(default::WEIGHT),
    };
    let rewrite = rule.rewrite.as_ref().map_or_else(Rewrite::default, |at| Rewrite {
        host: at.value.host.as_ref().map(|host| host.0.as_str().into()),
        path: at.value.path.as_ref().map(|at| path_rewrite(&at.value)),
    });
    let backends = rule.backends.iter().flat_map(|at| &at.value).map(backend).collect();
    ActionConfig::Forward { backends, rewrite }
}

fn matches(condition: &file::Match) -> Match {
    Match {
        path: match (&condition.path, &condition.grpc) {
            (Some(at), _) => Some(path(&at.value)),
            (None, Some(at)) => Some(grpc(&at.value)),
            (None, None) => None,
        },
        headers: pairs(condition.headers.as_ref(), |at| text(&at.value)),
        query: pairs(condition.query.as_ref(), |at| text(&at.value)),
        methods: condition.method.iter().flat_map(|m| m.values()).map(|m| m.0.as_str().into()).collect(),
    }
}

fn path(path: &file::PathMatch) -> PathPattern {
    match path {
        file::PathMatch::Exact(path) => PathPattern::Exact(path.0.as_str().into()),
        file::PathMatch::Prefix(path) => PathPattern::Prefix(match path.0.trim_end_matches('/') {
            "" => "/".into(),
            prefix => prefix.into(),
        }),
        file::PathMatch::Regex(regex) => PathPattern::Regex(regex.0.as_str().into()),
    }
}

/// The path of a gRPC call is `/` service `/` method (PROTOCOL-HTTP2). Names have no characters that mean something in a regular
/// expression but the dot.
fn grpc(call: &file::GrpcMatch) -> PathPattern {
    let service = call.service.as_ref().map(text);
    let method = call.method.as_ref().map(text);
    match (service, method) {
        (Some(TextPattern::Exact(service)), Some(TextPattern::Exact(method))) => {
            PathPattern::Exact(format!("/{service}/{method}").into())
        }
        (Some(TextPattern::Exact(service)), None) => PathPattern::Prefix(format!("/{service}").into()),
        (service, method) => {
            let part = |pattern: Option<TextPattern>| match pattern {
                None => "[^/]+".to_owned(),
                Some(TextPattern::Exact(name)) => name.replace('.', r"\."),
                Some(TextPattern::Regex(regex)) => format!("(?:{regex})"),
            };
            PathPattern::Regex(format!("/{}/{}", part(service), part(method)).into())
        }
    }
}

fn text<T: ToString>(text: &file::TextMatch<T>) -> TextPattern {
    use file::TextMatchKind::{Exact, Regex};
    match text {
        file::TextMatch::Exact(text) | file::TextMatch::Kind(Exact(text)) => {
            TextPattern::Exact(text.to_string().into())
        }
        file::TextMatch::Kind(Regex(regex)) => TextPattern::Regex(regex.0.as_str().into()),
    }
}

fn pairs<K: ToString, V, T>(pairs: Option<&Pairs<K, V>>, value: impl Fn(&V) -> T) -> Vec<(Box<str>, T)> {
    let pairs = pairs.into_iter().flat_map(|pairs| &pairs.0);
    pairs.map(|(key, of)| (key.to_string().into(), value(of))).collect()
}

fn headers(changes: Option<&At<file::HeaderChanges>>) -> HeaderChanges {
    let value = |at: &At<HeaderValue>| Box::from(at.value.0.as_str());
    let name = |name: &ChangedHeader| Box::from(name.0.as_str());
    changes.map_or_else(HeaderChanges::default, |At { value: changes, .. }| HeaderChanges {
        remove: changes.remove.iter().flatten().map(name).collect(),
        set: pairs(changes.set.as_ref(), value),
        add: pairs(changes.add.as_ref(), value),
    })
}

fn fault(fault: &file::Fault) -> FaultPolicy {
    let abort = |at: &At<file::Abort>| {
        let answer = match (&at.value.grpc, at.value.status) {
            (Some(status), _) => FaultAnswer::Grpc(status.0),
            (None, status) => FaultAnswer::Http(status?),
        };
        Some(Abort { share: at.value.share.0, answer })
    };
    FaultPolicy {
        headers: pairs(fault.headers.as_ref(), |at| text(&at.value)),
        delay: fault.delay.as_ref().map(|delay| Delay { share: delay.share.0, time: delay.time.0 }),
        abort: fault.abort.as_ref().and_then(abort),
        rate_limit: fault.rate_limit.as_ref().map(|limit| RateLimited {
            share: limit.share.0,
            retry_after: limit.retry_after.as_ref().map_or(default::FAULT_RETRY_AFTER, |time| time.0),
        }),
    }
}

/// Sorted as they are kept.
pub(super) fn rates(limits: Option<&At<OneOrMany<file::RateLimit>>>) -> Vec<RateLimit> {
    let limit = |limit: &file::RateLimit| {
        let (requests, interval) = limit.requests.0;
        let per = match limit.per {
            None | Some(file::LimitPer::All) => Per::All,
            Some(file::LimitPer::Client) => Per::Client,
        };
        RateLimit { requests, interval, burst: limit.burst.unwrap_or(requests), per }
    };
    let limits: Vec<_> = limits.into_iter().flat_map(|at| at.value.values()).map(limit).collect();
    RateLimits::new(&limits).limits().collect()
}

fn retry(retry: &file::Retry) -> RetryPolicy {
    let usual = RetryPolicy::default();
    let back_off = retry.back_off.as_ref().map(|at| &at.value);
    let base = back_off.and_then(|b| b.base.as_ref()).map_or(usual.base_back_off, |time| time.0);
    let most = back_off.and_then(|b| b.max.as_ref());
    RetryPolicy {
        attempts: retry.attempts.unwrap_or(usual.attempts),
        on: retry.on.as_ref().map_or(usual.on, |on| retry_on(on)),
        budget_percent: retry.budget.as_ref().map_or(usual.budget_percent, |percent| percent.0),
        budget_least: retry.budget_least.unwrap_or(usual.budget_least),
        throttle: retry.throttle.as_ref().map(|throttle| RetryThrottle {
            max_tokens: throttle.max_tokens,
            token_ratio: throttle.token_ratio.0,
        }),
        base_back_off: base,
        max_back_off: most.map_or(usual.max_back_off.max(base), |time| time.value.0),
    }
}

fn retry_on(causes: &[At<file::RetryOn>]) -> RetryOn {
    let mut on = RetryOn::default();
    for cause in causes {
        match &cause.value {
            file::RetryOn::Status(status) => on.statuses.push((*status, *status)),
            file::RetryOn::Cause(cause) => match cause.0 {
                Cause::ConnectFailure => on.connect_failure = true,
                Cause::Reset => on.reset = true,
                Cause::Timeout => on.timeout = true,
                Cause::Status(first, last) => on.statuses.push((first, last)),
                Cause::Grpc(status) => on.grpc.insert(status),
            },
        }
    }
    on
}

fn redirect(redirect: &file::Redirect) -> Redirect {
    Redirect {
        scheme: redirect.scheme.map(|scheme| match scheme {
            file::Scheme::Http => "http".into(),
            file::Scheme::Https => "https".into(),
        }),
        host: redirect.host.as_ref().map(|host| host.0.as_str().into()),
        port: redirect.port,
        path: redirect.path.as_ref().map(|at| path_rewrite(&at.value)),
        status: redirect.status.as_ref().map_or(default::REDIRECT_STATUS, |at| at.value),
    }
}

fn path_rewrite(path: &file::PathRewrite) -> PathRewrite {
    match path {
        file::PathRewrite::Full(path) => PathRewrite::Full(path.0.as_str().into()),
        file::PathRewrite::Prefix(path) => PathRewrite::Prefix(path.0.as_str().into()),
    }
}
