//! Numbers by which the kernel's maps, the workers and the statistics mean the same thing.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A service, by its name, for as long as this process lives; 0 is never given out and means "none".
    ServiceId(u32)
}
id! {
    /// An endpoint, by its service and address; unique on the whole node; 0 is never given out and means "none".
    EndpointId(u32)
}
id! {
    /// Version of a [`Snapshot`](crate::snapshot::Snapshot); grows by one with every accepted change.
    Version(u64)
}

/// Gives the same name the same number through every reload, so that counters and open connections keep their meaning.
///
/// Numbers are not used again: a connection may outlive the service that it was opened for.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    services: HashMap<Arc<str>, ServiceId>,
    endpoints: HashMap<(ServiceId, SocketAddr), EndpointId>,
}

impl Registry {
    /// Finds or assigns the number of a service.
    ///
    /// # Panics
    /// After 2^32 different names.
    pub fn service(&mut self, name: &str) -> ServiceId {
        if let Some(id) = self.services.get(name) {
            return *id;
        }
        let id = ServiceId(next(self.services.len()));
        self.services.insert(name.into(), id);
        id
    }

    /// Finds or assigns the number of an endpoint of a service.
    ///
    /// # Panics
    /// After 2^32 different endpoints.
    pub fn endpoint(&mut self, service: ServiceId, address: SocketAddr) -> EndpointId {
        let id = EndpointId(next(self.endpoints.len()));
        *self.endpoints.entry((service, address)).or_insert(id)
    }

    /// Lists every service that was ever named.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, &Arc<str>)> {
        self.services.iter().map(|(name, id)| (*id, name))
    }

    /// Lists every endpoint that was ever named.
    pub fn endpoints(&self) -> impl Iterator<Item = (EndpointId, ServiceId, SocketAddr)> {
        self.endpoints.iter().map(|((service, address), id)| (*id, *service, *address))
    }

    /// Takes up the numbers that an earlier process gave out; call it before anything is assigned.
    pub fn restore(
        &mut self,
        services: impl IntoIterator<Item = (ServiceId, Arc<str>)>,
        endpoints: impl IntoIterator<Item = (EndpointId, ServiceId, SocketAddr)>,
    ) {
        self.services = services.into_iter().map(|(id, name)| (name, id)).collect();
        self.endpoints =
            endpoints.into_iter().map(|(id, service, address)| ((service, address), id)).collect();
    }
}

fn next(taken: usize) -> u32 {
    u32::try_from(taken + 1).expect("fewer than 2^32 names in the life of a process")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers_and_share_none() {
        let mut ids = Registry::default();
        let (a, b) = (ids.service("a"), ids.service("b"));
        let address = "127.0.0.1:1".parse().unwrap();
        let (x, y) = (ids.endpoint(a, address), ids.endpoint(b, address));
        assert!(a != b && x != y && a.0 != 0 && x.0 != 0);
        assert_eq!((ids.service("a"), ids.endpoint(b, address)), (a, y));
        let mut later = Registry::default();
        later.restore(ids.services().map(|(i, n)| (i, n.clone())), ids.endpoints());
        assert_eq!((later.service("b"), later.endpoint(a, address)), (b, x));
        assert_ne!(later.service("c"), a);
    }
}
