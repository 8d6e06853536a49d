//! What the kernel must know, and the steps that take it there.
//!
//! [`Planner`] compares what is in force with a [`Snapshot`](crate::snapshot::Snapshot) and gives [`MapOp`]s in an
//! order in which every single step leaves the kernel with something that works. Whoever owns the maps carries them
//! out. The kernel finds a service by the address that the application asks for, reads its [`ServiceHead`], and draws
//! one of the [`Slot`]s that bear the head's generation.

mod planner;
mod table;

use std::net::SocketAddr;

pub use self::planner::{Plan, Planner};
use crate::addr::{Cidr, Family};
use crate::id::{EndpointId, ServiceId};
use crate::lane::Lane;
use crate::service::Fail;
use crate::snapshot::{Scope, Treatment};

/// One slot of a service's table in the kernel: two endpoints and the odds between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Endpoint that this slot belongs to.
    pub primary: SlotEndpoint,
    /// Endpoint that gets the rest; the same one if the primary is always taken.
    pub alias: SlotEndpoint,
    /// Odds of the primary in units of 2^-32; `u32::MAX` means always.
    pub threshold: u32,
}

/// What the kernel must know of an endpoint to connect to it and to compare its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotEndpoint {
    /// Number that records and counters use.
    pub id: EndpointId,
    /// Where it listens; canonical (never v4-mapped).
    pub address: SocketAddr,
    /// Share relative to its siblings, never 0; divides its open connections under [`KernelPolicy::LeastRequest`].
    pub weight: u32,
}

/// How the kernel picks a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelPolicy {
    /// A slot at random, then [`AliasSlot::choose`](crate::balance::alias::AliasSlot::choose).
    Random,
    /// Twice as under [`KernelPolicy::Random`]; the endpoint with fewer open connections per weight is taken.
    LeastRequest,
    /// The slot of the client's address: [`maglev::slot`](crate::balance::maglev::slot) of its
    /// [`source_hash`](crate::balance::source_hash).
    Maglev,
}

/// What the kernel does with connections to the addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableHead {
    /// Who moves the bytes. In the proxy lane the slots are for the time when Weir is dead and [`Fail::Open`] holds.
    pub lane: Lane,
    /// Slots of this generation, numbered from 0; with 0 the direct lane refuses.
    pub slot_count: u32,
}

/// What the kernel reads first about a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceHead {
    /// Whose head this is.
    pub service: ServiceId,
    /// Which slots are valid, of both families. Wraps around.
    pub generation: u32,
    /// How a slot is picked.
    pub policy: KernelPolicy,
    /// What happens while Weir is not there.
    pub fail: Fail,
    /// For IPv4 destinations, v4-mapped included.
    pub v4: TableHead,
    /// For IPv6 destinations.
    pub v6: TableHead,
}

/// One write to the kernel's maps.
///
/// Each may be carried out twice: a put overwrites, and removing what is not there is success. After a failure
/// half-way tell the planner by [`Planner::abandon`] and plan again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Writes the slots of a generation that no head names yet; never empty.
    PutSlots {
        /// Whose slots.
        service: ServiceId,
        /// Which generation.
        generation: u32,
        /// For which destinations.
        family: Family,
        /// The slots from number 0 on.
        slots: Vec<Slot>,
    },
    /// Writes a service's head in one write, which flips the generation.
    PutService(ServiceHead),
    /// Makes an address mean a service; it may have meant another before.
    PutAddress {
        /// What applications connect to; canonical.
        address: SocketAddr,
        /// Which service that is now.
        service: ServiceId,
    },
    /// Makes an address mean nothing.
    RemoveAddress {
        /// What applications connected to; canonical.
        address: SocketAddr,
    },
    /// Removes a service's head.
    RemoveService {
        /// Whose head.
        service: ServiceId,
    },
    /// Removes the slots of a generation that no head names any more.
    RemoveSlots {
        /// Whose slots.
        service: ServiceId,
        /// Which generation.
        generation: u32,
        /// For which destinations.
        family: Family,
        /// How many there are, numbered from 0; never 0.
        slot_count: u32,
    },
    /// Begins to treat a set of applications in a way.
    PutScope(Treatment, Scope),
    /// Ends that again.
    RemoveScope(Treatment, Scope),
    /// Never touches connections to a port.
    PutExcludedPort(u16),
    /// Touches connections to a port again.
    RemoveExcludedPort(u16),
    /// Never touches connections to a network.
    PutExcludedCidr(Cidr),
    /// Touches connections to a network again.
    RemoveExcludedCidr(Cidr),
}
