//! Weir as a TLS client of endpoints.

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proxy_core::tls::ClientTls;
use proxy_io::{Chunk, Socket};
use rustls::client::{ClientSessionMemoryCache, Resumption, UnbufferedClientConnection};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_native_certs::CertificateResult;

use super::Alpn;
use super::cert::{self, CertificateStatus, TlsProblem};
use super::error::TlsError;
use super::handshake::{self, Connection};
use super::server::versions;
use super::stream::Stream;

/// Endpoints whose sessions are remembered; beyond it all are forgotten, which costs full handshakes and no more. About
/// 10 KiB each.
const MOST_ENDPOINTS: usize = 4096;
/// Sessions of one endpoint, in rustls's measure: one name and eight tickets.
const SESSIONS: usize = 8;

/// One way to speak TLS to endpoints. Shared by all workers.
pub struct Client {
    /// Without resumption: what an endpoint remembers of us means nothing to another one.
    template: ClientConfig,
    name: Option<ServerName<'static>>,
    has_roots: bool,
    endpoints: Mutex<HashMap<(SocketAddr, Alpn), Arc<ClientConfig>>>,
}

impl Client {
    /// Makes what rustls needs of what the config says; reads files. A system that has lost the authorities that it had for `old`
    /// is a problem; one that has none is not, since it may not matter.
    pub(super) fn build(
        tls: &ClientTls,
        provider: &Arc<CryptoProvider>,
        system_roots: &mut SystemRoots,
        old: Option<&Self>,
    ) -> Result<(Self, Option<CertificateStatus>), Vec<TlsProblem>> {
        let mut problems = Vec::new();
        let roots = match &tls.ca {
            Some(file) => cert::load_roots(file).map(Arc::new),
            None => match system_roots.load() {
                Err(problem) if !old.is_some_and(|old| old.has_roots) => {
                    tracing::warn!("{problem}; endpoints without `ca` are refused");
                    Ok(Arc::new(RootCertStore::empty()))
                }
                loaded => loaded,
            },
        };
        let roots = roots.unwrap_or_else(|problem| {
            problems.push(problem);
            Arc::new(RootCertStore::empty())
        });
        let loaded = tls.certificate.as_ref().map(|files| cert::load(files, provider)).transpose();
        let loaded = loaded.unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let has_roots = !roots.is_empty();
        let (own, status) = loaded.map(|loaded| (loaded.key, loaded.status)).unzip();
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(versions(tls.min_version))
            .expect("the provider has suites for both versions")
            .with_root_certificates(roots);
        let mut template = match own {
            Some(key) => {
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
            }
            None => builder.with_no_client_auth(),
        };
        template.enable_secret_extraction = true;
        template.resumption = Resumption::disabled();
        let name = tls.sni.as_ref().and_then(|name| ServerName::try_from(name.clone()).ok());
        Ok((Self { template, name, has_roots, endpoints: Mutex::default() }, status))
    }

    /// Makes one for somebody who is no endpoint of a service.
    ///
    /// # Errors
    /// What is wrong with its files.
    pub fn alone(tls: &ClientTls) -> Result<Self, Vec<TlsProblem>> {
        let provider = Arc::new(super::provider());
        Self::build(tls, &provider, &mut SystemRoots::find(), None).map(|(client, _)| client)
    }

    /// Makes one of a given configuration, with the name that `tls` says.
    #[cfg(test)]
    pub(super) fn with_template(tls: &ClientTls, mut template: ClientConfig) -> Self {
        template.enable_secret_extraction = true;
        let name = tls.sni.as_ref().and_then(|name| ServerName::try_from(name.clone()).ok());
        Self { template, name, has_roots: true, endpoints: Mutex::default() }
    }

    /// What rustls needs to speak to an endpoint: what it resumes is that endpoint's.
    #[must_use]
    pub fn config(&self, endpoint: SocketAddr, alpn: Alpn) -> Arc<ClientConfig> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if endpoints.len() >= MOST_ENDPOINTS {
            endpoints.clear();
        }
        let made = endpoints.entry((endpoint, alpn)).or_insert_with(|| {
            let mut config = self.template.clone();
            config.alpn_protocols = alpn.protocols();
            config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)));
            Arc::new(config)
        });
        Arc::clone(made)
    }

    /// Name that an endpoint must show a certificate for.
    #[must_use]
    pub fn server_name(&self, endpoint: SocketAddr) -> ServerName<'static> {
        self.name.clone().unwrap_or_else(|| ServerName::IpAddress(endpoint.ip().into()))
    }

    /// Begins TLS on a connection to an endpoint. Dropping the future closes the connection. An endpoint that is
    /// refused is told why, which may take half a second longer than `limit`.
    ///
    /// # Errors
    /// Why there is no session.
    pub async fn connect(
        &self,
        endpoint: SocketAddr,
        alpn: Alpn,
        socket: Socket,
        limit: Duration,
    ) -> Result<Stream, TlsError> {
        let config = self.config(endpoint, alpn);
        let client =
            UnbufferedClientConnection::new(config, self.server_name(endpoint)).map_err(TlsError::Keys)?;
        Box::pin(handshake::run(Connection::Client(client), socket, Chunk::default(), limit)).await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The system's authorities, read when they are first needed.
pub(super) struct SystemRoots {
    /// Their bundle and their folder, as far as there are any.
    paths: Vec<PathBuf>,
    load: Box<dyn Fn() -> CertificateResult>,
    loaded: Option<Result<Arc<RootCertStore>, TlsProblem>>,
}

impl SystemRoots {
    /// Where this system has them, or where `SSL_CERT_FILE` and `SSL_CERT_DIR` say that they are.
    pub(super) fn find() -> Self {
        let told = |variable| env::var_os(variable).into_iter();
        let file = told(openssl_probe::ENV_CERT_FILE).map(PathBuf::from);
        let folders = told(openssl_probe::ENV_CERT_DIR);
        let folders = folders.flat_map(|list| env::split_paths(&list).collect::<Vec<_>>());
        let mut paths: Vec<PathBuf> = file.chain(folders).collect();
        if paths.is_empty() {
            let found = openssl_probe::probe();
            paths.extend(found.cert_file.into_iter().chain(found.cert_dir));
        }
        Self { paths, load: Box::new(rustls_native_certs::load_native_certs), loaded: None }
    }

    /// One bundle.
    #[cfg(test)]
    pub(super) fn at(file: PathBuf) -> Self {
        let path = file.clone();
        let load = move || rustls_native_certs::load_certs_from_paths(Some(&path), None);
        Self { paths: vec![file], load: Box::new(load), loaded: None }
    }

    /// What looks different when there are other authorities. Of a folder that is its list of names, which tools for it renew.
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    fn load(&mut self) -> Result<Arc<RootCertStore>, TlsProblem> {
        let Self { paths, load, loaded } = self;
        let loaded = loaded.get_or_insert_with(|| {
            let found = load();
            let mut roots = RootCertStore::empty();
            // Bundles hold some that nobody can use any more; the others still count.
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added > 0 {
                return Ok(Arc::new(roots));
            }
            let errors = found.errors.iter().map(|error| format!(": {error}")).collect::<String>();
            let file = paths.first().cloned().unwrap_or_else(|| PathBuf::from("the system's authorities"));
            Err(TlsProblem { file, what: format!("there is no TLS authority{errors}") })
        });
        loaded.clone()
    }
}
