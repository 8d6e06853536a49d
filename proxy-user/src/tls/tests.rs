//! TLS over real sockets on both drivers, against rustls's own stream and OpenSSL.

mod certificates;
mod openssl;
mod peer;
mod pki;
mod store;
mod streams;
