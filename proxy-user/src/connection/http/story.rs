//! What is told of a request when it is over: to counters, and to the access log.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::addr::EndpointAddr;
use proxy_core::id::ServiceId;
use proxy_core::identity::TraceParent;
use proxy_core::route::Rule;
use proxy_core::service::Service;

use super::Client;
use super::request::Outcome;
use crate::forward::head::Head;
use crate::record::request::{RequestRecord, Text, TlsFacts};
use crate::stats::http::{ActiveRequest, Event, HttpStats, RequestEnd};
use crate::tls::Negotiated;

/// A request that is going to be told of.
pub(super) struct Story {
    began: Instant,
    pub(super) service: Option<Arc<Service>>,
    pub(super) rule: Option<Arc<Rule>>,
    /// Time that it is held up on purpose.
    pub(super) delay: Option<Duration>,
    /// Counters of its service, from when it began, and of its rule.
    stats: OnceCell<Arc<HttpStats>>,
    rule_stats: Option<Arc<HttpStats>>,
    /// What only the log wants; none if it is off, or if the head could not be read.
    texts: Option<Box<Texts>>,
}

struct Texts {
    version: &'static str,
    method: Text,
    host: Text,
    path: Text,
    request_id: Option<Text>,
    trace_id: Option<Text>,
    user_agent: Option<Text>,
}

/// A request under way, as its service and its rule count it.
pub(super) struct Active<'a> {
    of_service: ActiveRequest<'a>,
    of_rule: Option<ActiveRequest<'a>>,
}

impl Story {
    /// A request that belongs to no service, as far as is known.
    pub(super) fn new(client: &Client<'_>, began: Instant) -> Self {
        Self {
            began,
            service: client.service.cloned(),
            rule: None,
            delay: None,
            stats: OnceCell::new(),
            rule_stats: None,
            texts: None,
        }
    }

    /// Remembers what the log is going to say, if there is one.
    pub(super) fn read(&mut self, client: &Client<'_>, head: &impl Head, made_id: Option<&[u8]>) {
        if !client.local.shared.access.is_on() {
            return;
        }
        let field = |name: &str| head.find(name);
        let trace = field("traceparent").and_then(TraceParent::parse);
        self.texts = Some(Box::new(Texts {
            version: head.version(),
            method: Text::new(head.method().as_bytes()),
            host: Text::new(head.host().as_bytes()),
            path: Text::path(head.path_and_query().as_bytes()),
            request_id: made_id.or_else(|| field("x-request-id")).map(Text::new),
            trace_id: trace.map(|trace| Text::new(trace.trace_id.as_bytes())),
            user_agent: field("user-agent").map(Text::new),
        }));
    }

    /// Takes up the rule that the request goes by.
    pub(super) fn set_rule(&mut self, client: &Client<'_>, rule: &Arc<Rule>) {
        let http = &client.local.shared.stats.http;
        self.rule_stats = Some(client.local.routes.borrow_mut().rule_stats(rule, http));
        self.rule = Some(Arc::clone(rule));
    }

    /// Takes up the service that it goes to.
    pub(super) fn set_service(&mut self, service: &Arc<Service>) {
        self.service = Some(Arc::clone(service));
    }

    /// Counts an event, of the service and of the rule.
    pub(super) fn note(&self, event: Event) {
        self.stats.get().into_iter().chain(&self.rule_stats).for_each(|stats| stats.count(event));
    }

    /// Counts the request as under way: whose it is has been found out.
    pub(super) fn begin(&self, client: &Client<'_>) -> Active<'_> {
        let stats = self.stats.get_or_init(|| {
            let id = self.service.as_ref().map_or(ServiceId(0), |service| service.id);
            client.local.routes.borrow_mut().http_stats(id, &client.local.shared.stats.http)
        });
        Active { of_service: stats.begin(), of_rule: self.rule_stats.as_ref().map(|stats| stats.begin()) }
    }

    /// Counts its end and writes it down.
    pub(super) fn end(&self, client: &Client<'_>, active: Active<'_>, outcome: &Outcome) {
        let end = RequestEnd {
            status: (outcome.status > 0).then_some(outcome.status),
            grpc: outcome.grpc,
            reason: outcome.reason,
            duration: outcome.ended.saturating_duration_since(self.began),
            sent_bytes: outcome.sent_bytes,
            received_bytes: outcome.received_bytes,
        };
        active.of_service.handle_end(&end);
        if let Some(active) = active.of_rule {
            active.handle_end(&end);
        }
        if let Some(attending) = &client.accepted.attending {
            attending.application().handle_request();
        }
        client.local.shared.access.record(|| self.record(client, &end, outcome));
    }

    fn record(&self, client: &Client<'_>, end: &RequestEnd, outcome: &Outcome) -> RequestRecord {
        let texts = self.texts.as_deref();
        let accepted = client.accepted;
        RequestRecord {
            client: accepted.client,
            original_dst: accepted.original_dst,
            endpoint: outcome.endpoint.map(EndpointAddr),
            service: self.service.as_ref().map(|service| Arc::clone(&service.name)),
            cgroup_id: accepted.cgroup_id,
            rule: self.rule.as_ref().map(|rule| (Arc::clone(&rule.route), rule.index)),
            version: texts.map_or("unknown", |texts| texts.version),
            method: texts.map(|texts| texts.method.clone()),
            host: texts.map(|texts| texts.host.clone()),
            path: texts.map(|texts| texts.path.clone()),
            status: end.status,
            grpc: end.grpc,
            request_id: texts.and_then(|texts| texts.request_id.clone()),
            trace_id: texts.and_then(|texts| texts.trace_id.clone()),
            user_agent: texts.and_then(|texts| texts.user_agent.clone()),
            tls: client.tls.map(tls_facts),
            tries: outcome.tries,
            sent_bytes: end.sent_bytes,
            received_bytes: end.received_bytes,
            first_byte: outcome.first_byte,
            duration: end.duration,
            reason: end.reason,
        }
    }
}

fn tls_facts(negotiated: &Negotiated) -> TlsFacts {
    TlsFacts {
        version: negotiated.version_text(),
        sni: negotiated.sni.as_ref().map(|name| Text::new(name.as_bytes())),
    }
}
