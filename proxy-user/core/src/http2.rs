//! What HTTP/2 (RFC 9113) needs beside a library that speaks it.

mod flood;
mod meter;
mod silence;

pub use self::flood::{ENHANCE_YOUR_CALM, Flood};
pub use self::meter::{FrameMeter, MAX_CONTINUATIONS, PREFACE_BYTES, TINY_BYTES};
pub use self::silence::{Pings, Silence, Step};
