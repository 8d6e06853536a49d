//! Certificates and keys from PEM files, and what is wrong with them.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proxy_core::tls::CertificateFiles;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::handshake::PeerIdentity;

/// Largest file that is read; the bundle of all public authorities has 250 KiB.
const MOST_FILE_BYTES: u64 = 16 << 20;

/// A file that cannot be used for TLS. Says nothing of what is in a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, thiserror::Error)]
#[error("{}: {what}", .file.display())]
pub struct TlsProblem {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    #[serde(rename = "problem")]
    pub what: String,
}

impl TlsProblem {
    fn new(file: &Path, what: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), what: what.to_string() }
    }
}

/// A certificate chain that was read, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateStatus {
    /// File of the chain.
    pub file: PathBuf,
    /// When the first certificate of the chain ends, in seconds since 1970.
    pub not_after: i64,
    /// Names that it is good for.
    pub names: Vec<String>,
}

/// A chain with its key, ready for use.
pub(super) struct Loaded {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) status: CertificateStatus,
}

/// Reads a chain and its key.
pub(super) fn load(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Loaded, TlsProblem> {
    let chain = load_chain(&files.cert)?;
    let status = status(&files.cert, &chain)?;
    let key = load_key(&files.key)?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| TlsProblem::new(&files.key, format_args!("the key cannot be used: {error}")))?;
    let key = CertifiedKey::new(chain, key);
    match key.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            let what = format_args!("the key does not belong to the certificate in {}", files.cert.display());
            return Err(TlsProblem::new(&files.key, what));
        }
        Err(error) => return Err(TlsProblem::new(&files.cert, error)),
    }
    Ok(Loaded { key: Arc::new(key), status })
}

/// Reads authorities that are believed.
pub(super) fn load_roots(file: &Path) -> Result<RootCertStore, TlsProblem> {
    let mut roots = RootCertStore::empty();
    for certificate in load_chain(file)? {
        let bad = |error| TlsProblem::new(file, format_args!("an authority cannot be used: {error}"));
        roots.add(certificate).map_err(bad)?;
    }
    Ok(roots)
}

fn load_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let text = read(file)?;
    let bad = |error| TlsProblem::new(file, pem_text(&error));
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(bad)?;
    if chain.is_empty() {
        return Err(TlsProblem::new(file, "there is no certificate in it (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(chain)
}

fn load_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    let text = read(file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if contains(&text, b"BEGIN ENCRYPTED PRIVATE KEY") => {
            TlsProblem::new(file, "the private key is encrypted; there is nobody to ask for its password")
        }
        pem::Error::NoItemsFound => {
            TlsProblem::new(file, "there is no private key in it (-----BEGIN PRIVATE KEY-----)")
        }
        error => TlsProblem::new(file, pem_text(&error)),
    })
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

/// Words for what is wrong with a PEM file; the library's own would print its bytes.
fn pem_text(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it is cut off: a section has no end",
        pem::Error::IllegalSectionStart { .. } => "a line that begins a section is malformed",
        pem::Error::Base64Decode(_) => "the text between the lines is not Base64",
        pem::Error::NoItemsFound => "there is nothing usable in it",
        _ => "it is not a PEM file",
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsProblem> {
    let mut text = Vec::new();
    let opened = std::fs::File::open(file).and_then(|file| file.take(MOST_FILE_BYTES).read_to_end(&mut text));
    opened.map_err(|error| TlsProblem::new(file, error))?;
    match text.len() as u64 {
        0 => Err(TlsProblem::new(file, "the file is empty")),
        MOST_FILE_BYTES.. => Err(TlsProblem::new(file, "the file is larger than 16 MiB")),
        _ => Ok(text),
    }
}

fn status(file: &Path, chain: &[CertificateDer<'_>]) -> Result<CertificateStatus, TlsProblem> {
    let mut status = CertificateStatus { file: file.to_owned(), not_after: i64::MAX, names: Vec::new() };
    for (index, der) in chain.iter().enumerate() {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|_| TlsProblem::new(file, format_args!("certificate {} is malformed", index + 1)))?;
        status.not_after = status.not_after.min(certificate.validity().not_after.timestamp());
        if index == 0 {
            status.names = names(&certificate);
        }
    }
    Ok(status)
}

/// Alternative names of kinds that one asks for: DNS names in lower case, URIs, IP addresses.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    names.filter_map(name).collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|bytes| std::net::Ipv4Addr::from(bytes).to_string());
            let v6 = <[u8; 16]>::try_from(*bytes).map(|bytes| std::net::Ipv6Addr::from(bytes).to_string());
            v4.or(v6).ok()
        }
        _ => None,
    }
}

/// Says whom a certificate names; empty if it cannot be read, which its verification has ruled out.
pub(super) fn identity(der: &CertificateDer<'_>) -> PeerIdentity {
    X509Certificate::from_der(der).map_or_else(
        |_| PeerIdentity::default(),
        |(_, certificate)| PeerIdentity {
            subject: certificate.subject().to_string(),
            names: names(&certificate),
        },
    )
}

/// Whether a name is one that a pattern means: the same, or one label below what follows `*.` in the pattern.
///
/// `name` and `pattern` are in lower case.
pub(super) fn is_named(pattern: &str, name: &str) -> bool {
    pattern == name || pattern.strip_prefix("*.").is_some_and(|suffix| parent(name) == Some(suffix))
}

/// What is left of a name without its first label.
pub(super) fn parent(name: &str) -> Option<&str> {
    name.split_once('.').filter(|(label, rest)| !label.is_empty() && !rest.is_empty()).map(|(_, rest)| rest)
}
