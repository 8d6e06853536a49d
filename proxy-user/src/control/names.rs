//! Names behind the numbers of the kernel's records, also of services and endpoints that are gone.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proxy_core::id::{EndpointId, Registry, ServiceId};
use serde::{Deserialize, Serialize};

/// Every name ever given out.
#[derive(Clone, Debug, Default)]
pub struct Names {
    services: HashMap<ServiceId, Arc<str>>,
    endpoints: HashMap<EndpointId, (ServiceId, SocketAddr)>,
}

impl Names {
    /// Name of a service; `None` for 0.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<str>> {
        self.services.get(&id)
    }

    /// Service and address of an endpoint.
    #[must_use]
    pub fn endpoint(&self, id: EndpointId) -> Option<(ServiceId, SocketAddr)> {
        self.endpoints.get(&id).copied()
    }
}

impl From<&Registry> for Names {
    fn from(registry: &Registry) -> Self {
        Self {
            services: registry.services().map(|(id, name)| (id, Arc::clone(name))).collect(),
            endpoints: registry.endpoints().map(|(id, service, address)| (id, (service, address))).collect(),
        }
    }
}

/// The registry on disk: totals and open connections outlive a process in pinned maps, and so must the meaning of their
/// numbers.
pub struct NamesFile {
    path: PathBuf,
    saved: (usize, usize),
}

#[derive(Serialize, Deserialize)]
struct Saved {
    services: Vec<(u32, Arc<str>)>,
    endpoints: Vec<(u32, u32, SocketAddr)>,
}

impl NamesFile {
    /// Reads what an earlier process left; a missing or damaged file means that nothing is known.
    #[must_use]
    pub fn load(path: &Path) -> (Self, Registry) {
        let mut registry = Registry::default();
        let read = std::fs::read(path).ok();
        if let Some(saved) = read.and_then(|bytes| serde_json::from_slice::<Saved>(&bytes).ok()) {
            registry.restore(
                saved.services.into_iter().map(|(id, name)| (ServiceId(id), name)),
                saved
                    .endpoints
                    .into_iter()
                    .map(|(id, service, address)| (EndpointId(id), ServiceId(service), address)),
            );
        }
        let saved = (registry.services().count(), registry.endpoints().count());
        (Self { path: path.to_owned(), saved }, registry)
    }

    /// Writes the registry if it has grown: a new file beside the old one, then a rename.
    ///
    /// # Errors
    /// The error of writing; the old file is whole then.
    pub fn save(&mut self, registry: &Registry) -> io::Result<()> {
        let size = (registry.services().count(), registry.endpoints().count());
        if size == self.saved {
            return Ok(());
        }
        let saved = Saved {
            services: registry.services().map(|(id, name)| (id.0, Arc::clone(name))).collect(),
            endpoints: registry
                .endpoints()
                .map(|(id, service, address)| (id.0, service.0, address))
                .collect(),
        };
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(&saved)?)?;
        std::fs::rename(&beside, &self.path)?;
        self.saved = size;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_a_restart_and_damage_means_none() {
        let path = std::env::temp_dir().join(format!("weir-names-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (mut file, mut registry) = NamesFile::load(&path);
        let web = registry.service("shop/web");
        let endpoint = registry.endpoint(web, "10.0.0.1:80".parse().unwrap());
        file.save(&registry).unwrap();
        let (_, mut again) = NamesFile::load(&path);
        assert_eq!(again.service("shop/web"), web);
        assert_eq!(again.endpoint(web, "10.0.0.1:80".parse().unwrap()), endpoint);
        assert_ne!(again.service("other"), web);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(NamesFile::load(&path).1.services().count(), 0);
        std::fs::remove_file(&path).unwrap();
    }
}
