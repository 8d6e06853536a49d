//! Connections to endpoints.

pub mod connect;
pub mod pool;
