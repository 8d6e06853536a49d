//! HTTP and TLS of listeners and services: what belongs together and what excludes each other.

use proxy_core::service::Protocol;

use super::super::de::At;
use super::super::error::Finding;
use super::super::text::{Name, Size, show_size};
use super::super::yaml::Origin;
use super::super::{Config, ServiceConfig, file};
use super::Check;

/// A head of a request with a cookie of its usual size must fit, and a thousand connections must not fill the memory.
const HEAD_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 20;

/// What protobuf allows a message to have; the length in front of it could say a little less than 4 GiB.
const MESSAGE_BYTES: std::ops::RangeInclusive<u64> = 1..=2 << 30;

/// Windows between two measurements of a service, at least: most of the time is for work.
const MEASURE_WINDOWS: u32 = 20;

/// What listeners and services have in common.
struct Speaker<'c> {
    protocol: Protocol,
    routes: Option<&'c At<Vec<At<Name>>>>,
    http: Option<&'c At<file::HttpLimits>>,
    /// Where TLS is asked for, and what is wrong with that if TLS is passed on.
    tls: Option<(Origin, &'static str)>,
}

impl<'c> Check<'c, '_> {
    /// Checks every listener and service by itself.
    pub(super) fn speakers(&mut self, config: &Config) {
        for (at, resolved) in self.file.listeners.iter().zip(&config.listeners) {
            let listener = &at.value;
            if resolved.protocol == Protocol::Http2 {
                let finding =
                    Finding::new("http2 is how endpoints are spoken to; clients choose their version");
                self.report(at.origin, finding.expected("protocol http, which has both"));
            }
            let ping = listener.http.as_ref().and_then(|at| at.value.ping.as_ref());
            if let Some(endpoints) = ping.and_then(|ping| ping.endpoints.as_ref()) {
                let finding =
                    Finding::new("a listener asks clients; endpoints are asked as their services say");
                self.report(endpoints.origin, finding.expected("it in the http of a service"));
            }
            let problem = "protocol: tls passes TLS on as it is, so it cannot end here";
            self.speaker(&Speaker {
                protocol: resolved.protocol,
                routes: listener.routes.as_ref(),
                http: listener.http.as_ref(),
                tls: listener.tls.as_ref().map(|tls| (tls.origin, problem)),
            });
        }
        for (at, resolved) in self.file.services.value.iter().zip(&config.services) {
            let problem =
                "protocol: tls says that applications speak TLS themselves; it would be inside of this";
            self.speaker(&Speaker {
                protocol: resolved.protocol,
                routes: at.value.routes.as_ref(),
                http: at.value.http.as_ref(),
                tls: at.value.tls.as_ref().map(|tls| (tls.origin, problem)),
            });
            self.service_http(&at.value, resolved);
            self.service_tls(&at.value, resolved);
            self.has_endpoints(at);
        }
    }

    fn speaker(&mut self, speaker: &Speaker<'c>) {
        let is_http = speaks_http(speaker.protocol);
        if let Some(routes) = speaker.routes.filter(|_| speaker.protocol == Protocol::Tcp) {
            let finding = Finding::new("nothing in a stream of bytes says which route it goes by");
            self.report(routes.origin, finding.expected("protocol http, http2, tls or auto"));
        }
        if let Some(http) = speaker.http {
            if !is_http {
                let finding = Finding::new(format!("protocol {} has no HTTP", speaker.protocol.as_str()));
                self.report(http.origin, finding.expected("protocol http, http2 or auto"));
            }
            self.size(http.value.max_head.as_ref(), HEAD_BYTES);
            self.size(http.value.max_grpc_message.as_ref(), MESSAGE_BYTES);
        }
        if let Some((origin, problem)) = speaker.tls.filter(|_| speaker.protocol == Protocol::Tls) {
            self.report(origin, Finding::new(problem));
        }
    }

    pub(super) fn size(&mut self, size: Option<&At<Size>>, range: std::ops::RangeInclusive<u64>) {
        if let Some(size) = size.filter(|at| !range.contains(&at.value.0)) {
            let (least, most) = (show_size(*range.start()), show_size(*range.end()));
            let finding = Finding::new("wrong value").found(size.value.to_string());
            self.report(size.origin, finding.expected(format!("a size from {least} to {most}")));
        }
    }

    /// Bounds on requests and what answers say mean something only where requests are read.
    fn service_http(&mut self, service: &file::Service, resolved: &ServiceConfig) {
        if speaks_http(resolved.protocol) {
            return self.adaptive(service, resolved);
        }
        let limits = service.limits.as_ref();
        let limit = |of: fn(&file::Limits) -> Option<&At<u32>>| limits.and_then(of).map(|at| at.origin);
        let by_answers = service.outlier.as_ref().and_then(|outlier| outlier.value.consecutive_5xx.as_ref());
        let rate = limits.and_then(|limits| limits.rate.as_ref()).map(|at| at.origin);
        for (name, origin) in [
            ("rate", rate),
            ("adaptive", limits.and_then(|limits| limits.adaptive.as_ref()).map(|at| at.origin)),
            ("max_requests", limit(|limits| limits.max_requests.as_ref())),
            ("max_pending", limit(|limits| limits.max_pending.as_ref())),
            ("max_retries", limit(|limits| limits.max_retries.as_ref())),
            ("consecutive_5xx", by_answers.filter(|at| at.value > 0).map(|at| at.origin)),
        ] {
            if let Some(origin) = origin {
                let problem = format!(
                    "{name} needs requests, which protocol {} has none of",
                    resolved.protocol.as_str()
                );
                self.report(origin, Finding::new(problem).expected("protocol http, http2 or auto"));
            }
        }
    }

    /// Bounds in their order, and windows within the time between measurements.
    fn adaptive(&mut self, service: &file::Service, resolved: &ServiceConfig) {
        let written = service.limits.as_ref().and_then(|limits| limits.adaptive.as_ref());
        let (Some(at), Some(policy)) = (written, resolved.limits.adaptive) else { return };
        if policy.most < policy.least {
            let problem =
                format!("the highest bound, {}, is below the lowest, {}", policy.most, policy.least);
            let origin = at.value.max.as_ref().map_or(at.origin, |max| max.origin);
            self.report(origin, Finding::new(problem));
        }
        if policy.measure_interval < policy.window * MEASURE_WINDOWS {
            let problem =
                format!("less than {MEASURE_WINDOWS} windows; there would be nothing but measurements");
            let origin = at.value.measure_interval.as_ref().map_or(at.origin, |interval| interval.origin);
            self.report(origin, Finding::new(problem));
        }
    }

    fn service_tls(&mut self, service: &file::Service, resolved: &ServiceConfig) {
        if let Some(At { value: tls, .. }) = &service.tls {
            match (&tls.cert, &tls.key) {
                (Some(cert), None) => self.report(cert.origin, Finding::new("cert needs a key")),
                (None, Some(key)) => self.report(key.origin, Finding::new("key needs a cert")),
                _ => {}
            }
        }
        let problem = match (&service.tls, service.proxy_protocol) {
            (Some(_), _) => Some(
                "fail: open is impossible with tls: the kernel would send in the clear what must be encrypted",
            ),
            (None, Some(_)) => {
                Some("fail: open is impossible with proxy_protocol: the kernel sends no header")
            }
            (None, None) => None,
        };
        let open = service.fail.as_ref().filter(|fail| fail.value == file::Fail::Open);
        if let (Some(problem), Some(fail)) = (problem, open) {
            let suggestion = Some("write fail: closed".to_owned());
            self.report(fail.origin, Finding::new(problem).suggest(suggestion));
        }
        let Some(is_tls) = service.health.as_ref().and_then(|health| health.value.tls.as_ref()) else {
            return;
        };
        if resolved.health.as_ref().is_some_and(|health| !health.is_tls) && is_tls.value {
            self.report(is_tls.origin, Finding::new("tls is of http and grpc checks, and this is neither"));
        } else if is_tls.value && resolved.tls.is_none() {
            let problem = "the service has no tls, so nothing says whom to believe";
            self.report(is_tls.origin, Finding::new(problem));
        }
    }

    fn has_endpoints(&mut self, at: &At<file::Service>) {
        let service = &at.value;
        if service.endpoints.is_none() && service.routes.is_none() && self.tree.is_whole(at.origin) {
            self.report(at.origin, Finding::new("missing key 'endpoints'").expected("a list"));
        }
    }
}

/// Tells whether requests are seen.
fn speaks_http(protocol: Protocol) -> bool {
    protocol.is_http() || protocol == Protocol::Auto
}
