//! TLS at both ends of a proxied connection, and the stream that hides whether there is any.
//!
//! rustls makes the handshake (`handshake`) and hands over the keys; records are sealed and opened here (`seal`, `session`).
//! [`TlsStore`] holds what was made of the files that a snapshot names.

mod cert;
mod client;
mod count;
mod error;
mod handshake;
mod paced;
mod refuse;
mod seal;
mod server;
mod session;
mod store;
mod stream;

use proxy_core::service::Protocol;
use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use self::cert::{CertificateStatus, TlsProblem};
pub use self::client::Client;
pub use self::count::Count;
pub use self::error::TlsError;
pub use self::handshake::{Negotiated, PeerIdentity};
pub use self::paced::Paced;
pub use self::refuse::{refuse_name, refuse_slow};
pub use self::server::accept;
pub use self::store::{TlsCell, TlsStore, TlsWatch};
pub use self::stream::{Stream, TlsStream};

/// What is offered as the protocol inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// Nothing: any protocol may be inside.
    None,
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
    /// `h2`, else `http/1.1`: what a client likes better.
    Http,
}

impl Alpn {
    /// What is offered to the endpoints of a service of this protocol.
    #[must_use]
    pub fn of_service(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::Tcp | Protocol::Tls | Protocol::Auto => Self::None,
        }
    }

    /// What a listener of this protocol offers to its clients.
    #[must_use]
    pub fn of_listener(protocol: Protocol) -> Self {
        if protocol.is_http() { Self::Http } else { Self::None }
    }

    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::None => Vec::new(),
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

/// Algorithms; AES with the shorter key comes first where the choice is ours, as in Go and Chrome: nobody breaks either, and
/// it has ten rounds instead of fourteen.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        _ => 1,
    });
    provider
}

#[cfg(test)]
pub(crate) mod tests;
