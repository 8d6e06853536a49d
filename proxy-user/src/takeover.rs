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
//!     <─────────────────── counters so far ────
//!   accepts, writes its process id
//!     ── Serving ─────────────────────────────>  drains, removes nothing
//!     <──────── connections, some at a time ───
//!     ── Taken ───────────────────────────────>  forgets those, goes on with the others
//!     <───────────── what it counts meanwhile ─  ends
//! ```
//!
//! Until `Yours` the newer process changes nothing that the older one lives on: whatever ends it before, the older one goes
//! on. If it dies between `Yours` and `Serving`, the older one puts its own programs back. Sockets are never closed: both
//! hold them, so no connection that waits in one is lost.
//!
//! A connection belongs to the older process until `Taken` is written, and to the newer one from then on. The older one goes on with
//! it by itself only when the other cannot say that word any more.

mod arrive;
mod carry;
mod give;
mod protocol;
mod sockets;
mod take;

pub use proxy_bpf::abi::ABI_VERSION;

pub use self::arrive::{Arrivals, Arrive};
pub use self::carry::{Carrier, Given, MOST_STOPPED};
pub use self::give::{Ask, Giver, Outcome, Successor};
pub use self::sockets::{NamedSockets, SocketName, Sockets};
pub use self::take::{Begun, HandedOver, Taking, begin};

/// File name of the socket, in the run folder.
pub const SOCKET: &str = "takeover.sock";
