//! What the two Tandem daemons share: configuration, time, the keyed stream behind randomness, the choice of targets, wire
//! framing and the messages between `lbd` and `vrrpd`, netlink's framing, what is kept of settings, and the kernel's version.
//!
//! Everything here is pure: no sockets, no clock, no async, no ambient randomness. Reading the configuration file
//! is the one exception to "no IO", and it happens only in [`config::load`].
#![forbid(unsafe_code)]

pub mod balance;
pub mod config;
pub mod hash;
pub mod ipc;
pub mod kernel;
pub mod key;
pub mod named;
pub mod netlink;
pub mod path;
pub mod rng;
pub mod saved;
pub mod time;
pub mod wire;
