//! Routes in the file. Names follow HTTPRoute of the Kubernetes Gateway API where it has them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::de::{At, OneOrMany, Pairs};
use super::super::text::{
    Body, ChangedHeader, GrpcMethod, GrpcService, GrpcStatus, HeaderName, HeaderValue, Host, HostPattern,
    HostPort, Method, Name, Percent, QueryName, QueryValue, Rate, Regex, RetryCause, Share, Time, UrlPath,
};

/// What happens with requests, by host, path, headers and so on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Route {
    /// Unique name, for `routes` of listeners and services.
    pub(in crate::config) name: At<Name>,
    /// Hosts that it is for: names, or `*.` and what they end with. Every host if absent.
    #[serde(default)]
    pub(in crate::config) hosts: Vec<At<HostPattern>>,
    /// What happens. The most specific match wins, in whatever order they stand: first by host, then exact paths, then the
    /// longest prefix, then regular expressions, then any path; then a method, then the most headers, then the most query parameters.
    /// Only between equals the first one wins.
    #[schemars(length(min = 1))]
    pub(in crate::config) rules: Vec<At<Rule>>,
}

/// What happens with requests that match: exactly one of `backends`, `redirect` and `respond`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Rule {
    /// Which requests: all conditions of a mapping must hold; of a list, all of any one. Every request if absent.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub(in crate::config) matches: Option<At<OneOrMany<Match>>>,
    /// How long a request may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) timeout: Option<At<Timeout>>,
    /// Whether a request is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) retry: Option<At<Retry>>,
    /// Bounds on its requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) limits: Option<At<RuleLimits>>,
    /// Which requests are refused first when memory, descriptors or places in a service run out: those of low priority, which also
    /// leave a quarter of `max_requests` and `max_pending` to the others. `default` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) priority: Option<At<Priority>>,
    /// Let a share of its requests fail on purpose; only with `allow_faults: true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) fault: Option<At<Fault>>,
    /// Changes of the request's headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) request_headers: Option<At<HeaderChanges>>,
    /// Changes of the answer's headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) response_headers: Option<At<HeaderChanges>>,
    /// Services that get copies of requests; their answers are thrown away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) mirror: Option<At<OneOrMany<Mirror>>>,
    /// What becomes of host and path on the way to the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) rewrite: Option<At<Rewrite>>,
    /// Tell the client to ask elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) redirect: Option<At<Redirect>>,
    /// Answer without asking anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) respond: Option<At<Respond>>,
    /// Services that answer, each with its share.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(in crate::config) backends: Option<At<Vec<At<Backend>>>>,
}

/// Priorities of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Priority {
    /// Refused last.
    High,
    /// As all others.
    Default,
    /// Refused first.
    Low,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Match {
    /// On the path, without the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) path: Option<At<PathMatch>>,
    /// On the gRPC call that the path names, in place of `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) grpc: Option<At<GrpcMatch>>,
    /// On headers, by name: the whole value, or `{regex: ...}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) headers: Option<Pairs<HeaderName, At<TextMatch<HeaderValue>>>>,
    /// On parameters of the query, by name: the whole value as it is sent (%XX stays), or `{regex: ...}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) query: Option<Pairs<QueryName, At<TextMatch<QueryValue>>>>,
    /// One method or several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) method: Option<OneOrMany<Method>>,
}

/// A condition on a path.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum PathMatch {
    /// The whole path.
    Exact(UrlPath),
    /// Whole elements of the path: `/api` fits `/api` and `/api/x`, not `/apis`.
    Prefix(UrlPath),
    /// A regular expression that fits the whole path.
    Regex(Regex),
}

/// A condition on a gRPC call: on its service, its method, or both.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct GrpcMatch {
    /// Name of the service with its package, or `{regex: ...}`. Every one if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) service: Option<TextMatch<GrpcService>>,
    /// Name of the method, or `{regex: ...}`. Every one if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) method: Option<TextMatch<GrpcMethod>>,
}

/// A condition on a text.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum TextMatch<T> {
    /// The whole text.
    Exact(T),
    /// By its kind.
    Kind(TextMatchKind<T>),
}

/// A condition on a text, by its kind.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum TextMatchKind<T> {
    /// The whole text.
    Exact(T),
    /// A regular expression that fits the whole text.
    Regex(Regex),
}

/// How long a request may take; no bound where absent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Timeout {
    /// From its head to the end of the answer, with all tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) request: Option<Time>,
    /// One try, up to the head of its answer; at most `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) per_try: Option<At<Time>>,
}

/// Whether a request is tried again.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Retry {
    /// Further tries after the first one; 0 switches them off. Default: `2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 16))]
    pub(in crate::config) attempts: Option<u32>,
    /// After what: `connect_failure`, `reset`, `timeout` (of one try), statuses such as "503" or "500-599", statuses of gRPC
    /// such as `unavailable`: naming one of those says that the same call may follow, whatever it does.
    /// Default: `[connect_failure]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) on: Option<Vec<At<RetryOn>>>,
    /// Retries that may be under way, in percent of the service's requests that are. Default: `20%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) budget: Option<Percent>,
    /// Retries that may be under way whatever the percentage says. Default: `3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) budget_least: Option<u32>,
    /// Bound by how tries end (gRPC proposal A6). None if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) throttle: Option<Throttle>,
    /// The pause before a retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) back_off: Option<At<BackOff>>,
}

