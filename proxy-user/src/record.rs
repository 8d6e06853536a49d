//! What is written down about connections that are over.

pub mod access;
pub mod cgroup;
pub mod kernel;
pub mod line;
pub mod pod;
pub mod request;
