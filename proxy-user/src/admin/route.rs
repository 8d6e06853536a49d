//! From a request to an answer: who may ask what.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use proxy_core::health::EndpointReport;
use serde::Serialize;

use super::source::Source;
use super::{clusters, connections, dump, metrics, status, why};
use crate::control::Phase;
use crate::record::cgroup::CgroupNames;
use crate::stats::kernel::KernelReader;

/// Time for one answer; the largest takes a second.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Time that the control task gets to answer; it is gone while connections drain.
const HEALTH_TIME: Duration = Duration::from_secs(1);
/// Silence of the control task after which this process counts as dead.
const DEAD: Duration = Duration::from_secs(60);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

const INDEX: &str = "\
Weir. Paths that can be read:
  /healthz/live    the process answers, and its control task has given a sign of life within a minute
  /healthz/ready   configuration is in force and connections are taken
  /status          where it stands
  /clusters        services with lanes, endpoints, health and load
  /connections     open connections with the kernel's figures; ?service=NAME ?limit=COUNT
  /why             what becomes of a connection; ?address=IP:PORT ?process=PID
  /config_dump     the configuration in force
  /metrics         OpenMetrics
Changes, over the unix socket only: POST /reload, POST /drain
";

/// What an address allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading, by those who name this machine by its address.
    ReadOnly,
    /// Reading one path, by anybody.
    MetricsOnly,
    /// Everything.
    Full,
}

/// What answers need.
pub(super) struct Admin<S> {
    source: S,
    cgroups: Arc<Mutex<CgroupNames>>,
    kernel: Arc<Mutex<KernelReader>>,
}

type Answer = Response<Full<Bytes>>;

impl<S: Source> Admin<S> {
    pub(super) fn new(source: S) -> Self {
        Self { source, cgroups: Arc::default(), kernel: Arc::default() }
    }

    /// Answers one request. A change that has begun goes on when the client goes away.
    pub(super) async fn answer(self: Arc<Self>, access: Access, request: Request<Incoming>) -> Answer {
        let (head, _) = request.into_parts();
        if access == Access::ReadOnly && !is_local_host(&head.headers) {
            let text = "the Host header must be an IP address or localhost\n";
            return plain(StatusCode::FORBIDDEN, text);
        }
        let path = head.uri.path();
        if let Some(refusal) = refusal(access, &head.method, path) {
            return refusal;
        }
        let query = head.uri.query().unwrap_or_default();
        match tokio::time::timeout(ANSWER_TIME, self.page(path, query)).await {
            Ok(answer) => answer,
            Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n"),
        }
    }

    async fn page(&self, path: &str, query: &str) -> Answer {
        match path {
            "/" => plain(StatusCode::OK, INDEX),
            "/healthz/live" => self.live(),
            "/healthz/ready" => self.ready(),
            "/status" => json(&status::status(&self.source)),
            "/config_dump" => json(&dump::dump(&self.source.snapshot(), &self.source.status().config)),
            "/clusters" => self.clusters().await,
            "/connections" => self.connections(query).await,
            "/why" => self.why(query).await,
            "/metrics" => self.metrics().await,
            "/reload" => self.reload().await,
            "/drain" => {
                self.source.drain().await;
                plain(StatusCode::ACCEPTED, "draining\n")
            }
            _ => plain(StatusCode::NOT_FOUND, "no such path; / lists them\n"),
        }
    }

    /// A control task that hangs for good is a reason to begin anew; one that hangs for a while is not, for workers and
    /// kernel programs go on.
    fn live(&self) -> Answer {
        match self.source.status().hung().filter(|silence| *silence >= DEAD) {
            None => plain(StatusCode::OK, "live\n"),
            Some(silence) => {
                let text =
                    format!("the control task has given no sign of life for {} s\n", silence.as_secs());
                plain(StatusCode::SERVICE_UNAVAILABLE, text)
            }
        }
    }

