//! The file as it is written. The only description of its keys: the JSON Schema, the check that finds mistakes and the
//! reader are all derived from these types. Doc comments here are the help that editors show.

mod adaptive;
mod application;
mod health;
mod http;
mod inbound;
mod intercept;
mod overload;
mod pods;
mod route;
mod tls;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::de::{At, OneOrMany};
use super::text::{
    Address, FilePath, Name, Network, ShortTime, SocketPath, Time, TimeOrOff, TimeOrZero, Word,
};

pub(super) use adaptive::Adaptive;
pub(super) use application::ApplicationLimits;
pub(super) use health::{GrpcProbe, Health, HttpProbe, Outlier, Status, TcpProbe};
pub(super) use http::{HttpLimits, Ping};
pub(super) use inbound::{Inbound, InboundLimits, InboundProxyProtocol};
pub(super) use intercept::{Exclude, Intercept, NodeListener, NodeListenerChoice, Scope, Source};
pub(super) use overload::Overload;
pub(super) use pods::{Kubelet, PodScope};
pub(super) use route::{
    Abort, BackOff, Backend, Delay, Fault, FaultRateLimit, GrpcMatch, HeaderChanges, LimitPer, Match, Mirror,
    PathMatch, PathRewrite, Priority, RateLimit, Redirect, Respond, Retry, RetryOn, Rewrite, Route, Rule,
    RuleLimits, Scheme, TextMatch, TextMatchKind, Throttle, Timeout,
};
pub(super) use tls::{CertificateFiles, ClientAuth, ClientTls, ServerTls, TlsVersion};

/// Configuration of Weir.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WeirConfig")]
pub(super) struct File {
    /// Ports that Weir opens for clients that are not intercepted.
    #[serde(default)]
    pub(super) listeners: Vec<At<Listener>>,
    /// Whose connections are intercepted, and which of them never.
    #[serde(default)]
    pub(super) intercept: Intercept,
    /// What happens with HTTP requests, and with TLS that is passed on, where a listener or a service says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) routes: Option<At<Vec<At<Route>>>>,
    /// What applications connect to, and who serves it.
    pub(super) services: At<Vec<At<Service>>>,
    /// Worker threads: `auto` (one for each CPU that Weir may use) or a number. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workers: Option<Workers>,
    /// How workers talk to the kernel. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) io: Option<Io>,
    /// Time, 1us to 1000us, for which a worker that has just had something to do looks for more before it sleeps: answers come
    /// sooner, and its processor is busy meanwhile. For workers that have processors of their own; like their number it is in force
    /// from a start or an upgrade on. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) busy_poll: Option<ShortTime>,
    /// The interface for operators.
    #[serde(default)]
    pub(super) admin: Admin,
    /// A further address for /metrics; the admin address has it always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metrics: Option<Metrics>,
    /// One line for each connection that ends. Off if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) access_log: Option<AccessLog>,
    /// What Weir says about itself.
    #[serde(default)]
    pub(super) log: Log,
    /// Time that open connections get to end after SIGTERM. Default: `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) drain_timeout: Option<TimeOrZero>,
    /// What Weir gives up when memory or descriptors run out.
    #[serde(default)]
    pub(super) overload: Overload,
    /// Whether rules may have `fault`, which lets requests fail on purpose. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allow_faults: Option<bool>,
}

/// A port that Weir opens: for one service or for some routes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    /// Where to listen. `0.0.0.0` means every IPv4 address of the machine, `[::]` every IPv6 address.
    pub(super) address: At<Address>,
    /// What clients speak (inside TLS, if `tls` is given). Default: `tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<Protocol>,
    /// Name of the service that answers everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<At<Name>>,
    /// Names of the routes that say who answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(super) routes: Option<At<Vec<At<Name>>>>,
    /// `required`: every connection begins with a header of the PROXY protocol (version 1 or 2) that says who the client is;
    /// one without is ended. Whoever can connect can name any client, so nobody but proxies should (`trusted_proxies`). Absent: no header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proxy_protocol: Option<ProxyHeader>,
    /// Networks of the proxies whose headers are believed; whoever connects from elsewhere is reset. With `proxy_protocol: required`.
    /// Everybody's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(super) trusted_proxies: Option<At<Vec<At<Network>>>>,
    /// TLS that ends here. With `protocol: tls` it is passed on instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<At<ServerTls>>,
    /// Bounds on HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http: Option<At<HttpLimits>>,
}

/// Headers of the PROXY protocol that come in.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ProxyHeader {
    /// Every connection has one.
    Required,
}

/// A named set of endpoints, and the policies between them and the applications.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    /// Unique name, for example `shop/web`.
    pub(super) name: At<Name>,
    /// What applications connect to. No two services share an address.
    #[serde(default)]
    pub(super) addresses: Vec<At<Address>>,
    /// What is spoken. Default: `tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<Protocol>,
    /// TLS to the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<At<ClientTls>>,
    /// Version of the PROXY protocol whose header tells the endpoints who the client is. None if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    /// Names of the routes that requests go by which are caught on their way to this service, or come by a listener that
    /// names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(super) routes: Option<At<Vec<At<Name>>>>,
    /// Bounds on HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http: Option<At<HttpLimits>>,
    /// Who moves the bytes. Default: `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lane: Option<At<Lane>>,
    /// Who serves. May be empty: then connections are refused. May be left out where routes say who serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) endpoints: Option<At<Vec<Endpoint>>>,
    /// How an endpoint is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) balance: Option<Balance>,
    /// Active checks of every endpoint. None if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) health: Option<At<Health>>,
    /// When failing connections take an endpoint out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outlier: Option<At<Outlier>>,
    /// Bounds on connections and times. They are kept by workers, so the direct lane cannot have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limits: Option<Limits>,
    /// What happens to open connections when their endpoint fails or is removed. Default: `keep`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) on_endpoint_loss: Option<EndpointLoss>,
    /// Time that open connections get with `on_endpoint_loss: drain`. Default: `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) drain_timeout: Option<TimeOrZero>,
    /// What happens to new connections while Weir is not running. Default: `open`, or `closed` with `tls` or
    /// `proxy_protocol`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fail: Option<At<Fail>>,
}

