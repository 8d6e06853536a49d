//! TLS over real sockets on both drivers, against rustls's own stream and OpenSSL.

mod certificates;
mod handshakes;
mod openssl;
pub(crate) mod peer;
pub(crate) mod pki;
mod records;
mod store;
mod streams;
