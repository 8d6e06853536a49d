//! Measures Weir beside a direct connection and its rivals: the same work, on the same machine, in the same run.
//!
//! `load` (client and backend) makes the work, `relay` is the baselines that any proxy has to beat, `compare` starts
//! everybody, measures in turn and writes the results. They know the proxies by their programs and config files only.
//! Start reading at [`case::CASES`], then [`report::Sample`].
//!
//! [`part`] is apart from that: small pieces of Weir's own code, timed by `benches/parts.rs` and counted by `count`.

#![forbid(unsafe_code)]

pub mod backend;
pub mod case;
pub mod client;
pub mod contestant;
pub mod cpu;
pub mod histogram;
pub mod http;
pub mod instructions;
pub mod machine;
pub mod part;
pub mod place;
pub mod report;
pub mod results;
pub mod run;
pub mod svg;
pub mod table;