/// One server.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Endpoint {
    /// Where it listens.
    pub(super) address: At<Address>,
    /// Share of the connections relative to the other endpoints; 0 is none. Default: `1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 65535))]
    pub(super) weight: Option<u32>,
    /// Failure zone that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<Word>,
}

/// Protocols.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Protocol {
    /// A stream of bytes.
    Tcp,
    /// TLS that is passed on as it is; routes go by the name that the client asks for.
    Tls,
    /// HTTP, request by request. Endpoints are spoken to in HTTP/1.1.
    Http,
    /// HTTP, request by request, of which gRPC is a part. Endpoints are spoken to in HTTP/2; what browsers say in gRPC-Web
    /// they get in gRPC.
    Http2,
    /// Whatever the first bytes say.
    Auto,
}

/// Versions of the PROXY protocol.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Lane {
    /// The cheapest that the service's policies allow.
    Auto,
    /// The kernel connects the application to the endpoint itself.
    Direct,
    /// A worker of Weir.
    Proxy,
}

/// Load balancing.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Balance {
    /// How an endpoint is chosen. Default: `least_request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<Policy>,
}

/// Load balancing policies.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Policy {
    /// In turn, weighted.
    RoundRobin,
    /// At random, weighted.
    Random,
    /// The less loaded of two drawn at random, weighted.
    LeastRequest,
    /// Of two drawn at random, weighted, the one that promises the shorter wait.
    LeastLatency,
    /// The same endpoint for the same client address (Maglev hashing).
    Maglev,
    /// The same endpoint for the same client address (hashing on a ring).
    RingHash,
}

/// Bounds of a service.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// Time for one connect to one endpoint. Default: `2s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connect_timeout: Option<Time>,
    /// Endpoints that are tried for one connection. Default: `3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub(super) connect_attempts: Option<u32>,
    /// Time without a byte after which a connection is closed, or `off`. Default: `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle_timeout: Option<TimeOrOff>,
    /// Time without a byte after which a connection is closed that one side has finished, or `off`. Default: `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) half_close_timeout: Option<TimeOrOff>,
    /// Time that bytes sent to another machine may stay unacknowledged (TCP_USER_TIMEOUT). Default: `15m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_timeout: Option<Time>,
    /// Open connections to the service. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(super) max_connections: Option<u32>,
    /// Open connections to one endpoint. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(super) max_connections_per_endpoint: Option<u32>,
    /// Requests under way in the service. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(super) max_requests: Option<At<u32>>,
    /// Requests that wait for a connection to an endpoint. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(super) max_pending: Option<At<u32>>,
    /// Retries under way in the service, whatever the budgets of its routes allow. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(super) max_retries: Option<At<u32>>,
    /// A bound on requests under way that Weir finds out itself, by how fast the service answers; more are answered 503. None if
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) adaptive: Option<At<Adaptive>>,
    /// Requests that may begin in a time, in all or of each client; more are answered 429. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<At<OneOrMany<RateLimit>>>,
}

/// Fate of open connections.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum EndpointLoss {
    /// They go on.
    Keep,
    /// They go on for `drain_timeout` and are then reset.
    Drain,
    /// They are reset at once.
    Reset,
}

/// Fate of new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fail {
    /// The kernel connects them to an endpoint.
    Open,
    /// They are refused.
    Closed,
}

/// Number of worker threads.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Workers {
    /// One for each CPU.
    Auto(Auto),
    /// This many.
    Count(#[schemars(range(min = 1, max = 1024))] u16),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Auto {
    /// Weir chooses.
    Auto,
}

/// Drivers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Io {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// io_uring, or Weir does not start.
    Ring,
    /// epoll.
    Epoll,
}

/// The interface for operators.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// Loopback address that can only be read from. Default: `127.0.0.1:15000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<At<Address>>,
    /// Unix socket, for root only, that can change things. Default: `/run/weir/admin.sock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) socket: Option<SocketPath>,
}

/// Metrics for collectors.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    /// Where /metrics is served.
    pub(super) address: At<Address>,
}

/// Access log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessLog {
    /// File that lines are appended to.
    pub(super) path: FilePath,
    /// Form of the lines. Default: `json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) format: Option<LogFormat>,
}

/// Log.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    /// Least important level that is written. Default: `info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) level: Option<LogLevel>,
    /// Form of the lines. Default: `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) format: Option<LogFormat>,
}

/// Levels.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum LogLevel {
    /// What must be repaired.
    Error,
    /// What an operator should know.
    Warn,
    /// Start, stop, reload.
    Info,
    /// Every connection.
    Debug,
    /// Everything.
    Trace,
}

/// Form of a log.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object for each line.
    Json,
}
