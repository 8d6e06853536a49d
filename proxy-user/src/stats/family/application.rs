//! Metrics of applications: what each pod, or each cgroup, has done.

use std::fmt;

use proxy_core::outcome::Reason;

use super::Reading;
use crate::stats::application::{ApplicationTotals, FlowTotals, Lane};
use crate::stats::label;
use crate::stats::table::Table;

impl Reading {
    pub(super) fn applications(&self, table: &mut Table<'_>) -> fmt::Result {
        let flows: Vec<([&str; 2], FlowTotals)> = self
            .each_application()
            .flat_map(|(name, totals)| {
                Lane::ALL.into_iter().zip(totals.lanes).map(move |(lane, flow)| ([name, lane.as_str()], flow))
            })
            .filter(|(_, flow)| flow.opened > 0 || flow.active > 0)
            .collect();
        let of =
            |figure: fn(&FlowTotals) -> u64| flows.iter().map(move |(labels, flow)| (*labels, figure(flow)));
        let keys = ["application", "lane"];
        let (name, help) = (
            "weir_application_connections_opened",
            "Connections that began; in the lanes of the kernel, that ended",
        );
        table.counter(name, help, keys, of(|flow| flow.opened))?;
        let by_workers = [Lane::Proxy, Lane::Inbound].map(Lane::as_str);
        let active = of(|flow| flow.active).filter(|([_, lane], _)| by_workers.contains(lane));
        let (name, help) = ("weir_application_connections_active", "Connections that workers have open now");
        table.gauge(name, help, keys, active)?;
        let (name, help) =
            ("weir_application_bytes_sent", "Bytes from clients to servers, over closed connections");
        table.counter(name, help, keys, of(|flow| flow.sent_bytes))?;
        let (name, help) =
            ("weir_application_bytes_received", "Bytes from servers to clients, over closed connections");
        table.counter(name, help, keys, of(|flow| flow.received_bytes))?;
        let refused = self.each_application().flat_map(|(name, totals)| {
            let counts = Reason::ALL.iter().zip(totals.refused).filter(|(_, count)| *count > 0);
            counts.map(move |(reason, count)| ([name, reason.as_str()], count))
        });
        let (name, help) =
            ("weir_application_connections_refused", "Connections that Weir refused, by reason");
        table.counter(name, help, ["application", "reason"], refused)?;
        let requests = self.each_application().filter(|(_, totals)| totals.requests > 0);
        let requests = requests.map(|(name, totals)| ([name], totals.requests));
        let (name, help) = ("weir_application_http_requests", "Requests of HTTP that ended");
        table.counter(name, help, ["application"], requests)?;
        let series = [("own", self.applications.own_count), ("other", self.applications.rest_count)];
        let (name, help) =
            ("weir_applications", "Applications that are counted: by themselves, or together with others");
        table.gauge(name, help, ["series"], series.map(|(series, count)| ([series], count)))
    }

    fn each_application(&self) -> impl Iterator<Item = (&str, &ApplicationTotals)> {
        let own = self.applications.own.iter().map(|(name, totals)| (&**name, totals));
        own.chain([(label::OTHER, &self.applications.rest)])
    }
}
