//! Moving bytes between client and endpoint.

pub mod http1;
pub mod l4;
