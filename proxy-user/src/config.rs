//! One YAML file, read completely or not at all: a valid [`Config`], or everything that is wrong with it at once.
//!
//! The way: text -> `yaml` (a tree in which every value knows its place) -> `shape` (keys, types and words against the
//! schema of `file`) -> `file` (typed) -> `resolve` (defaults filled in) -> `check` (what only the whole can tell).
//! Mistakes are cut out on the way, so that the later steps still find theirs. This room opens one file and nothing
//! else: it never asks whether a cgroup, a namespace or an address exists.
//!
//! A file that is read again and again has a [`Source`], which goes this way with the services that changed (`change`)
//! wherever that is sure to give the same.

mod change;
mod check;
mod de;
mod default;
mod dump;
mod error;
mod file;
mod kubelet;
mod layout;
mod resolve;
mod route;
mod shape;
mod snapshot;
mod source;
mod suggest;
mod text;
mod yaml;

#[cfg(test)]
mod tests;

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_core::addr::Cidr;
use proxy_core::http::HttpLimits;
use proxy_core::overload::OverloadPolicy;
use proxy_core::proxy_protocol;
use proxy_core::rate::RateLimit;
use proxy_core::service::{EndpointLoss, Fail, HealthCheck, LaneChoice, Limits, Outlier, Policy, Protocol};
use proxy_core::snapshot::{Intercept, Scope};
use proxy_core::tls::{ClientTls, ServerTls};
use serde::Deserialize;

pub use error::{ConfigErrors, MAX_SHOWN, Mistake, Position};
pub use kubelet::{KubeletAccess, KubeletConfig};
pub use route::{ActionConfig, BackendConfig, MirrorConfig, RouteConfig, RuleConfig};
pub use source::{Source, Way};

use error::{Finding, Mistakes};
use layout::Layout;

/// Largest file: 10,000 services with 100,000 endpoints need 6 MiB, 100,000 services with one each 20.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// Everything that the file decides, valid and with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Ports opened for clients that are not intercepted; an IPv6 wildcard stands for IPv6 only.
    pub listeners: Vec<ListenerConfig>,
    /// Whose connections are caught, and which of them never.
    pub intercept: Intercept,
    /// Ports of applications in the order of the file, names unique among these and services.
    pub inbound: Vec<InboundConfig>,
    /// Who knows the labels of pods.
    pub kubelet: KubeletConfig,
    /// Routes in the order of the file, names unique.
    pub routes: Vec<RouteConfig>,
    /// Services in the order of the file, names unique.
    pub services: Vec<ServiceConfig>,
    /// Number of worker threads.
    pub workers: Workers,
    /// Driver of the workers.
    pub io: IoChoice,
    /// Time for which a worker that has just had something to do looks for more before it sleeps.
    pub busy_poll: Option<Duration>,
    /// The interface for operators.
    pub admin: AdminConfig,
    /// Further address for /metrics.
    pub metrics: Option<SocketAddr>,
    /// Access log, if wanted.
    pub access_log: Option<AccessLogConfig>,
    /// Log of the process.
    pub log: LogConfig,
    /// Time that open connections get to end after SIGTERM; may be zero.
    pub drain_timeout: Duration,
    /// What is given up when memory or descriptors run out.
    pub overload: OverloadPolicy,
    /// Whether rules may have faults.
    pub allow_faults: bool,
}

/// Ports of applications whose connections workers take on their way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundConfig {
    /// Name.
    pub name: String,
    /// Ports, in the order of the file.
    pub ports: Vec<u16>,
    /// Whose; every served namespace's if empty.
    pub scopes: Vec<Scope>,
    /// Bounds; those of several endpoints and of requests are the defaults.
    pub limits: Limits,
    /// Every connection begins with a header of the PROXY protocol.
    pub expects_proxy_header: bool,
    /// From where it is believed; from everywhere if empty.
    pub trusted_proxies: Vec<Cidr>,
    /// Header of the PROXY protocol for applications.
    pub proxy_protocol: Option<proxy_protocol::Version>,
}

