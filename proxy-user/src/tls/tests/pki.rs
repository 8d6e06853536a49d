//! Authorities and certificates of a test, in a folder of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proxy_core::tls::{CertificateFiles, ClientAuth, ClientTls, ServerTls, TlsVersion};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::crypto::CryptoProvider;

pub(crate) struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Pki {
    /// Makes an authority; its certificate is `ca.pem`.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("weir-tls-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority {count}"));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.join("ca.pem"), certificate.pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Writes a certificate for these names, `NAME.pem` and `NAME.key`; those with `://` are URIs.
    pub(crate) fn certificate(&self, name: &str, names: &[&str]) -> CertificateFiles {
        self.certificate_until(name, names, 2050)
    }

    pub(crate) fn certificate_until(&self, name: &str, names: &[&str], year: i32) -> CertificateFiles {
        let (uris, others): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
        let others: Vec<String> = others.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(others).unwrap();
        let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
        params.subject_alt_names.extend(uris.into_iter().map(uri));
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(year, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = CertificateFiles {
            cert: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        };
        write(&files.cert, certificate.pem());
        write(&files.key, key.serialize_pem());
        files
    }

    /// A server with one certificate, for `web.shop` and 127.0.0.1.
    pub(crate) fn server(&self) -> ServerTls {
        server_of(vec![self.certificate("web", &["web.shop", "127.0.0.1"])])
    }

    /// The same, which asks clients for certificates of this authority.
    pub(crate) fn asking_server(&self, is_required: bool, san: &[&str]) -> ServerTls {
        let san = san.iter().map(|name| (*name).to_owned()).collect();
        ServerTls { client_auth: Some(ClientAuth { ca: self.ca(), is_required, san }), ..self.server() }
    }

    /// A client that believes this authority and asks for `web.shop`.
    pub(crate) fn client(&self) -> ClientTls {
        ClientTls {
            ca: Some(self.ca()),
            sni: Some("web.shop".to_owned()),
            certificate: None,
            min_version: TlsVersion::V1_2,
        }
    }
}

pub(crate) fn server_of(certificates: Vec<CertificateFiles>) -> ServerTls {
    ServerTls { certificates, min_version: TlsVersion::V1_2, client_auth: None, is_resuming: true }
}

/// Writes a file in place of another one: it never looks the same, however fast this is.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(crate::tls::provider())
}
