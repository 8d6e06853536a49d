//! What the process and node tests stand on: network namespaces, cgroups, a Weir under test, the far sides that it
//! forwards to and the applications that it intercepts.
//!
//! Everything here drives Weir from outside, as an operator or an application would; nothing here may know how Weir
//! works inside. Start reading at [`world::World`].

#![forbid(unsafe_code)]

pub mod battery;
pub mod cgroup;
pub mod client;
pub mod config;
pub mod faults;
pub mod foreign;
pub mod grpc;
pub mod http;
pub mod image;
pub mod kubelet;
pub mod metrics;
pub mod net;
pub mod nginx;
pub mod node;
pub mod origin;
pub mod pki;
pub mod process;
pub mod python;
pub mod scratch;
pub mod skip;
pub mod smuggling;
pub mod stream;
pub mod swarm;
pub mod takeover;
pub mod upstream;
pub mod wait;
pub mod web;
pub mod world;
