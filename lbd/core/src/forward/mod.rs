//! Forwarding in the kernel, as far as it is decided outside of it: what the maps of the program in `lbd/bpf` are to hold, and
//! what it means.

pub mod abi;
pub mod copies;
pub mod counts;
pub mod expiry;
pub mod flows;
pub mod formats;
pub mod next_hops;
pub mod pace;
pub mod path_mtu;
pub mod plan;
pub mod ports;
pub mod refill;
pub mod refresh;
pub mod switch;
