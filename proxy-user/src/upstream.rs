//! Connections to endpoints.

pub mod connect;
pub mod http2;
pub mod pool;
