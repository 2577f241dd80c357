//! What Tandem's load balancer decides: which target a connection goes to, whether a target is healthy, whether a
//! connection is admitted, what a reload changes and how well `lbd` serves.
//!
//! Everything here is pure and deterministic: no sockets, no clock, no async, no randomness, no logging. The daemon's
//! shell (`lbd`) does the IO and asks here.
#![forbid(unsafe_code)]

pub mod access;
pub mod access_log;
pub mod acme;
pub mod admission;
pub mod bell;
pub mod chance;
pub mod check;
pub mod client_hello;
pub mod discover;
pub mod forward;
pub mod group;
pub mod health;
pub mod histogram;
pub mod holder;
pub mod http;
pub mod otlp;
pub mod proxy_protocol;
pub mod rate;
pub mod recent;
pub mod reload;
pub mod replication;
mod sharded;
pub mod simulate;
pub mod sni;
pub mod sources;
pub mod sticky;
pub mod stop;
pub mod summary;
pub mod target;
pub mod tls;
pub mod udp_sessions;
pub mod watched;
