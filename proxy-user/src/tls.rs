//! TLS at both ends of a proxied connection, and the stream that hides whether there is any.
//!
//! rustls makes the handshake (`handshake`) and hands over the keys; records are sealed and opened here (`seal`, `session`).
//! [`TlsStore`] holds what was made of the files that a snapshot names.

mod cert;
mod client;
mod error;
mod handshake;
mod seal;
mod server;
mod session;
mod store;
mod stream;

use proxy_core::service::Protocol;

pub use self::cert::{CertificateStatus, TlsProblem};
pub use self::client::Client;
pub use self::error::TlsError;
pub use self::handshake::{Negotiated, PeerIdentity};
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
}

impl Alpn {
    /// What a listener or a service of this protocol offers.
    #[must_use]
    pub fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::Http1,
            Protocol::Tcp | Protocol::Tls | Protocol::Auto => Self::None,
        }
    }

    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::None => Vec::new(),
            Self::Http1 => vec![b"http/1.1".to_vec()],
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
