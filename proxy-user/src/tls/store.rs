//! What was made of the files that a snapshot names, shared by all workers, and when it has to be made anew.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use proxy_core::service::Protocol;
use proxy_core::snapshot::Snapshot;
use proxy_core::tls::{CertificateFiles, ClientTls, ServerTls};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;

use super::Alpn;
use super::cert::{CertificateStatus, TlsProblem};
use super::client::{Client, SystemRoots};
use super::server;

/// Everything that new connections need to begin TLS. Immutable; a change of a file makes a new one.
#[derive(Clone, Debug, Default)]
pub struct TlsStore {
    servers: HashMap<Arc<ServerTls>, Entry<Server>>,
    clients: HashMap<Arc<ClientTls>, Entry<Arc<Client>>>,
    /// How each file looked when it was read.
    files: HashMap<PathBuf, Look>,
    /// Files that are no longer good, while what was read from them before stays in force.
    problems: BTreeSet<TlsProblem>,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    made: T,
    statuses: Vec<CertificateStatus>,
}

#[derive(Clone, Debug)]
struct Server {
    any: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
}

/// What tells two versions of a file apart, through symlinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Look {
    fn at(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(path).map_or_else(
            |_| Self::default(),
            |metadata| Self {
                inode: metadata.ino(),
                bytes: metadata.len(),
                modified: metadata.modified().ok(),
            },
        )
    }
}

impl TlsStore {
    /// Makes everything that a snapshot needs; reads files, about 100 µs each. What `previous` has is taken from it if its
    /// files look as they did.
    ///
    /// A file that was good before and no longer is changes nothing: what it gave stays in force, and
    /// [`TlsStore::problems`] names it.
    ///
    /// # Errors
    /// Everything that is wrong with files for which there is nothing older.
    pub fn build(previous: Option<&TlsStore>, snapshot: &Snapshot) -> Result<TlsStore, Vec<TlsProblem>> {
        Self::build_with(previous, snapshot, SystemRoots::find())
    }

    /// The same with authorities in place of the system's.
    pub(super) fn build_with(
        previous: Option<&TlsStore>,
        snapshot: &Snapshot,
        roots: SystemRoots,
    ) -> Result<TlsStore, Vec<TlsProblem>> {
        let empty = TlsStore::default();
        let mut builder = Builder {
            previous: previous.unwrap_or(&empty),
            provider: Arc::new(super::provider()),
            roots,
            next: TlsStore::default(),
            errors: BTreeSet::new(),
        };
        for tls in snapshot.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            builder.add_server(tls);
        }
        for tls in snapshot.services().filter_map(|service| service.tls.as_ref()) {
            builder.add_client(tls);
        }
        if builder.errors.is_empty() { Ok(builder.next) } else { Err(builder.errors.into_iter().collect()) }
    }

    /// The same with what only `old` has, for the time in which not every worker knows of the change.
    #[must_use]
    pub fn with_old(&self, old: &TlsStore) -> TlsStore {
        let mut both = self.clone();
        for (tls, entry) in &old.servers {
            both.servers.entry(Arc::clone(tls)).or_insert_with(|| entry.clone());
        }
        for (tls, entry) in &old.clients {
            both.clients.entry(Arc::clone(tls)).or_insert_with(|| entry.clone());
        }
        both
    }

    /// What [`super::accept`] needs for a listener of this protocol.
    #[must_use]
    pub fn server(&self, tls: &ServerTls, protocol: Protocol) -> Option<&Arc<ServerConfig>> {
        let entry = self.servers.get(tls)?;
        Some(match Alpn::of_listener(protocol) {
            Alpn::None => &entry.made.any,
            _ => &entry.made.http,
        })
    }

    /// How to speak to a service's endpoints.
    #[must_use]
    pub fn client(&self, tls: &ClientTls) -> Option<&Arc<Client>> {
        self.clients.get(tls).map(|entry| &entry.made)
    }

    /// What is wrong with files whose earlier version stays in force.
    pub fn problems(&self) -> impl Iterator<Item = &TlsProblem> {
        self.problems.iter()
    }

    /// Certificates in use, by file.
    #[must_use]
    pub fn certificates(&self) -> Vec<&CertificateStatus> {
        let servers = self.servers.values().flat_map(|entry| &entry.statuses);
        let clients = self.clients.values().flat_map(|entry| &entry.statuses);
        let mut certificates: Vec<_> = servers.chain(clients).collect();
        certificates.sort_by(|one, other| one.file.cmp(&other.file));
        certificates.dedup_by(|one, other| one.file == other.file);
        certificates
    }
}

/// Where all workers find the store in force. Asked once per TLS connection.
#[derive(Debug, Default)]
pub struct TlsCell(RwLock<Arc<TlsStore>>);

