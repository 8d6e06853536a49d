//! Looking at this machine and at what Weir does here, and saying why and what to do.

pub mod doctor;
mod finding;
mod machine;
mod rights;
mod sockets;
pub mod text;

pub use self::finding::{Finding, Level, Report};
pub use self::rights::missing_rights;
pub use self::text::Output;
