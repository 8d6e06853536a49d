//! Moving bytes between client and endpoint.

pub mod bridge;
pub mod exchange;
pub mod grpc_web;
pub mod head;
pub mod http1;
pub mod http2;
pub mod l4;
pub mod wire;
