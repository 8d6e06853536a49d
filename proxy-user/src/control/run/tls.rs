//! Certificates and keys: read with the configuration, and again when their files change.

use std::sync::Arc;

use proxy_core::health::Check;
use proxy_core::service::Probe;
use proxy_core::snapshot::Snapshot;

use super::Control;
use crate::health::Tls;
use crate::tls::{Alpn, TlsProblem, TlsStore};

/// Reads what a snapshot needs; what is in force is taken over as far as its files look as they did.
///
/// # Errors
/// Everything that is wrong with the files, one a line.
pub(super) fn load(old: &TlsStore, snapshot: &Snapshot) -> Result<Arc<TlsStore>, String> {
    // A few files of a few KiB.
    let built = tokio::task::block_in_place(|| TlsStore::build(Some(old), snapshot));
    let store =
        built.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    tell_news(old, &store);
    Ok(Arc::new(store))
}

/// Says once which files went bad, and which are good again.
fn tell_news(old: &TlsStore, new: &TlsStore) {
    let is_in = |store: &TlsStore, problem: &TlsProblem| store.problems().any(|one| one == problem);
    for problem in new.problems().filter(|problem| !is_in(old, problem)) {
        tracing::warn!("{problem}; what was read before stays in force");
    }
    for problem in old.problems().filter(|problem| !is_in(new, problem)) {
        tracing::info!(file = %problem.file.display(), "a TLS file is in order again, or no longer needed");
    }
}

impl Control {
    /// Takes up certificates whose files have changed: new connections use them, open ones go on.
    pub(super) fn look_for_certificates(&mut self) {
        let old = self.parts.shared.tls.current();
        if !self.tls_watch.poll_changed(&old) {
            return;
        }
        match load(&old, &self.snapshot) {
            Ok(store) => {
                tracing::info!(bad = store.problems().count(), "TLS files read again");
                self.parts.shared.tls.set(store);
            }
            // Everything that is needed was there before.
            Err(error) => tracing::error!("TLS files not taken up: {error}"),
        }
    }

    /// How to speak TLS to the endpoint of a check, if the check is to be made so.
    pub(super) fn check_tls(&self, check: &Check) -> Option<Tls> {
        if !check.check.is_tls {
            return None;
        }
        let service = self.snapshot.service(check.service)?;
        let client = self.parts.shared.tls.current().client(service.tls.as_deref()?).cloned()?;
        let alpn = match check.check.probe {
            Probe::Grpc { .. } | Probe::Http { is_http2: true, .. } => Alpn::Http2,
            Probe::Http { .. } if service.protocol.is_http() => Alpn::Http1,
            Probe::Tcp | Probe::Http { .. } => Alpn::None,
        };
        Some((client, alpn))
    }
}