/// Bounds on the requests of a rule.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RuleLimits {
    /// Requests that may begin in a time, in all or of each client; more are answered 429. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) rate: Option<At<OneOrMany<RateLimit>>>,
}

/// Faults on purpose, each drawn for itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Fault {
    /// Only for requests with these headers, by name: the whole value, or `{regex: ...}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) headers: Option<Pairs<HeaderName, At<TextMatch<HeaderValue>>>>,
    /// Hold up a share of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) delay: Option<Delay>,
    /// Answer a share of them with a status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) abort: Option<At<Abort>>,
    /// Answer a share of them as if they came faster than allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) rate_limit: Option<FaultRateLimit>,
}

/// Requests that are held up.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Delay {
    /// Share of the requests.
    pub(in crate::config) share: Share,
    /// How long.
    pub(in crate::config) time: Time,
}

/// Requests that fail: exactly one of `status` and `grpc`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Abort {
    /// Share of the requests.
    pub(in crate::config) share: Share,
    /// Status of HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub(in crate::config) status: Option<u16>,
    /// Status of gRPC, such as `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) grpc: Option<GrpcStatus>,
}

/// Requests that are told to come later.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct FaultRateLimit {
    /// Share of the requests.
    pub(in crate::config) share: Share,
    /// When to come again. Default: `1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) retry_after: Option<Time>,
}

/// A bound on how fast requests may come.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RateLimit {
    /// Requests in each second, minute or hour.
    pub(in crate::config) requests: Rate,
    /// Requests that may begin at once. The number in `requests` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) burst: Option<u32>,
    /// Whom it bounds. Default: `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) per: Option<LimitPer>,
}

/// Whom a bound is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum LimitPer {
    /// All clients together.
    All,
    /// Each address that clients come from; of IPv6, each network (/64) but for applications on this node.
    Client,
}

/// Retries end while the service has too few tokens: a failure takes one, a success gives a part of one back.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Throttle {
    /// Tokens at the begin, and at most. With half of them or less nothing is tried again.
    #[schemars(range(min = 1, max = 1000))]
    pub(in crate::config) max_tokens: u16,
    /// Part of a token that a success gives back.
    pub(in crate::config) token_ratio: Share,
}

/// What a request is tried again after.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum RetryOn {
    /// A status.
    Status(#[schemars(range(min = 100, max = 599))] u16),
    /// A failure, a status or a range.
    Cause(RetryCause),
}

/// The pause before a retry: drawn from zero to a bound that doubles with each one.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct BackOff {
    /// Bound of the first pause. Default: `25ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) base: Option<Time>,
    /// Bound of all. Default: `250ms`, or `base` if that is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) max: Option<At<Time>>,
}

/// What is done to headers: first `remove`, then `set`, then `add`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HeaderChanges {
    /// Headers in place of those of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) set: Option<Pairs<ChangedHeader, At<HeaderValue>>>,
    /// Headers beside those of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) add: Option<Pairs<ChangedHeader, At<HeaderValue>>>,
    /// Names of headers that go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) remove: Option<Vec<ChangedHeader>>,
}

/// Who gets copies.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Mirror {
    /// Name of a service that speaks HTTP/1.1: not one with `protocol: http2`.
    pub(in crate::config) service: At<Name>,
    /// Share of the requests. Default: `100%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) share: Option<Share>,
}

/// What becomes of host and path.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Rewrite {
    /// New host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) host: Option<HostPort>,
    /// New path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) path: Option<At<PathRewrite>>,
}

/// A new path; the query stays.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum PathRewrite {
    /// In place of the whole path.
    Full(UrlPath),
    /// In place of the prefix that matched.
    Prefix(UrlPath),
}

/// Where a client is told to ask. What is absent stays as it was asked.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Redirect {
    /// Scheme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) scheme: Option<Scheme>,
    /// Host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) host: Option<Host>,
    /// Port; if absent and `scheme` is given, the scheme's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(in crate::config) port: Option<u16>,
    /// Path; the query stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) path: Option<At<PathRewrite>>,
    /// 301, 302, 303, 307 or 308. Default: `302`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) status: Option<At<u16>>,
}

/// Schemes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Respond {
    /// Status.
    #[schemars(range(min = 200, max = 599))]
    pub(in crate::config) status: u16,
    /// Body. Empty if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) body: Option<At<Body>>,
    /// Type of the body. Default: `text/plain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) content_type: Option<HeaderValue>,
}

/// A service that answers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Backend {
    /// Name of a service.
    pub(in crate::config) service: At<Name>,
    /// Share of the requests relative to the other services; 0 is none. Default: `1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub(in crate::config) weight: Option<u32>,
}
