//! Where the answers come from: the running node, or what a test puts in its place.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;

use proxy_bpf::abi::record::Record;
use proxy_core::health::EndpointReport;
use proxy_core::id::{EndpointId, Version};
use proxy_core::snapshot::Snapshot;
use proxy_io::DriverCounters;

use crate::connection::Shared;
use crate::control::{Handle, Names, Status};
use crate::stats::kernel::{KernelReader, KernelReading};

/// What the admin interface may ask and tell. Functions that are not asynchronous and return a `Result` block.
pub trait Source: Clone + Send + Sync + 'static {
    /// The snapshot in force.
    fn snapshot(&self) -> Arc<Snapshot>;
    /// What the control side says of itself.
    fn status(&self) -> Arc<Status>;
    /// Every name ever given out.
    fn names(&self) -> Arc<Names>;
    /// What is known about every endpoint's health.
    fn health(&self) -> impl Future<Output = Vec<EndpointReport>> + Send;
    /// Reads the config file again.
    fn reload(&self) -> impl Future<Output = Result<Version, String>> + Send;
    /// Begins to drain.
    fn drain(&self) -> impl Future<Output = ()> + Send;
    /// What the workers share.
    fn shared(&self) -> &Shared;
    /// What each worker's driver last said of itself.
    fn driver_counters(&self) -> Vec<DriverCounters>;
    /// Live statistics of every tracked socket.
    ///
    /// # Errors
    /// What bpf(2) says; so for all functions here.
    fn live(&self) -> io::Result<Vec<Record>>;
    /// What the kernel programs counted.
    ///
    /// # Errors
    /// What bpf(2) says.
    fn read_kernel(&self, reader: &mut KernelReader) -> io::Result<KernelReading>;
    /// Open connections of endpoints in the direct lane, where there are any.
    ///
    /// # Errors
    /// What bpf(2) says.
    fn direct_loads(&self) -> io::Result<HashMap<EndpointId, u64>>;
    /// Whether workers listen in a network namespace other than Weir's own.
    ///
    /// # Errors
    /// What bpf(2) says.
    fn is_served(&self, netns_cookie: u64) -> io::Result<bool>;
}

impl Source for Handle {
    fn snapshot(&self) -> Arc<Snapshot> {
        Handle::snapshot(self)
    }

    fn status(&self) -> Arc<Status> {
        Handle::status(self)
    }

    fn names(&self) -> Arc<Names> {
        Handle::names(self)
    }

    async fn health(&self) -> Vec<EndpointReport> {
        Handle::health(self).await
    }

    async fn reload(&self) -> Result<Version, String> {
        Handle::reload(self).await
    }

    async fn drain(&self) {
        Handle::drain(self).await;
    }

    fn shared(&self) -> &Shared {
        Handle::shared(self)
    }

    fn driver_counters(&self) -> Vec<DriverCounters> {
        Handle::driver_counters(self)
    }

    fn live(&self) -> io::Result<Vec<Record>> {
        Handle::live(self)
    }

    fn read_kernel(&self, reader: &mut KernelReader) -> io::Result<KernelReading> {
        reader.read(self.maps(), self.snapshot().version)
    }

    fn direct_loads(&self) -> io::Result<HashMap<EndpointId, u64>> {
        let loads = &self.maps().loads;
        let mut found = HashMap::new();
        for id in loads.keys()? {
            let load = loads.lookup(&id)?.and_then(|load| u64::try_from(load).ok());
            if let Some(load) = load.filter(|load| *load > 0) {
                found.insert(EndpointId(id), load);
            }
        }
        Ok(found)
    }

    fn is_served(&self, netns_cookie: u64) -> io::Result<bool> {
        Ok(self.maps().netns.lookup(&netns_cookie)?.is_some())
    }
}
