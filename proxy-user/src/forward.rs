//! Moving bytes between client and endpoint.

pub mod exchange;
pub mod http1;
pub mod l4;
pub mod wire;
