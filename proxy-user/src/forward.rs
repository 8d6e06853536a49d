//! Moving bytes between client and endpoint.

pub mod l4;
