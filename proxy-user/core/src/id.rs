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
/// Numbers are not used again: a connection may outlive the service that it was opened for. They count up from 1, so
/// that what was added since some size of the registry is what follows that many.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    services: HashMap<Arc<str>, ServiceId>,
    endpoints: HashMap<(ServiceId, SocketAddr), EndpointId>,
    /// In the order of the numbers.
    service_names: Vec<Arc<str>>,
    endpoint_addresses: Vec<(ServiceId, SocketAddr)>,
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
        self.add_service(name.into())
    }

    /// Finds or assigns the number of an endpoint of a service.
    ///
    /// # Panics
    /// After 2^32 different endpoints.
    pub fn endpoint(&mut self, service: ServiceId, address: SocketAddr) -> EndpointId {
        if let Some(id) = self.endpoints.get(&(service, address)) {
            return *id;
        }
        self.add_endpoint(service, address)
    }

    /// Lists every service that was ever named, by number.
    pub fn services(&self) -> impl ExactSizeIterator<Item = (ServiceId, &Arc<str>)> {
        self.service_names.iter().enumerate().map(|(index, name)| (ServiceId(next(index)), name))
    }

    /// Lists every endpoint that was ever named, by number.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = (EndpointId, ServiceId, SocketAddr)> {
        let numbered = self.endpoint_addresses.iter().enumerate();
        numbered.map(|(index, (service, address))| (EndpointId(next(index)), *service, *address))
    }

    /// Takes up the numbers that an earlier process gave out, in their order; call it before anything is assigned.
    ///
    /// What comes behind a gap or a repetition is left out: it was not listed by a registry.
    pub fn restore(
        &mut self,
        services: impl IntoIterator<Item = (ServiceId, Arc<str>)>,
        endpoints: impl IntoIterator<Item = (EndpointId, ServiceId, SocketAddr)>,
    ) {
        *self = Self::default();
        for (id, name) in services {
            if id.0 != next(self.service_names.len()) || self.services.contains_key(&name) {
                break;
            }
            self.add_service(name);
        }
        for (id, service, address) in endpoints {
            let is_known = self.endpoints.contains_key(&(service, address));
            if id.0 != next(self.endpoint_addresses.len()) || is_known {
                break;
            }
            self.add_endpoint(service, address);
        }
    }

    fn add_service(&mut self, name: Arc<str>) -> ServiceId {
        let id = ServiceId(next(self.service_names.len()));
        self.services.insert(Arc::clone(&name), id);
        self.service_names.push(name);
        id
    }

    fn add_endpoint(&mut self, service: ServiceId, address: SocketAddr) -> EndpointId {
        let id = EndpointId(next(self.endpoint_addresses.len()));
        self.endpoints.insert((service, address), id);
        self.endpoint_addresses.push((service, address));
        id
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

    #[test]
    fn what_no_registry_has_listed_is_left_out() {
        let mut ids = Registry::default();
        ids.restore([(1, "a"), (2, "a"), (2, "b")].map(|(id, name)| (ServiceId(id), name.into())), []);
        assert_eq!(ids.services().len(), 1);
        ids.restore([(1, "a"), (3, "c")].map(|(id, name)| (ServiceId(id), name.into())), []);
        assert_eq!((ids.service("b"), ids.service("c")), (ServiceId(2), ServiceId(3)));
    }
}
