//! Once a second: everything that has no event of its own.

use std::time::Duration;

use super::Control;
use crate::bug;
use crate::record::kernel as kernel_records;

/// Age after which an original destination that nobody took belongs to a connection that died before its accept.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);
/// Sweeps between two looks for leftovers.
const LEFTOVER_SWEEPS: u64 = 15;
/// Sweeps between two recounts of the direct lane's loads.
const RECOUNT_SWEEPS: u64 = 60;

impl Control {
    pub(super) async fn handle_sweep(&mut self) {
        self.sweeps += 1;
        self.parts.supervisor.alive();
        bug::point("control", 0);
        // The log's queue wakes us when it was empty; what came while it was being read waits for this.
        self.parts.log.flush();
        if let Err(error) = self.parts.publisher.sweep() {
            tracing::warn!(%error, "housekeeping of the kernel's maps failed");
        }
        self.look_for_pods().await;
        self.follow_applications();
        if let Err(error) = self.alarms.check(&self.parts.maps) {
            tracing::warn!(%error, "cannot read the kernel's counters");
        }
        let missing = self.parts.publisher.missing_scopes();
        if missing != self.parts.status.missing_scopes {
            self.parts.status.missing_scopes = missing;
            self.show_status();
        }
        if self.sweeps.is_multiple_of(LEFTOVER_SWEEPS)
            && let Err(error) = kernel_records::sweep_leftovers(&self.parts.maps, LEFTOVER_AGE)
        {
            tracing::warn!(%error, "cannot sweep the map of original destinations");
        }
        if let Err(error) = kernel_records::sweep_told(&self.parts.maps) {
            tracing::warn!(%error, "cannot sweep the map of namespaces that were told of");
        }
        if self.sweeps % RECOUNT_SWEEPS == 1 {
            self.recount_loads();
        }
        if !self.parts.status.is_handing_over && self.watch.poll_changed() {
            let _ = self.reload().await;
        }
        self.look_for_certificates();
    }

    /// Sets the direct lane's loads to what is really open: a crash between two steps must not count for ever.
    fn recount_loads(&self) {
        let live = self.parts.kernel.open_live().and_then(proxy_bpf::events::read_live);
        if let Err(error) = live.and_then(|live| kernel_records::recount_loads(&self.parts.maps, &live)) {
            tracing::warn!(%error, "cannot recount the load of endpoints");
        }
    }
}
