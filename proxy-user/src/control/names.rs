//! Names behind the numbers of the kernel's records, also of services and endpoints that are gone.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proxy_core::id::{EndpointId, Registry, ServiceId};
use serde::{Deserialize, Serialize};

/// Every name ever given out.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// By number, from 1.
    services: Vec<Arc<str>>,
    endpoints: Vec<(ServiceId, SocketAddr)>,
}

impl Names {
    /// Name of a service; `None` for 0.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<str>> {
        self.services.get(index(id.0)?)
    }

    /// Service and address of an endpoint.
    #[must_use]
    pub fn endpoint(&self, id: EndpointId) -> Option<(ServiceId, SocketAddr)> {
        self.endpoints.get(index(id.0)?).copied()
    }

    /// Tells whether these are all names of a registry; it only ever grows.
    #[must_use]
    pub fn is_all_of(&self, registry: &Registry) -> bool {
        (self.services.len(), self.endpoints.len()) == size(registry)
    }
}

impl From<&Registry> for Names {
    fn from(registry: &Registry) -> Self {
        Self {
            services: registry.services().map(|(_, name)| Arc::clone(name)).collect(),
            endpoints: registry.endpoints().map(|(_, service, address)| (service, address)).collect(),
        }
    }
}

fn index(number: u32) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
}

/// How many services and endpoints a registry has named.
fn size(registry: &Registry) -> (usize, usize) {
    (registry.services().len(), registry.endpoints().len())
}

/// The registry on disk: totals and open connections outlive a process in pinned maps, and so must the meaning of their
/// numbers.
///
/// One line for each name, in the order of the numbers, so that new ones are appended.
pub struct NamesFile {
    path: PathBuf,
    /// How much of the registry stands in the file; `None` if it may hold anything else.
    saved: Option<(usize, usize)>,
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Service(u32, Arc<str>),
    Endpoint(u32, u32, SocketAddr),
}

impl NamesFile {
    /// Reads what an earlier process left; behind damage nothing is known.
    #[must_use]
    pub fn load(path: &Path) -> (Self, Registry) {
        let (mut services, mut endpoints) = (Vec::new(), Vec::new());
        let read = std::fs::read(path);
        let mut is_whole = read.is_ok();
        for line in serde_json::Deserializer::from_slice(&read.unwrap_or_default()).into_iter() {
            match line {
                Ok(Line::Service(id, name)) => services.push((ServiceId(id), name)),
                Ok(Line::Endpoint(id, service, address)) => {
                    endpoints.push((EndpointId(id), ServiceId(service), address));
                }
                Err(_) => is_whole = false,
            }
        }
        let read = (services.len(), endpoints.len());
        let mut registry = Registry::default();
        registry.restore(services, endpoints);
        let saved = Some(read).filter(|read| is_whole && *read == size(&registry));
        (Self { path: path.to_owned(), saved }, registry)
    }

    /// Writes what the registry has named since the last time. Costs one write, of the new names only.
    ///
    /// # Errors
    /// The error of writing; the next time everything is written.
    pub fn save(&mut self, registry: &Registry) -> io::Result<()> {
        let size = size(registry);
        if self.saved == Some(size) {
            return Ok(());
        }
        let appended = self.saved.take().is_some_and(|saved| self.append(registry, saved).is_ok());
        if !appended {
            self.replace(registry)?;
        }
        self.saved = Some(size);
        Ok(())
    }

    /// Lets the next save write everything: another process may have written since the last.
    pub fn handle_other_writer(&mut self) {
        self.saved = None;
    }

    fn append(&self, registry: &Registry, saved: (usize, usize)) -> io::Result<()> {
        let mut file = std::fs::File::options().append(true).open(&self.path)?;
        file.write_all(&lines(registry, saved)?)
    }

    /// Writes a new file beside the old one, which stays whole if that fails.
    fn replace(&self, registry: &Registry) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        std::fs::write(&beside, lines(registry, (0, 0))?)?;
        std::fs::rename(&beside, &self.path)
    }
}

/// Prints what a registry has named beyond the first names.
fn lines(registry: &Registry, (services, endpoints): (usize, usize)) -> io::Result<Vec<u8>> {
    let services = registry.services().skip(services).map(|(id, name)| Line::Service(id.0, Arc::clone(name)));
    let endpoints = registry.endpoints().skip(endpoints);
    let endpoints = endpoints.map(|(id, service, address)| Line::Endpoint(id.0, service.0, address));
    let mut bytes = Vec::new();
    for line in services.chain(endpoints) {
        serde_json::to_writer(&mut bytes, &line)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
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

    #[test]
    fn new_names_are_appended_and_a_line_that_was_cut_off_is_repaired() {
        let path = std::env::temp_dir().join(format!("weir-names-cut-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (mut file, mut registry) = NamesFile::load(&path);
        let web = registry.service("web");
        registry.endpoint(web, "10.0.0.1:80".parse().unwrap());
        file.save(&registry).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        assert_eq!(first, "{\"service\":[1,\"web\"]}\n{\"endpoint\":[1,1,\"10.0.0.1:80\"]}\n");
        let db = registry.service("db");
        file.save(&registry).unwrap();
        let both = format!("{first}{{\"service\":[2,\"db\"]}}\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), both);
        std::fs::write(&path, &both[..both.len() - 4]).unwrap();
        let (mut file, mut cut) = NamesFile::load(&path);
        assert_eq!(cut.services().len(), 1);
        assert_eq!((cut.service("web"), cut.service("db")), (web, db));
        file.save(&cut).unwrap();
        assert_eq!(NamesFile::load(&path).1.service("db"), db);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn names_are_found_by_their_numbers() {
        let mut registry = Registry::default();
        let web = registry.service("web");
        let names = Names::from(&registry);
        assert_eq!(
            (names.service(web).map(|name| &**name), names.service(ServiceId(0))),
            (Some("web"), None)
        );
        assert!(names.is_all_of(&registry));
        let endpoint = registry.endpoint(web, "10.0.0.1:80".parse().unwrap());
        assert!(!names.is_all_of(&registry));
        assert_eq!(Names::from(&registry).endpoint(endpoint), Some((web, "10.0.0.1:80".parse().unwrap())));
    }
}
