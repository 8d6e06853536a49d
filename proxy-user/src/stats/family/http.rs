//! Metrics of HTTP: requests by service, and by the rule that they went by.

use std::fmt;

use proxy_core::id::ServiceId;

use super::Reading;
use crate::stats::http::{Event, HttpTotals};
use crate::stats::table::Table;

impl Reading {
    pub(super) fn http(&self, table: &mut Table<'_>) -> fmt::Result {
        self.http_requests(table)?;
        self.http_events(table)?;
        self.http_adaptive(table)?;
        self.http_rules(table)
    }

    /// Services in force. Those that are gone are not shown: two of them would have the same labels.
    fn http_services(&self) -> impl Iterator<Item = ([&str; 1], &HttpTotals)> {
        // Number 0 is of the requests that came to no service.
        let is_shown = |id: ServiceId| id.0 == 0 || self.names.knows(id);
        let known = self.http.services.iter().filter(move |(id, _)| is_shown(*id));
        known.map(|(id, totals)| ([self.names.service(*id)], totals))
    }

    fn http_requests(&self, table: &mut Table<'_>) -> fmt::Result {
        let by_class = self.http_services().flat_map(|([service], totals)| {
            totals.classes().map(move |(class, count)| ([service, class], count))
        });
        let (name, help) = ("weir_http_requests", "Requests that ended, by class of the status");
        table.counter(name, help, ["service", "status"], by_class)?;
        let by_reason = self.http_services().flat_map(|([service], totals)| {
            totals.reasons().map(move |(reason, count)| ([service, reason], count))
        });
        let (name, help) = ("weir_http_requests_ended", "Requests that ended, by reason");
        table.counter(name, help, ["service", "reason"], by_reason)?;
        let by_grpc = self.http_services().flat_map(|([service], totals)| {
            totals.grpc().map(move |(status, count)| ([service, status], count))
        });
        let (name, help) = ("weir_grpc_calls", "gRPC calls that ended, by their status");
        table.counter(name, help, ["service", "status"], by_grpc)?;
        let of = |figure: fn(&HttpTotals) -> u64| self.http_services().map(move |(l, t)| (l, figure(t)));
        let (name, help) = ("weir_http_requests_active", "Requests under way");
        table.gauge(name, help, ["service"], of(HttpTotals::active))?;
        let (name, help) =
            ("weir_http_connections_parked", "Connections of HTTP/1.1 between two requests that have rested");
        table.gauge(name, help, [], [([], self.http.parked)])?;
        let (name, help) = ("weir_http_request_duration", "Time from a request's head to its end");
        table.seconds_histogram(name, help, ["service"], self.http_services())?;
        let (name, help) = ("weir_http_bytes_sent", "Bytes of bodies from clients to endpoints");
        table.counter(name, help, ["service"], of(|totals| totals.sent_bytes))?;
        let (name, help) = ("weir_http_bytes_received", "Bytes of bodies from endpoints to clients");
        table.counter(name, help, ["service"], of(|totals| totals.received_bytes))
    }

    fn http_events(&self, table: &mut Table<'_>) -> fmt::Result {
        let of = |events: &'static [(&'static str, Event)]| {
            self.http_services().flat_map(move |([service], totals)| {
                events.iter().map(move |(word, event)| ([service, *word], totals.count(*event)))
            })
        };
        let retries = &[
            ("made", Event::Retry),
            ("connection_replaced", Event::FreshRetry),
            ("refused", Event::RetryRefused),
        ];
        let (name, help) =
            ("weir_http_retries", "Further tries of requests, and those that a budget refused");
        table.counter(name, help, ["service", "result"], of(retries))?;
        let timeouts = &[
            ("connect", Event::ConnectTimeout),
            ("per_try", Event::PerTryTimeout),
            ("request", Event::RequestTimeout),
        ];
        let (name, help) = ("weir_http_timeouts", "Waits for endpoints that took too long");
        table.counter(name, help, ["service", "of"], of(timeouts))?;
        let mirrored = &[("sent", Event::Mirrored), ("dropped", Event::MirrorDropped)];
        let (name, help) = ("weir_http_mirrored", "Copies of requests for other services");
        table.counter(name, help, ["service", "result"], of(mirrored))?;
        let connections = &[("opened", Event::ConnectionOpened), ("reused", Event::ConnectionReused)];
        let (name, help) = ("weir_http_upstream_connections", "How requests got a connection to an endpoint");
        table.counter(name, help, ["service", "how"], of(connections))
    }

    /// What they refused is among the requests that ended, with the reason `concurrency_limit`.
    fn http_adaptive(&self, table: &mut Table<'_>) -> fmt::Result {
        let all =
            || self.adaptive.iter().map(|(id, reading, count)| ([self.names.service(*id)], reading, *count));
        let (name, help) =
            ("weir_http_adaptive_limit", "Requests that may be under way, by how fast a service answers");
        table.gauge(
            name,
            help,
            ["service"],
            all().map(|(labels, reading, _)| (labels, reading.limit.into())),
        )?;
        let (name, help) = ("weir_http_adaptive_requests", "Requests under way where that is bounded so");
        table.gauge(name, help, ["service"], all().map(|(labels, _, count)| (labels, count.into())))?;
        let best = all().filter_map(|(labels, reading, _)| Some((labels, reading.best?.as_secs_f64())));
        let (name, help) =
            ("weir_http_adaptive_best_seconds", "How soon a service answers when it has not too much to do");
        table.fractions(name, help, ["service"], best)
    }

    fn http_rules(&self, table: &mut Table<'_>) -> fmt::Result {
        let rules =
            || self.http.rules.iter().map(|(route, rule, totals)| ([&**route, rule.as_str()], totals));
        let by_class = rules().flat_map(|([route, rule], totals)| {
            totals.classes().map(move |(class, count)| ([route, rule, class], count))
        });
        let (name, help) =
            ("weir_http_rule_requests", "Requests that ended, by rule and class of the status");
        table.counter(name, help, ["route", "rule", "status"], by_class)?;
        let by_reason = rules().flat_map(|([route, rule], totals)| {
            totals.reasons().map(move |(reason, count)| ([route, rule, reason], count))
        });
        let (name, help) = ("weir_http_rule_requests_ended", "Requests that ended, by rule and reason");
        table.counter(name, help, ["route", "rule", "reason"], by_reason)?;
        let by_grpc = rules().flat_map(|([route, rule], totals)| {
            totals.grpc().map(move |(status, count)| ([route, rule, status], count))
        });
        let (name, help) = ("weir_grpc_rule_calls", "gRPC calls that ended, by rule and status");
        table.counter(name, help, ["route", "rule", "status"], by_grpc)?;
        let (name, help) =
            ("weir_http_rule_request_duration", "Time from a request's head to its end, by rule");
        table.seconds_histogram(name, help, ["route", "rule"], rules())
    }
}
