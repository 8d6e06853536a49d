//! The `weir` process: configuration, wiring and I/O. Decisions are `proxy-core`'s, system calls `proxy-io`'s, the kernel
//! programs' loading `proxy-bpf`'s.
//!
//! Rooms import downwards only: `main > cli > app > admin, explain, control, pods, health, takeover > worker > listener >
//! connection > forward > upstream > http2 > tls > pace`, then `record, stats > bug, config`. Read [`app`] first.
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod bug;
pub mod cli;
pub mod config;
pub mod connection;
pub mod control;
pub mod explain;
pub mod forward;
pub mod health;
pub mod http2;
pub mod listener;
pub mod pace;
pub mod pods;
pub mod record;
pub mod stats;
pub mod takeover;
pub mod tls;
pub mod upstream;
pub mod worker;

/// What this is called, and how it was built: figures of a debug build say little, and it fails where a test says so.
pub const VERSION: &str = if cfg!(debug_assertions) {
    concat!(env!("CARGO_PKG_VERSION"), " (debug build)")
} else {
    env!("CARGO_PKG_VERSION")
};
