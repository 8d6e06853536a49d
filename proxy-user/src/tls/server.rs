//! Weir as a TLS server.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proxy_core::tls::{ClientAuth, ServerTls, TlsVersion};
use proxy_io::{Chunk, Socket};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    SupportedProtocolVersion, version,
};

use super::cert::{self, CertificateStatus, TlsProblem};
use super::error::TlsError;
use super::handshake::{self, Connection};
use super::stream::Stream;

/// Answers a client that wants TLS; `early` is what it has sent already. Dropping the future closes the connection.
///
/// A client that is refused is told why, which may take half a second longer than `limit`.
///
/// # Errors
/// Why there is no session.
pub async fn accept(
    config: &Arc<ServerConfig>,
    socket: Socket,
    early: Chunk,
    limit: Duration,
) -> Result<Stream, TlsError> {
    let server = UnbufferedServerConnection::new(Arc::clone(config)).map_err(TlsError::Keys)?;
    Box::pin(handshake::run(Connection::Server(server), socket, early, limit)).await
}

/// Makes what rustls needs of what the config says; reads files.
pub(super) fn build(
    tls: &ServerTls,
    provider: &Arc<CryptoProvider>,
) -> Result<(ServerConfig, Vec<CertificateStatus>), Vec<TlsProblem>> {
    let mut problems = Vec::new();
    let mut loaded = Vec::new();
    for files in &tls.certificates {
        match cert::load(files, provider) {
            Ok(one) => loaded.push(one),
            Err(problem) => problems.push(problem),
        }
    }
    let verifier = match tls.client_auth.as_ref().map(|auth| verifier(auth, provider)).transpose() {
        Ok(verifier) => verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth),
        Err(problem) => {
            problems.push(problem);
            WebPkiClientVerifier::no_client_auth()
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let (keys, statuses): (Vec<_>, Vec<_>) = loaded.into_iter().map(|one| (one.key, one.status)).unzip();
    let resolver = Resolver::new(keys.into_iter().zip(statuses.iter().map(|status| &*status.names)));
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions(tls.min_version))
        .expect("the provider has suites for both versions")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(resolver));
    config.enable_secret_extraction = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    if tls.is_resuming {
        // Of this configuration alone: a session that another one let in says nothing here.
        match aws_lc_rs::Ticketer::new() {
            Ok(ticketer) => {
                config.ticketer = ticketer;
                config.send_tls13_tickets = TICKETS;
            }
            Err(error) => tracing::warn!(%error, "TLS sessions are not resumed"),
        }
    }
    Ok((config, statuses))
}

/// Tickets for a new session: clients open two connections at once more often than more, and may use each only once.
const TICKETS: usize = 2;

/// Versions from a lowest one on.
pub(super) fn versions(lowest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match lowest {
        TlsVersion::V1_2 => &BOTH,
        TlsVersion::V1_3 => &BOTH[..1],
    }
}

/// Chooses a certificate by the name that a client asks for, and of several the first that it understands: one with an ECDSA key
/// for most, and one with an RSA key for the others.
struct Resolver {
    /// Whole names, and `*.` with what one label may stand before.
    by_name: HashMap<Box<str>, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl Resolver {
    fn new<'a>(keys: impl Iterator<Item = (Arc<CertifiedKey>, &'a [String])>) -> Self {
        let mut resolver = Self { by_name: HashMap::new(), all: Vec::new() };
        for (key, names) in keys {
            for name in names {
                resolver.by_name.entry(name.as_str().into()).or_default().push(Arc::clone(&key));
            }
            resolver.all.push(key);
        }
        resolver
    }

    fn find(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let wildcard = || self.by_name.get(&*format!("*.{}", cert::parent(name)?));
        self.by_name.get(name).or_else(wildcard).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has put it in lower case.
        let named = hello.server_name().and_then(|name| self.find(name)).unwrap_or(&self.all);
        let is_understood =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        // With one that it does not understand, the client is refused for the right reason.
        named.iter().find(is_understood).or(named.first()).cloned()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

fn verifier(
    auth: &ClientAuth,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsProblem> {
    let roots = Arc::new(cert::load_roots(&auth.ca)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    if !auth.is_required {
        builder = builder.allow_unauthenticated();
    }
    let inner =
        builder.build().map_err(|error| TlsProblem { file: auth.ca.clone(), what: error.to_string() })?;
    if auth.san.is_empty() {
        return Ok(inner);
    }
    let patterns = auth.san.iter().map(|name| pattern(name)).collect();
    Ok(Arc::new(SanVerifier { inner, patterns }))
}

/// DNS names have no case; URIs do.
fn pattern(name: &str) -> String {
    if name.contains("://") { name.to_owned() } else { name.to_ascii_lowercase() }
}

/// Believes certificates of the right authority only if they bear one of some names.
#[derive(Debug)]
struct SanVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    patterns: Vec<String>,
}

impl ClientCertVerifier for SanVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let names = cert::identity(end_entity).names;
        let is_wanted = |name: &String| self.patterns.iter().any(|pattern| cert::is_named(pattern, name));
        if names.iter().any(is_wanted) {
            Ok(verified)
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
