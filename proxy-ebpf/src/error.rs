//! Why a connection was not taken. Each value has its verdict and its counter in `hooks.rs`.

/// A closed list: the compiler checks that every value has a verdict.
#[derive(Clone, Copy)]
pub enum Skip {
    /// Another protocol that passes through the same hook, such as a UDP connect().
    NotTcp,
    /// One of Weir's own sockets, known by its mark.
    Own,
    /// The application is in no scope.
    OutOfScope,
    /// The socket is bound to a device: what it may reach is not ours to decide.
    BoundToDevice,
    /// The map of original destinations has no room.
    MapFull,
    /// The kernel has no memory for the socket's facts.
    NoMemory,
    /// An address names a service, or a service a slot, that does not exist.
    Inconsistent,
}
