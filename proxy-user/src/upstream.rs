//! Connections to endpoints.

pub mod connect;