/// A port opened for clients that are not intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// What clients speak.
    pub protocol: Protocol,
    /// Whom to serve.
    pub serves: ServesConfig,
    /// Every connection begins with a header of the PROXY protocol.
    pub expects_proxy_header: bool,
    /// From where it is believed; from everywhere if empty.
    pub trusted_proxies: Vec<Cidr>,
    /// TLS that ends here.
    pub tls: Option<ServerTls>,
    /// Bounds on HTTP.
    pub http: HttpLimits,
}

/// Who answers the clients of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServesConfig {
    /// Name of a service in [`Config::services`].
    Service(String),
    /// Names of routes in [`Config::routes`].
    Routes(Vec<String>),
}

/// One service as configured: a [`proxy_core::service::Service`] without numbers, states and loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Unique name.
    pub name: String,
    /// What applications connect to; canonical.
    pub addresses: Vec<SocketAddr>,
    /// Protocol spoken.
    pub protocol: Protocol,
    /// TLS to endpoints.
    pub tls: Option<ClientTls>,
    /// Header of the PROXY protocol for endpoints.
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// Names of routes in [`Config::routes`] that requests to the service go by.
    pub routes: Vec<String>,
    /// Bounds on HTTP.
    pub http: HttpLimits,
    /// Lane asked for.
    pub lane: LaneChoice,
    /// Servers, in the order of the file, addresses unique.
    pub endpoints: Vec<EndpointConfig>,
    /// How one endpoint is chosen.
    pub policy: Policy,
    /// Active checks.
    pub health: Option<HealthCheck>,
    /// Passive health.
    pub outlier: Outlier,
    /// Bounds.
    pub limits: Limits,
    /// Bounds on how fast requests may come; those per client first.
    pub rates: Vec<RateLimit>,
    /// Fate of open connections to an endpoint that is lost.
    pub on_endpoint_loss: EndpointLoss,
    /// Fate of new connections while Weir is away.
    pub fail: Fail,
}

/// One server of a service as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Where it listens; canonical.
    pub address: SocketAddr,
    /// Share of the connections, 0 to 65,535.
    pub weight: u32,
    /// Failure zone.
    pub zone: Option<String>,
}

/// Number of worker threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One for each CPU that the process may use.
    Auto,
    /// This many, 1 to 1024.
    Count(u16),
}

/// Driver of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring where it works, else epoll.
    Auto,
    /// io_uring or nothing.
    Ring,
    /// epoll.
    Epoll,
}

/// The interface for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Loopback address that can only be read from.
    pub address: SocketAddr,
    /// Unix socket that can change things; at most 107 bytes.
    pub socket: PathBuf,
}

/// Access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// File that lines are appended to; absolute.
    pub path: PathBuf,
    /// Form of the lines.
    pub format: LogFormat,
}

/// Log of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Least important level that is written.
    pub level: LogLevel,
    /// Form of the lines.
    pub format: LogFormat,
}

/// Importance of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What must be repaired.
    Error,
    /// What an operator should know.
    Warn,
    /// Life cycle.
    Info,
    /// Every connection.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Word that `tracing` understands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Form of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object for each line.
    Json,
}

/// Reads a config from a file; blocks, and reads at most [`MAX_FILE_BYTES`].
///
/// # Errors
/// Everything that is wrong with it; or that it cannot be read, is too large or is not UTF-8.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    parse_laid_out(&path.display().to_string(), &folder(path), &read_file(path)?).map(|(config, _)| config)
}

/// Reads a config from a text; `name` is the file's name in messages, and its folder is what relative paths begin at.
///
/// Time and memory grow with the length of the text and no faster; no text panics.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(name: &str, text: &str) -> Result<Config, ConfigErrors> {
    parse_laid_out(name, Path::new(name).parent().unwrap_or(Path::new("")), text).map(|(config, _)| config)
}

/// The folder of a file, as an absolute path: what relative paths in it begin at.
fn folder(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path);
    absolute.ok().as_deref().and_then(Path::parent).map_or_else(PathBuf::new, Path::to_owned)
}

/// As [`parse`], and tells where in the text each service stands if that can be told.
fn parse_laid_out(name: &str, folder: &Path, text: &str) -> Result<(Config, Option<Layout>), ConfigErrors> {
    if text.len() > MAX_FILE_BYTES {
        return Err(too_large(name));
    }
    let text = without_mark(text);
    let mut mistakes = Mistakes::default();
    match read(text, folder, &mut mistakes) {
        Some(read) if mistakes.is_empty() => Ok(read),
        _ => Err(mistakes.into_errors(name, text)),
    }
}

