//! The certificate that all servers show: ECDSA P-256, as most sites have, signed by itself.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::http::HOST;

/// Files of the certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Both in one file, as HAProxy wants it.
    pub both: PathBuf,
}

impl Certificate {
    /// Where it lies in this folder, made or not.
    #[must_use]
    pub fn within(folder: &Path) -> Self {
        let [cert, key, both] = ["web.pem", "web.key", "web-with-key.pem"].map(|name| folder.join(name));
        Self { cert, key, both }
    }

    /// Makes a new one in this folder.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn make(folder: &Path) -> Result<Self> {
        let made = Self::within(folder);
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")?;
        let params = CertificateParams::new(vec![HOST.to_owned()]).context("cannot make a certificate")?;
        let (cert, key) = (params.self_signed(&pair)?.pem(), pair.serialize_pem());
        fs::write(&made.cert, &cert)?;
        for (path, text) in [(&made.key, key.clone()), (&made.both, cert + &key)] {
            let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
            file.write_all(text.as_bytes())?;
        }
        Ok(made)
    }
}
