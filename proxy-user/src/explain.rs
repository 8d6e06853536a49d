//! Looking at this machine and at what Weir does here, and saying why and what to do.

mod certificates;
pub mod doctor;
mod finding;
mod hooks;
mod machine;
mod pods;
mod ports;
mod process;
mod rights;
mod sockets;
pub mod text;
pub mod why;

pub use self::certificates::read_certificates;
pub use self::finding::{Finding, Level, Report};
pub use self::process::{Place, Process};
pub use self::rights::missing_rights;
pub use self::text::Output;
