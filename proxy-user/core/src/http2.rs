//! What HTTP/2 (RFC 9113) needs beside a library that speaks it.

mod block;
mod fault;
mod flood;
mod frame;
mod heads;
pub mod hpack;
mod meter;
mod rules;
mod silence;

pub use self::fault::{Breach, Fault};
pub use self::flood::Flood;
pub use self::heads::{BlockMeter, FIELD_BYTES, HeadBounds, TooLong};
pub use self::meter::{FrameMeter, MAX_CONTINUATIONS, PREFACE_BYTES, TINY_BYTES};
pub use self::silence::{Pings, Silence, Step};
