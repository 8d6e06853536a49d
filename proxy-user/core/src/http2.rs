//! What of HTTP/2 (RFC 9113) is decided without a connection: how frames and fields are written, what is too much, who is still there.

mod code;
mod fault;
mod fields;
mod flood;
pub mod frame;
mod heads;
pub mod hpack;
mod meter;
mod place;
mod silence;

pub use self::code::Code;
pub use self::fault::{Breach, Fault};
pub use self::fields::{Edit, FieldList, Malformed, is_hop_by_hop, is_path};
pub use self::flood::Flood;
pub use self::heads::{FIELD_BYTES, HeadBounds};
pub use self::meter::{FloodMeter, MAX_CONTINUATIONS, TINY_BYTES};
pub use self::place::Place;
pub use self::silence::{Pings, Silence, Step};
