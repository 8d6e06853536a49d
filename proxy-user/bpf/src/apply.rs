//! Carrying out planned map operations.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use proxy_core::addr::Cidr;
use proxy_core::intercept::{MapOp, Slot};
use proxy_core::snapshot::{Scope, Treatment};
use proxy_ebpf_common::config::{SCOPE_DEPTH_MAX, Settings};
use proxy_ebpf_common::key::{Addr, SlotKey};
use proxy_ebpf_common::value::{AddressValue, SlotValue, scope};
use proxy_io::netns::{self, FileId, Netns};
use proxy_io::sock;

use crate::cgroup::Hierarchy;
use crate::convert;
use crate::maps::Maps;

/// Why a planned operation could not be carried out.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}{}", hint(source))]
pub struct ApplyError {
    what: String,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    if error.raw_os_error() == Some(libc::E2BIG) {
        " (the map is full; the previous configuration stays in force)"
    } else {
        ""
    }
}

/// A network namespace whose file was there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FoundNetns {
    cookie: u64,
    file: FileId,
}

/// A cgroup that is to be treated in a way.
struct WantedCgroup {
    path: String,
    treatment: Treatment,
    /// Its id and depth, if it exists yet: what the kernel was told.
    told: Option<(u64, u32)>,
    /// It is a scope because it is that of a chosen pod, and not because the config names it.
    is_pod: bool,
}

/// A network namespace that is to be treated in a way.
struct WantedNetns {
    /// The file that names it.
    path: String,
    treatment: Treatment,
    /// What the kernel was told of, if it exists yet.
    told: Option<FoundNetns>,
}

/// Writes plans into the maps of the kernel programs.
pub struct Applier {
    hierarchy: Hierarchy,
    settings: Settings,
    depth_counts: [u32; SCOPE_DEPTH_MAX as usize + 1],
    cgroups: Vec<WantedCgroup>,
    netns: Vec<WantedNetns>,
    /// Slots of retired generations: a program that is running may still read them, so they go two sweeps later.
    retired: Vec<SlotKey>,
    retired_before: Vec<SlotKey>,
}

impl Applier {
    /// Starts with empty maps.
    ///
    /// Of `home` only what is known before any plan matters: the namespace that this process runs in, its listeners and
    /// workers.
    #[must_use]
    pub fn new(hierarchy: Hierarchy, home: Settings) -> Self {
        Self {
            hierarchy,
            settings: home,
            depth_counts: [0; SCOPE_DEPTH_MAX as usize + 1],
            cgroups: Vec::new(),
            netns: Vec::new(),
            retired: Vec::new(),
            retired_before: Vec::new(),
        }
    }

    /// Carries out the operations of a plan in their order.
    ///
    /// # Errors
    /// The first operation that fails; those before it were carried out, and because plans write new tables beside old
    /// ones and switch late, the old configuration is still whole.
    pub fn apply(&mut self, maps: &Maps, ops: &[MapOp]) -> Result<(), ApplyError> {
        for op in ops {
            self.apply_one(maps, op).map_err(|source| ApplyError { what: describe(op), source })?;
        }
        Ok(())
    }

