//! The live upgrade: a newer process takes over from the one that runs, over a socket that only root can reach.
//!
//! ```text
//!   newer                                   older
//!     ── Hello: protocol, ABI ────────────────>  refuses, or stops reading its config
//!     <──────── Offer: sockets, lock, pins ────
//!   maps opened, config read, workers running,
//!   nothing accepted yet
//!     ── Ready: programs ─────────────────────>  switches each link to them
//!     <──────────────────────────── Yours ────
//!   accepts, writes its process id
//!     ── Serving ─────────────────────────────>  drains, removes nothing, ends
//! ```
//!
//! Until `Yours` the newer process changes nothing that the older one lives on: whatever ends it before, the older one goes
//! on. If it dies between `Yours` and `Serving`, the older one puts its own programs back. Sockets are never closed: both
//! hold them, so no connection that waits in one is lost.

mod give;
mod protocol;
mod sockets;
mod take;

pub use self::give::{Ask, Giver, Outcome, Successor};
pub use self::sockets::{NamedSockets, SocketName, Sockets};
pub use self::take::{Begun, Taking, begin};

/// File name of the socket, in the run folder.
pub const SOCKET: &str = "takeover.sock";