/// The text behind a byte order mark, which editors of other systems write.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn read_file(path: &Path) -> Result<String, ConfigErrors> {
    let name = path.display().to_string();
    let unreadable =
        |error: std::io::Error| ConfigErrors::unreadable(&name, format!("cannot be read: {error}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let one_too_many = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let expected_bytes = file.metadata().map_or(0, |metadata| metadata.len()).min(one_too_many);
    // One more than expected, so that the end of the file is found without growing.
    let mut bytes = Vec::with_capacity(usize::try_from(expected_bytes).unwrap_or(0) + 1);
    file.take(one_too_many).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(too_large(&name));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid_bytes = error.utf8_error().valid_up_to();
        not_utf8(&name, &error.into_bytes(), valid_bytes)
    })
}

/// Makes the JSON Schema of the file, for editors (`yaml-language-server: $schema=...`).
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(file::File).to_value();
    drop_nulls(&mut schema);
    schema
}

fn read(text: &str, folder: &Path, mistakes: &mut Mistakes) -> Option<(Config, Option<Layout>)> {
    if let Some(position) = control_character(text) {
        let finding = Finding::new("a control character; only tabs and line ends are allowed");
        mistakes.push(position, String::new, finding);
        return None;
    }
    let (mut tree, root) = yaml::read(text, mistakes);
    let start = Position { line: 1, column: 1 };
    let is_empty = |root: &yaml::Node<'_>| matches!(root.value, yaml::Value::Null);
    let Some(mut root) = root.filter(|root| !is_empty(root)) else {
        if mistakes.is_empty() {
            let finding = Finding::new("the file is empty").expected("at least 'services: []'");
            mistakes.push(start, String::new, finding);
        }
        return None;
    };
    if !shape::check(&mut tree, &mut root, mistakes) {
        return None;
    }
    match file::File::deserialize(&root) {
        Ok(file) => {
            let config = resolve::resolve(&file, folder);
            check::check(&file, &config, &tree, mistakes);
            Some((config, Layout::of(text, &tree, &root)))
        }
        Err(error) => {
            mistakes.push(start, String::new, Finding::new(format!("cannot be understood: {error}")));
            None
        }
    }
}

fn too_large(name: &str) -> ConfigErrors {
    ConfigErrors::unreadable(name, format!("larger than {} MiB", MAX_FILE_BYTES >> 20))
}

fn not_utf8(name: &str, bytes: &[u8], valid_bytes: usize) -> ConfigErrors {
    let text = String::from_utf8_lossy(&bytes[..valid_bytes]);
    let mut mistakes = Mistakes::default();
    let problem = format!("not UTF-8: byte 0x{:02x}", bytes[valid_bytes]);
    mistakes.push(end_of(&text), String::new, Finding::new(problem));
    mistakes.into_errors(name, &text)
}

/// Finds the first character that YAML forbids (YAML 1.2, 5.1); the parser would take NUL for the end of the file.
fn control_character(text: &str) -> Option<Position> {
    let is_bad = |b: u8| (b < b' ' && !b"\t\n\r".contains(&b)) || b == 0x7f;
    let at = text.bytes().position(is_bad)?;
    Some(end_of(&text[..at]))
}

/// Position behind the last character.
fn end_of(text: &str) -> Position {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let line = number(text.bytes().filter(|b| *b == b'\n').count() + 1);
    let last = text.rsplit('\n').next().unwrap_or_default();
    Position { line, column: number(last.chars().count() + 1) }
}

/// Removes `null` from what a schema allows: a key is left out or has a value.
fn drop_nulls(schema: &mut serde_json::Value) {
    use serde_json::Value as Json;
    match schema {
        Json::Object(object) => {
            if let Some(Json::Array(types)) = object.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if object.get("default").is_some_and(Json::is_null) {
                object.remove("default");
            }
            if let Some(Json::Array(variants)) = object.get_mut("anyOf") {
                variants.retain(|variant| variant["type"] != "null");
                if let [Json::Object(only)] = variants.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    for (key, value) in only {
                        object.entry(key).or_insert(value);
                    }
                }
            }
            object.values_mut().for_each(drop_nulls);
        }
        Json::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
