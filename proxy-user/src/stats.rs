//! What is counted in this process; what the kernel counts is read from it when somebody asks.

pub mod application;
pub mod carried;
pub mod conn;
pub mod family;
pub mod http;
pub mod kernel;
pub mod label;
pub mod overload;
pub mod process;
mod table;
