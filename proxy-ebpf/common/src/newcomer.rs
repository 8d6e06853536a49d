//! What the kernel tells of a network namespace that is not served yet.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout;

/// A process of a scope has made a socket there, or wanted a worker, and there was no listener for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Newcomer {
    /// The namespace (SO_NETNS_COOKIE).
    pub netns_cookie: u64,
    /// A process that lives in it: its number in the first pid namespace.
    pub process: u32,
    /// Zero.
    pub pad: u32,
}
layout!(Newcomer, 16, 8);
