//! What the config says about TLS, as values: which files, which names, which versions. Nobody opens a file here.

use std::path::PathBuf;

/// TLS versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// A certificate chain and the key that belongs to it, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The chain, the own certificate first.
    pub cert: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// How Weir answers as a TLS server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// Chosen by the name that the client asks for (SNI); the first one answers where none fits. Of several for a name, the first
    /// whose kind of key the client understands. Never empty.
    pub certificates: Vec<CertificateFiles>,
    /// Lowest version that is spoken.
    pub min_version: TlsVersion,
    /// Certificates of clients.
    pub client_auth: Option<ClientAuth>,
    /// Whether sessions may be resumed (tickets with keys that rotate and never leave the process).
    pub is_resuming: bool,
}

/// What is asked of clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientAuth {
    /// PEM file of the authorities that are believed.
    pub ca: PathBuf,
    /// Whether clients without a certificate are refused.
    pub is_required: bool,
    /// Names (DNS, URI) one of which a client's certificate must bear; any if empty. `*.` at the beginning stands for one label.
    pub san: Vec<String>,
}

/// How Weir speaks TLS to endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// PEM file of the authorities that are believed; the system's if absent.
    pub ca: Option<PathBuf>,
    /// Name that is asked for and verified; if absent, the endpoint's IP address is verified and none is asked for.
    pub sni: Option<String>,
    /// Own certificate, for endpoints that ask for one.
    pub certificate: Option<CertificateFiles>,
    /// Lowest version that is spoken.
    pub min_version: TlsVersion,
}
