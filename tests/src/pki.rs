//! Authorities and certificates, made by the openssl program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::process;

/// Without it, openssl takes extensions from the machine's own.
const CONFIG: &str = "[req]\ndistinguished_name = name\n[name]\n";

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
        pki.openssl("ca", &["-addext", "basicConstraints=critical,CA:TRUE"]);
        pki
    }

    /// Makes a certificate with these alternative names (`DNS:web.shop`) and its key, in place of older ones.
    ///
    /// # Panics
    /// If openssl fails.
    pub fn certificate(&self, name: &str, names: &[&str]) {
        let names = format!("subjectAltName={}", names.join(","));
        let (ca, key) = (self.path("ca.pem"), self.path("ca.key"));
        self.openssl(name, &["-addext", &names, "-CA", &ca, "-CAkey", &key]);
    }

    fn openssl(&self, name: &str, more: &[&str]) {
        let (new_key, new) = (self.path("new.key"), self.path("new.pem"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "30", "-subj", &format!("/CN={name}"), "-config", &self.path("openssl.cnf")]);
        process::output(openssl.args(["-keyout", &new_key, "-out", &new]).args(more)).expect("openssl runs");
        for (from, to) in [(new_key, format!("{name}.key")), (new, format!("{name}.pem"))] {
            fs::rename(from, self.path(&to)).expect("both are in one folder");
        }
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