    fn apply_one(&mut self, maps: &Maps, op: &MapOp) -> io::Result<()> {
        match op {
            MapOp::PutSlots { service, generation, family, slots } => {
                let key = SlotKey {
                    service: service.0,
                    generation: *generation,
                    family: convert::family(*family),
                    slot: 0,
                };
                // A service that comes back soon may use a generation again whose slots are still to be removed.
                let is_other = |old: &SlotKey| (old.service, old.generation) != (key.service, key.generation);
                self.retired.retain(is_other);
                self.retired_before.retain(is_other);
                put_slots(maps, key, slots)
            }
            MapOp::PutService(head) => maps.services.put(&head.service.0, &convert::service(head)),
            MapOp::PutAddress { address, service } => {
                let source_ip_be = sock::route_source(*address).map_or([0; 4], convert::ip_words);
                maps.addresses.put(&Addr::from(*address), &AddressValue { source_ip_be, service: service.0 })
            }
            MapOp::RemoveAddress { address } => maps.addresses.remove(&Addr::from(*address)).map(drop),
            MapOp::RemoveService { service } => maps.services.remove(&service.0).map(drop),
            MapOp::RemoveSlots { service, generation, family, slot_count } => {
                let family = convert::family(*family);
                self.retired.extend((0..*slot_count).map(|slot| SlotKey {
                    service: service.0,
                    generation: *generation,
                    family,
                    slot,
                }));
                Ok(())
            }
            MapOp::PutScope(treatment, scope) => self.put_scope(maps, *treatment, scope),
            MapOp::RemoveScope(treatment, scope) => self.remove_scope(maps, *treatment, scope),
            MapOp::PutExcludedPort(port) => {
                maps.excluded_ports.put(port, &1)?;
                self.settings.excluded_port_count += 1;
                self.put_settings(maps)
            }
            MapOp::RemoveExcludedPort(port) => {
                self.settings.excluded_port_count -= u32::from(maps.excluded_ports.remove(port)?);
                self.put_settings(maps)
            }
            MapOp::PutExcludedCidr(cidr) => self.put_excluded_net(maps, cidr),
            MapOp::RemoveExcludedCidr(cidr) => {
                let removed = maps.excluded_nets.remove(&convert::excluded_net(cidr))?;
                self.settings.excluded_net_count -= u32::from(removed);
                self.put_settings(maps)
            }
        }
    }

    /// Does what had to wait: call it about once a second.
    ///
    /// Looks for cgroups and network namespaces that are wanted as scopes and did not exist, are gone or were made anew,
    /// and removes retired slots.
    ///
    /// # Errors
    /// The first operation that fails.
    pub fn sweep(&mut self, maps: &Maps) -> Result<(), ApplyError> {
        let failed = |what: &str, source| ApplyError { what: what.to_owned(), source };
        for key in std::mem::replace(&mut self.retired_before, std::mem::take(&mut self.retired)) {
            maps.slots.remove(&key).map_err(|source| failed("remove a retired slot", source))?;
        }
        for index in 0..self.netns.len() {
            let WantedNetns { path, told, .. } = &self.netns[index];
            if netns::file_id(path).ok() != told.map(|told| told.file) {
                self.forget_netns(maps, index)
                    .map_err(|source| failed("forget a network namespace", source))?;
                // One that cannot be entered stays among the missing.
                let _ = self.tell_netns(maps, index);
            }
        }
        for index in 0..self.cgroups.len() {
            let found = self.hierarchy.cgroup(&self.cgroups[index].path).ok().map(|c| (c.id, c.depth));
            if found != self.cgroups[index].told {
                self.forget_cgroup(maps, index).map_err(|source| failed("forget a cgroup", source))?;
                self.tell_cgroup(maps, index).map_err(|source| failed("follow a cgroup", source))?;
            }
        }
        Ok(())
    }

    /// Names the wanted cgroups and network namespaces that do not exist.
    #[must_use]
    pub fn missing_scopes(&self) -> BTreeSet<&str> {
        let is_missing = |cgroup: &&WantedCgroup| cgroup.told.is_none() && !cgroup.is_pod;
        let cgroups = self.cgroups.iter().filter(is_missing).map(|cgroup| cgroup.path.as_str());
        let netns = self.netns.iter().filter(|netns| netns.told.is_none()).map(|netns| netns.path.as_str());
        cgroups.chain(netns).collect()
    }

