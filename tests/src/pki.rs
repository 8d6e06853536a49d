//! Authorities and certificates, made by the openssl program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::process;

/// Name of the authority that everybody believes.
pub const ROOT: &str = "ca";
/// What makes a certificate an authority's.
const IS_CA: &str = "basicConstraints=critical,CA:TRUE";
/// Without it, openssl takes extensions from the machine's own.
const CONFIG: &str = "[req]\ndistinguished_name = name\n[name]\n";

/// Kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA of 2048 bits.
    Rsa2048,
    /// RSA of 4096 bits.
    Rsa4096,
}

impl Key {
    /// How `openssl req` is asked for one.
    fn options(self) -> [&'static str; 4] {
        let (algorithm, option) = match self {
            Self::P256 => ("ec", "ec_paramgen_curve:prime256v1"),
            Self::P384 => ("ec", "ec_paramgen_curve:secp384r1"),
            Self::Rsa2048 => ("rsa", "rsa_keygen_bits:2048"),
            Self::Rsa4096 => ("rsa", "rsa_keygen_bits:4096"),
        };
        ["-newkey", algorithm, "-pkeyopt", option]
    }
}

/// An authority and what it has signed, in a folder of its own.
pub struct Pki(PathBuf);

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pki {
    /// Makes an authority: `ca.pem`.
    ///
    /// # Panics
    /// If openssl is not installed.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("weir-pki-{}-{count}", std::process::id()));
        fs::create_dir_all(&folder).expect("the folder for temporary files can be written to");
        fs::write(folder.join("openssl.cnf"), CONFIG).expect("it can be written");
        let pki = Self(folder);
        pki.openssl(ROOT, Key::P256, &["-addext", IS_CA]);
        pki
    }

    /// Makes a certificate with these alternative names (`DNS:web.shop`) and its key, in place of older ones.
    ///
    /// # Panics
    /// If openssl fails.
    pub fn certificate(&self, name: &str, names: &[&str]) {
        self.certificate_by(ROOT, name, names, Key::P256);
    }

    /// The same with a key of a kind, signed by an authority: its file holds the chain, the root apart.
    ///
    /// # Panics
    /// If openssl fails.
    pub fn certificate_by(&self, authority: &str, name: &str, names: &[&str], key: Key) {
        let names = format!("subjectAltName={}", names.join(","));
        self.signed(authority, name, key, &["-addext", &names]);
    }

    /// Makes an authority below another one.
    ///
    /// # Panics
    /// If openssl fails.
    pub fn authority(&self, above: &str, name: &str, key: Key) {
        self.signed(above, name, key, &["-addext", IS_CA]);
    }

    fn signed(&self, authority: &str, name: &str, key: Key, more: &[&str]) {
        let (chain, ca_key) =
            (self.path(&format!("{authority}.pem")), self.path(&format!("{authority}.key")));
        self.openssl(name, key, &[more, &["-CA", &chain, "-CAkey", &ca_key]].concat());
        if authority != ROOT {
            let own = self.path(&format!("{name}.pem"));
            let read = |path: &str| fs::read_to_string(path).expect("openssl has written it");
            fs::write(&own, read(&own) + &read(&chain)).expect("it can be written");
        }
    }

    fn openssl(&self, name: &str, key: Key, more: &[&str]) {
        let (new_key, new) = (self.path("new.key"), self.path("new.pem"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-nodes", "-days", "30", "-subj", &format!("/CN={name}")]);
        openssl.args(key.options()).args(["-config", &self.path("openssl.cnf")]);
        process::output(openssl.args(["-keyout", &new_key, "-out", &new]).args(more)).expect("openssl runs");
        for (from, to) in [(new_key, format!("{name}.key")), (new, format!("{name}.pem"))] {
            fs::rename(from, self.path(&to)).expect("both are in one folder");
        }
    }

    /// Writes a file in place of an older one.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn renew(&self, name: &str, bytes: &[u8]) {
        let new = self.path("new.pem");
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(new, self.path(name)))
            .expect("the folder can be written to");
    }

    /// A file, for a config or a command line.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// A certificate and its key as a config names them.
    #[must_use]
    pub fn files(&self, name: &str) -> Value {
        json!({"cert": self.path(&format!("{name}.pem")), "key": self.path(&format!("{name}.key"))})
    }
}
