//! The loader: the only crate that knows aya, and that knows both the decisions of `proxy-core` and the kernel's bytes.
//!
//! It verifies and attaches the committed kernel object ([`object`], [`load`], [`attach`]), carries out planned map
//! operations ([`apply`]) and reads what the kernel counted ([`counters`], [`events`]). It decides nothing: which
//! operations are needed is `proxy_core::intercept`'s business.
//!
//! Read [`load::Kernel`] first.
#![forbid(unsafe_code)]

pub mod apply;
pub mod attach;
pub mod bpffs;
pub mod btf;
pub mod cgroup;
mod convert;
pub mod counters;
pub mod events;
pub mod load;
pub mod maps;
pub mod object;
pub mod others;
pub mod probe;
pub mod steer;

pub use proxy_ebpf_common as abi;
