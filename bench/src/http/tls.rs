//! TLS as it is measured: version 1.3, one key exchange and one cipher for everybody, nothing resumed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnection, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ServerConnection};
use rustls::{
    ClientConfig, Connection, DigitallySignedStruct, Error, ServerConfig, SignatureScheme, version,
};

use super::HOST;

/// What every contestant can do and would choose: AES with 128 bits has instructions of its own. Hybrid key exchanges that only
/// some of them know would make these look slow.
fn provider() -> Arc<CryptoProvider> {
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    Arc::new(provider)
}

/// A client's side of TLS.
#[derive(Clone, Debug)]
pub struct Client(Arc<ClientConfig>);

impl Client {
    /// Trusts the one certificate in this file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn new(certificate: &Path) -> Result<Self> {
        let pinned = CertificateDer::from_pem_file(certificate).context("cannot read the certificate")?;
        let provider = provider();
        let verifier = Pinned {
            certificate: pinned,
            provider: Arc::clone(&provider),
            is_proven: AtomicBool::new(false),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// A new connection, before its handshake.
    ///
    /// # Errors
    /// As rustls.
    pub fn connection(&self) -> Result<Box<Connection>, Error> {
        let name = ServerName::try_from(HOST).map_err(|_| Error::General("a host that is no name".into()))?;
        ClientConnection::new(Arc::clone(&self.0), name).map(|client| Box::new(client.into()))
    }
}

/// The backend's side, for clients without a proxy.
#[derive(Clone, Debug)]
pub struct Server(Arc<ServerConfig>);

impl Server {
    /// Shows this certificate.
    ///
    /// # Errors
    /// If one of the files cannot be read.
    pub fn new(certificate: &Path, key: &Path) -> Result<Self> {
        let certificate =
            CertificateDer::from_pem_file(certificate).context("cannot read the certificate")?;
        let key = PrivateKeyDer::from_pem_file(key).context("cannot read the certificate's key")?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self(Arc::new(config)))
    }

    /// A new connection, before its handshake.
    ///
    /// # Errors
    /// As rustls.
    pub fn connection(&self) -> Result<Box<Connection>, Error> {
        ServerConnection::new(Arc::clone(&self.0)).map(|server| Box::new(server.into()))
    }
}

/// Knows the certificate, and checks once that the other side has its key: checking that each time would be most of the client's
/// work, and none of what is measured.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
    is_proven: AtomicBool,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General("another certificate than that of the bench".into()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not measured".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.is_proven.load(Ordering::Relaxed) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)?;
        self.is_proven.store(true, Ordering::Relaxed);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
