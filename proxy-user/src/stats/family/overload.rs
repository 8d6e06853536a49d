//! Metrics of overload: how full the process is, and what it gives up.

use std::fmt;

use proxy_core::overload::Rung;

use super::Reading;
use crate::stats::table::Table;

impl Reading {
    pub(super) fn overload(&self, table: &mut Table<'_>) -> fmt::Result {
        let reading = &self.overload;
        let shares = [("memory", reading.memory), ("descriptors", reading.descriptors)];
        let percent = shares.map(|(word, share)| ([word], u64::from(share.pressure().percent())));
        let (name, help) = (
            "weir_overload_pressure_percent",
            "Share in use of what the process may have, where it is scarcest",
        );
        table.gauge(name, help, ["resource"], percent)?;
        let (name, help) = ("weir_overload_used", "What is in use: bytes of memory, descriptors");
        table.gauge(name, help, ["resource"], shares.map(|(word, share)| ([word], share.used)))?;
        let (name, help) = ("weir_overload_max", "What the process may have of it");
        table.gauge(name, help, ["resource"], shares.map(|(word, share)| ([word], share.bound)))?;
        let in_force = Rung::ALL.map(|rung| ([rung.as_str()], u64::from(reading.in_force[rung as usize])));
        let (name, help) = ("weir_overload_rung", "Whether something is given up because of overload");
        table.gauge(name, help, ["rung"], in_force)?;
        let actions = Rung::ALL.map(|rung| ([rung.as_str()], reading.actions[rung as usize]));
        let (name, help) = (
            "weir_overload_actions",
            "Connections ended at rest or after an answer, requests and connections refused, streams reset",
        );
        table.counter(name, help, ["rung"], actions)
    }
}