impl TlsCell {
    /// The store in force.
    #[must_use]
    pub fn current(&self) -> Arc<TlsStore> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another one into force, for new connections.
    pub fn set(&self, store: Arc<TlsStore>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = store;
    }
}

/// Notices that files of a store have changed.
#[derive(Debug, Default)]
pub struct TlsWatch {
    /// How files looked that were seen to have changed, once.
    pending: Vec<(PathBuf, Look)>,
}

impl TlsWatch {
    /// Looks at each file; true if one looks different from when it was read, and they have come to rest: a key and its
    /// certificate are not replaced in one step.
    pub fn poll_changed(&mut self, store: &TlsStore) -> bool {
        let looks = store.files.iter().map(|(path, look)| (path, look, Look::at(path)));
        let mut changed: Vec<(PathBuf, Look)> =
            looks.filter(|(_, old, new)| *old != new).map(|(path, _, new)| (path.clone(), new)).collect();
        changed.sort_by(|one, other| one.0.cmp(&other.0));
        let is_at_rest = !changed.is_empty() && changed == self.pending;
        self.pending = if is_at_rest { Vec::new() } else { changed };
        is_at_rest
    }
}

struct Builder<'a> {
    previous: &'a TlsStore,
    provider: Arc<CryptoProvider>,
    roots: SystemRoots,
    next: TlsStore,
    errors: BTreeSet<TlsProblem>,
}

impl Builder<'_> {
    fn add_server(&mut self, tls: &Arc<ServerTls>) {
        if self.next.servers.contains_key(tls) {
            return;
        }
        let files = server_files(tls);
        let old = self.previous.servers.get(tls);
        let entry = self.entry(&files, old, |builder| {
            let (config, statuses) = server::build(tls, &builder.provider)?;
            let mut http = config.clone();
            http.alpn_protocols = Alpn::Http.protocols();
            Ok(Entry { made: Server { any: Arc::new(config), http: Arc::new(http) }, statuses })
        });
        self.next.servers.extend(entry.map(|entry| (Arc::clone(tls), entry)));
    }

    fn add_client(&mut self, tls: &Arc<ClientTls>) {
        if self.next.clients.contains_key(tls) {
            return;
        }
        let system = self.roots.paths().to_vec();
        let mut files = client_files(tls);
        if tls.ca.is_none() {
            files.extend(system.iter().map(PathBuf::as_path));
        }
        let old = self.previous.clients.get(tls);
        let entry = self.entry(&files, old, |builder| {
            let old = old.map(|entry| &*entry.made);
            let (client, status) = Client::build(tls, &builder.provider, &mut builder.roots, old)?;
            Ok(Entry { made: Arc::new(client), statuses: status.into_iter().collect() })
        });
        self.next.clients.extend(entry.map(|entry| (Arc::clone(tls), entry)));
    }

    /// Takes the old entry if its files look as they did, else makes it anew; the old one stays if that fails.
    fn entry<T: Clone>(
        &mut self,
        files: &[&Path],
        old: Option<&Entry<T>>,
        make: impl FnOnce(&mut Self) -> Result<Entry<T>, Vec<TlsProblem>>,
    ) -> Option<Entry<T>> {
        // Looked at before they are read: a change in between is seen the next time.
        let looks: Vec<Look> = files.iter().map(|file| Look::at(file)).collect();
        let is_same = |(file, look): (&&Path, &Look)| self.previous.files.get(*file) == Some(look);
        let is_unchanged = files.iter().zip(&looks).all(is_same);
        self.next.files.extend(files.iter().map(|file| file.to_path_buf()).zip(looks));
        if let Some(old) = old
            && is_unchanged
        {
            let still = self.previous.problems.iter().filter(|problem| files.contains(&&*problem.file));
            self.next.problems.extend(still.cloned());
            return Some(old.clone());
        }
        match (make(self), old) {
            (Ok(entry), _) => Some(entry),
            (Err(problems), Some(old)) => {
                self.next.problems.extend(problems);
                Some(old.clone())
            }
            (Err(problems), None) => {
                self.errors.extend(problems);
                None
            }
        }
    }
}

fn server_files(tls: &ServerTls) -> Vec<&Path> {
    let certificates = tls.certificates.iter().flat_map(certificate_files);
    certificates.chain(tls.client_auth.iter().map(|auth| &*auth.ca)).collect()
}

fn client_files(tls: &ClientTls) -> Vec<&Path> {
    let certificates = tls.certificate.iter().flat_map(certificate_files);
    certificates.chain(tls.ca.as_deref()).collect()
}

fn certificate_files(files: &CertificateFiles) -> [&Path; 2] {
    [&files.cert, &files.key]
}
