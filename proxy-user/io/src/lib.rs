//! System calls of Weir: descriptors, buffers, and two drivers (io_uring, epoll) behind one interface.
//!
//! The only userspace crate that may contain `unsafe`; everything it offers is safe. It knows file descriptors
//! and bytes. It must never know about services, routes, connections as the proxy sees them, configuration or
//! metrics, and it imports no other crate of this workspace.
//!
//! Start reading at [`Driver`]; then [`Socket`] and [`Chunk`].

pub mod bpf;
pub mod clock;
pub mod driver;
pub mod heap;
pub mod limit;
pub mod mount;
pub mod netns;
pub mod sock;
pub mod splice;
pub mod unix;
pub mod watch;

mod buf;
mod slot;
mod sys;

pub use self::buf::Chunk;
pub use self::driver::{Driver, DriverCounters, DriverKind, DriverOptions, Socket};
