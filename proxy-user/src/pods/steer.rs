//! Which connections to the applications of a namespace workers take.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use proxy_bpf::abi::value::InboundValue;
use proxy_bpf::steer::Steering;
use proxy_core::snapshot::{Inbound, Scope};
use proxy_io::netns::Netns;

use super::Surroundings;
use crate::listener::InboundPorts;

/// The ports of one namespace.
pub(super) struct Steered {
    shared: Arc<InboundPorts>,
    value: InboundValue,
    /// The program that takes connections, if there are any to take.
    steering: Option<Steering>,
    in_force: HashMap<u16, Arc<Inbound>>,
    /// Ports that are not taken any more are still known: connections to them may wait to be accepted.
    has_leftovers: bool,
}

impl Steered {
    pub(super) fn new(netns: &Netns, owner: u32, cgroup_id: u64) -> Self {
        Self {
            shared: Arc::new(InboundPorts::new(cgroup_id)),
            value: InboundValue { netns_cookie: netns.cookie(), owner, pad: 0 },
            steering: None,
            in_force: HashMap::new(),
            has_leftovers: false,
        }
    }

    /// What the worker that accepts in the namespace looks at.
    pub(super) fn shared(&self) -> &Arc<InboundPorts> {
        &self.shared
    }

    /// Takes nothing more: applications get their connections themselves.
    pub(super) fn stop(&mut self) {
        self.steering = None;
        self.in_force.clear();
    }

    /// Takes what a snapshot says of a namespace that is known by these scopes.
    ///
    /// # Errors
    /// What bpf(2) says; it is tried again next time.
    pub(super) fn follow(
        &mut self,
        netns: &Netns,
        known_as: &[Scope],
        around: Surroundings<'_>,
    ) -> io::Result<()> {
        let inbound = around.snapshot.inbound.iter().filter(|inbound| inbound.is_for(known_as));
        let mut wanted: HashMap<u16, Arc<Inbound>> = HashMap::new();
        for inbound in inbound {
            for port in &inbound.ports {
                // The first in the file.
                wanted.entry(*port).or_insert_with(|| Arc::clone(inbound));
            }
        }
        if !around.may_steer {
            // The other process takes connections into the listeners that this one is about to have.
            self.shared.set(wanted);
            return Ok(());
        }
        let is_same = |(port, one): (&u16, &Arc<Inbound>)| {
            self.in_force.get(port).is_some_and(|other| Arc::ptr_eq(one, other))
        };
        if wanted.len() == self.in_force.len() && wanted.iter().all(is_same) {
            if self.has_leftovers {
                self.has_leftovers = false;
                self.shared.set(wanted);
            }
            return Ok(());
        }
        // Whoever accepts must know a port before its first connection comes, and until its last one has come.
        let old = self.in_force.iter().map(|(port, one)| (*port, Arc::clone(one)));
        self.shared.set(old.chain(wanted.iter().map(|(port, one)| (*port, Arc::clone(one)))).collect());
        self.has_leftovers = true;
        let steering = match &self.steering {
            Some(steering) => steering,
            None => self.steering.insert(Steering::attach(around.kernel.steering(), netns)?),
        };
        let ports: HashSet<u16> = wanted.keys().copied().collect();
        steering.set_ports(&ports, &self.value)?;
        if ports.is_empty() {
            self.steering = None;
        }
        self.in_force = wanted;
        Ok(())
    }
}
