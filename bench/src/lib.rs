//! Measures Weir beside a direct connection and its rivals: the same work, on the same machine, in the same run.
//!
//! `load` (client and backend) makes the work, `relay` is the baseline that any proxy has to beat, `compare` starts
//! everybody, measures in turn and writes the results. This crate knows the proxies by their programs and config files
//! only: it links none of them. Start reading at [`case::CASES`], then [`report::Sample`].

#![forbid(unsafe_code)]

pub mod backend;
pub mod case;
pub mod client;
pub mod contestant;
pub mod cpu;
pub mod histogram;
pub mod machine;
pub mod place;
pub mod report;
pub mod results;
pub mod run;
pub mod svg;
pub mod table;