    fn ready(&self) -> Answer {
        match self.source.status().phase {
            Phase::Ready => plain(StatusCode::OK, "ready\n"),
            Phase::Starting => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "starting: not everything is in force yet\n")
            }
            Phase::Draining => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "draining: no new connections are taken\n")
            }
        }
    }

    async fn reload(&self) -> Answer {
        #[derive(Serialize)]
        struct Reloaded {
            version: u64,
        }
        match self.source.reload().await {
            Ok(version) => json(&Reloaded { version: version.0 }),
            Err(error) => plain(StatusCode::UNPROCESSABLE_ENTITY, format!("{}\n", error.trim_end())),
        }
    }

    async fn clusters(&self) -> Answer {
        let health = self.health().await;
        let source = self.source.clone();
        blocking(move || {
            let loads = source.direct_loads()?;
            Ok(json(&clusters::clusters(&source.snapshot(), &health, &loads)))
        })
        .await
    }

    async fn connections(&self, query: &str) -> Answer {
        let filter = match connections::Filter::parse(query) {
            Ok(filter) => filter,
            Err(text) => return plain(StatusCode::BAD_REQUEST, format!("{text}\n")),
        };
        let (source, cgroups) = (self.source.clone(), Arc::clone(&self.cgroups));
        blocking(move || {
            let live = source.live()?;
            let mut cgroups = cgroups.lock().unwrap_or_else(PoisonError::into_inner);
            let page = connections::page(&live, &source.names(), &filter, |id| cgroups.application(id));
            Ok(json(&page))
        })
        .await
    }

    async fn why(&self, query: &str) -> Answer {
        let question = match why::Question::parse(query) {
            Ok(question) => question,
            Err(text) => return plain(StatusCode::BAD_REQUEST, format!("{text}\n")),
        };
        let health = self.health().await;
        let source = self.source.clone();
        blocking(move || {
            Ok(match question.answer(&source, &health) {
                Ok(why) => json(&why),
                Err(text) => plain(StatusCode::NOT_FOUND, format!("{text}\n")),
            })
        })
        .await
    }

    async fn metrics(&self) -> Answer {
        let health = self.health().await;
        let (source, kernel) = (self.source.clone(), Arc::clone(&self.kernel));
        blocking(move || {
            // One scrape at a time: two at once would do the same work twice.
            let mut reader = kernel.lock().unwrap_or_else(PoisonError::into_inner);
            let text = metrics::text(&source, &mut reader, health)?;
            Ok(answer(StatusCode::OK, OPENMETRICS, text))
        })
        .await
    }

    async fn health(&self) -> Vec<EndpointReport> {
        tokio::time::timeout(HEALTH_TIME, self.source.health()).await.unwrap_or_default()
    }
}

/// Runs what reads the kernel on a thread that may block.
async fn blocking(make: impl FnOnce() -> std::io::Result<Answer> + Send + 'static) -> Answer {
    let result = match tokio::task::spawn_blocking(make).await {
        Ok(result) => result,
        Err(error) => Err(std::io::Error::other(error)),
    };
    result.unwrap_or_else(|error| {
        tracing::warn!(%error, "the admin interface cannot read the kernel");
        plain(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot read the kernel: {error}\n"))
    })
}

/// Says no to what an address or a path does not allow.
fn refusal(access: Access, method: &Method, path: &str) -> Option<Answer> {
    let is_change = matches!(path, "/reload" | "/drain");
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    if access == Access::MetricsOnly && path != "/metrics" {
        return Some(plain(StatusCode::NOT_FOUND, "only /metrics is here\n"));
    }
    if access != Access::Full && (!is_read || is_change) {
        let text = "this address can only be read from; changes are made over the unix socket (weir reload, weir drain)\n";
        return Some(plain(StatusCode::FORBIDDEN, text));
    }
    let allowed = if is_change { "POST" } else { "GET, HEAD" };
    let is_allowed = if is_change { *method == Method::POST } else { is_read };
    (!is_allowed).then(|| {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, format!("allowed: {allowed}\n"));
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        answer
    })
}

/// Tells whether the client named this machine by an address or as localhost.
///
/// A web page can make a browser ask a name that its owner lets point to 127.0.0.1 (DNS rebinding); the browser then
/// sends that name.
fn is_local_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            if port.parse::<u16>().is_err() {
                return false;
            }
            name
        }
        _ => host,
    };
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
    }
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(mut text) => {
            text.push(b'\n');
            answer(StatusCode::OK, JSON, text)
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    answer(status, TEXT, text)
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_name_this_machine() {
        let is_local = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_str(host).unwrap());
            is_local_host(&headers)
        };
        for host in
            ["127.0.0.1:15000", "127.0.0.1", "localhost", "LOCALHOST:80", "[::1]:15000", "[::1]", "10.0.0.1"]
        {
            assert!(is_local(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:15000", "localhost.evil.example", "127.0.0.1.nip.io", "", "::1"]
        {
            assert!(!is_local(host), "{host}");
        }
        for host in ["localhost:evil", "[localhost]", "127.0.0.1:", "[127.0.0.1]"] {
            assert!(!is_local(host), "{host}");
        }
        assert!(!is_local_host(&HeaderMap::new()), "no Host at all");
        let mut two = HeaderMap::new();
        two.append(HOST, HeaderValue::from_static("localhost"));
        two.append(HOST, HeaderValue::from_static("evil.example"));
        assert!(!is_local_host(&two));
    }
}