    /// Network namespaces that are scopes and exist: the file that names each, and its cookie.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, u64)> {
        let caught = self.netns.iter().filter(|netns| netns.treatment == Treatment::Caught);
        caught.filter_map(|netns| Some((netns.path.as_str(), netns.told.as_ref()?.cookie)))
    }

    /// Treats the cgroups of these pods so, and those of no others.
    ///
    /// # Errors
    /// The first one that fails; the others are told all the same, and it is tried again next time.
    pub fn set_pods(&mut self, maps: &Maps, pods: &BTreeSet<(Treatment, String)>) -> Result<(), ApplyError> {
        let mut result = Ok(());
        let mut note = |what: String, done: io::Result<()>| {
            if let (Err(source), true) = (done, result.is_ok()) {
                result = Err(ApplyError { what, source });
            }
        };
        let mut index = 0;
        while index < self.cgroups.len() {
            let cgroup = &self.cgroups[index];
            if !cgroup.is_pod || pods.contains(&(cgroup.treatment, cgroup.path.clone())) {
                index += 1;
                continue;
            }
            let what = format!("stop watching pod {}", cgroup.path);
            let forgotten = self.forget_cgroup(maps, index);
            if forgotten.is_ok() {
                self.cgroups.swap_remove(index);
            } else {
                index += 1;
            }
            note(what, forgotten);
        }
        let known = self.cgroups.iter().filter(|cgroup| cgroup.is_pod);
        let known: BTreeSet<_> = known.map(|cgroup| (cgroup.treatment, cgroup.path.clone())).collect();
        for (treatment, path) in pods.difference(&known).cloned() {
            let what = format!("watch pod {path}");
            self.cgroups.push(WantedCgroup { path, treatment, told: None, is_pod: true });
            let told = self.tell_cgroup(maps, self.cgroups.len() - 1);
            if told.is_err() {
                self.cgroups.pop();
            }
            note(what, told);
        }
        result
    }

    fn put_scope(&mut self, maps: &Maps, treatment: Treatment, scope: &Scope) -> io::Result<()> {
        match scope {
            Scope::Cgroup(path) => {
                self.cgroups.push(WantedCgroup { path: path.clone(), treatment, told: None, is_pod: false });
                self.tell_cgroup(maps, self.cgroups.len() - 1)
            }
            Scope::Netns(path) => {
                self.netns.push(WantedNetns { path: path.clone(), treatment, told: None });
                self.tell_netns(maps, self.netns.len() - 1)
            }
            // Which those are is told by set_pods().
            Scope::Pods(_) => Ok(()),
        }
    }

    fn remove_scope(&mut self, maps: &Maps, treatment: Treatment, scope: &Scope) -> io::Result<()> {
        match scope {
            Scope::Cgroup(path) => {
                let is_it = |cgroup: &WantedCgroup| {
                    cgroup.path == *path && cgroup.treatment == treatment && !cgroup.is_pod
                };
                let Some(index) = self.cgroups.iter().position(is_it) else {
                    return Ok(());
                };
                self.forget_cgroup(maps, index)?;
                self.cgroups.swap_remove(index);
                Ok(())
            }
            Scope::Netns(path) => {
                let is_it = |netns: &WantedNetns| netns.path == *path && netns.treatment == treatment;
                let Some(index) = self.netns.iter().position(is_it) else {
                    return Ok(());
                };
                self.forget_netns(maps, index)?;
                self.netns.swap_remove(index);
                Ok(())
            }
            Scope::Pods(_) => Ok(()),
        }
    }

    fn tell_netns(&mut self, maps: &Maps, index: usize) -> io::Result<()> {
        let path = &self.netns[index].path;
        let file = match netns::file_id(path) {
            Ok(file) => file,
            // It may be made later: sweep() looks again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let cookie = Netns::open(Path::new(path))?.cookie();
        self.netns[index].told = Some(FoundNetns { cookie, file });
        self.put_netns(maps, cookie).inspect_err(|_| self.netns[index].told = None)
    }

    fn forget_netns(&mut self, maps: &Maps, index: usize) -> io::Result<()> {
        let Some(FoundNetns { cookie, .. }) = self.netns[index].told.take() else { return Ok(()) };
        self.put_netns(maps, cookie)
    }

    /// Tells the kernel how a network namespace is treated, by whatever names it is wanted.
    fn put_netns(&mut self, maps: &Maps, cookie: u64) -> io::Result<()> {
        let is_it = |netns: &&WantedNetns| netns.told.is_some_and(|told| told.cookie == cookie);
        match bits(self.netns.iter().filter(is_it).map(|netns| netns.treatment)) {
            0 => drop(maps.scope_netns.remove(&cookie)?),
            bits => maps.scope_netns.put(&cookie, &bits)?,
        }
        let count = self.netns.iter().filter(|netns| netns.told.is_some()).count();
        self.settings.scope_netns_count = u32::try_from(count).unwrap_or(u32::MAX);
        self.put_settings(maps)
    }

    fn tell_cgroup(&mut self, maps: &Maps, index: usize) -> io::Result<()> {
        let cgroup = match self.hierarchy.cgroup(&self.cgroups[index].path) {
            Ok(cgroup) => cgroup,
            // It may be made later: sweep() looks again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if cgroup.depth > SCOPE_DEPTH_MAX {
            let text = format!("cgroups deeper than {SCOPE_DEPTH_MAX} cannot be scopes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.cgroups[index].told = Some((cgroup.id, cgroup.depth));
        self.depth_counts[cgroup.depth as usize] += 1;
        self.settings.scope_depths |= 1 << cgroup.depth;
        let put = self.put_cgroup(maps, cgroup.id);
        if put.is_err() {
            self.take_told(index);
        }
        put
    }

    fn forget_cgroup(&mut self, maps: &Maps, index: usize) -> io::Result<()> {
        self.take_told(index).map_or(Ok(()), |id| self.put_cgroup(maps, id))
    }

    /// Forgets that the kernel was told of a cgroup, and gives its id.
    fn take_told(&mut self, index: usize) -> Option<u64> {
        let (id, depth) = self.cgroups[index].told.take()?;
        let count = &mut self.depth_counts[depth as usize];
        *count -= 1;
        if *count == 0 {
            self.settings.scope_depths &= !(1 << depth);
        }
        Some(id)
    }

    /// Tells the kernel how a cgroup is treated: the config may name that of a pod that was chosen, too.
    fn put_cgroup(&mut self, maps: &Maps, id: u64) -> io::Result<()> {
        let is_it = |cgroup: &&WantedCgroup| cgroup.told.is_some_and(|(known, _)| known == id);
        match bits(self.cgroups.iter().filter(is_it).map(|cgroup| cgroup.treatment)) {
            0 => drop(maps.scope_cgroups.remove(&id)?),
            bits => maps.scope_cgroups.put(&id, &bits)?,
        }
        self.put_settings(maps)
    }

    fn put_excluded_net(&mut self, maps: &Maps, cidr: &Cidr) -> io::Result<()> {
        maps.excluded_nets.put(&convert::excluded_net(cidr), &1)?;
        self.settings.excluded_net_count += 1;
        self.put_settings(maps)
    }

    fn put_settings(&self, maps: &Maps) -> io::Result<()> {
        maps.settings.put(&0, &self.settings)
    }
}

/// Treatments as the kernel programs read them.
fn bits(treatments: impl Iterator<Item = Treatment>) -> u8 {
    let bit = |treatment| match treatment {
        Treatment::Caught => scope::CAUGHT,
        Treatment::FailClosed => scope::FAIL_CLOSED,
    };
    treatments.map(bit).fold(0, |all, bit| all | bit)
}

fn put_slots(maps: &Maps, first: SlotKey, slots: &[Slot]) -> io::Result<()> {
    let keys: Vec<SlotKey> = (0..).take(slots.len()).map(|slot| SlotKey { slot, ..first }).collect();
    let values: Vec<SlotValue> = slots.iter().map(convert::slot).collect();
    maps.slots.put_all(&keys, &values)
}

fn describe(op: &MapOp) -> String {
    match op {
        MapOp::PutSlots { service, slots, .. } => format!("write {} slots of service {service}", slots.len()),
        MapOp::PutService(head) => format!("switch service {} to its new table", head.service),
        MapOp::PutAddress { address, .. } => format!("take over address {address}"),
        MapOp::RemoveAddress { address } => format!("give up address {address}"),
        MapOp::RemoveService { service } => format!("remove service {service}"),
        MapOp::RemoveSlots { service, .. } => format!("retire the table of service {service}"),
        MapOp::PutScope(_, scope) => format!("watch {scope}"),
        MapOp::RemoveScope(_, scope) => format!("stop watching {scope}"),
        MapOp::PutExcludedPort(port) => format!("exclude port {port}"),
        MapOp::RemoveExcludedPort(port) => format!("include port {port}"),
        MapOp::PutExcludedCidr(cidr) => format!("exclude {cidr}"),
        MapOp::RemoveExcludedCidr(cidr) => format!("include {cidr}"),
    }
}
