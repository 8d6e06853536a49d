//! Decisions of Weir, as pure logic: who gets a connection, by which lane, and what the kernel must know of it.
//!
//! This crate opens no socket, reads no clock, starts no task and contains no `unsafe`. Time, randomness and load
//! come in as arguments; effects go out as values ([`intercept::MapOp`], [`health::Check`]). It must never learn
//! about aya, io_uring, tokio or the kernel ABI.
//!
//! Read [`snapshot`] first: one immutable, versioned view of everything that the data plane obeys.
#![forbid(unsafe_code)]

pub mod addr;
pub mod balance;
pub mod deadline;
pub mod detect;
#[cfg(test)]
mod fixture;
pub mod grpc;
pub mod health;
pub mod http;
pub mod http2;
pub mod id;
pub mod identity;
pub mod intercept;
pub mod lane;
pub mod load;
pub mod loss;
pub mod outcome;
pub mod overload;
pub mod pod;
pub mod pool;
pub mod priority;
pub mod proxy_protocol;
pub mod rate;
pub mod retry;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod tls;
