//! What Tandem's load balancer decides: which target a connection goes to, whether a target is healthy, whether a
//! connection is admitted, what a reload changes and how well `lbd` serves.
//!
//! Everything here is pure and deterministic: no sockets, no clock, no async, no randomness, no logging. The daemon's
//! shell (`lbd`) does the IO and asks here.
#![forbid(unsafe_code)]

pub mod admission;
pub mod connect;
pub mod health;
pub mod http_check;
pub mod reload;
pub mod round_robin;
pub mod summary;
pub mod target;
