//! What connections share: with all workers, and on their own thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use proxy_bpf::maps::Maps;
use proxy_core::id::EndpointId;
use proxy_core::outcome::Attempt;
use proxy_core::overload::Rung;
use proxy_io::Driver;
use proxy_io::splice::PipePool;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;

use super::moving::Exit;
use super::parking::Parking;
use super::{Namespaces, OpenConns, Peers, Routes};
use crate::pace::Turns;
use crate::record::access::AccessSink;
use crate::stats::conn::{ConnStats, DescriptorBudget, Share};
use crate::stats::overload::Overload;
use crate::tls::TlsCell;
use crate::upstream::http2::Http2Pool;
use crate::upstream::pool::UpstreamPool;

/// What all workers share; everything in it is read-mostly or counted rarely.
pub struct Shared {
    /// Maps of the kernel programs; none if nothing is intercepted.
    pub maps: Option<Arc<Maps>>,
    /// Cookie of the namespace that the listeners are in.
    pub netns_cookie: u64,
    /// Counters of connections.
    pub stats: ConnStats,
    /// Bound on descriptors.
    pub budget: Arc<DescriptorBudget>,
    /// What connections of Weir's own network namespace are counted against.
    pub home_share: Arc<Share>,
    /// What attempts say about endpoints.
    pub attempts: mpsc::Sender<(EndpointId, Attempt)>,
    /// Where finished connections are written down.
    pub access: AccessSink,
    /// All workers, as they see each other.
    pub peers: Peers,
    /// Certificates and keys in force.
    pub tls: TlsCell,
    /// What is given up because memory or descriptors run out.
    pub overload: Overload,
    /// Other network namespaces.
    pub namespaces: Namespaces,
}

#[cfg(test)]
impl Shared {
    /// What workers share where nothing is intercepted and nobody listens to what they tell.
    pub(crate) fn alone(peers: Peers) -> Self {
        let budget = Arc::new(DescriptorBudget::new(1024));
        Self {
            maps: None,
            netns_cookie: 1,
            stats: ConnStats::default(),
            home_share: budget.share(0),
            budget,
            attempts: mpsc::channel(1).0,
            access: AccessSink::off(),
            peers,
            tls: TlsCell::default(),
            overload: Overload::default(),
            namespaces: Namespaces::default(),
        }
    }
}

/// Everything that a worker's tasks share on their thread.
pub(crate) struct Local {
    /// Which worker this is: index into [`Shared::peers`].
    pub(crate) index: usize,
    pub(crate) driver: Driver,
    pub(crate) shared: Arc<Shared>,
    pub(crate) routes: RefCell<Routes>,
    pub(crate) open: Rc<OpenConns>,
    /// Those of them that rest and have no task.
    pub(crate) parking: Parking,
    pub(crate) pipes: PipePool,
    /// Connections to endpoints between two requests.
    pub(crate) pool: UpstreamPool,
    /// Connections to endpoints that speak HTTP/2.
    pub(crate) http2: Rc<Http2Pool>,
    /// How applications share this worker.
    pub(crate) turns: Rc<Turns>,
    pub(crate) rng: RefCell<SmallRng>,
    /// Copies of requests under way.
    pub(crate) copies: Rc<Cell<u32>>,
    pub(crate) is_draining: Cell<bool>,
    /// The way to a newer process, once there is one that takes connections.
    pub(crate) exit: RefCell<Option<Exit>>,
}

impl Local {
    /// Tells whether connections end with the answers under way: Weir is stopping, or gives up what clients miss the least.
    pub(crate) fn ends_keep_alive(&self) -> bool {
        if self.is_draining.get() {
            return true;
        }
        let overload = &self.shared.overload;
        let is_short = overload.is_at(Rung::StopKeepAlive);
        if is_short {
            overload.count(Rung::StopKeepAlive, 1);
        }
        is_short
    }
}
